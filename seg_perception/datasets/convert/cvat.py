"""CVAT's two exports: "CVAT for images 1.1", one XML file (docs.cvat.ai), and "Segmentation mask 1.1".

Polygons are filled by COCO's rule, as CVAT's own export to masks does. Masks are in SegmentationClass/, in the colors
of labelmap.txt; JPEGImages/ is there if it was asked for.
"""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seg_perception.core.errors import DatasetError, InputError
from seg_perception.core.files import read_regular_file
from seg_perception.core.label_set import Color, LabelClass, LabelMapping, LabelSet, parse_color
from seg_perception.core.types import Size
from seg_perception.datasets.convert.base import (
    BOXES_FILLED,
    BOXES_ONLY,
    MAX_BYTES,
    Annotated,
    Annotations,
    Canvas,
    Format,
    Ids,
    SourceClass,
    checked,
    fitting,
    numbered,
    runs_to_mask,
    safe_name,
    text,
)
from seg_perception.datasets.convert.voc import LABEL_MAP, MASKS, image_name, mask_files
from seg_perception.datasets.masks import read_mask

_AREAS = ("polygon", "mask", "box", "ellipse")
_NOT_DRAWN = ("polyline", "points", "cuboid", "skeleton", "tag")


def _file(path: Path) -> Path:
    return path / "annotations.xml" if path.is_dir() else path


def _matches(path: Path) -> bool:
    return _file(path).suffix.lower() == ".xml" and _file(path).is_file()


def parse_xml(path: Path) -> ET.Element:
    """An XML file without document types or entities: a few lines of those can stand for gigabytes.

    Raises:
        OSError: it cannot be read.
        DatasetError: not XML in UTF-8, or with a document type.
    """
    try:
        content = read_regular_file(path, MAX_BYTES).decode("utf-8-sig")
    except (InputError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: not XML in UTF-8: {error}") from error
    if "<!DOCTYPE" in content or "<!ENTITY" in content:
        raise DatasetError(f"{path}: XML with a document type or entities is not accepted; annotations have none")
    try:
        return ET.fromstring(content)  # noqa: S314  no document type, so no entities
    except (ET.ParseError, RecursionError, ValueError) as error:
        raise DatasetError(f"{path}: not valid XML: {error}") from error


def _read(path: Path) -> Annotations:
    file = _file(path)
    root = parse_xml(file)
    if root.tag == "annotation":
        raise DatasetError(f"{file}: this is one picture's file of Pascal VOC, which holds boxes. {BOXES_ONLY}")
    if root.tag != "annotations":
        raise DatasetError(f"{file}: its root is <{root.tag[:40]}>, and <annotations> in CVAT's files")
    if root.find("track") is not None:
        raise DatasetError(f"{file}: this is 'CVAT for video'; export the task as 'CVAT for images 1.1'")
    images = root.findall("image")
    labels = {
        (label.findtext("name") or "").strip(): label.findtext("color") for label in root.iterfind(".//labels/label")
    }
    shapes = [shape for image in images for shape in image]
    names = [*labels, *(text(s.get("label"), "a shape's label", file) for s in shapes if s.tag in _AREAS)]
    classes = numbered([name for name in names if name], {name: parse_color(color) for name, color in labels.items()})
    remarks: Counter[str] = Counter()
    for shape in shapes:
        if shape.tag not in _AREAS:
            remarks[f"<{shape.tag[:40]}> has no area and is not drawn"] += 1
        elif shape.tag == "box":
            remarks[BOXES_FILLED] += 1
    return Annotations(classes, _pictures(images, {c.name: c.value for c in classes}, file, remarks), 0, remarks)


def _pictures(
    images: list[ET.Element], values: dict[str, int], file: Path, remarks: Counter[str]
) -> Iterator[Annotated]:
    for image in images:
        size = checked(_whole(image, "width", file), _whole(image, "height", file), file)

        def draw(size: Size, image: ET.Element = image) -> Ids:
            canvas = Canvas(size, values, 0, file, remarks)
            areas = [shape for shape in image if shape.tag in _AREAS]
            for shape in sorted(
                areas, key=lambda shape: _whole(shape, "z_order", file, 0)
            ):  # stable: then as they come
                _draw(canvas, shape, file)
            return canvas.ids

        yield Annotated(safe_name(image.get("name"), file), file, size, draw)


def _whole(element: ET.Element, name: str, file: Path, default: int | None = None) -> int:
    value = element.get(name)
    if value is None and default is not None:
        return default
    if value is None or re.fullmatch("[+-]?[0-9]{1,10}", value.strip()) is None:
        tag = element.tag[:40]
        raise DatasetError(f"{file}: {name} of <{tag}> must be a whole number, got {str(value)[:40]!r}")
    return int(value)


def _numbers(value: str | None, separators: str, file: Path) -> list[float]:
    cleaned = (value or "").translate({ord(s): " " for s in separators}).split()
    try:
        return [float(number) for number in cleaned]
    except ValueError as error:
        raise DatasetError(f"{file}: points must be numbers ({error})") from error


def _draw(canvas: Canvas, shape: ET.Element, file: Path) -> None:
    name = text(shape.get("label"), "a shape's label", file)
    if shape.tag == "polygon":
        canvas.paint_polygons([_numbers(shape.get("points"), ",;", file)], name)
    elif shape.tag == "mask":
        left, top, width, height = (_whole(shape, key, file) for key in ("left", "top", "width", "height"))
        runs: list[Any] = [int(run) for run in _numbers(shape.get("rle"), ",", file) if abs(run) < 1 << 40]
        canvas.paint_mask(runs_to_mask(runs, height, width, by_columns=False, source=file), name, left, top)
    elif shape.tag == "box":
        x0, y0, x1, y1 = _corner_values(shape, ("xtl", "ytl", "xbr", "ybr"), file)
        angle = math.radians(_corner_values(shape, ("rotation",), file)[0])
        cx, cy = (x0 + x1) / 2, (y0 + y1) / 2
        turned = [
            (cx + (x - cx) * math.cos(angle) - (y - cy) * math.sin(angle),
             cy + (x - cx) * math.sin(angle) + (y - cy) * math.cos(angle))
            for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))
        ]  # fmt: skip
        canvas.paint_polygons([[value for corner in turned for value in corner]], name)
    else:
        cx, cy, rx, ry, angle = _corner_values(shape, ("cx", "cy", "rx", "ry", "rotation"), file)
        turn = math.radians(angle)
        outline = []
        for step in range(360):
            x, y = rx * math.cos(math.radians(step)), ry * math.sin(math.radians(step))
            outline += [cx + x * math.cos(turn) - y * math.sin(turn), cy + x * math.sin(turn) + y * math.cos(turn)]
        canvas.paint_polygons([outline], name)


def _corner_values(shape: ET.Element, keys: tuple[str, ...], file: Path) -> list[float]:
    values = [_numbers(shape.get(key, "0" if key == "rotation" else ""), "", file) for key in keys]
    if any(len(value) != 1 for value in values):
        raise DatasetError(f"{file}: a <{shape.tag}> needs {', '.join(keys)}, each a number")
    return [value[0] for value in values]


FORMAT = Format(
    name="cvat",
    summary="CVAT for images 1.1: annotations.xml, or the folder that holds it",
    order="higher z_order over lower, then later shapes over earlier ones",
    matches=_matches,
    read=_read,
)


_MAX_MASK_CLASSES = 250


def _matches_masks(path: Path) -> bool:
    return (path / MASKS).is_dir() and (path / LABEL_MAP).is_file()


def _label_map(path: Path) -> dict[str, Color]:
    """Lines of `name:R,G,B:parts:actions`; # begins a comment."""
    found: dict[str, Color] = {}
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not text in UTF-8: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        color = parse_color(rest.partition(":")[0])
        if not name.strip() or color is None or color in found.values() or name.strip() in found:
            raise DatasetError(f"{path}: line {number}: {line[:80]!r} is no 'name:R,G,B:parts:actions' of its own")
        found[name.strip()] = color
    if not 0 < len(found) <= _MAX_MASK_CLASSES:
        raise DatasetError(f"{path}: {len(found)} classes; 1 to {_MAX_MASK_CLASSES} are read")
    return found


def _read_masks(path: Path) -> Annotations:
    colors = _label_map(path / LABEL_MAP)
    classes = tuple(SourceClass(name, value, color) for value, (name, color) in enumerate(colors.items()))
    own = LabelSet(LABEL_MAP, tuple(LabelClass(c.value, c.name, c.color or (0, 0, 0)) for c in classes))
    mapping = LabelMapping(LABEL_MAP, own, {}, {color: name for name, color in colors.items()})
    return Annotations(classes, _mask_pictures(path, mapping), _MAX_MASK_CLASSES)


def _mask_pictures(path: Path, mapping: LabelMapping) -> Iterator[Annotated]:
    for file in mask_files(path):

        def draw(size: Size, file: Path = file) -> Ids:
            return fitting(read_mask(file).labels(mapping, file), size, file)

        yield Annotated(image_name(file, path), file, None, draw)


MASKS_FORMAT = Format(
    name="cvat-masks",
    summary="CVAT Segmentation mask 1.1: the folder of SegmentationClass/ and labelmap.txt",
    order="each pixel has one class",
    matches=_matches_masks,
    read=_read_masks,
)
