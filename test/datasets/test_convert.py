"""Annotations of other tools, each made as its tool makes it, into labels equal to the truth; and hostile ones."""

from __future__ import annotations

import base64
import importlib
import io
import itertools
import json
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

import seg_perception.datasets.convert
from seg_perception.cli.main import main
from seg_perception.core.errors import DatasetError, SegPerceptionError, SettingsError
from seg_perception.core.label_set import load_label_mapping, load_label_set
from seg_perception.datasets.convert.base import Canvas
from seg_perception.datasets.convert.conversion import ConvertSettings, convert, detect, formats, formats_table
from seg_perception.datasets.convert.exporting import Labeled, ShapeKind, ShapeSettings, write_annotations
from seg_perception.datasets.convert.label_studio import decode_brush
from seg_perception.datasets.convert.voc import palette_color
from seg_perception.datasets.registry import DatasetSettings, open_dataset

DRIVING = load_label_set("driving")
ROAD, SKY, CAR = 0, 7, 8

# 40x30: sky in rows 0 to 11, road below; a car over both in columns 10 to 19, rows 8 to 17; the last two rows nothing
TRUTH = np.full((30, 40), ROAD, np.uint8)
TRUTH[:12] = SKY
TRUTH[8:18, 10:20] = CAR
TRUTH[28:] = 255

EDGES = {"sky": (0, 0, 40, 12), "road": (0, 12, 40, 28), "car": (10, 8, 20, 18)}
"""Left, top, right, bottom along the pixels' edges, in the order of painting."""


def corners(name: str, inclusive: bool) -> list[list[float]]:
    """A box as a polygon: along edges for COCO's rule, through the outer pixels' centers for Pillow's."""
    left, top, right, bottom = EDGES[name]
    off = 1 if inclusive else 0
    return [[left, top], [right - off, top], [right - off, bottom - off], [left, bottom - off]]


def picture(path: Path, size: tuple[int, int] = (40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), 90, np.uint8)).save(path)
    return path


def make_labelme(root: Path) -> Path:
    picture(root / "a.jpg")
    shapes = [
        {"label": name, "points": corners(name, inclusive=True), "shape_type": "polygon", "group_id": None, "flags": {}}
        for name in EDGES
    ]
    document = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": "..\\pictures\\a.jpg",
                "imageData": None, "imageHeight": 30, "imageWidth": 40}  # fmt: skip
    (root / "a.json").write_text(json.dumps(document))
    return root


def cvat_xml(shapes: str, width: int = 40) -> str:
    labels = "".join(f"<label><name>{name}</name><color>#0000{i}0</color></label>" for i, name in enumerate(EDGES))
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version><meta><task><labels>'
        f'{labels}</labels></task></meta><image id="0" name="a.jpg" width="{width}" height="30">{shapes}</image>'
        "</annotations>"
    )


def make_cvat(root: Path) -> Path:
    """The car first in the file, above by its z_order; the road as a mask; a polyline that has no area."""
    picture(root / "images" / "a.jpg")

    def points(name: str) -> str:
        return ";".join(f"{x:.2f},{y:.2f}" for x, y in corners(name, inclusive=False))

    rle = f"0, {40 * 16}"  # all of its box is road
    shapes = (
        '<box label="car" xtl="10.0" ytl="8.0" xbr="20.0" ybr="18.0" z_order="2" occluded="0"/>'
        f'<polygon label="sky" points="{points("sky")}" z_order="0" occluded="0"/>'
        f'<mask label="road" rle="{rle}" left="0" top="12" width="40" height="16" z_order="1"/>'
        '<polyline label="road" points="0,0;5,5" z_order="3"/>'
    )
    (root / "annotations.xml").write_text(cvat_xml(shapes))
    return root / "annotations.xml"


def make_coco(root: Path) -> Path:
    picture(root / "images" / "a.jpg")
    car = np.zeros((30, 40), np.uint8)
    car[8:18, 10:20] = 1
    packed = coco.encode(np.asfortranarray(car))
    road = np.zeros((30, 40), np.uint8)
    road[12:28] = 1
    runs = [12, *([16, 14] * 40)]
    runs[-1] = 2
    flat = [value for corner in corners("sky", inclusive=False) for value in corner]
    shapes = [(3, [flat]), (7, {"size": [30, 40], "counts": runs}),
              (9, {"size": [30, 40], "counts": packed["counts"].decode()}), (9, [])]  # fmt: skip
    document = {
        "images": [{"id": 5, "file_name": "a.jpg", "width": 40, "height": 30}],
        "categories": [{"id": 3, "name": "sky"}, {"id": 7, "name": "road"}, {"id": 9, "name": "car"}],
        "annotations": [{"id": i, "image_id": 5, "category_id": c, "segmentation": s, "iscrowd": 0}
                        for i, (c, s) in enumerate(shapes)],
    }  # fmt: skip
    (root / "instances.json").write_text(json.dumps(document))
    return root / "instances.json"


def make_voc(root: Path) -> Path:
    """Only "car" is one of its classes; the rest is background, with a border of 255 around the car."""
    picture(root / "JPEGImages" / "a.jpg")
    values = np.zeros((30, 40), np.uint8)
    values[7:19, 9:21] = 255
    values[8:18, 10:20] = 7
    image = Image.fromarray(values).convert("L")
    indexed = Image.new("P", image.size)
    indexed.putdata(values.reshape(-1).tolist())
    indexed.putpalette(bytes(channel for value in range(256) for channel in palette_color(value)))
    (root / "SegmentationClass").mkdir()
    indexed.save(root / "SegmentationClass" / "a.png")
    return root


COLORS = {"background": (0, 0, 0), "road": (128, 64, 128), "sky": (70, 130, 180), "car": (0, 0, 142)}


def make_cvat_masks(root: Path) -> Path:
    picture(root / "JPEGImages" / "a.png")
    painted = np.zeros((30, 40, 3), np.uint8)
    for name, value in (("road", ROAD), ("sky", SKY), ("car", CAR)):
        painted[value == TRUTH] = COLORS[name]
    (root / "SegmentationClass").mkdir()
    Image.fromarray(painted).save(root / "SegmentationClass" / "a.png")
    lines = [f"{name}:{','.join(map(str, color))}::" for name, color in COLORS.items()]
    (root / "labelmap.txt").write_text("# label:color_rgb:parts:actions\n" + "\n".join(lines) + "\n")
    return root


def make_roboflow(root: Path) -> Path:
    values = np.select([TRUTH == ROAD, TRUTH == SKY, TRUTH == CAR], [1, 2, 3], 0).astype(np.uint8)
    for split in ("train", "valid"):
        picture(root / split / "a_jpg.rf.0a1b.jpg")
        Image.fromarray(values).save(root / split / "a_jpg.rf.0a1b_mask.png")
        (root / split / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, road\n2, sky\n3, car\n")
    return root


def make_supervisely(root: Path) -> Path:
    picture(root / "town" / "img" / "a.jpg")
    car = io.BytesIO()
    Image.fromarray(np.full((10, 10), 255, np.uint8)).save(car, "PNG")
    data = base64.b64encode(zlib.compress(car.getvalue())).decode()

    def polygon(name: str, interior: list[list[list[float]]]) -> dict[str, object]:
        points = {"exterior": corners(name, inclusive=True), "interior": interior}
        return {"classTitle": name, "geometryType": "polygon", "points": points}

    objects = [
        polygon("sky", []),
        polygon("road", [[[0, 26], [3, 26], [3, 27], [0, 27]]]),
        polygon("road", []),
        {"classTitle": "car", "geometryType": "bitmap", "bitmap": {"data": data, "origin": [10, 8]}},
    ]
    document = {"size": {"height": 30, "width": 40}, "tags": [], "objects": objects}
    (root / "town" / "ann").mkdir()
    (root / "town" / "ann" / "a.jpg.json").write_text(json.dumps(document))
    classes = [{"title": name, "color": "#112233", "shape": "any"} for name in EDGES]
    (root / "meta.json").write_text(json.dumps({"classes": classes, "tags": []}))
    return root


def brush(mask: np.ndarray) -> list[int]:
    """Label Studio's brush encoding, written anew from its description: runs of one byte's value, 8-bit words."""
    flat = np.repeat((mask > 0).astype(np.uint8)[..., None] * 255, 4, axis=2).reshape(-1)
    bits = f"{len(flat):032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    edges = [0, *(np.flatnonzero(np.diff(flat)) + 1).tolist(), len(flat)]
    for start, end in itertools.pairwise(edges):
        length = end - start
        which = next(i for i, size in enumerate((3, 4, 8, 16)) if length <= 1 << size)
        bits += f"1{which:02b}{length - 1:0{(3, 4, 8, 16)[which]}b}{flat[start]:08b}"
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def make_label_studio(root: Path) -> Path:
    picture(root / "images" / "a.jpg")
    car = np.zeros((30, 40), np.uint8)
    car[8:18, 10:20] = 1
    size = {"original_width": 40, "original_height": 30}
    sky = [[100 * x / 40, 100 * y / 30] for x, y in corners("sky", inclusive=False)]
    results = [
        {"type": "polygonlabels", "value": {"points": sky, "polygonlabels": ["sky"]}, **size},
        {"type": "rectanglelabels", **size,
         "value": {"x": 0, "y": 40, "width": 100, "height": 100 * 16 / 30, "rectanglelabels": ["road"]}},
        {"type": "brushlabels", "value": {"format": "rle", "rle": brush(car), "brushlabels": ["car"]}, **size},
    ]  # fmt: skip
    annotations = [{"was_cancelled": True, "result": []}, {"was_cancelled": False, "result": results}]
    task = {"id": 1, "data": {"image": "/data/upload/1/0a1b2c3d-a.jpg"}, "annotations": annotations}
    (root / "project.json").write_text(json.dumps([task]))
    return root / "project.json"


def make_cityscapes(root: Path) -> Path:
    picture(root / "leftImg8bit" / "ulm" / "ulm_000001_000019_leftImg8bit.png")
    objects = [{"label": name, "polygon": corners(name, inclusive=True)} for name in ("sky", "road")]
    objects += [
        {"label": "cargroup", "polygon": corners("car", inclusive=True)},
        {"label": "truck", "polygon": [[0, 0], [39, 0], [39, 29]], "deleted": 1},
    ]
    (root / "gtFine" / "ulm").mkdir(parents=True)
    file = root / "gtFine" / "ulm" / "ulm_000001_000019_gtFine_polygons.json"
    file.write_text(json.dumps({"imgHeight": 30, "imgWidth": 40, "objects": objects}))
    return root


MAKERS: dict[str, Callable[[Path], Path]] = {
    "labelme": make_labelme,
    "cvat": make_cvat,
    "coco": make_coco,
    "voc": make_voc,
    "cvat-masks": make_cvat_masks,
    "roboflow": make_roboflow,
    "supervisely": make_supervisely,
    "label-studio": make_label_studio,
    "cityscapes-polygons": make_cityscapes,
}
EXPECTED = {
    "voc": np.where(TRUTH == CAR, CAR, 9),
    "cvat-masks": np.where(TRUTH == 255, 9, TRUTH),
    "roboflow": np.where(TRUTH == 255, 9, TRUTH),
}
"""Where a format knows "background": that is a class of the ten, too."""


def labels_of(out: Path, index: int = 0) -> np.ndarray:
    dataset = open_dataset(DatasetSettings("folder", out, mapping=str(out / "mapping.yaml")))
    return dataset.load(index).labels


def test_every_format_is_tried() -> None:
    assert set(MAKERS) == set(formats())


@pytest.mark.parametrize("name", MAKERS)
def test_a_source_becomes_the_truth(name: str, tmp_path: Path) -> None:
    source = MAKERS[name](tmp_path / "source")
    assert detect(source).name == name
    out = tmp_path / "out"
    done = convert(source, out, ConvertSettings(to="driving"))
    expected = EXPECTED.get(name, TRUTH).copy()
    if name == "voc":
        expected[7:19, 9:21] = np.where(TRUTH[7:19, 9:21] == CAR, CAR, 255)  # its border
    assert np.array_equal(labels_of(out), expected)
    assert done.images == (2 if name == "roboflow" else 1)
    assert sum(row.pixels for row in done.rows) == done.images * 40 * 30
    car = next(row for row in done.rows if row.name == "car")
    assert (car.pixels, car.images, car.became) == (100 * done.images, done.images, "car")
    own = tmp_path / "own"
    convert(source, own)
    mapping = load_label_mapping(own / "mapping.yaml")
    assert mapping.target.names[labels_of(own)[10, 15]] == "car"
    assert [p.suffix for p in sorted((own / "labels").iterdir())] == [".png"] * done.images


def test_the_command_prints_what_became_of_each_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_cvat(tmp_path / "source")
    picture(tmp_path / "source" / "images" / "spare.jpg")
    command = [
        "dataset",
        "convert",
        str(source),
        "--to",
        "driving",
        "--map",
        "car=background",
        "--unlabeled",
        "terrain",
    ]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    for line in (
        "1 images from cvat",
        "class          value        pixels  images  became",
        "sky                1           440       1  sky",
        "road               2           580       1  road",
        "car                3           100       1  background",
        "(not labeled)      0            80       1  terrain",
        "<polyline> has no area and is not drawn: 1",
        "pictures without an annotation, left out: 1: ",
        f"next: seg-perception dataset check --dataset folder --root {tmp_path / 'out'} --mapping ",
    ):
        assert line in printed, printed
    assert set(np.unique(labels_of(tmp_path / "out")).tolist()) == {0, 6, 7, 9}
    check = ["dataset", "check", "--dataset", "folder", "--root", str(tmp_path / "out")]
    assert main([*check, "--mapping", str(tmp_path / "out/mapping.yaml")]) == 0
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    assert "the output must be a new or empty folder" in capsys.readouterr().err
    assert main([*command[:-4], "--map", "truck=car", "--out", str(tmp_path / "b")]) == 2
    assert "no class 'truck' in the source; known: car, road, sky" in capsys.readouterr().err


def test_classes_that_the_target_lacks_are_named(tmp_path: Path) -> None:
    source = make_labelme(tmp_path / "source")
    text = (source / "a.json").read_text().replace('"label": "sky"', '"label": "Heaven"')
    (source / "a.json").write_text(text.replace('"label": "road"', '"label": "ROAD"'))
    done = convert(source, tmp_path / "out", ConvertSettings(to="driving"))
    assert any("so not labeled: Heaven; say --map 'NAME=CLASS'" in remark for remark in done.remarks)
    assert {row.name: row.became for row in done.rows} == {
        "Heaven": "ignore", "ROAD": "road", "car": "car", "(not labeled)": "ignore",
    }  # fmt: skip


def test_pictures_that_cannot_be_converted_are_all_named_and_nothing_is_left(tmp_path: Path) -> None:
    source = make_labelme(tmp_path / "source")
    text = (source / "a.json").read_text()
    (source / "b.json").write_text(text.replace("a.jpg", "gone.jpg"))
    picture(source / "c.jpg", (20, 15))
    (source / "c.json").write_text(text.replace("a.jpg", "c.jpg"))
    faults = r"gone\.jpg: no such picture.*c\.jpg: annotated at 40x30, but the picture is 20x15"
    with pytest.raises(DatasetError, match=f"(?s)2 of 3 pictures cannot be converted, and nothing was .*{faults}"):
        convert(source, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source"]
    done = convert(source, tmp_path / "out", ConvertSettings(keep_going=True))
    assert (done.images, len(done.left_out)) == (1, 2)


def test_boxes_alone_make_no_labels(tmp_path: Path) -> None:
    source = make_coco(tmp_path / "source")
    document = json.loads(source.read_text())
    for annotation in document["annotations"]:
        annotation |= {"segmentation": [], "bbox": [1, 2, 3, 4]}
    source.write_text(json.dumps(document))
    with pytest.raises(DatasetError, match=r"its 4 annotations are boxes without a segmentation\. A box does"):
        convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_labelme_keeps_pictures_in_its_files_and_has_other_shapes(tmp_path: Path) -> None:
    source = make_labelme(tmp_path / "source")
    document = json.loads((source / "a.json").read_text())
    content = (source / "a.jpg").read_bytes()
    (source / "a.jpg").unlink()
    mask = io.BytesIO()
    Image.fromarray(np.full((3, 4), 255, np.uint8)).save(mask, "PNG")
    document["imageData"] = base64.b64encode(content).decode()
    document["shapes"] = [
        {"label": "rect", "points": [[5, 6], [1, 2]], "shape_type": "rectangle"},
        {"label": "dot", "points": [[20, 20]], "shape_type": "point"},
        {"label": "disk", "points": [[30, 8], [34, 8]], "shape_type": "circle"},
        {"label": "mask", "points": [[2, 20], [5, 22]], "shape_type": "mask",
         "mask": base64.b64encode(mask.getvalue()).decode()},
    ]  # fmt: skip
    (source / "a.json").write_text(json.dumps(document))
    done = convert(source, tmp_path / "out")
    pixels = {row.name: row.pixels for row in done.rows}
    assert (pixels["rect"], pixels["mask"]) == (25, 12)
    assert 80 <= pixels["dot"] <= 100  # a disk of radius 5
    assert 48 <= pixels["disk"] <= 70  # of radius 4
    assert (tmp_path / "out/images/a.jpg").read_bytes() == content


def test_turned_photos_are_converted_upright(tmp_path: Path) -> None:
    source = make_labelme(tmp_path / "source")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((40, 30, 3), np.uint8)).save(source / "a.jpg", exif=exif)  # upright it is 40x30
    convert(source, tmp_path / "out", ConvertSettings(to="driving"))
    assert np.array_equal(labels_of(tmp_path / "out"), TRUTH)


HOSTILE: dict[str, tuple[str, str]] = {
    "xml bomb": ("annotations.xml", '<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]><annotations/>'),
    "xml in UTF-16": ("annotations.xml", "\ufeff<annotations/>"),
    "video": ("annotations.xml", "<annotations><track/></annotations>"),
    "path": ("annotations.xml", cvat_xml("").replace("a.jpg", "../../etc/passwd")),
    "absolute": ("annotations.xml", cvat_xml("").replace("a.jpg", "/etc/passwd")),
    "absurd size": ("annotations.xml", cvat_xml("", width=10**9)),
    "size is no number": ("annotations.xml", cvat_xml("").replace('width="40"', 'width="4e1"')),
    "far points": ("annotations.xml", cvat_xml('<polygon label="car" points="0,0;1e9,0;0,5"/>')),
    "no numbers": ("annotations.xml", cvat_xml('<polygon label="car" points="0,0;x,0;0,5"/>')),
    "nan": ("annotations.xml", cvat_xml('<polygon label="car" points="0,0;nan,0;0,5"/>')),
    "run lengths": ("annotations.xml", cvat_xml('<mask label="car" rle="9" left="0" top="0" width="4" height="4"/>')),
    "deep json": ("a.json", '{"imagePath": ' + "[" * 100_000),
    "labelme size": ("a.json", json.dumps({"shapes": [], "imagePath": "a.jpg", "imageWidth": 10**400})),
    "labelme points": ("a.json", json.dumps({"shapes": [{"label": "x", "points": [[1, 10**400]]}], "imagePath": "a.jpg",
                                             "imageWidth": 40, "imageHeight": 30})),
    "labelme shapes": ("a.json", json.dumps({"shapes": {"a": 1}, "imagePath": "a.jpg"})),
    "coco path": ("i.json", json.dumps({"images": [{"id": 1, "file_name": "../a.jpg", "width": 4, "height": 3}],
                                        "annotations": [], "categories": [{"id": 1, "name": "x"}]})),
    "coco id": ("i.json", json.dumps({"images": [], "annotations": [{"image_id": [], "segmentation": [[1]]}],
                                      "categories": [{"id": 1, "name": "x"}]})),
    "coco counts": ("i.json", json.dumps({"images": [{"id": 1, "file_name": "a.jpg", "width": 40, "height": 30}],
        "annotations": [{"image_id": 1, "category_id": 1, "segmentation": {"size": [30, 40], "counts": "~~~~~~~~~"}}],
        "categories": [{"id": 1, "name": "x"}]})),
    "coco runs": ("i.json", json.dumps({"images": [{"id": 1, "file_name": "a.jpg", "width": 40, "height": 30}],
        "annotations": [{"image_id": 1, "category_id": 1, "segmentation": {"size": [30, 40], "counts": [10**18, -5]}}],
        "categories": [{"id": 1, "name": "x"}]})),
    "label studio": ("p.json", json.dumps([{"data": {"image": "a.jpg"}, "annotations": [{"result": [{
        "type": "brushlabels", "original_width": 40, "original_height": 30,
        "value": {"rle": [255] * 50, "brushlabels": ["x"]}}]}]}])),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused_in_words_and_leave_nothing(tmp_path: Path, case: str) -> None:
    name, text = HOSTILE[case]
    root = tmp_path / "source"
    picture(root / "a.jpg")
    (root / name).write_text(text, encoding="utf-16" if case.endswith("UTF-16") else "utf-8")
    source = root if name == "a.json" else root / name
    with pytest.raises(SegPerceptionError):
        convert(source, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source"]


def test_packed_data_unpacks_no_further_than_its_picture(tmp_path: Path) -> None:
    source = make_supervisely(tmp_path / "source")
    file = source / "town/ann/a.jpg.json"
    document = json.loads(file.read_text())
    document["objects"][3]["bitmap"]["data"] = base64.b64encode(zlib.compress(bytes(300 << 20), 9)).decode()
    file.write_text(json.dumps(document))
    with pytest.raises(DatasetError, match=r"a\.jpg\.json: packed data of more than \d+ bytes is not accepted"):
        convert(source, tmp_path / "out")


def test_a_brush_is_decoded_by_hand_made_bits() -> None:
    from seg_perception.core.types import Size

    mask = np.random.default_rng(1).random((9, 13)) < 0.4
    assert np.array_equal(decode_brush(brush(mask.astype(np.uint8)), Size(13, 9), "x") > 0, mask)
    with pytest.raises(DatasetError, match="ends early"):
        decode_brush(brush(mask.astype(np.uint8))[:20], Size(13, 9), "x")


def test_what_no_format_knows_is_refused_with_those_that_are(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(
        DatasetError, match=r"looks like none of the formats; say which with --from. Known: .*labelme: "
    ):
        detect(tmp_path)
    for name, said in (("a.txt", "labels/ holds text files as YOLO's, .*COCO"), ("a.png", r"dataset check .*--root")):
        (tmp_path / "labels").mkdir(exist_ok=True)
        (tmp_path / "labels" / name).touch()
        with pytest.raises(DatasetError, match=said):
            detect(tmp_path)
    with pytest.raises(SettingsError, match="no format 'yolo'; known: cityscapes-polygons, coco, cvat, cvat-masks"):
        convert(tmp_path, tmp_path / "out", ConvertSettings(format="yolo"))
    assert "| `label-studio` | Label Studio: its JSON export" in formats_table()


@pytest.fixture(scope="module")
def blobs() -> np.ndarray:
    """Labels of 96x64 with holes, islands and touching corners, in four classes; lines, dots, and unknown pixels."""
    rng = np.random.default_rng(5)
    smooth = cv2.GaussianBlur(rng.random((64, 96)).astype(np.float32), (0, 0), 4)
    labels = np.digitize(smooth, np.quantile(smooth, [0.3, 0.55, 0.8])).astype(np.uint8)
    labels[5, 5:30] = labels[10:30, 7] = labels[63, 95] = 4
    labels[rng.random((64, 96)) < 0.02] = 255  # most of them lie inside of a region: polygons must not cover them
    labels[40:60, 50:80] = rng.choice(np.array([0, 1, 255], np.uint8), (20, 30))
    return labels


@pytest.mark.parametrize("kind", list(ShapeKind))
@pytest.mark.parametrize("name", ["cvat", "labelme", "coco"])
def test_what_is_exported_comes_back_as_it_was(tmp_path: Path, blobs: np.ndarray, name: str, kind: ShapeKind) -> None:
    """Masks, and polygons that keep every corner, are exact to the last pixel, by the rule of each tool."""
    image = picture(tmp_path / "pictures" / "a.png", (96, 64))
    out = tmp_path / ("ann" if name == "labelme" else f"ann.{'xml' if name == 'cvat' else 'json'}")
    report = write_annotations(name, [Labeled(image, blobs)], DRIVING, out, ShapeSettings(kind, 0.0, least_pixels=0))
    assert (report.images, report.left_out, report.left_out_pixels) == (1, 0, 0)
    convert(out, tmp_path / "back", ConvertSettings(images=image.parent, to="driving"))
    assert np.array_equal(labels_of(tmp_path / "back"), blobs)


@pytest.mark.parametrize("name", ["cvat", "labelme", "coco"])
def test_polygons_are_off_by_their_tolerance_and_no_more(tmp_path: Path, name: str) -> None:
    smooth = cv2.GaussianBlur(np.random.default_rng(5).random((120, 160)).astype(np.float32), (0, 0), 9)
    labels = np.digitize(smooth, np.quantile(smooth, [0.3, 0.55, 0.8])).astype(np.uint8)
    image = picture(tmp_path / "pictures" / "a.png", (160, 120))
    out = tmp_path / ("ann" if name == "labelme" else f"ann.{'xml' if name == 'cvat' else 'json'}")
    write_annotations(name, [Labeled(image, labels)], DRIVING, out, ShapeSettings(tolerance=1.0, least_pixels=0))
    convert(out, tmp_path / "back", ConvertSettings(images=image.parent, to="driving"))
    differ = labels_of(tmp_path / "back") != labels
    borders = np.zeros(labels.shape, np.uint8)  # pixels that have another class beside or below them
    borders[:-1] |= labels[:-1] != labels[1:]
    borders[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    reach = cv2.distanceTransform(1 - borders, cv2.DIST_L2, 5)
    assert 0 < differ.sum() < 0.05 * labels.size, "some hundred of 19,200 pixels, all of them at a border"
    assert reach[differ].max() <= 2.0  # the border lies between two pixels, and a corner of the frame may be cut


def test_small_regions_are_left_out_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(tmp_path / "pictures" / "a.png", (96, 64))
    labels = np.zeros((64, 96), np.uint8)
    labels[3, 4], labels[20:40, 20:40] = 8, 8
    (tmp_path / "labels").mkdir()
    Image.fromarray(labels).save(tmp_path / "labels" / "a.png")
    command = ["dataset", "export", "--images", str(tmp_path / "pictures"), "--labels", str(tmp_path / "labels")]
    assert main([*command, "--format", "coco", "--out", str(tmp_path / "a.json")]) == 0
    assert "a.json: 1 images, 2 shapes; 1 regions of under 20 pixels left out (1 pixels)" in capsys.readouterr().out
    (tmp_path / "mapping.yaml").write_text("name: m\ntarget: driving\nvalues: {0: sky, 8: road}\n")  # as convert writes
    assert main([*command, "--format", "coco", "--out", str(tmp_path / "c.json")]) == 0
    assert f"labels read by {tmp_path / 'mapping.yaml'}" in capsys.readouterr().out
    document = json.loads((tmp_path / "c.json").read_text())
    names = {category["id"]: category["name"] for category in document["categories"]}
    assert {names[shape["category_id"]] for shape in document["annotations"]} == {"sky", "road"}
    assert main([*command, "--format", "yolo", "--out", str(tmp_path / "b.json")]) == 2
    assert "no format 'yolo' to export; known: cvat, labelme, coco" in capsys.readouterr().err


def test_a_canvas_paints_one_shape_over_another() -> None:
    from seg_perception.core.types import Size

    canvas = Canvas(Size(4, 3), {"a": 1, "b": 2}, 0, "x")
    canvas.paint_mask(np.ones((2, 2)), "a", left=-1, top=0)
    canvas.paint_polygons([[0, 1, 2, 1, 2, 3, 0, 3]], "b")
    assert canvas.ids.tolist() == [[1, 0, 0, 0], [2, 2, 0, 0], [2, 2, 0, 0]]
    with pytest.raises(DatasetError, match="x: a shape is labeled 'c', which is no class of it; known: a, b"):
        canvas.paint_mask(np.ones((1, 1)), "c")


def test_a_new_format_is_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "pebbles.py").write_text(
        "from seg_perception.datasets.convert.base import Annotations, Format, SourceClass\n"
        "FORMAT = Format('pebbles', 'a file of pebbles, for a test', 'none', lambda path: path.suffix == '.pebble',\n"
        "                lambda path: Annotations((SourceClass('road', 1),), iter(())))\n"
    )
    package = seg_perception.datasets.convert
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / "modules")])
    importlib.invalidate_caches()
    assert "| `pebbles` | a file of pebbles, for a test | none |" in formats_table()
    with pytest.raises(SystemExit):
        main(["dataset", "convert", "--help"])
    assert "pebbles" in capsys.readouterr().out
    (tmp_path / "a.pebble").touch()
    assert detect(tmp_path / "a.pebble").name == "pebbles"
    with pytest.raises(DatasetError, match="no picture could be converted"):
        convert(tmp_path / "a.pebble", tmp_path / "out")
    sys.modules.pop("seg_perception.datasets.convert.pebbles")
