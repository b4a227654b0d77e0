"""The forms that tools really write, beside the plain ones of test_convert: each exact, or refused with a remedy."""

from __future__ import annotations

import base64
import io
import json
import unicodedata
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from seg_perception.core.errors import DatasetError
from seg_perception.datasets.convert.conversion import Conversion, ConvertSettings, convert, detect
from seg_perception.datasets.convert.voc import palette_color
from seg_perception.datasets.registry import DatasetSettings, open_dataset

WIDTH, HEIGHT = 40, 30
FLAT = [10, 8, 20, 8, 20, 18, 10, 18]  # a box along pixel edges: columns 10 to 19, rows 8 to 17
BOX = np.zeros((HEIGHT, WIDTH), bool)
BOX[8:18, 10:20] = True


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 90, np.uint8)).save(path)
    return path


def write(path: Path, document: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return path


def converted(source: Path, tmp_path: Path, **settings: Any) -> tuple[dict[str, np.ndarray], Conversion]:
    """Class -> where it is in the only picture, bool [H, W]; and the report."""
    out = tmp_path / "out"
    done = convert(source, out, ConvertSettings(**settings))
    dataset = open_dataset(DatasetSettings("folder", out, mapping=str(out / "mapping.yaml")))
    labels = dataset.load(0).labels
    return {name: labels == index for index, name in enumerate(dataset.label_set.names)}, done


def coco(segmentation: Any, **changes: Any) -> dict[str, Any]:
    return {
        "images": [{"id": 1, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT}],
        "categories": [{"id": 3, "name": "car"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "segmentation": segmentation, "bbox": [1, 2, 3, 4]}],
    } | changes


RUNS = [HEIGHT * 10 + 8, *[10, 20] * 9, 10, HEIGHT * 20 + 12]  # down the columns
COCO: dict[str, dict[str, Any]] = {
    "a polygon": coco([FLAT]),
    "one polygon without its list": coco(FLAT),
    "corners as pairs": coco([[x, y] for x, y in zip(FLAT[::2], FLAT[1::2], strict=True)]),
    "a crowd in plain runs": coco({"size": [HEIGHT, WIDTH], "counts": RUNS}, annotations=[
        {"image_id": 1, "category_id": 3, "iscrowd": 1, "segmentation": {"size": [HEIGHT, WIDTH], "counts": RUNS}}]),
    "ids as text": coco([FLAT], images=[{"id": "img-1", "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT}],
                        categories=[{"id": "c", "name": "car"}], annotations=[
        {"image_id": "img-1", "category_id": "c", "segmentation": [FLAT]}]),
    "numbers as text": coco([FLAT], annotations=[{"image_id": "1", "category_id": "3", "segmentation": [FLAT]}]),
    "sizes as floats": coco([FLAT], images=[{"id": 1, "file_name": "a.jpg", "width": 40.0, "height": 30.0}]),
    "ids beyond 65,535": coco([FLAT], categories=[{"id": 10**6, "name": "car"}], annotations=[
        {"image_id": 1, "category_id": 10**6, "segmentation": [FLAT]}]),
}  # fmt: skip


@pytest.mark.parametrize("name", COCO)
def test_coco_as_tools_write_it(tmp_path: Path, name: str) -> None:
    picture(tmp_path / "s" / "a.jpg")
    found, _ = converted(write(tmp_path / "s" / "instances.json", COCO[name]), tmp_path)
    assert np.array_equal(found["car"], BOX)


def test_coco_folders_of_cvat_and_roboflow(tmp_path: Path) -> None:
    picture(tmp_path / "cvat" / "images" / "a.jpg")
    write(tmp_path / "cvat" / "annotations" / "instances_default.json", coco([FLAT]))
    assert detect(tmp_path / "cvat").name == "coco"
    found, _ = converted(tmp_path / "cvat", tmp_path)
    assert np.array_equal(found["car"], BOX)
    for split in ("train", "valid"):
        picture(tmp_path / "robo" / split / "a.jpg")
        write(tmp_path / "robo" / split / "_annotations.coco.json", coco([FLAT]))
    assert detect(tmp_path / "robo").name == "coco"
    done = convert(tmp_path / "robo", tmp_path / "out2")
    assert done.images == 2
    assert sorted(p.name for p in (tmp_path / "out2" / "labels").iterdir()) == ["a.png", "valid__a.png"]
    write(tmp_path / "cvat" / "annotations" / "instances_other.json", coco([FLAT]))
    with pytest.raises(DatasetError, match=r"2 files of COCO; name one of .*instances_default\.json, "):
        convert(tmp_path / "cvat", tmp_path / "out3")


def test_what_coco_cannot_be_read_is_refused(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    for name, document, message in (
        ("boxes", coco([]), "its 1 annotations are boxes without a segmentation. A box does not say which"),
        (
            "panoptic",
            coco([], annotations=[{"image_id": 1, "file_name": "a.png", "segments_info": []}]),
            "panoptic form",
        ),
        ("list", coco([["x"]]), "points of a shape must be pairs of numbers|list of x and y in turn"),
        ("counts", coco({"size": [HEIGHT, WIDTH], "counts": [5]}), "do not add up to its 40x30 pixels"),
        ("turned", coco({"size": [WIDTH, HEIGHT], "counts": [1200]}), "height, width"),
        ("unlisted", coco([FLAT], images=[]), "annotations name 1 images that are not listed, such as 1"),
    ):
        with pytest.raises(DatasetError, match=message):
            convert(write(tmp_path / f"{name}.json", document), tmp_path / "out")
    some = coco([FLAT])
    some["annotations"] += [{"image_id": 1, "category_id": 3, "bbox": [1, 1, 2, 2]},
                            {"image_id": 1, "category_id": 3, "segmentation": [[0, 0, 39, 29]]}]  # fmt: skip
    found, done = converted(write(tmp_path / "some.json", some), tmp_path)
    assert np.array_equal(found["car"], BOX)
    assert "annotations without a segmentation (boxes only) are not drawn: 1" in done.remarks
    assert "polygons of under three points are not drawn: 1" in done.remarks


def labelme(shapes: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    return {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": "a.jpg", "imageData": None,
            "imageHeight": HEIGHT, "imageWidth": WIDTH} | changes  # fmt: skip


CENTERS = [[10, 8], [19, 8], [19, 17], [10, 17]]  # through the centers of the outer pixels, as Pillow draws


@pytest.mark.parametrize(
    "shape",
    [
        {"points": CENTERS, "shape_type": "polygon", "group_id": 3},
        {"points": CENTERS},  # labelme before 3.5 knew polygons only
        {"points": CENTERS, "shape_type": None},
        {"points": [[19, 17], [10, 8]], "shape_type": "rectangle"},
        {"points": CENTERS, "shape_type": "rectangle"},  # X-AnyLabeling
        {"points": CENTERS, "shape_type": "rotation", "direction": 0.0},
        {"points": CENTERS, "shape_type": "oriented_rectangle"},
    ],
)
def test_labelme_shapes(tmp_path: Path, shape: dict[str, Any]) -> None:
    picture(tmp_path / "s" / "a.jpg")
    write(tmp_path / "s" / "a.json", labelme([{"label": "car"} | shape]))
    found, done = converted(tmp_path / "s", tmp_path)
    assert np.array_equal(found["car"], BOX)
    assert any("boxes filled" in remark for remark in done.remarks) == (
        shape.get("shape_type") not in (None, "polygon")
    )


def test_two_labelme_shapes_of_a_group_and_files_that_are_not_labelmes(tmp_path: Path) -> None:
    picture(tmp_path / "s" / "a.jpg")
    halves = [[[10, 8], [14, 8], [14, 17], [10, 17]], [[15, 8], [19, 8], [19, 17], [15, 17]]]
    shapes = [{"label": "car", "group_id": 1, "shape_type": "polygon", "points": half} for half in halves]
    shapes.append({"label": "road", "shape_type": "points", "points": [[1, 1], [2, 2]]})
    old = labelme(shapes)
    del old["imageWidth"], old["imageHeight"]  # labelme before 3.7
    write(tmp_path / "s" / "a.json", "\ufeff" + json.dumps(old))  # and a byte order mark, as Windows editors add
    write(tmp_path / "s" / "classes.json", {"names": ["car"]})
    found, done = converted(tmp_path / "s", tmp_path)
    assert np.array_equal(found["car"], BOX)
    assert "JSON files that are not labelme's are not read: 1" in done.remarks
    assert "points have no area and are not drawn: 1" in done.remarks


def task(results: list[dict[str, Any]], **data: str) -> list[dict[str, Any]]:
    stated = [{"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0} | r for r in results]
    return [{"id": 1, "data": data or {"image": "/data/upload/1/a.jpg"}, "annotations": [{"result": stated}]}]


PERCENT = [[x * 100 / WIDTH, y * 100 / HEIGHT] for x, y in zip(FLAT[::2], FLAT[1::2], strict=True)]
RECTANGLE = {"x": 25.0, "y": 800 / 30, "width": 25.0, "height": 1000 / 30}
STUDIO: dict[str, list[dict[str, Any]]] = {
    "polygon": [{"type": "polygonlabels", "value": {"points": PERCENT, "closed": True, "polygonlabels": ["car"]}}],
    "rectangle": [{"type": "rectanglelabels", "value": {**RECTANGLE, "rotation": 0, "rectanglelabels": ["car"]}}],
    # turned by 90 degrees around its first corner, which is then the right upper one: width and height change places
    "turned rectangle": [{"type": "rectanglelabels", "value": {
        "x": 50.0, "y": 800 / 30, "width": 25.0, "height": 1000 / 30, "rotation": 90, "rectanglelabels": ["car"]}}],
    "labels apart from shapes": [
        {"id": "r", "type": "polygon", "value": {"points": PERCENT}},
        {"id": "r", "type": "labels", "value": {"points": PERCENT, "labels": ["car"]}}],
    "a shape that has its label itself": [{"type": "polygon", "value": {"points": PERCENT, "labels": ["car"]}}],
}  # fmt: skip


@pytest.mark.parametrize("name", STUDIO)
def test_label_studio_shapes(tmp_path: Path, name: str) -> None:
    picture(tmp_path / "s" / "a.jpg")
    found, _ = converted(write(tmp_path / "s" / "project.json", task(STUDIO[name])), tmp_path)
    assert np.array_equal(found["car"], BOX)


def test_label_studio_ellipses_other_fields_and_what_has_no_area(tmp_path: Path) -> None:
    picture(tmp_path / "s" / "a.jpg")
    ellipse = {"x": 50, "y": 50, "radiusX": 25, "radiusY": 20, "rotation": 90, "ellipselabels": ["disk"]}
    results = [{"type": "ellipselabels", "value": ellipse}, {"type": "choices", "value": {"choices": ["sunny"]}},
               {"type": "polygon", "value": {"points": PERCENT}}]  # fmt: skip
    document = task(results, photo="/data/local-files/?d=drive/a.jpg", weather="sunny")
    document.append({"id": 2, "data": {"photo": "a.jpg"}, "annotations": [{"was_cancelled": True, "result": []}]})
    found, done = converted(write(tmp_path / "s" / "project.json", document), tmp_path)
    # 10 and 6 pixels, turned by a quarter: 6 across and 10 down around (20, 15)
    assert np.pi * 60 * 0.97 < found["disk"].sum() < np.pi * 60 * 1.03
    assert np.flatnonzero(found["disk"].any(axis=0)).tolist() == list(range(14, 26))
    assert np.flatnonzero(found["disk"].any(axis=1)).tolist() == list(range(5, 25))
    for remark in ("choices has no area and is not drawn: 1", "shapes without a label are not drawn: 1",
                   "tasks without an annotation: nothing is drawn on their pictures: 1"):  # fmt: skip
        assert remark in done.remarks
    with pytest.raises(DatasetError, match=r"export as JSON \(JSON-MIN leaves the sizes out"):
        convert(write(tmp_path / "s" / "min.json", [{"image": "a.jpg", "label": []}]), tmp_path / "b",
                ConvertSettings(format="label-studio"))  # fmt: skip


def supervisely_bitmap(kind: str) -> str:
    """Of the box, as Supervisely's library saves it, and as others do."""
    content = io.BytesIO()
    solid = Image.fromarray(np.ones((10, 10), np.uint8))
    if kind == "palette":  # Supervisely itself: palette indices 0 and 1, of which 0 is transparent
        solid.putpalette([0, 0, 0, 255, 255, 255])
        solid.save(content, "PNG", transparency=0, optimize=0)
    elif kind == "alpha":
        Image.fromarray(np.dstack([np.zeros((10, 10, 3), np.uint8), np.full((10, 10), 255, np.uint8)])).save(
            content, "PNG"
        )
    else:
        solid.point(lambda v: v * 255).convert("1").save(content, "PNG")
    return base64.b64encode(zlib.compress(content.getvalue())).decode()


@pytest.mark.parametrize("kind", ["palette", "alpha", "one bit"])
def test_supervisely_bitmaps(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "s"
    picture(root / "town" / "img" / "a.jpg")
    objects = [
        {
            "classTitle": "car",
            "geometryType": "bitmap",
            "bitmap": {"data": supervisely_bitmap(kind), "origin": [10, 8]},
        },
        {"classTitle": "car", "geometryType": "polyline", "points": {"exterior": [[0, 0], [5, 5]], "interior": []}},
        {"classTitle": "sign", "geometryType": "rectangle", "points": {"exterior": [[1, 2], [3, 5]], "interior": []}},
    ]
    write(root / "town" / "ann" / "a.jpg.json", {"size": {"height": HEIGHT, "width": WIDTH}, "objects": objects})
    write(
        root / "meta.json", {"classes": [{"title": name, "color": "#010203"} for name in ("car", "sign")], "tags": []}
    )
    found, done = converted(root, tmp_path)
    assert np.array_equal(found["car"], BOX)
    assert found["sign"].sum() == 12  # columns 1 to 3, rows 2 to 5
    assert "polyline is not drawn: 1" in done.remarks
    assert any("boxes filled" in remark for remark in done.remarks)


def city(objects: list[dict[str, Any]]) -> dict[str, Any]:
    return {"imgHeight": HEIGHT, "imgWidth": WIDTH, "objects": objects}


def test_cityscapes_groups_deleted_objects_and_license_plates(tmp_path: Path) -> None:
    """As json2labelImg draws: a plate has a negative id and is not drawn, so the car stays whole."""
    root = tmp_path / "s"
    picture(root / "leftImg8bit" / "ulm" / "ulm_000001_000019_leftImg8bit.png")
    objects = [
        {"label": "cargroup", "polygon": CENTERS, "deleted": 0},
        {"label": "license plate", "polygon": [[12, 10], [14, 10], [14, 11], [12, 11]]},
        {"label": "sky", "polygon": CENTERS, "deleted": 1},
        {"label": "polegroup", "polygon": [[0, 0], [1, 0], [1, 1], [0, 1]]},
        {"label": "sky", "polygon": [[5, 5]]},
    ]
    write(root / "gtFine" / "ulm" / "ulm_000001_000019_gtFine_polygons.json", city(objects))
    found, done = converted(root, tmp_path)
    assert np.array_equal(found["car"], BOX)
    assert found["polegroup"].sum() == 4
    assert not found["sky"].any()
    assert any("license plates keep the label" in remark for remark in done.remarks)
    assert "polygons of under three points are not drawn: 1" in done.remarks


def voc_values() -> np.ndarray:
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    values[7:19, 9:21] = 255
    values[8:18, 10:20] = 7
    return values


PALETTE = [channel for value in range(256) for channel in palette_color(value)]


@pytest.mark.parametrize("kind", ["palette", "raw", "colors"])
def test_voc_label_files(tmp_path: Path, kind: str) -> None:
    """The palette files of the devkit, their raw values as DeepLab's scripts store them, and their colors."""
    root = tmp_path / "s"
    picture(root / "JPEGImages" / "a.jpg")
    picture(root / "JPEGImages" / "only_boxes.jpg")
    write(root / "Annotations" / "a.xml", "<annotation/>")
    image = Image.fromarray(voc_values())
    if kind != "raw":
        image.putpalette(PALETTE)
    (root / "SegmentationClass").mkdir()
    (image.convert("RGB") if kind == "colors" else image).save(root / "SegmentationClass" / "a.png")
    image.save(picture(root / "SegmentationObject" / "a.png"))
    assert detect(root).name == "voc"
    found, done = converted(root, tmp_path)
    assert np.array_equal(found["car"], BOX)
    border = ~(found["car"] | found["background"])
    assert border.sum() == 12 * 12 - 10 * 10  # the void border is no class
    assert done.images == 1
    assert any("pictures without an annotation, left out: 1" in remark for remark in done.remarks)


def test_voc_of_labelmes_own_script_with_its_classes(tmp_path: Path) -> None:
    root = tmp_path / "s"
    picture(root / "JPEGImages" / "a.jpg")
    values = np.where(BOX, 2, 1).astype(np.uint8)
    values[0] = 255  # __ignore__ is -1, which a byte stores as 255
    image = Image.fromarray(values)
    image.putpalette(PALETTE)
    (root / "SegmentationClassPNG").mkdir()
    image.save(root / "SegmentationClassPNG" / "a.png")
    (root / "SegmentationClass").mkdir()
    np.save(root / "SegmentationClass" / "a.npy", values)
    picture(root / "SegmentationClassVisualization" / "a.jpg")
    write(root / "class_names.txt", "__ignore__\n_background_\nroad\ncar\n")
    found, done = converted(root, tmp_path, to="driving")
    assert np.array_equal(found["car"], BOX)
    assert found["road"].sum() == (HEIGHT - 1) * WIDTH - 100
    assert [row.name for row in done.rows] == ["background", "road", "car", "(not labeled)"]


def test_voc_without_label_files_or_with_unknown_ones_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "s"
    picture(root / "JPEGImages" / "a.jpg")
    box = "<annotation><filename>a.jpg</filename><object><name>car</name><bndbox/></object></annotation>"
    write(root / "Annotations" / "a.xml", box)
    assert detect(root).name == "voc"
    with pytest.raises(DatasetError, match=r"the 1 files of Annotations/ hold boxes. A box does not say which of its"):
        convert(root, tmp_path / "out")
    with pytest.raises(DatasetError, match=r"one picture's file of Pascal VOC, which holds boxes"):
        convert(root / "Annotations" / "a.xml", tmp_path / "out")
    (root / "SegmentationClass").mkdir()
    Image.fromarray(np.full((HEIGHT, WIDTH), 40, np.uint8)).save(root / "SegmentationClass" / "a.png")
    with pytest.raises(DatasetError, match=r"value 40 is none of its classes \(0 to 20, and 255.*class_names.txt"):
        convert(root, tmp_path / "out")
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), (1, 2, 3), np.uint8)).save(root / "SegmentationClass" / "a.png")
    with pytest.raises(DatasetError, match=r"its color 1,2,3 is not in Pascal VOC's palette; a labelmap.txt"):
        convert(root, tmp_path / "out")
    (tmp_path / "task.zip").write_bytes(b"PK\3\4")
    with pytest.raises(DatasetError, match="an archive; unpack it and name the folder or file inside"):
        convert(tmp_path / "task.zip", tmp_path / "out")


@pytest.mark.parametrize("palette", [True, False])
def test_cvat_segmentation_masks(tmp_path: Path, palette: bool) -> None:
    """As CVAT 2 packs it: default.txt, colors in RGB or with a palette, and no pictures unless asked for."""
    root = tmp_path / "s"
    picture(tmp_path / "pictures" / "front" / "a.png")
    colors = {"background": (0, 0, 0), "car": (250, 50, 83), "road": (52, 209, 183)}
    painted = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    painted[20:] = colors["road"]
    painted[BOX] = colors["car"]
    image = Image.fromarray(painted)
    for folder in ("SegmentationClass", "SegmentationObject"):
        (root / folder / "front").mkdir(parents=True)
        (image.quantize(3, dither=Image.Dither.NONE) if palette else image).save(root / folder / "front" / "a.png")
    write(root / "ImageSets" / "Segmentation" / "default.txt", "front/a\n")
    lines = [f"{name}:{','.join(map(str, color))}::" for name, color in colors.items()]
    write(root / "labelmap.txt", "# label:color_rgb:parts:actions\n" + "\n".join(lines) + "\n")
    assert detect(root).name == "cvat-masks"
    found, done = converted(root, tmp_path, images=tmp_path / "pictures")
    assert np.array_equal(found["car"], BOX)
    assert found["road"].sum() == 10 * WIDTH
    assert done.images == 1


def test_cvat_boxes_are_filled_and_said(tmp_path: Path) -> None:
    picture(tmp_path / "s" / "images" / "default" / "a.jpg")
    box = '<box label="car" xtl="10.00" ytl="8.00" xbr="20.00" ybr="18.00" z_order="0" source="manual"></box>'
    labels = "<labels><label><name>car</name><color>#ff0000</color></label></labels>"
    image = f'<image id="0" name="a.jpg" subset="default" width="40" height="30">{box}</image>'
    document = f'<?xml version="1.0"?><annotations><meta><project>{labels}</project></meta>{image}</annotations>'
    write(tmp_path / "s" / "annotations.xml", document)
    found, done = converted(tmp_path / "s", tmp_path)
    assert np.array_equal(found["car"], BOX)
    assert "boxes filled as rectangles, as the tool's own export does: 1" in done.remarks


@pytest.mark.parametrize("header", ["Pixel Value, Class", "Pixel Value,Class", "\ufeffPixel Value, Class"])
def test_roboflow_classes(tmp_path: Path, header: str) -> None:
    root = tmp_path / "s"
    picture(root / "train" / "a_png.rf.3f.png")
    assert cv2.imwrite(str(root / "train" / "a_png.rf.3f_mask.png"), BOX.astype(np.uint8) * 3)
    write(root / "train" / "_classes.csv", f"{header}\r\n0, background\r\n3, car\r\n")
    found, done = converted(root, tmp_path)
    assert np.array_equal(found["car"], BOX)
    assert done.images == 1


CORNERS = [[10, 8], [19, 8], [19, 17], [10, 17]]
NEVER_FINISHED: dict[str, tuple[str, Any]] = {  # a shape without a point, beside one that is drawn
    "coco": ("c.json", coco([FLAT], annotations=[
        {"image_id": 1, "category_id": 3, "segmentation": shape} for shape in ([FLAT], [[]])])),
    "labelme": ("a.json", {"imagePath": "a.jpg", "imageWidth": WIDTH, "imageHeight": HEIGHT, "shapes": [
        {"label": "car", "shape_type": "polygon", "points": points} for points in (CORNERS, [])]}),
    "supervisely": ("ds/ann/a.jpg.json", {"size": {"width": WIDTH, "height": HEIGHT}, "objects": [
        {"classTitle": "car", "geometryType": kind, "points": {"exterior": points, "interior": None}}
        for kind, points in (("polygon", CORNERS), ("rectangle", [[1, 1]]))]}),
    "cvat": ("annotations.xml", f"""<annotations><image name="a.jpg" width="{WIDTH}" height="{HEIGHT}">
        <polygon label="car" points="10,8;20,8;20,18;10,18"/><polygon label="car" points=""/></image></annotations>"""),
    "cityscapes-polygons": ("a_gtFine_polygons.json", {"imgWidth": WIDTH, "imgHeight": HEIGHT, "objects": [
        {"label": "car", "polygon": points} for points in (CORNERS, [])]}),
}  # fmt: skip


@pytest.mark.parametrize("name", NEVER_FINISHED)
def test_a_shape_without_points_is_counted_and_harms_no_other(tmp_path: Path, name: str) -> None:
    file, document = NEVER_FINISHED[name]
    write(tmp_path / "src" / "meta.json", {"classes": [{"title": "car"}]} if name == "supervisely" else {})
    picture(tmp_path / "src" / ("a_leftImg8bit.png" if name.startswith("city") else "a.jpg"))
    source = write(tmp_path / "src" / file, document)
    found, done = converted(source if name == "coco" else tmp_path / "src", tmp_path, format=name)
    np.testing.assert_array_equal(found["car"], BOX)
    assert "polygons of under three points are not drawn: 1" in done.remarks


def test_a_shape_outside_of_its_picture_is_counted(tmp_path: Path) -> None:
    outside = [-30, 8, -20, 8, -20, 18]
    picture(tmp_path / "a.jpg")
    source = write(tmp_path / "c.json", coco([FLAT], annotations=[
        {"image_id": 1, "category_id": 3, "segmentation": [shape]} for shape in (FLAT, outside)]))  # fmt: skip
    assert "shapes that cover no pixel of their picture are not seen: 1" in converted(source, tmp_path)[1].remarks


@pytest.mark.parametrize("written", ["NFC", "NFD"])
def test_accents_are_the_same_however_they_are_written(tmp_path: Path, written: str) -> None:
    """macOS gives letter and accent apart."""
    picture(tmp_path / unicodedata.normalize("NFD" if written == "NFC" else "NFC", "süd.jpg"))
    name = unicodedata.normalize(written, "süd.jpg")
    document = coco([FLAT], images=[{"id": 1, "file_name": name, "width": WIDTH, "height": HEIGHT}])
    np.testing.assert_array_equal(converted(write(tmp_path / "c.json", document), tmp_path)[0]["car"], BOX)


def test_label_studio_shapes_of_a_turned_view_are_refused(tmp_path: Path) -> None:
    """They lie in the turned view: drawn as they stand, they would be somewhere else."""
    shape = {"type": "polygonlabels", "original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 90,
             "value": {"points": [[25, 25], [50, 25], [50, 60]], "polygonlabels": ["car"]}}  # fmt: skip
    task = {"data": {"image": "a.jpg"}, "annotations": [{"result": [shape]}]}
    with pytest.raises(DatasetError, match=r"a\.jpg was labeled in a view turned by 90 degrees"):
        converted(write(tmp_path / "tasks.json", [task]), tmp_path)


def test_no_picture_of_another_folder_is_taken_and_one_that_comes_twice_is_said(tmp_path: Path) -> None:
    picture(tmp_path / "in" / "siteB" / "0001.jpg")
    one = coco([FLAT])
    for file_name in ("siteA/0001.jpg", "siteA/images/0001.jpg"):
        one["images"][0]["file_name"] = file_name
        source = write(tmp_path / "in" / "x.json", one)
        with pytest.raises(DatasetError, match=r"(?s)no such picture .*siteB/0001\.jpg has its name, but .*--images"):
            convert(source, tmp_path / "out")
    for file_name in ("0001.jpg", "siteB/0001.png", "drive/siteB/img/0001.jpg"):  # no other place is named
        one["images"][0]["file_name"] = file_name
        (labels, done) = converted(
            write(tmp_path / "in" / "x.json", one), tmp_path / f"as_{file_name.replace('/', '_')}"
        )
        np.testing.assert_array_equal(labels["car"], BOX)
        assert not any("named, too" in remark for remark in done.remarks)
    again = {"id": 2, "file_name": "0001.jpg", "width": WIDTH, "height": HEIGHT}
    done = convert(write(tmp_path / "in" / "x.json", one | {"images": [*one["images"], again]}), tmp_path / "twice")
    assert [
        r for r in done.remarks if r.startswith("pictures that an annotation before named, too, written once more: 1")
    ]


@pytest.mark.parametrize("key", ["images", "categories"])
def test_ids_that_come_twice_are_refused(tmp_path: Path, key: str) -> None:
    picture(tmp_path / "a.jpg")
    document = coco([FLAT])
    document[key] = [*document[key], document[key][0] | {"file_name": "b.jpg", "name": "road"}]
    with pytest.raises(DatasetError, match=r"several images have one id, such as 1|'car' and 'road' have one id, 3"):
        convert(write(tmp_path / "x.json", document), tmp_path / "out")


@pytest.mark.parametrize("kind", ["bitmasklabels", "vectorlabels"])
def test_label_studio_areas_that_are_not_read_are_refused(tmp_path: Path, kind: str) -> None:
    picture(tmp_path / "a.jpg")
    result = {"type": kind, "original_width": WIDTH, "original_height": HEIGHT, "value": {kind: ["car"]}}
    task = {"data": {"image": "a.jpg"}, "annotations": [{"result": [result]}]}
    with pytest.raises(DatasetError, match=f"of the kind {kind}, which is not read; those of brush, .* or export as"):
        convert(write(tmp_path / "x.json", [task]), tmp_path / "out")


def test_a_label_map_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "SegmentationClass").mkdir()
    (tmp_path / "labelmap.txt").write_bytes("Straße:128,64,128::".encode("latin-1"))
    with pytest.raises(DatasetError, match=r"labelmap\.txt: not text in UTF-8"):
        converted(tmp_path, tmp_path)


def label_studio(tasks: Sequence[tuple[dict[str, Any], Sequence[str]]]) -> list[dict[str, Any]]:
    """Tasks, each of its data and the tags that its shapes lie on."""
    shape = {"type": "polygonlabels", "original_width": WIDTH, "original_height": HEIGHT,
             "value": {"points": [[25, 25], [50, 25], [50, 60]], "polygonlabels": ["car"]}}  # fmt: skip
    return [
        {"data": data, "annotations": [{"result": [{**shape, "to_name": tag} for tag in tags]}]} for data, tags in tasks
    ]


def test_label_studio_shapes_go_to_their_own_picture(tmp_path: Path) -> None:
    """A task may have several pictures, and pictures of one name may lie in several folders."""
    for name in ("a.jpg", "b.jpg", "pics/siteA/1.jpg", "pics/siteB/1.jpg"):
        picture(tmp_path / name)
    two = {"image": "a.jpg", "second": "b.jpg"}
    source = write(tmp_path / "two.json", label_studio([(two, ["image", "second"])]))
    with pytest.raises(DatasetError, match=r"shapes lie on several pictures \(image, second\)"):
        convert(source, tmp_path / "none")
    convert(write(source, label_studio([(two, ["second"])])), tmp_path / "second")
    assert [p.name for p in (tmp_path / "second" / "images").iterdir()] == ["b.jpg"]
    done = convert(write(source, label_studio([(two, ["tag"])])), tmp_path / "guess")
    assert "tasks with pictures in image, second: taken for the labeled one is image: 1" in done.remarks
    place = "/data/local-files/?d=home/{}/1.jpg".format
    source = write(
        tmp_path / "sites.json", label_studio([({"image": place(s)}, ["image"]) for s in ("siteA", "siteB")])
    )
    convert(source, tmp_path / "sites", ConvertSettings(images=tmp_path / "pics"))
    assert sorted(p.name for p in (tmp_path / "sites" / "images").iterdir()) == ["1.jpg", "home__siteB__1.jpg"]
    (tmp_path / "pics" / "siteA" / "1.jpg").unlink()
    with pytest.raises(
        DatasetError, match=r"siteA/1\.jpg: no such picture .*siteB/1\.jpg has its name, but lies in an"
    ):
        convert(source, tmp_path / "none", ConvertSettings(images=tmp_path / "pics"))


def test_the_picture_inside_a_labelme_file_is_the_one_that_was_labeled(tmp_path: Path) -> None:
    seen = picture(tmp_path / "seen" / "1.jpg").read_bytes()
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 200, np.uint8)).save(picture(tmp_path / "in" / "other" / "1.png"))
    shape = {"label": "car", "points": [[10, 8], [19, 8], [19, 17], [10, 17]]}
    one = {"shapes": [shape], "imagePath": "1.png", "imageData": base64.b64encode(seen).decode()}
    write(tmp_path / "in" / "1.json", one)
    done = convert(tmp_path / "in", tmp_path / "out")
    assert (tmp_path / "out" / "images" / "1.jpg").read_bytes() == seen
    assert "pictures taken from inside their annotations' files: 1" in done.remarks
    picture(tmp_path / "in" / "1.png")  # the same picture, not encoded anew: better than what is inside
    convert(tmp_path / "in", tmp_path / "again")
    assert (tmp_path / "again" / "images" / "1.png").read_bytes() == (tmp_path / "in" / "1.png").read_bytes()


@pytest.mark.parametrize("name", ["2.json", "valid/_annotations.coco.json"])
def test_a_damaged_file_does_not_pass_for_another_kind(tmp_path: Path, name: str) -> None:
    if name == "2.json":
        write(tmp_path / "1.json", {"shapes": [], "imagePath": "1.jpg"})
    else:
        write(tmp_path / "train" / "_annotations.coco.json", coco([FLAT]))
    write(tmp_path / name, '{"shapes": [')
    with pytest.raises(DatasetError, match=rf"{name}: not valid JSON: .*mend or move"):
        convert(tmp_path, tmp_path / "out")


def test_what_is_not_labeled_becomes_what_was_said_where_the_source_has_a_class_for_it(tmp_path: Path) -> None:
    picture(tmp_path / "a_leftImg8bit.png")
    road = {"label": "road", "polygon": [[10, 8], [19, 8], [19, 17], [10, 17]]}
    write(tmp_path / "a_gtFine_polygons.json", {"imgWidth": WIDTH, "imgHeight": HEIGHT, "objects": [road]})
    labels, _ = converted(tmp_path, tmp_path, to="driving", unlabeled="background")
    np.testing.assert_array_equal(labels["road"], BOX)
    np.testing.assert_array_equal(labels["background"], ~BOX)


def test_colors_of_voc_that_are_gray_are_colors(tmp_path: Path) -> None:
    picture(tmp_path / "JPEGImages" / "1.jpg")
    (tmp_path / "SegmentationClass").mkdir()
    colors = np.where(BOX[..., None], palette_color(7), 0).astype(np.uint8)
    assert set(colors.reshape(-1).tolist()) == {0, 128}
    Image.fromarray(colors).save(tmp_path / "SegmentationClass" / "1.png")
    np.testing.assert_array_equal(converted(tmp_path, tmp_path)[0]["car"], BOX)


def test_pictures_whose_names_end_as_masks_do_keep_their_own_labels(tmp_path: Path) -> None:
    """x_mask.png is the label file of x, but where x_mask is a picture itself."""
    one = coco([FLAT], images=[{"id": i, "file_name": f"{n}.jpg", "width": WIDTH, "height": HEIGHT}
                               for i, n in enumerate(("x", "x_mask", "x_gt"), 1)])  # fmt: skip
    for name in ("x", "x_mask", "x_gt"):
        picture(tmp_path / "images" / f"{name}.jpg")
    _, done = converted(write(tmp_path / "x.json", one), tmp_path)
    dataset = open_dataset(DatasetSettings("folder", tmp_path / "out", mapping=str(tmp_path / "out" / "mapping.yaml")))
    assert done.images == 3
    assert [int((dataset.load(i).labels == 0).sum()) for i in range(3)] == [100, 0, 0]  # x, x_gt, x_mask
    (tmp_path / "out" / "labels" / "x.png").unlink()
    with pytest.raises(DatasetError, match=r"no label image for 1 of 3 images, .*labels/x\.png"):
        open_dataset(DatasetSettings("folder", tmp_path / "out", mapping=str(tmp_path / "out" / "mapping.yaml")))


def test_whatever_pictures_are_called_each_is_there_with_its_own_labels(tmp_path: Path) -> None:
    """The folder is flat; its reader leaves hidden files out, and takes both ways to store an accent for one."""
    names = [
        "s/.a.jpg",
        "\u00e9.jpg",
        "s/e\u0301.jpg",
        f"{'x' * 120}/{'x' * 240}.jpg",
        "labels/b.jpg",
        "s/b.jpg",
        "c.png.jpg",
    ]
    images = [{"id": i, "file_name": n, "width": WIDTH, "height": HEIGHT} for i, n in enumerate(names, 1)]
    shapes = [{"image_id": i, "category_id": 3, "segmentation": [[0, 0, i, 0, i, 1, 0, 1]]} for i in range(1, 8)]
    for name in names:
        picture(tmp_path / "in" / name)
    done = convert(write(tmp_path / "in" / "x.json", coco(FLAT, images=images, annotations=shapes)), tmp_path / "out")
    dataset = open_dataset(DatasetSettings("folder", tmp_path / "out", mapping=str(tmp_path / "out" / "mapping.yaml")))
    assert (done.images, len(dataset)) == (7, 7)
    assert sorted(int((dataset.load(i).labels == 0).sum()) for i in range(7)) == [1, 2, 3, 4, 5, 6, 7]
