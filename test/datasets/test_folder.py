"""Folders of a user's own images and masks."""

from __future__ import annotations

import pytest

from seg_perception.core.errors import DatasetError
from seg_perception.core.label_mapping import load_label_mapping
from seg_perception.core.types import Size
from seg_perception.datasets.folder import folder_pairs

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
