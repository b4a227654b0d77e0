"""BDD100K on a tree of our own pictures, laid out as the real one."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from seg_perception.core.errors import DatasetError, SettingsError
from seg_perception.core.label_set import load_label_mapping
from seg_perception.datasets.registry import DatasetSettings, open_dataset

# Train ids 0 to 18 in the order of the 19 Cityscapes evaluation classes -> ids of the ten classes, by hand:
# road, sidewalk, building, wall, fence, pole, light, sign, vegetation, terrain, sky, person, rider, car, ...
EXPECTED = [0, 1, 9, 9, 9, 2, 3, 4, 5, 6, 7, 9, 9, 8, 9, 9, 9, 9, 9]


def make_tree(root: Path, split: str, values: np.ndarray) -> None:
    images, masks = root / "images/10k" / split, root / "labels/sem_seg/masks" / split
    images.mkdir(parents=True)
    masks.mkdir(parents=True)
    for name in ("0a0a0b1a-7c39d841", "fff0a1c2-00000000"):
        cv2.imwrite(str(images / f"{name}.jpg"), np.full((*values.shape, 3), 90, np.uint8))
        cv2.imwrite(str(masks / f"{name}.png"), values)


def test_train_ids_become_the_ten_classes(tmp_path: Path) -> None:
    values = np.array([[*range(19), 255]] * 4, np.uint8)
    make_tree(tmp_path, "val", values)
    dataset = open_dataset(DatasetSettings("bdd100k", tmp_path, "val"))
    assert len(dataset) == 2
    assert dataset.load(1).name == "fff0a1c2-00000000"
    for index in range(2):
        assert dataset.load(index).labels.tolist() == [[*EXPECTED, 255]] * 4


def test_an_unknown_value_names_file_and_value(tmp_path: Path) -> None:
    make_tree(tmp_path, "train", np.full((4, 4), 19, np.uint8))
    dataset = open_dataset(DatasetSettings("bdd100k", tmp_path, "train"))
    with pytest.raises(DatasetError, match=r"0a0a0b1a-7c39d841.png: label values 19 \(16 pixels\) are unknown"):
        dataset.load(0)


def test_the_test_split_has_no_truth_and_is_not_offered(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="bdd100k has no 'test'; known: train, val"):
        DatasetSettings("bdd100k", tmp_path, "test")


def test_a_wrong_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"images/10k/val: no such folder"):
        open_dataset(DatasetSettings("bdd100k", tmp_path, "val"))


def test_the_mapping_covers_exactly_the_train_ids() -> None:
    assert sorted(load_label_mapping("bdd100k").classes_of_values) == [*range(19), 255]
