"""COCO: one JSON file of polygons and run lengths (cocodataset.org, "Data format").

Polygons are filled by pycocotools; run lengths are decoded here (base.py says why).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seg_perception.core.errors import DatasetError, first_of
from seg_perception.core.types import Size
from seg_perception.datasets.convert.base import (
    BOXES_ONLY,
    Annotated,
    Annotations,
    Canvas,
    Format,
    Ids,
    SourceClass,
    checked,
    demand_json,
    json_keys,
    numbered,
    read_json,
    rows,
    runs_to_mask,
    safe_name,
    table,
    tables,
    text,
)

_KEYS = {"images", "annotations", "categories"}
_ROBOFLOW = "_annotations.coco.json"


def _files(path: Path) -> list[Path]:
    """The COCO files of a path: itself, or those where the tools put them in a folder."""
    if not path.is_dir():
        return [path] if path.suffix.lower() == ".json" and json_keys(path) >= _KEYS else []
    return [p for p in _candidates(path) if json_keys(p) >= _KEYS]


def _candidates(path: Path) -> list[Path]:
    found = (*path.glob("*.json"), *path.glob("annotations/*.json"), *path.glob(f"*/{_ROBOFLOW}"))
    return sorted(p for p in found if not p.name.startswith("."))


def _read(path: Path) -> Annotations:
    files = _files(path) if path.is_dir() else [path]
    if path.is_dir():
        demand_json(p for p in _candidates(path) if p not in files)
    if len(files) > 1 and any(file.name != _ROBOFLOW for file in files):
        raise DatasetError(f"{path}: {len(files)} files of COCO; name one of {first_of(files)}")
    remarks: Counter[str] = Counter()
    parts = [_Part.read(file, path if path.is_dir() else file.parent, remarks) for file in files]
    if not parts:
        raise DatasetError(f"{path}: no file of COCO (a JSON of images, annotations and categories)")
    for part in parts[1:]:
        if part.names != parts[0].names:
            raise DatasetError(f"{part.file}: other categories than {files[0]}; convert the files one by one")
    names = parts[0].names
    numbers = [number for number in names if isinstance(number, int) and 0 <= number <= 65535]
    if len(set(names.values())) == len(names) == len(numbers):
        classes = tuple(SourceClass(name, number) for number, name in names.items() if isinstance(number, int))
    else:
        classes = numbered(list(names.values()))
    if remarks[_BOXES] and not any(part.shapes for part in parts):
        raise DatasetError(f"{path}: its {remarks[_BOXES]} annotations are boxes without a segmentation. {BOXES_ONLY}")
    unlabeled = _free_value({c.value for c in classes})
    values = {c.name: c.value for c in classes}
    return Annotations(classes, (p for part in parts for p in part.pictures(values, unlabeled)), unlabeled, remarks)


_BOXES = "annotations without a segmentation (boxes only) are not drawn"


@dataclass(frozen=True)
class _Part:
    """One file.

    Attributes:
        folder: of the file below what was named, in front of its pictures' names.
        names: category id -> class.
        shapes: image id -> its annotations that have an area.
    """

    file: Path
    folder: str
    names: dict[int | str, str]
    images: list[dict[str, Any]]
    shapes: dict[int | str, list[dict[str, Any]]]
    remarks: Counter[str]

    @classmethod
    def read(cls, file: Path, root: Path, remarks: Counter[str]) -> _Part:
        document = table(read_json(file), "the file", file)
        categories = tables(document.get("categories"), "categories", file)
        names: dict[int | str, str] = {}
        for row in categories:
            number, name = _id(row, file), text(row.get("name"), "a category's name", file)
            if names.setdefault(number, name) != name:
                raise DatasetError(f"{file}: the categories {names[number]!r} and {name!r} have one id, {number}")
        shapes: dict[int | str, list[dict[str, Any]]] = {}
        for annotation in tables(document.get("annotations"), "annotations", file):
            if "segments_info" in annotation:
                raise DatasetError(
                    f"{file}: this is COCO's panoptic form, whose masks are PNG files of segment numbers; export "
                    "instances (polygons or run lengths), or masks of class ids"
                )
            if annotation.get("segmentation"):
                shapes.setdefault(_id(annotation, file, "image_id"), []).append(annotation)
            else:
                remarks[_BOXES] += 1
        images = tables(document.get("images"), "images", file)
        numbers = Counter(_id(image, file) for image in images)
        if twice := [number for number, count in numbers.items() if count > 1]:
            raise DatasetError(f"{file}: several images have one id, such as {twice[0]}: whose annotations are whose?")
        if unknown := set(shapes) - set(numbers):
            first = min(map(str, unknown))
            raise DatasetError(f"{file}: annotations name {len(unknown)} images that are not listed, such as {first}")
        folder = file.parent.relative_to(root).as_posix() if file.name == _ROBOFLOW else "."
        return cls(file, folder, names, images, shapes, remarks)

    def pictures(self, values: dict[str, int], unlabeled: int) -> Iterator[Annotated]:
        for image in self.images:
            size = checked(image.get("width"), image.get("height"), self.file)
            annotations = self.shapes.get(_id(image, self.file), [])

            def draw(size: Size, annotations: list[dict[str, Any]] = annotations) -> Ids:
                canvas = Canvas(size, values, unlabeled, self.file, self.remarks)
                for annotation in annotations:
                    number = _id(annotation, self.file, "category_id")
                    if number not in self.names:
                        raise DatasetError(f"{self.file}: an annotation has the category {number}, which is not listed")
                    _draw(canvas, annotation["segmentation"], self.names[number], size, self.file)
                return canvas.ids

            name = safe_name(image.get("file_name"), self.file)
            yield Annotated(name if self.folder == "." else f"{self.folder}/{name}", self.file, size, draw)


def _free_value(taken: set[int]) -> int:
    """For pixels that no shape covers: 0, or 255, or the first that no category has."""
    return next((value for value in (0, 255, *range(1, 65536)) if value not in taken), 0)


def _id(row: dict[str, Any], path: Path, key: str = "id") -> int | str:
    """A number, or text as some tools write it."""
    value = row.get(key)
    if type(value) is int:
        return value
    if isinstance(value, str) and value:
        return int(value) if value.isascii() and value.isdecimal() and len(value) <= 9 else value
    raise DatasetError(f"{path}: {key} must be a whole number or text, got {str(value)[:40]!r}")


def _draw(canvas: Canvas, shape: Any, name: str, size: Size, path: Path) -> None:
    if isinstance(shape, dict):
        canvas.paint_mask(_mask(shape, size, path), name)
        return
    polygons = rows(shape, "a segmentation", path)
    if all(isinstance(value, (int, float)) for value in polygons):  # one polygon without the list around it
        polygons = [polygons]
    elif len(polygons) >= 3 and all(isinstance(corner, list) and len(corner) == 2 for corner in polygons):
        polygons = [[value for corner in polygons for value in corner]]  # one polygon of [x, y] corners
    canvas.paint_polygons(polygons, name)


def _mask(shape: dict[str, Any], size: Size, path: Path) -> Any:
    if shape.get("size") != [size.height, size.width]:
        raise DatasetError(f"{path}: a mask of {str(shape.get('size'))[:40]} (height, width) in a picture of {size}")
    counts = shape.get("counts")
    runs = _from_text(counts, path) if isinstance(counts, str) else rows(counts, "counts", path)
    return runs_to_mask(runs, size.height, size.width, by_columns=True, source=path)


def _from_text(counts: str, path: Path) -> list[int]:
    """COCO's packed run lengths: six bits a character, and from the third on the difference to two before."""
    runs: list[int] = []
    value = shift = 0
    for character in counts.encode("ascii", "replace"):
        part = character - 48
        if not 0 <= part < 64 or shift > 40:
            raise DatasetError(f"{path}: the packed run lengths of a mask are damaged")
        value |= (part & 0x1F) << shift
        shift += 5
        if not part & 0x20:
            if part & 0x10:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs


def to_text(runs: list[int]) -> str:
    """The same, packed."""
    packed = bytearray()
    for index, run in enumerate(runs):
        value = run - (runs[index - 2] if index > 2 else 0)
        more = True
        while more:
            part = value & 0x1F
            value >>= 5
            more = value != (-1 if part & 0x10 else 0)
            packed.append((part | (0x20 if more else 0)) + 48)
    return packed.decode("ascii")


FORMAT = Format(
    name="coco",
    summary="COCO: a JSON file of polygons and run lengths, or its folder (Roboflow: with train/, valid/, ...)",
    order="later annotations over earlier ones (COCO itself defines none)",
    matches=lambda path: bool(_files(path)),
    read=_read,
)
