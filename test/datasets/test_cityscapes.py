"""Cityscapes on a tree of our own pictures, laid out as the real one."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from seg_perception.core.errors import DatasetError
from seg_perception.core.label_set import load_label_mapping
from seg_perception.core.types import Size
from seg_perception.datasets.pairs import MissingLabelsError
from seg_perception.datasets.registry import DatasetSettings, open_dataset

NAMES = {"aachen": ["aachen_000000_000019", "aachen_000001_000019"], "zurich": ["zurich_000000_000019"]}

# Ground truth of the mapping, retyped from the task: value -> id of the ten classes; the rest is background (9).
OWN_CLASS = {7: 0, 8: 1, 17: 2, 19: 3, 20: 4, 21: 5, 22: 6, 23: 7, 26: 8}
UNLABELED = {0, 1, 2, 3, 4, 5, 6, 255}


def make_tree(root: Path) -> None:
    for split in ("train", "val"):
        for city, names in NAMES.items():
            images, labels = root / "leftImg8bit" / split / city, root / "gtFine" / split / city
            images.mkdir(parents=True)
            labels.mkdir(parents=True)
            for place, name in enumerate(names):
                cv2.imwrite(str(images / f"{name}_leftImg8bit.png"), np.full((8, 16, 3), (place, 20, 30), np.uint8))
                ids = np.full((8, 16), 7, np.uint8)
                ids[:4] = 23
                cv2.imwrite(str(labels / f"{name}_gtFine_labelIds.png"), ids)
                # the real folders hold these beside the ids; they must not be taken for more images
                cv2.imwrite(str(labels / f"{name}_gtFine_color.png"), np.zeros((8, 16, 3), np.uint8))
                cv2.imwrite(str(labels / f"{name}_gtFine_instanceIds.png"), np.zeros((8, 16), np.uint16))


def test_all_cities_in_order(tmp_path: Path) -> None:
    make_tree(tmp_path)
    dataset = open_dataset(DatasetSettings("cityscapes", tmp_path, "train"))
    names = [dataset.load(index).name for index in range(len(dataset))]
    assert names == [*NAMES["aachen"], *NAMES["zurich"]]
    sample = dataset.load(1)
    assert sample.image[0, 0].tolist() == [30, 20, 1]  # RGB; the file was written as BGR (1, 20, 30)
    assert sample.labels[:4].tolist() == [[7] * 16] * 4  # 23 is sky, class 7
    assert sample.labels[4:].tolist() == [[0] * 16] * 4  # 7 is road, class 0


def test_samples_can_be_reduced(tmp_path: Path) -> None:
    make_tree(tmp_path)
    sample = open_dataset(DatasetSettings("cityscapes", tmp_path, "val", size=Size(8, 4))).load(0)
    assert sample.image.shape == (4, 8, 3)
    assert sample.labels[:, 0].tolist() == [7, 7, 0, 0]


def test_every_value_of_the_taxonomy_is_mapped() -> None:
    mapping = load_label_mapping("cityscapes")
    values = [*range(34), 255]
    seen = 0
    for value in values:
        expected = 255 if value in UNLABELED else OWN_CLASS.get(value, 9)
        assert mapping.apply(np.array([[value]], np.uint8), "a test").item() == expected
        seen += 1
    assert seen == 35
    with pytest.raises(DatasetError, match=r"label values 34 \(1 pixels\) are unknown to the mapping 'cityscapes'"):
        mapping.apply(np.array([[34]], np.uint8), "a test")


def test_missing_parts_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"leftImg8bit/val: no such folder"):
        open_dataset(DatasetSettings("cityscapes", tmp_path, "val"))
    make_tree(tmp_path)
    (tmp_path / "gtFine/val/zurich/zurich_000000_000019_gtFine_labelIds.png").unlink()
    with pytest.raises(MissingLabelsError, match=r"no label image for 1 of 3 images, for .*zurich_000") as info:
        open_dataset(DatasetSettings("cityscapes", tmp_path, "val"))
    assert [pair.name for pair in info.value.missing] == ["zurich_000000_000019"]
    stray = tmp_path / "leftImg8bit/train/aachen/picture.png"
    cv2.imwrite(str(stray), np.zeros((2, 2, 3), np.uint8))
    train = open_dataset(DatasetSettings("cityscapes", tmp_path, "train"))
    assert len(train) == 3
    assert [(one.path, one.reason) for one in train.left_out] == [
        (stray, "not of the pattern leftImg8bit/train/*/*_leftImg8bit.png")
    ]
