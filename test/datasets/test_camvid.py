"""CamVid as packaged with SegNet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from seg_perception.core.errors import DatasetError
from seg_perception.core.label_set import load_label_mapping
from seg_perception.datasets.registry import DatasetSettings, open_dataset


def test_a_tree_laid_out_as_camvid(pairs, tmp_path: Path) -> None:
    pairs("camvid11/train", ["0001", "0002"], value=3)  # CamVid's 3 is road, our 0
    pairs("camvid11/val", ["0003"], value=11)  # void
    train = open_dataset(DatasetSettings("camvid", tmp_path / "camvid11", "train"))
    val = open_dataset(DatasetSettings("camvid", tmp_path / "camvid11", "val"))
    assert (train.name, len(train)) == ("camvid/train", 2)
    assert (val.name, len(val)) == ("camvid/val", 1)
    assert train.load(1).labels.max() == 0
    assert val.load(0).labels.min() == 255


def test_the_eleven_class_protocol(pairs, tmp_path: Path) -> None:
    pairs("train", ["0001"], value=3)
    dataset = open_dataset(DatasetSettings("camvid", tmp_path, "train", mapping="camvid11_ids"))
    assert len(dataset.label_set) == 11
    assert dataset.label_set.names[dataset.load(0).labels[0, 0]] == "road"


def test_a_missing_split_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="test/images: no such folder"):
        open_dataset(DatasetSettings("camvid", tmp_path, "test"))


def test_the_real_one(shared_data: Path) -> None:
    train = open_dataset(DatasetSettings("camvid", shared_data / "camvid11", "train"))
    val = open_dataset(DatasetSettings("camvid", shared_data / "camvid11", "val"))
    assert (len(train), len(val)) == (367, 101)
    sample = val.load(50)
    assert sample.image.shape == (360, 480, 3)
    # seven of the ten classes; it has no terrain, and its signs and lights are ignored
    assert set(np.unique(sample.labels)) <= {0, 1, 2, 5, 7, 8, 9, 255}
    assert np.mean(sample.labels[-40:, 200:280] == 0) > 0.9  # straight ahead of the car is road


def test_cityscapes_labels_in_camvids_eleven_classes() -> None:
    mapping, cityscapes = load_label_mapping("camvid11_from_cityscapes"), load_label_mapping("cityscapes")
    assert mapping.target == load_label_mapping("camvid11_ids").target
    assert set(mapping.classes_of_values) == set(cityscapes.classes_of_values), "the same values are known"
    values = np.array([[23, 11, 17, 7, 8, 21, 20, 13, 26, 24, 33, 22]], np.uint8)
    assert mapping.apply(values, "labels").tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 255]]
