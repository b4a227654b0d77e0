"""Folders of a user's own images and masks."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seg_perception.core.errors import DatasetError, SettingsError
from seg_perception.core.label_set import load_label_mapping
from seg_perception.core.types import Size
from seg_perception.datasets.base import LeftOut, describe_left_out
from seg_perception.datasets.folder import folder_pairs
from seg_perception.datasets.pairs import PairedFiles
from seg_perception.datasets.registry import DatasetSettings, open_dataset

IDENTITY = load_label_mapping("identity")


def test_images_and_labels_of_one_name_are_a_pair_in_the_order_of_names(pairs) -> None:
    root = pairs("mine", ["b", "a", "c"], value=3)
    dataset = folder_pairs(root / "images", root / "labels", IDENTITY)
    assert dataset.name == "mine"
    assert [dataset.load(i).name for i in range(len(dataset))] == ["a", "b", "c"]
    assert [dataset.load(i).image[0, 0, 0] for i in range(3)] == [1, 0, 2]  # gray by the order of writing
    assert dataset.load(0).labels.tolist() == [[3] * 6] * 4


def test_jpeg_images_go_with_png_labels(pairs) -> None:
    root = pairs("mine", ["a"], suffix="JPG")
    assert len(folder_pairs(root / "images", root / "labels", IDENTITY, name="other")) == 1
    assert folder_pairs(root / "images", root / "labels", IDENTITY, name="other").name == "other"


def test_a_block_can_be_held_out(pairs) -> None:
    root = pairs("mine", list("abcde"))
    kept = folder_pairs(root / "images", root / "labels", IDENTITY, keep=slice(3, None))
    assert [kept.load(i).name for i in range(len(kept))] == ["d", "e"]


def test_samples_come_in_the_asked_size(pairs) -> None:
    root = pairs("mine", ["a"])
    sample = folder_pairs(root / "images", root / "labels", IDENTITY, size=Size(12, 8)).load(0)
    assert sample.image.shape == (8, 12, 3)
    assert sample.labels.shape == (8, 12)


def test_a_missing_label_is_named(pairs) -> None:
    root = pairs("mine", ["a", "b", "c"])
    (root / "labels" / "b.png").unlink()
    with pytest.raises(DatasetError, match=r"mine: no label image for 1 of 3 images, for example .*labels/b\.png"):
        folder_pairs(root / "images", root / "labels", IDENTITY)


def test_two_images_for_one_label_are_refused(pairs) -> None:
    root = pairs("mine", ["a"])
    pairs("mine", ["a"], suffix="jpg")
    with pytest.raises(DatasetError, match=r"a\.png: another image of that name differs only in its suffix"):
        folder_pairs(root / "images", root / "labels", IDENTITY)


def test_a_missing_folder_is_named(pairs) -> None:
    root = pairs("mine", ["a"])
    with pytest.raises(DatasetError, match="pictures: no such folder"):
        folder_pairs(root / "pictures", root / "labels", IDENTITY)


def opened(root: Path, **changes: str) -> PairedFiles:
    dataset = open_dataset(DatasetSettings("folder", root, mapping="identity", **changes))  # type: ignore[arg-type]
    assert isinstance(dataset, PairedFiles)
    return dataset


def names(dataset: PairedFiles) -> list[tuple[str, str]]:
    return [(pair.name, pair.labels.name) for pair in dataset.pairs]


def put(root: Path, *files: str) -> Path:
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        gray = any(part in path.as_posix() for part in ("labels", "masks", "mask", "_seg", "ids", "_label", "gt"))
        pixels = np.zeros((4, 6) if gray or (path.suffix == ".png" and "beside" in root.name) else (4, 6, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    return root


@pytest.mark.parametrize(
    "files, expected",
    [
        (("images/a.jpg", "labels/a.png"), [("a", "a.png")]),
        (("images/a.JPG", "labels/a.PNG"), [("a", "a.PNG")]),
        (("images/a.BMP", "masks/a_mask.bmp"), [("a", "a_mask.bmp")]),
        (("images/a.tiff", "labels/a_label.TIF"), [("a", "a_label.TIF")]),
        (("images/a.webp", "images/b.png", "labels/a-mask.png", "labels/b_seg.png"),
         [("a", "a-mask.png"), ("b", "b_seg.png")]),
        (("a.png", "a_mask.png", "b.jpg", "b_mask.png"), [("a", "a_mask.png"), ("b", "b_mask.png")]),
        (("a.jpg", "a.png", "b.JPEG", "b.png"), [("a", "a.png"), ("b", "b.png")]),
    ],
)  # fmt: skip
def test_layouts_that_people_have(tmp_path: Path, files: tuple[str, ...], expected: list[tuple[str, str]]) -> None:
    root = put(tmp_path / "beside", *files)
    dataset = opened(root)
    assert names(dataset) == expected
    assert dataset.left_out == ()
    assert dataset.load(0).labels.shape == (4, 6)


def test_nested_folders_by_patterns(tmp_path: Path) -> None:
    root = put(
        tmp_path,
        "mon/rgb/1/x.jpg", "mon/rgb/1/y.JPG", "tue/rgb/2/x.jpg", "tue/rgb/x.jpg",
        "mon/ids/1/x_ids.png", "mon/ids/1/y_ids.PNG", "tue/ids/2/x_ids.png", "tue/ids/x_ids.png",
    )  # fmt: skip
    dataset = opened(root, images="*/rgb/**/*.jpg", labels="*/ids/**/*_ids.png")
    assert [p.name for p in dataset.pairs] == ["mon/1/x", "y", "tue/x", "tue/2/x"]
    assert [p.labels.relative_to(root).as_posix() for p in dataset.pairs] == [
        "mon/ids/1/x_ids.png", "mon/ids/1/y_ids.PNG", "tue/ids/x_ids.png", "tue/ids/2/x_ids.png",
    ]  # fmt: skip
    with pytest.raises(SettingsError, match="must have the same wildcards"):
        opened(root, images="*/rgb/**/*.jpg", labels="*/ids/*_ids.png")
    beside = put(tmp_path / "b", "one/a.png", "one/a_gt.png", "two/a.png", "two/a_gt.png")
    assert [p.name for p in opened(beside, images="*/*", labels="*/*_gt").pairs] == ["one/a", "two/a"]


def test_accents_pair_however_they_are_written(tmp_path: Path) -> None:
    """macOS stores letter and accent apart; label files that came from elsewhere have them as one."""
    apart = unicodedata.normalize("NFD", "süd")
    root = put(tmp_path, f"images/{apart}/{apart}.jpg", "labels/süd/süd.png")
    pairs = opened(root, images="images/*/*", labels="labels/*/*").pairs
    assert [pair.labels.relative_to(root).as_posix() for pair in pairs] == ["labels/süd/süd.png"]


def test_every_file_that_is_not_used_is_named_with_its_reason(tmp_path: Path) -> None:
    root = put(tmp_path, "images/a.jpg", "labels/a.png", "labels/orphan.png", "images/deep/b.jpg")
    for name in ("images/a.txt", "labels/a.json", "images/.DS_Store", "images/._a.jpg", "labels/._a.png"):
        (root / name).touch()
    left = {one.path.relative_to(root).as_posix(): one.reason for one in opened(root).left_out}
    assert list(left) == ["images/a.txt", "images/deep/b.jpg", "labels/a.json", "labels/orphan.png"]
    assert left["images/deep/b.jpg"].startswith("in a sub-folder (name it in the patterns: images: 'images/**/*'")
    assert left["labels/orphan.png"] == "a label file without an image"
    assert "no image that is read" in left["images/a.txt"]
    text = describe_left_out(opened(root).left_out)
    assert "left out, a label file without an image: 1: " in text
    assert describe_left_out([LeftOut(Path(str(i)), "x") for i in range(9)]) == "left out, x: 9: 0, 1, 2 and 6 more"


@pytest.mark.parametrize(
    "neighbor, hint",
    [
        ("b.jpg", r"b\.png; there is b\.jpg \(a JPEG is no label image"),
        ("B.png", r"b\.png; there is B\.png"),
        ("b_final.png", r"b\.png; there is b_final\.png"),
    ],
)
def test_a_missing_label_names_what_lies_there_instead(tmp_path: Path, neighbor: str, hint: str) -> None:
    root = put(tmp_path, "images/a.jpg", "images/b.jpg", "labels/a.png", f"labels/{neighbor}")
    with pytest.raises(DatasetError, match=f"no label image for 1 of 2 images, for example .*{hint}"):
        opened(root)


def test_what_is_ambiguous_is_refused(tmp_path: Path) -> None:
    root = put(tmp_path / "two", "images/a.jpg", "labels/a.png", "labels/a_mask.png")
    with pytest.raises(DatasetError, match=r"a\.png, .*a_mask\.png: each could be the label image of"):
        opened(root)
    root = put(tmp_path / "folders", "images/a.jpg", "labels/a.png", "masks/a.png")
    with pytest.raises(SettingsError, match="holds both labels/ and masks/; say which by the patterns"):
        opened(root)
    root = put(tmp_path / "unlike", "a.jpg", "other.png")
    with pytest.raises(DatasetError, match=r"unlike: neither images/ beside labels/ .* nor NAME_mask.png"):
        opened(root)
    with pytest.raises(DatasetError, match="nowhere/images: no such folder"):
        opened(tmp_path / "nowhere")


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    root = put(tmp_path, "images/a.jpg", "labels/a.png")
    (root / "images" / "again").symlink_to(root / "images")
    assert names(opened(root)) == [("a", "a.png")]
