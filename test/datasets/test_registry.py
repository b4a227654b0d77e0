"""Datasets from settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from seg_perception.core.errors import SettingsError
from seg_perception.core.settings import from_mapping
from seg_perception.core.types import Size
from seg_perception.datasets.registry import DatasetSettings, open_dataset, open_datasets, unique_names


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
        ({"kind": "scenes", "mapping": "camvid"}, "mapping: scenes is labeled with its own classes and takes none"),
        ({"kind": "kitti", "images": "a/*", "labels": "b/*"}, "images: kitti has a layout of its own"),
        (
            {"kind": "folder", "mapping": "identity", "images": "a/*"},
            "labels: a pattern for images needs one for labels",
        ),
        (
            {"kind": "folder", "mapping": "identity", "images": "../a/*", "labels": "b/*"},
            "images: pattern '../a/\\*': a path",
        ),
        (
            {"kind": "folder", "mapping": "identity", "images": "a/*", "labels": "b/x**"},
            "labels: pattern 'b/x.*stands alone",
        ),
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


def test_datasets_of_one_folder_name_get_names_of_their_own(pairs, tmp_path: Path) -> None:
    for site in ("siteA", "siteB"):
        pairs(f"{site}/val", ["a"])
    settings = [DatasetSettings("folder", Path(f"{site}/val"), mapping="identity") for site in ("siteA", "siteB")]
    assert [d.name for d in open_datasets(settings, tmp_path)] == ["siteA/val", "siteB/val"]
    assert [d.name for d in open_datasets([*settings, settings[0]], tmp_path)] == [
        "siteA/val",
        "siteB/val",
        "siteA/val (2)",
    ]


def test_the_folder_that_one_stands_in_has_its_name(pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pairs("mine", ["a"]))
    assert open_dataset(DatasetSettings("folder", Path(), mapping="identity")).name == "mine"


def test_names_by_hand() -> None:
    assert unique_names(["a", "b"], [Path("/x/a"), Path("/x/b")]) == ["a", "b"]
    assert unique_names(["camvid/val"] * 2, [Path("/d/one"), Path("/d/two")]) == [
        "camvid/val (one)",
        "camvid/val (two)",
    ]
    deep = [Path("/x/1/set/val"), Path("/x/2/set/val")]
    assert unique_names(["val (1 of 2)"] * 2, deep) == ["1/set/val (1 of 2)", "2/set/val (1 of 2)"]
