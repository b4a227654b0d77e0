"""Cityscapes' polygons: *_gtFine_polygons.json (or gtCoarse), drawn as its own scripts draw them, with Pillow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seg_perception.core.types import Size
from seg_perception.datasets.convert.base import (
    TOO_FEW_POINTS,
    Annotated,
    Annotations,
    Canvas,
    Format,
    Ids,
    SourceClass,
    checked,
    read_json,
    safe_name,
    table,
    tables,
    text,
)

_ENDINGS = ("_gtFine_polygons.json", "_gtCoarse_polygons.json")
NAMES = (
    "unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic", "ground", "road",
    "sidewalk", "parking", "rail track", "building", "wall", "fence", "guard rail", "bridge", "tunnel", "pole",
    "polegroup", "traffic light", "traffic sign", "vegetation", "terrain", "sky", "person", "rider", "car", "truck",
    "bus", "caravan", "trailer", "train", "motorcycle", "bicycle",
)  # fmt: skip
"""Names by label id, 0 to 33; the license plate has -1, and is not drawn (cityscapesScripts, json2labelImg)."""

_PLATE = "license plate"


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path] if path.name.endswith(_ENDINGS) else []
    return sorted(p for p in path.rglob("*_polygons.json") if p.name.endswith(_ENDINGS) and p.name[0] != ".")


def _read(path: Path) -> Annotations:
    classes = tuple(SourceClass(name, value) for value, name in enumerate(NAMES))
    remarks: Counter[str] = Counter()
    return Annotations(classes, _pictures(path, _files(path), remarks), 0, remarks)


def _pictures(path: Path, files: list[Path], remarks: Counter[str]) -> Iterator[Annotated]:
    values = {name: value for value, name in enumerate(NAMES)}
    for file in files:
        document = table(read_json(file), "the file", file)
        size = checked(document.get("imgWidth"), document.get("imgHeight"), file)
        objects = tables(document.get("objects"), "objects", file)

        def draw(size: Size, objects: list[dict[str, Any]] = objects, file: Path = file) -> Ids:
            canvas = Canvas(size, values, 0, file, remarks)
            for shape in objects:
                name = text(shape.get("label"), "an object's label", file)
                if shape.get("deleted"):
                    continue
                if name not in values and name.endswith("group"):
                    name = name.removesuffix("group")  # "cargroup": cars that could not be told apart
                if name == _PLATE:
                    remarks["license plates keep the label of what is below them, as in Cityscapes' own files"] += 1
                    continue
                points = [(float(x), float(y)) for x, y in canvas.points(shape.get("polygon"))]
                if len(points) >= 2:
                    canvas.draw(lambda pen, xy=points: pen.polygon(xy, fill=1), name)  # type: ignore[misc]
                else:
                    canvas.note(TOO_FEW_POINTS)
            return canvas.ids

        stem = next(file.name.removesuffix(end) for end in _ENDINGS if file.name.endswith(end))
        folder = file.parent.relative_to(path if path.is_dir() else file.parent).as_posix()
        name = f"{stem}_leftImg8bit.png"
        yield Annotated(safe_name(name if folder == "." else f"{folder}/{name}", file), file, size, draw)


FORMAT = Format(
    name="cityscapes-polygons",
    summary="Cityscapes' polygons: the folder of *_gtFine_polygons.json (or gtCoarse)",
    order="later objects over earlier ones",
    matches=lambda path: bool(_files(path)),
    read=_read,
)
