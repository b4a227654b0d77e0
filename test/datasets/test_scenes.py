"""Procedural scenes as a dataset."""

from __future__ import annotations

import numpy as np
import pytest

from seg_perception.core.errors import DatasetError
from seg_perception.core.types import Size
from seg_perception.datasets.registry import DatasetSettings, open_dataset
from seg_perception.datasets.scenes import ScenesDataset


def test_scene_i_of_a_split_is_always_the_same_picture() -> None:
    first, second = ScenesDataset("train", 5, Size(128, 96)), ScenesDataset("train", 50, Size(128, 96))
    assert (first.name, len(first), len(second)) == ("scenes/train", 5, 50)
    one, other = first.load(3), second.load(3)
    assert one.name == other.name == "000003"
    assert np.array_equal(one.image, other.image)
    assert np.array_equal(one.labels, other.labels)
    assert not np.array_equal(one.image, first.load(4).image)


def test_training_and_validation_share_no_picture() -> None:
    train, val = ScenesDataset("train", 3, Size(96, 64)), ScenesDataset("val", 3, Size(96, 64))
    seen = {train.load(i).image.tobytes() for i in range(3)} | {val.load(i).image.tobytes() for i in range(3)}
    assert len(seen) == 6


def test_a_scene_has_the_asked_size_and_the_ten_classes_only() -> None:
    dataset = open_dataset(DatasetSettings("scenes", size=Size(160, 96), count=4))
    assert dataset.label_set.name == "driving"
    for index in range(4):
        sample = dataset.load(index)
        assert Size.of(sample.image) == Size.of(sample.labels) == Size(160, 96)
        assert set(np.unique(sample.labels)) <= {*range(10), 255}
        assert np.any(sample.labels == 0), "a driving scene has a road"


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(DatasetError, match="scenes have no split 'test'; known: train, val"):
        ScenesDataset("test", 1, Size(4, 4))
    with pytest.raises(DatasetError, match="scenes: count 0 must be at least 1"):
        ScenesDataset("train", 0, Size(4, 4))
