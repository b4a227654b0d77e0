"""Datasets from settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from seg_perception.core.errors import SettingsError
from seg_perception.core.settings import from_mapping
from seg_perception.core.types import Size
from seg_perception.datasets.registry import DatasetSettings, dataset_kinds, open_dataset


def test_every_module_with_a_reader_is_a_kind() -> None:
    assert {"camvid", "cityscapes256", "kitti", "folder", "scenes"} <= set(dataset_kinds())
    assert len(set(dataset_kinds())) == len(dataset_kinds())


def test_a_folder_is_opened_relative_to_the_data_root(pairs, tmp_path: Path) -> None:
    pairs("mine", list("abc"))
    settings = DatasetSettings("folder", Path("mine"), mapping="identity", size=Size(12, 8))
    dataset = open_dataset(settings, tmp_path)
    assert (dataset.name, len(dataset)) == ("mine", 3)
    assert Size.of(dataset.load(0).image) == Size(12, 8)


def test_a_known_dataset_takes_its_own_mapping_or_the_asked_one(pairs, tmp_path: Path) -> None:
    pairs("camvid11/val", ["a"], value=3)
    assert open_dataset(DatasetSettings("camvid", Path("camvid11"), "val"), tmp_path).label_set.name == "driving"
    eleven = DatasetSettings("camvid", Path("camvid11"), "val", mapping="camvid11_ids")
    assert open_dataset(eleven, tmp_path).label_set.name == "camvid11"


@pytest.mark.parametrize("every, names", [(1, "abcde"), (2, "ace"), (3, "ad"), (5, "a"), (9, "a")])
def test_one_of_so_many_can_be_kept(pairs, tmp_path: Path, every: int, names: str) -> None:
    pairs("mine", list("abcde"))
    dataset = open_dataset(DatasetSettings("folder", Path("mine"), mapping="identity", every=every), tmp_path)
    assert "".join(dataset.load(i).name for i in range(len(dataset))) == names


@pytest.mark.parametrize(
    "values, fault",
    [
        ({"kind": "kity"}, "kind: no dataset 'kity'; known: .*kitti"),
        ({"kind": "folder"}, "mapping: a folder dataset needs one"),
        ({"kind": "kitti", "split": "test"}, "split: kitti has no 'test'; known: train, val"),
        ({"kind": "scenes", "split": "test"}, "split: scenes has no 'test'; known: train, val"),
        ({"kind": "kitti", "weight": 0}, "weight: 0.0 must be above 0"),
        ({"kind": "kitti", "every": 0}, "every: 0 must be at least 1"),
        ({"kind": "scenes", "count": 0}, "count: 0 must be at least 1"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_opened(values: dict[str, object], fault: str) -> None:
    with pytest.raises(SettingsError, match=fault):
        from_mapping(DatasetSettings, values, "here")


def test_an_unknown_mapping_is_refused(pairs, tmp_path: Path) -> None:
    pairs("mine", ["a"])
    with pytest.raises(SettingsError, match="no label set or mapping 'nowhere'"):
        open_dataset(DatasetSettings("folder", Path("mine"), mapping="nowhere"), tmp_path)
