"""The reduced Cityscapes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from seg_perception.core.types import Size
from seg_perception.datasets.registry import DatasetSettings, open_dataset


def test_a_tree_laid_out_as_the_reduced_cityscapes(pairs, tmp_path: Path) -> None:
    names = [f"{i:04d}" for i in range(302)]
    pairs("cityscapes256/train", names, value=26, size=(4, 4))  # Cityscapes' 26 is car, our 8
    train = open_dataset(DatasetSettings("cityscapes256", tmp_path / "cityscapes256", "train"))
    val = open_dataset(DatasetSettings("cityscapes256", tmp_path / "cityscapes256", "val"))
    assert (train.name, len(train)) == ("cityscapes256/train", 2)
    assert (val.name, len(val)) == ("cityscapes256/val", 300)
    assert (train.load(1).name, val.load(0).name) == ("0001", "0002")  # no image is in both
    sample = train.load(0)
    assert Size.of(sample.image) == Size.of(sample.labels) == Size(512, 256)  # the square, stretched back to 2:1
    assert sample.labels.min() == sample.labels.max() == 8
    other = open_dataset(DatasetSettings("cityscapes256", tmp_path / "cityscapes256", "train", size=Size(64, 32)))
    assert Size.of(other.load(0).image) == Size(64, 32)


def test_the_real_one(shared_data: Path) -> None:
    train = open_dataset(DatasetSettings("cityscapes256", shared_data / "cityscapes256", "train"))
    val = open_dataset(DatasetSettings("cityscapes256", shared_data / "cityscapes256", "val"))
    assert (len(train), len(val)) == (2675, 300)
    assert train.load(2674).name < val.load(0).name
    sample = val.load(7)
    assert Size.of(sample.image) == Size(512, 256)
    assert set(np.unique(sample.labels)) <= {*range(10), 255}
