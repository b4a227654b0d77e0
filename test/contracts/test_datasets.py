"""What holds for every dataset, and what a newcomer's file needs: nothing but itself.

A tree is made from the dataset's own patterns, with every value of its own mapping in the label files; so a new
dataset of files is under this contract as soon as its module is there.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import pickle
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

import seg_perception.datasets
from seg_perception.cli.main import main
from seg_perception.core.errors import DatasetError, SettingsError
from seg_perception.core.label_set import load_label_mapping
from seg_perception.core.types import Size
from seg_perception.datasets.base import DatasetInfo
from seg_perception.datasets.registry import DatasetSettings, datasets, datasets_table, open_dataset

KINDS = sorted(datasets())
STORED = {"mapillary": lambda ids: ids.astype(np.uint16) * 256}
"""How a dataset's files store its ids, where it is not as they are."""

FRAMES = {"kitti": 122, "cityscapes256": 302}
"""How many images it takes to fill each split, where images are held out by number; else two."""


def make_tree(info: DatasetInfo, root: Path, split: str) -> np.ndarray:
    """Write the split's files; the ids that each label file holds."""
    mapping = load_label_mapping(info.mapping or "identity")
    ids = np.array([sorted(mapping.classes_of_values)], np.uint8).repeat(2, axis=0)
    stored = STORED.get(info.name, lambda ids: ids)(ids)
    image = cv2.imencode(".png", np.full((*ids.shape, 3), 90, np.uint8))[1].tobytes()
    jpeg = cv2.imencode(".jpg", np.full((*ids.shape, 3), 90, np.uint8))[1].tobytes()
    labels = cv2.imencode(".png", stored)[1].tobytes()
    for index in range(FRAMES.get(info.name, 2)):
        for pattern, end in ((info.images, ".jpg"), (info.labels[0], ".png")):
            filled = re.sub(r"\*+", f"n{index:04d}", pattern.replace("{split}", info.splits.get(split, "")))
            path = root / (filled if Path(filled).suffix else filled + end)
            path.parent.mkdir(parents=True, exist_ok=True)
            content = labels if pattern is info.labels[0] else {".jpg": jpeg}.get(path.suffix, image)
            path.write_bytes(content)
    return ids


def settings_of(info: DatasetInfo, root: Path, split: str, **changes: object) -> DatasetSettings:
    mapping = "identity" if info.needs_mapping else None
    return DatasetSettings(info.name, root, split or "train", mapping, count=2, **changes)  # type: ignore[arg-type]


def cases() -> Iterator[tuple[str, str]]:
    for kind in KINDS:
        for split in datasets()[kind].splits or ("",):
            yield kind, split


def test_the_suite_sees_them_all() -> None:
    assert {"bdd100k", "camvid", "cityscapes", "cityscapes256", "folder", "kitti", "mapillary", "scenes"} <= set(KINDS)
    assert len(list(cases())) >= 16


@pytest.mark.parametrize("kind, split", cases())
def test_every_sample_is_an_image_with_labels_of_its_label_set(kind: str, split: str, tmp_path: Path) -> None:
    info = datasets()[kind]
    ids = make_tree(info, tmp_path, split) if info.images else None
    dataset = open_dataset(settings_of(info, tmp_path, split, size=None if info.images else Size(96, 64)))
    assert len(dataset) >= 1
    assert dataset.left_out == ()
    names = set()
    for index in range(min(len(dataset), 3)):
        sample = dataset.load(index)
        assert sample.image.dtype == sample.labels.dtype == np.uint8
        assert sample.image.shape == (*sample.labels.shape, 3)
        assert sample.image.flags.c_contiguous
        assert set(np.unique(sample.labels)) <= {*range(len(dataset.label_set)), 255}
        assert np.array_equal(sample.labels, dataset.load(index).labels), "a sample is always the same"
        names.add(sample.name)
        if ids is not None and Size.of(sample.labels) == Size.of(ids):
            expected = load_label_mapping(info.mapping or "identity").apply(ids, "truth")
            assert np.array_equal(sample.labels, expected)
    assert len(names) == min(len(dataset), 3), "names are unique"
    small = open_dataset(settings_of(info, tmp_path, split, size=Size(96, 64))).load(0)
    assert Size.of(small.image) == Size.of(small.labels) == Size(96, 64)
    assert pickle.loads(pickle.dumps(dataset)).load(0).name == dataset.load(0).name


@pytest.mark.parametrize("kind", [kind for kind in KINDS if datasets()[kind].images])
def test_what_is_missing_spoiled_or_left_over_is_told(kind: str, tmp_path: Path) -> None:
    info = datasets()[kind]
    split = next(iter(info.splits), "")
    with pytest.raises(DatasetError, match=f"{re.escape(str(tmp_path))}.*no such folder"):
        open_dataset(settings_of(info, tmp_path, split))
    make_tree(info, tmp_path, split)
    dataset = open_dataset(settings_of(info, tmp_path, split))
    pair = dataset.pairs[0]  # type: ignore[attr-defined]
    (pair.image.parent / "notes.txt").touch()
    (pair.image.parent / f"._{pair.image.name}").touch()
    left_out = open_dataset(settings_of(info, tmp_path, split)).left_out
    assert [one.path.name for one in left_out] == ["notes.txt"], "counted and named; dot files are no data"
    whole = pair.labels.read_bytes()
    pair.labels.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match=f"{re.escape(str(pair.labels))}: "):
        dataset.load(0)
    pair.labels.unlink()
    with pytest.raises(DatasetError, match="no label image for 1 of .*, for example .*" + re.escape(pair.labels.name)):
        open_dataset(settings_of(info, tmp_path, split))


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_does_not_offer_is_refused_by_name(kind: str) -> None:
    info = datasets()[kind]
    if info.splits:
        with pytest.raises(SettingsError, match=f"split: {kind} has no 'holdout'; known: {', '.join(info.splits)}"):
            settings_of(info, Path(), "holdout")
    if info.mapping:
        assert load_label_mapping(info.mapping).target.name == "driving"
    assert info.summary
    assert f"| `{kind}` |" in datasets_table()


DUMMY = """
from seg_perception.datasets.pairs import pair_dataset

DATASET = pair_dataset(
    name="harbor",
    summary="a newcomer's dataset, for a test",
    images="{split}/rgb/*.jpg",
    labels="{split}/ids/*.png",
    mapping="cityscapes_train_ids",
    splits={"train": "tr", "val": "va"},
)
"""


@pytest.fixture
def newcomer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """One file in a folder that joins the package's; no other file is touched."""
    folder = tmp_path / "newcomer"
    folder.mkdir()
    (folder / "harbor.py").write_text(DUMMY)
    monkeypatch.setattr(seg_perception.datasets, "__path__", [*seg_perception.datasets.__path__, str(folder)])
    importlib.invalidate_caches()
    yield tmp_path
    sys.modules.pop("seg_perception.datasets.harbor", None)
    if hasattr(seg_perception.datasets, "harbor"):
        del seg_perception.datasets.harbor


def said(*arguments: str) -> tuple[int, str]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            status = main(arguments)
        except SystemExit as end:
            status = int(end.code or 0)
    return status, out.getvalue()


def test_a_new_dataset_is_one_file(newcomer: Path) -> None:
    info = datasets()["harbor"]
    root = newcomer / "data"
    make_tree(info, root, "val")
    for command in ("evaluate", "dataset check"):
        assert "harbor" in said(*command.split(), "--help")[1]
    status, text = said("dataset", "check", "--dataset", "harbor", "--root", str(root), "--workers", "1")
    assert (status, "harbor/val: 2 images" in text) == (0, True), text
    assert "harbor" in said("dataset", "check", "--dataset", "harbour")[1], "an unknown name lists it"
    assert "| `harbor` | train, val | `{split}/rgb/*.jpg`, `{split}/ids/*.png` |" in datasets_table()
    assert "| `harbor` |" in said("dataset", "kinds")[1]
    test_every_sample_is_an_image_with_labels_of_its_label_set("harbor", "val", root)


def test_the_document_shows_the_table(repository: Path) -> None:
    text = (repository / "docs" / "datasets.md").read_text(encoding="utf-8")
    assert datasets_table() in text, "put the output of 'seg-perception dataset kinds' into docs/datasets.md"
