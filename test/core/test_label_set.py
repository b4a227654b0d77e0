"""Label sets and mappings, those that ship and those that users write."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from seg_perception.core.errors import SettingsError
from seg_perception.core.label_mapping import LabelMapping, load_label_mapping
from seg_perception.core.label_set import LabelClass, LabelSet, load_label_set
from seg_perception.core.resources import share_path

TEN = ["road", "sidewalk", "pole", "traffic light", "traffic sign", "vegetation", "terrain", "sky", "car", "background"]
TWO = LabelSet("two", (LabelClass(0, "road", (1, 2, 3), drivable=True), LabelClass(1, "sky", (4, 5, 6))))


def test_the_ten_classes_in_their_order_with_the_colors_of_cityscapes() -> None:
    driving = load_label_set("driving")
    assert list(driving.names) == TEN
    assert [c.id for c in driving.classes] == list(range(10))
    assert driving.drivable_ids == (0,)
    # Cityscapes' published colors; background is not one of its classes
    cityscapes = {
        "road": (128, 64, 128),
        "sidewalk": (244, 35, 232),
        "pole": (153, 153, 153),
        "traffic light": (250, 170, 30),
        "traffic sign": (220, 220, 0),
        "vegetation": (107, 142, 35),
        "terrain": (152, 251, 152),
        "sky": (70, 130, 180),
        "car": (0, 0, 142),
    }
    assert {c.name: c.color for c in driving.classes if c.name != "background"} == cityscapes


def test_every_shipped_file_loads() -> None:
    files = sorted(share_path("config/labels").glob("*.yaml"))
    sets = [f for f in files if "classes" in yaml.safe_load(f.read_text())]
    mappings = [f for f in files if "values" in yaml.safe_load(f.read_text())]
    assert len(sets) + len(mappings) == len(files)
    assert len(sets) >= 2
    assert len(mappings) >= 4
    for file in sets:
        assert load_label_set(file.stem).name == file.stem
    for file in mappings:
        mapping = load_label_mapping(file.stem)
        assert mapping.name == file.stem
        assert load_label_mapping(file).classes_of_values == mapping.classes_of_values


def test_the_palette_has_a_color_for_each_class_and_black_elsewhere() -> None:
    assert TWO.palette.shape == (256, 3)
    assert TWO.palette[:3].tolist() == [[1, 2, 3], [4, 5, 6], [0, 0, 0]]
    assert TWO.palette[2:].max() == 0


def test_names_have_ids_and_unknown_names_get_the_known_ones() -> None:
    assert TWO.id_of("sky") == 1
    with pytest.raises(SettingsError, match="label set 'two' has no class 'moon'; known: road, sky"):
        TWO.id_of("moon")


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: LabelClass(254, "x", (0, 0, 0)), "id 254 is not in 0 to 253"),
        (lambda: LabelClass(-1, "x", (0, 0, 0)), "id -1 is not in 0 to 253"),
        (lambda: LabelClass(0, "x", (0, 0, 256)), "color .* is not three values in 0 to 255"),
        (lambda: LabelClass(0, "x", (0, 0)), "color .* is not three values in 0 to 255"),
        (lambda: LabelSet("s", (TWO.classes[1],)), "ids must be 0 to 0 in order"),
        (lambda: LabelSet("s", (TWO.classes[0], LabelClass(1, "road", (0, 0, 0)))), "class names repeat"),
        (lambda: LabelSet("s", ()), "it has no classes"),
        (lambda: LabelMapping("m", TWO, {65536: "road"}).table, "value 65536 is not in 0 to 65535"),
        (lambda: LabelMapping("m", TWO, {0: "moon"}).table, "has no class 'moon'; known: road, sky"),
    ],
)
def test_wrong_label_sets_cannot_be_built(build: object, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        build()  # type: ignore[operator]


@pytest.mark.parametrize(
    "text, messages",
    [
        ("name: [", ["own.yaml: not valid YAML"]),
        ("- a", ["own.yaml: settings must be a table"]),
        ("name: own", ["classes: missing"]),
        ("name: own\nclasses: {road: 0}", ["classes: a list is expected"]),
        (
            "name: own\nclasses: [{name: road, color: [0, 0]}, {color: [0, 0, 0], drivable: perhaps}]",
            ["classes[0].color: 3 values", "classes[1].name: missing", "classes[1].drivable: 'perhaps'"],
        ),
        ("name: own\nclasses: [{name: road, color: [0, 0, 999]}]", ["own.yaml: class 'road': color"]),
    ],
)
def test_a_wrong_label_set_file_names_itself_and_every_fault(tmp_path: Path, text: str, messages: list[str]) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError) as error:
        load_label_set(file)
    for message in messages:
        assert message in str(error.value)


def test_a_missing_file_stays_a_missing_file() -> None:
    with pytest.raises(FileNotFoundError):
        load_label_set("nowhere/x.yaml")
