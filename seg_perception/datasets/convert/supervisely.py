"""Supervisely: a project's folder with meta.json, and DATASET/ann/NAME.json beside DATASET/img/NAME.

Bitmaps are unpacked, polygons filled with their holes by OpenCV, as Supervisely's own library does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from seg_perception.core.errors import DatasetError, InputError
from seg_perception.core.image_file import inspect_encoded
from seg_perception.core.label_set import parse_color
from seg_perception.core.types import MAX_PIXELS, Size
from seg_perception.datasets.convert.base import (
    BOXES_FILLED,
    TOO_FEW_POINTS,
    Annotated,
    Annotations,
    Canvas,
    Format,
    Ids,
    SourceClass,
    checked,
    read_json,
    rows,
    safe_name,
    table,
    tables,
    text,
    unpacked,
)

_META = "meta.json"


def _read(path: Path) -> Annotations:
    meta = path / _META
    found = {}
    for entry in tables(table(read_json(meta), "the file", meta).get("classes"), "classes", meta):
        found[text(entry.get("title"), "a class's title", meta)] = parse_color(entry.get("color"))
    classes = tuple(SourceClass(name, value, color) for value, (name, color) in enumerate(found.items(), 1))
    remarks: Counter[str] = Counter()
    files = sorted(p for p in path.glob("**/ann/*.json") if not p.name.startswith("."))
    return Annotations(classes, _pictures(path, files, {c.name: c.value for c in classes}, remarks), 0, remarks)


def _pictures(path: Path, files: list[Path], values: dict[str, int], remarks: Counter[str]) -> Iterator[Annotated]:
    for file in files:
        document = table(read_json(file), "the file", file)
        stated = table(document.get("size"), "size", file)
        size = checked(stated.get("width"), stated.get("height"), file)
        objects = tables(document.get("objects"), "objects", file)

        def draw(size: Size, objects: list[dict[str, Any]] = objects, file: Path = file) -> Ids:
            canvas = Canvas(size, values, 0, file, remarks)
            for shape in objects:
                if not _draw(canvas, shape, file):
                    remarks[f"{str(shape.get('geometryType'))[:40]} is not drawn"] += 1
            return canvas.ids

        name = (file.parent.parent / "img" / file.name.removesuffix(".json")).relative_to(path).as_posix()
        yield Annotated(safe_name(name, file), file, size, draw)


def _draw(canvas: Canvas, shape: dict[str, Any], file: Path) -> bool:
    """Paint one object; False if its kind has no area."""
    name, kind = text(shape.get("classTitle"), "an object's classTitle", file), shape.get("geometryType")
    if kind == "bitmap":
        bitmap = table(shape.get("bitmap"), "bitmap", file)
        origin = rows(bitmap.get("origin"), "a bitmap's origin", file)
        if len(origin) != 2 or any(type(value) is not int for value in origin):
            raise DatasetError(f"{file}: a bitmap's origin must be two whole numbers, got {str(origin)[:60]}")
        canvas.paint_mask(_bitmap(bitmap.get("data"), file), name, *origin)
    elif kind in ("polygon", "rectangle"):
        points = table(shape.get("points"), "points", file)
        outer = canvas.points(points.get("exterior"))
        inner = [canvas.points(ring) for ring in rows(points.get("interior") or [], "points.interior", file)]
        if len(outer) < (2 if kind == "rectangle" else 3):
            canvas.note(TOO_FEW_POINTS)
            return True
        mask = np.zeros(canvas.ids.shape, np.uint8)
        if kind == "rectangle":
            canvas.note(BOXES_FILLED)
            (x0, y0), (x1, y1) = np.round(outer).astype(int)[:2]
            outer = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], np.float64)
        cv2.fillPoly(mask, [np.round(outer).astype(np.int32)], 1)
        for ring in filter(len, inner):
            cv2.fillPoly(mask, [np.round(ring).astype(np.int32)], 0)
        canvas.paint_mask(mask, name)
    else:
        return False
    return True


def _bitmap(data: Any, file: Path) -> Any:
    content = unpacked(data, MAX_PIXELS, file, compressed=True)
    try:
        header = inspect_encoded(content, str(file))
    except InputError as error:
        raise DatasetError(f"{file}: a bitmap cannot be read: {error}") from error
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or Size.of(pixels) != header.size:
        raise DatasetError(f"{file}: a bitmap of {header.size} cannot be decoded")
    if pixels.ndim == 2:
        return pixels
    return pixels[..., 3] if pixels.shape[2] == 4 else pixels.max(axis=2)


FORMAT = Format(
    name="supervisely",
    summary="Supervisely: the project's folder, which holds meta.json",
    order="later objects over earlier ones",
    matches=lambda path: (path / _META).is_file(),
    read=_read,
)
