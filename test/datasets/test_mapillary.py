"""Mapillary Vistas on trees of our own pictures, laid out as both releases are."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from seg_perception.core.errors import DatasetError
from seg_perception.core.label_set import load_label_mapping
from seg_perception.datasets.registry import DatasetSettings, open_dataset

RELEASES = {"1.2": "instances", "2.0": "v1.2/instances"}


def make_tree(root: Path, folder: str, values: np.ndarray, split: str = "validation") -> Path:
    images, instances = root / split / "images", root / split / folder
    images.mkdir(parents=True)
    instances.mkdir(parents=True)
    cv2.imwrite(str(images / "aBcD-0.jpg"), np.full((*values.shape, 3), 90, np.uint8))
    file = instances / "aBcD-0.png"
    cv2.imwrite(str(file), values)
    return file


@pytest.mark.parametrize("release", RELEASES)
def test_instance_files_give_classes(tmp_path: Path, release: str) -> None:
    # class 13 (road), 55 (car) in its instances 0 and 7, 65 (unlabeled); class x 256 + instance
    values = np.array([[13 * 256, 55 * 256, 55 * 256 + 7, 65 * 256]], np.uint16)
    make_tree(tmp_path, RELEASES[release], values)
    dataset = open_dataset(DatasetSettings("mapillary", tmp_path, "val"))
    assert len(dataset) == 1
    sample = dataset.load(0)
    assert sample.name == "aBcD-0"
    assert sample.labels.tolist() == [[0, 8, 8, 255]]


def test_the_training_split_is_its_own_folder(tmp_path: Path) -> None:
    make_tree(tmp_path, "instances", np.full((2, 2), 27 * 256, np.uint16), split="training")
    assert open_dataset(DatasetSettings("mapillary", tmp_path, "train")).load(0).labels.tolist() == [[7, 7], [7, 7]]
    with pytest.raises(DatasetError, match=r"validation/images: no such folder"):
        open_dataset(DatasetSettings("mapillary", tmp_path, "val"))


def test_without_instances_their_places_are_named(tmp_path: Path) -> None:
    (tmp_path / "validation/images").mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"folder validation/v1\.2/instances/ or validation/instances/ is not there"):
        open_dataset(DatasetSettings("mapillary", tmp_path, "val"))


def test_eight_bit_files_are_refused(tmp_path: Path) -> None:
    make_tree(tmp_path, "instances", np.full((2, 2), 13, np.uint8))
    with pytest.raises(DatasetError, match=r"aBcD-0.png: 8-bit gray PNG is not accepted as an instance file"):
        open_dataset(DatasetSettings("mapillary", tmp_path, "val")).load(0)


def test_half_a_file_is_refused(tmp_path: Path) -> None:
    file = make_tree(tmp_path, "instances", np.arange(64, dtype=np.uint16).reshape(8, 8) * 256)
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(DatasetError, match=r"aBcD-0.png: the PNG ends early, after 60 bytes"):
        open_dataset(DatasetSettings("mapillary", tmp_path, "val")).load(0)


def test_the_mapping_covers_exactly_the_66_classes() -> None:
    assert sorted(load_label_mapping("mapillary").classes_of_values) == list(range(66))
