"""Label sets and mappings from values and colors to classes, those that ship and those that users write."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from seg_perception.core.errors import DatasetError, SettingsError
from seg_perception.core.files import share_path
from seg_perception.core.label_set import (
    LabelClass,
    LabelMapping,
    LabelSet,
    load_label_mapping,
    load_label_set,
    parse_color,
)

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


def test_every_class_is_reached_by_some_value_where_the_taxonomy_has_it() -> None:
    assert set(load_label_mapping("cityscapes").classes_of_values.values()) == {*TEN, "ignore"}
    lacking = {"terrain", "traffic light", "traffic sign"}  # CamVid as packaged has none of these
    assert set(load_label_mapping("camvid").classes_of_values.values()) == {*TEN, "ignore"} - lacking
    assert set(load_label_mapping("camvid11_ids").classes_of_values.values()) == {
        *load_label_set("camvid11").names,
        "ignore",
    }


def test_the_mappings_say_what_the_data_is_documented_to_mean() -> None:
    camvid = load_label_mapping("camvid")
    values = np.arange(12, dtype=np.uint8)[None]
    # sky 7, background 9, pole 2, road 0, sidewalk 1, vegetation 5, ignored, fence 9, car 8, two people 9, ignored
    assert camvid.apply(values, "row").tolist() == [[7, 9, 2, 0, 1, 5, 255, 9, 8, 9, 9, 255]]
    cityscapes = load_label_mapping("cityscapes")
    values = np.array([[7, 8, 17, 19, 20, 21, 22, 23, 26, 11, 0, 255]], np.uint8)
    assert cityscapes.apply(values, "row").tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 255, 255]]
    identity = load_label_mapping("identity")
    values = np.array([[*range(10), 255]], np.uint8)
    assert identity.apply(values, "row").tolist() == values.tolist()


def test_an_unknown_value_names_the_file_the_value_and_what_to_do() -> None:
    values = np.array([[0, 9, 77, 77]], np.uint8)
    with pytest.raises(DatasetError, match=r"x/b\.png: label values 77 \(2 pixels\) are unknown to the mapping") as e:
        load_label_mapping("identity").apply(values, Path("x/b.png"))
    assert "add each to its YAML with a class name or 'ignore'" in str(e.value)


@pytest.mark.parametrize("values", [np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.int32)])
def test_what_is_no_label_image_is_refused(values: np.ndarray) -> None:
    with pytest.raises(DatasetError, match=r"b\.png: a label image must be 8-bit or 16-bit \[H, W\], got"):
        load_label_mapping("identity").apply(values, "b.png")


@pytest.mark.parametrize(
    "text, message",
    [
        ("values: [", "own.yaml: not valid YAML"),
        ("values: [road]", "values: a table is expected, got list"),
        ("values: {road: 0}", "values.road: a class name or 'ignore' is expected, got 0"),
        ("values: {true: road}", "values.True: True is a truth value, not a whole number"),
        ('values: {"7": road}', "values.7: '7' is text, not a whole number; write 7: without quotes"),
        ("values: {1.5: road}", "values.1.5: 1.5 is a fraction, not a whole number"),
        ("values: {0: on}", "values.0: a class name .* got True; YAML reads on, off"),
        ("values: {65536: road}", "values.65536: not in 0 to 65535"),
        ("values: {0: moon}", "own.yaml: .*has no class 'moon'; known: road, sidewalk"),
        ("values: {0: roads}", "own.yaml: .*did you mean 'road'"),
        ("values: {0: road}\ncolours: {}", "colours: unknown; known here: name, target, values, colors"),
        ("values: {0: road, 0: car}", "own.yaml: not valid YAML: the key '0' is given twice"),
        ("values: {16: road, 0x10: car}", "own.yaml: not valid YAML: the key '0x10' is given twice"),
        ("values: {010: road}", "'010' is text, not a whole number; write 10: without quotes or zeros in front"),
        ("values: {1:30: road}", "'1:30' is text, not a whole number"),
        ("name: x", "a mapping needs 'values'.* or 'colors'"),
        ("values: {}\ncolors:", "a mapping needs 'values'.* or 'colors'"),
        ('colors: {"1,2": road}', "colors.1,2: '1,2' is no color; write \"R,G,B\""),
        ('colors: {"1,2,256": road}', "'1,2,256' is no color"),
        ("colors: {7: road}", "colors.7: 7 is no color"),
        ('colors: {"0,0,0": road, "#000000": car}', "the same color stands for 'road', too"),
        ('colors:\n  #804080: road\n  "0,0,0": car', "line 2: YAML takes '#804080: road' for a comment"),
        ("target: own2.yaml\nvalues: {0: road}", "No such file"),
        ("target: nowhere\nvalues: {0: road}", "no label set or mapping 'nowhere'; shipped: .*driving"),
    ],
)
def test_a_wrong_mapping_file_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(text)
    with pytest.raises((SettingsError, FileNotFoundError), match=f"(?s){message}"):
        load_label_mapping(file)


def test_a_users_mapping_finds_its_label_set_beside_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "set.yaml").write_text("name: set\nclasses: [{name: floor, color: [1, 1, 1], drivable: true}]")
    (tmp_path / "mine" / "map.yaml").write_text("target: set.yaml\nvalues: {3: floor, 0: ignore}")
    monkeypatch.chdir(tmp_path)
    mapping = load_label_mapping("mine/map.yaml")
    assert mapping.target.names == ("floor",)
    assert mapping.name == "map"
    assert mapping.apply(np.array([[3, 0]], np.uint8), "x").tolist() == [[0, 255]]


def test_an_unknown_name_lists_the_shipped_files() -> None:
    with pytest.raises(SettingsError, match=r"no label set or mapping 'nowhere'; shipped: .*cityscapes.*; or give a"):
        load_label_mapping("nowhere")


COLORS = LabelMapping("c", TWO, {}, {(128, 64, 128): "road", (70, 130, 180): "sky", (0, 0, 0): "ignore"})


def test_colors_are_classes_and_unknown_ones_are_named_with_the_nearest() -> None:
    image = np.array([[[128, 64, 128], [70, 130, 180], [0, 0, 0]]], np.uint8)
    assert COLORS.apply_colors(image, "x").tolist() == [[0, 1, 255]]
    image[0, 2] = (128, 64, 120)
    with pytest.raises(DatasetError, match=r"a/b\.png: color not in the mapping 'c': 128,64,120 \(1 pixels; nearest: "
                       r"128,64,128 road, off by 8\); add each to 'colors'"):  # fmt: skip
        COLORS.apply_colors(image, "a/b.png")


def test_smoothed_edges_are_known_for_what_they_are() -> None:
    road, sky = np.array([128, 64, 128]), np.array([70, 130, 180])
    image = np.empty((20, 20, 3), np.uint8)
    image[:, :9], image[:, 11:] = road, sky
    image[:, 9], image[:, 10] = 0.7 * road + 0.3 * sky, 0.3 * road + 0.7 * sky
    with pytest.raises(
        DatasetError, match=r"2 colors not in .*anti-aliased edges\. Export the masks without smoothing"
    ):
        COLORS.apply_colors(image, "x")
    image[:, 9:11] = (250, 250, 0)  # a class of its own
    with pytest.raises(DatasetError, match=r"color not in .*250,250,0 \(40 pixels; .*add each to 'colors'"):
        COLORS.apply_colors(image, "x")


def test_a_long_list_is_cut_and_says_so() -> None:
    with pytest.raises(
        DatasetError, match=r"label values 10 \(1 pixels\), .*, 17 \(1 pixels\) and 22 more are unknown"
    ):
        load_label_mapping("identity").apply(np.arange(10, 40, dtype=np.uint8)[None], "x")
    noise = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    with pytest.raises(DatasetError, match=r"20 colors not in .* and 12 more"):
        COLORS.apply_colors(noise, "x")


def test_values_that_look_like_another_taxonomy_are_told() -> None:
    with pytest.raises(DatasetError, match="look like Cityscapes train ids: the mapping 'cityscapes_train_ids'"):
        load_label_mapping("identity").apply(np.array([[0, 10, 13, 255]], np.uint8), "x")
    with pytest.raises(DatasetError, match="binary mask: the mapping 'binary_road'"):
        load_label_mapping("camvid").apply(np.array([[0, 255]], np.uint8), "x")
    values = np.array([[*range(19), 255]], np.uint8)
    train_ids = load_label_mapping("cityscapes_train_ids").apply(values, "x")
    assert train_ids.tolist() == [[0, 1, 9, 9, 9, 2, 3, 4, 5, 6, 7, 9, 9, 8, 9, 9, 9, 9, 9, 255]]


def test_sixteen_bit_values_go_through_a_mapping(tmp_path: Path) -> None:
    file = tmp_path / "deep.yaml"
    file.write_text("values: {0: ignore, 300: road, 65534: car}")
    values = np.array([[0, 300, 65534]], np.uint16)
    assert load_label_mapping(file).apply(values, "x").tolist() == [[255, 0, 8]]
    with pytest.raises(DatasetError, match=r"label values 301 \(1 pixels\)"):
        load_label_mapping(file).apply(np.array([[301]], np.uint16), "x")


def test_an_edited_file_is_read_anew(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("values: {0: road}")
    assert load_label_mapping(file).classes_of_values == {0: "road"}
    file.write_text("values: {0: car}")
    import os

    os.utime(file, ns=(1, 1))  # a clock too coarse to tell
    assert load_label_mapping(file).classes_of_values == {0: "car"}
    classes, drivable = tmp_path / "set.yaml", "name: set\nclasses: [{name: car, color: [1, 2, 3], drivable: %s}]"
    file.write_text("target: set.yaml\nvalues: {0: car}")
    classes.write_text(drivable % "true")
    assert load_label_mapping(file).target.drivable_ids == (0,)
    classes.write_text(drivable % "false")
    os.utime(classes, ns=(1, 1))
    assert load_label_mapping(file).target.drivable_ids == (), "the label set that an unchanged mapping names"


@pytest.mark.parametrize(
    "text, color",
    [("128,64,128", (128, 64, 128)), (" 1, 2, 3 ", (1, 2, 3)), ("#804080", (128, 64, 128)), ("#80408", None),
     ("1,2,3,4", None), ("1,2,-3", None), ("\u0661,2,3", None), ("9" * 5000 + ",1,2", None), (None, None)],
)  # fmt: skip
def test_colors_as_text(text: object, color: object) -> None:
    assert parse_color(text) == color
