"""labelme: a folder of JSON files, one a picture (github.com/wkentaro/labelme).

Shapes are drawn as labelme's own `shapes_to_label` draws them, with Pillow.
"""

from __future__ import annotations

import math
import posixpath
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from seg_perception.core.errors import DatasetError
from seg_perception.core.types import MAX_PIXELS, Size
from seg_perception.datasets.convert.base import (
    BOXES_FILLED,
    MAX_BYTES,
    TOO_FEW_POINTS,
    Annotated,
    Annotations,
    Canvas,
    Format,
    Ids,
    checked,
    demand_json,
    json_keys,
    numbered,
    read_json,
    safe_name,
    table,
    tables,
    text,
    unpacked,
)
from seg_perception.datasets.masks import decode_mask

_LINE_WIDTH, _POINT_SIZE = 10, 5  # labelme's defaults
_KEYS = {"shapes", "imagePath"}
_FOUR_CORNERS = ("rectangle", "oriented_rectangle", "rotation")  # X-AnyLabeling writes the first and last so


def _files(path: Path) -> list[Path]:
    """Labelme's files; other JSON files of the folder are none."""
    found = [path] if path.is_file() else sorted(p for p in path.rglob("*.json") if not p.name.startswith("."))
    return [file for file in found if file.suffix.lower() == ".json" and json_keys(file) >= _KEYS]


def _matches(path: Path) -> bool:
    if not path.is_dir():
        return bool(_files(path))
    some = islice((p for p in path.rglob("*.json") if not p.name.startswith(".")), 20)
    return any(json_keys(file) >= _KEYS for file in some)


def _read(path: Path) -> Annotations:
    files = _files(path) if path.is_dir() else [path]
    remarks: Counter[str] = Counter()
    others = {p for p in path.rglob("*.json") if p.name[0] != "."} - set(files) if path.is_dir() else set()
    demand_json(sorted(others))
    if others:
        remarks["JSON files that are not labelme's are not read"] = len(others)
    names: dict[str, None] = {}
    for file in files:  # once for the classes, once for the pictures: the files hold the pictures and are large
        for shape in _shapes(file):
            names[text(shape.get("label"), "a shape's label", file)] = None
    classes = numbered(list(names))
    values = {c.name: c.value for c in classes}
    root = path if path.is_dir() else path.parent
    return Annotations(classes, _pictures(files, root, values, remarks), 0, remarks)


def _shapes(file: Path) -> list[dict[str, Any]]:
    return tables(table(read_json(file), "the file", file).get("shapes"), "shapes", file)


def _pictures(files: list[Path], root: Path, values: dict[str, int], remarks: Counter[str]) -> Iterator[Annotated]:
    for file in files:
        document = table(read_json(file), "the file", file)
        stated = (document.get("imageWidth"), document.get("imageHeight"))
        size = None if stated == (None, None) else checked(*stated, file)  # labelme before 3.7 states none
        # x.jpg, ../images/x.jpg or C:\\images\\x.jpg: what leaves the folder is looked for beside the file
        written = PurePosixPath(text(document.get("imagePath"), "imagePath", file).replace("\\", "/"))
        folder = file.parent.relative_to(root).as_posix()
        below = posixpath.normpath(f"{folder}/{written}")
        leaves = written.is_absolute() or ":" in written.parts[0] or below.startswith("..")
        name = safe_name(posixpath.normpath(f"{folder}/{written.name}") if leaves else below, file)
        data = document.get("imageData")
        embedded = unpacked(data, MAX_BYTES, file) if data else None
        shapes = tables(document.get("shapes"), "shapes", file)

        def draw(size: Size, shapes: list[dict[str, Any]] = shapes, file: Path = file) -> Ids:
            canvas = Canvas(size, values, 0, file, remarks)
            for shape in shapes:
                _draw(canvas, shape, file)
            return canvas.ids

        yield Annotated(name, file, size, draw, embedded)


def _draw(canvas: Canvas, shape: dict[str, Any], file: Path) -> None:
    name, kind = text(shape.get("label"), "a shape's label", file), shape.get("shape_type") or "polygon"
    if kind == "points":
        canvas.note("points have no area and are not drawn")
        return
    xy = [(float(x), float(y)) for x, y in canvas.points(shape.get("points"))]
    if kind == "mask" and len(xy) >= 1:
        mask = decode_mask(unpacked(shape.get("mask"), MAX_PIXELS, file), str(file)).pixels
        left, top = (int(value) for value in xy[0])
        canvas.paint_mask(mask, name, left, top)
    elif kind == "polygon" and len(xy) < 3:
        canvas.note(TOO_FEW_POINTS)
    elif kind == "polygon":
        canvas.draw(lambda pen: pen.polygon(xy=xy, outline=1, fill=1), name)
    elif kind in _FOUR_CORNERS and len(xy) == 4:
        canvas.draw(lambda pen: pen.polygon(xy=xy, outline=1, fill=1), name)
        canvas.note(BOXES_FILLED)
    elif kind == "rectangle" and len(xy) == 2:
        (x0, y0), (x1, y1) = xy
        box = [min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)]
        canvas.draw(lambda pen: pen.rectangle(box, outline=1, fill=1), name)
        canvas.note(BOXES_FILLED)
    elif kind == "circle" and len(xy) == 2:
        (cx, cy), (px, py) = xy
        d = math.hypot(cx - px, cy - py)
        canvas.draw(lambda pen: pen.ellipse([cx - d, cy - d, cx + d, cy + d], outline=1, fill=1), name)
    elif kind in ("line", "linestrip") and len(xy) >= 2:
        canvas.draw(lambda pen: pen.line(xy=xy, fill=1, width=_LINE_WIDTH), name)
    elif kind == "point" and len(xy) == 1:
        ((cx, cy),) = xy
        r = _POINT_SIZE
        canvas.draw(lambda pen: pen.ellipse([cx - r, cy - r, cx + r, cy + r], outline=1, fill=1), name)
    else:
        raise DatasetError(f"{file}: a {kind} of {len(xy)} points, labeled {name!r}, cannot be drawn")


FORMAT = Format(
    name="labelme",
    summary="labelme: a folder of JSON files, beside their pictures or with them inside",
    order="later shapes over earlier ones",
    matches=_matches,
    read=_read,
)
