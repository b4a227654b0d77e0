"""labelme: a folder of JSON files, one a picture (github.com/wkentaro/labelme).

Shapes are drawn as labelme's own `shapes_to_label` draws them, with Pillow.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from seg_perception.core.errors import DatasetError
from seg_perception.core.types import MAX_PIXELS, Size
from seg_perception.datasets.convert.base import (
    MAX_BYTES,
    Annotated,
    Annotations,
    Canvas,
    Format,
    Ids,
    checked,
    numbered,
    read_json,
    rows,
    safe_name,
    table,
    text,
    unpacked,
)
from seg_perception.datasets.masks import decode_mask

_LINE_WIDTH, _POINT_SIZE = 10, 5  # labelme's defaults


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(p for p in path.rglob("*.json") if not p.name.startswith("."))


def _matches(path: Path) -> bool:
    files = _files(path) if path.is_dir() or path.suffix.lower() == ".json" else []
    if not files:
        return False
    try:
        document = read_json(files[0])
    except (DatasetError, OSError):
        return False
    return isinstance(document, dict) and {"shapes", "imagePath"} <= set(document)


def _read(path: Path) -> Annotations:
    files = _files(path)
    names: dict[str, None] = {}
    for file in files:  # once for the classes, once for the pictures: the files hold the pictures and are large
        for shape in rows(table(read_json(file), "the file", file).get("shapes"), "shapes", file):
            names[text(table(shape, "a shape", file).get("label"), "a shape's label", file)] = None
    classes = numbered(list(names))
    values = {c.name: c.value for c in classes}
    return Annotations(classes, _pictures(files, path if path.is_dir() else path.parent, values))


def _pictures(files: list[Path], root: Path, values: dict[str, int]) -> Iterator[Annotated]:
    for file in files:
        document = table(read_json(file), "the file", file)
        size = checked(document.get("imageWidth"), document.get("imageHeight"), file)  # type: ignore[arg-type]
        # labelme writes ../images/x.jpg or C:\\images\\x.jpg: only the name counts, looked for beside the file
        written = PurePosixPath(text(document.get("imagePath"), "imagePath", file).replace("\\", "/")).name
        folder = file.parent.relative_to(root).as_posix()
        name = safe_name(written if folder == "." else f"{folder}/{written}", file)
        data = document.get("imageData")
        embedded = unpacked(data, MAX_BYTES, file) if data else None
        shapes = document["shapes"]

        def draw(size: Size, shapes: list[Any] = shapes, file: Path = file) -> Ids:
            canvas = Canvas(size, values, 0, file)
            for shape in shapes:
                _draw(canvas, shape, file)
            return canvas.ids

        yield Annotated(name, file, size, draw, embedded)


def _draw(canvas: Canvas, shape: dict[str, Any], file: Path) -> None:
    name, kind = shape["label"].strip(), shape.get("shape_type") or "polygon"
    corners = canvas.points(shape.get("points"))
    xy = [(float(x), float(y)) for x, y in corners]
    if kind == "mask":
        mask = decode_mask(unpacked(shape.get("mask"), MAX_PIXELS, file), str(file)).pixels
        left, top = (round(value) for value in xy[0])
        canvas.paint_mask(mask, name, left, top)
    elif kind == "polygon" and len(xy) >= 3:
        canvas.draw(lambda pen: pen.polygon(xy=xy, outline=1, fill=1), name)
    elif kind == "rectangle" and len(xy) == 2:
        (x0, y0), (x1, y1) = xy
        box = [min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)]
        canvas.draw(lambda pen: pen.rectangle(box, outline=1, fill=1), name)
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
