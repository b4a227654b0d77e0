"""KITTI semantics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from seg_perception.core.errors import DatasetError
from seg_perception.datasets.registry import DatasetSettings, open_dataset


def test_a_tree_laid_out_as_kitti(pairs, tmp_path: Path) -> None:
    names = [f"{i:06d}_10" for i in range(125)]
    pairs("kitti", names, value=7)  # Cityscapes' 7 is road, our 0
    train = open_dataset(DatasetSettings("kitti", tmp_path / "kitti", "train"))
    val = open_dataset(DatasetSettings("kitti", tmp_path / "kitti", "val"))
    assert (train.name, len(train)) == ("kitti/train", 120)
    assert (val.name, len(val)) == ("kitti/val", 5)
    assert train.load(119).name == "000119_10"
    assert val.load(0).name == "000120_10"
    assert val.load(0).labels.max() == 0


def test_too_few_frames_leave_nothing_to_hold_out(pairs, tmp_path: Path) -> None:
    pairs("kitti", ["000000"])
    with pytest.raises(DatasetError, match="dataset 'kitti/val' has no images"):
        open_dataset(DatasetSettings("kitti", tmp_path / "kitti", "val"))


def test_the_real_one(shared_data: Path) -> None:
    train = open_dataset(DatasetSettings("kitti", shared_data / "kitti_semantics", "train"))
    val = open_dataset(DatasetSettings("kitti", shared_data / "kitti_semantics", "val"))
    assert (len(train), len(val)) == (120, 20)
    sample = val.load(0)
    assert sample.image.shape[1] > 1200
    assert set(np.unique(sample.labels)) <= {*range(10), 255}
