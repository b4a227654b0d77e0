"""COCO: one JSON file of polygons and run lengths (cocodataset.org, "Data format").

Polygons are filled by pycocotools; run lengths are decoded here (base.py says why).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seg_perception.core.errors import DatasetError
from seg_perception.core.types import Size
from seg_perception.datasets.convert.base import (
    Annotated,
    Annotations,
    Canvas,
    Format,
    Ids,
    SourceClass,
    checked,
    numbered,
    read_json,
    rows,
    runs_to_mask,
    safe_name,
    table,
    text,
)


def _matches(path: Path) -> bool:
    if not (path.is_file() and path.suffix.lower() == ".json"):
        return False
    try:
        document = read_json(path)
    except (DatasetError, OSError):
        return False
    return isinstance(document, dict) and {"images", "annotations", "categories"} <= set(document)


def _read(path: Path) -> Annotations:
    document = table(read_json(path), "the file", path)
    names = {}
    for row in rows(document.get("categories"), "categories", path):
        category = table(row, "a category", path)
        names[_id(category, path)] = text(category.get("name"), "a category's name", path)
    unique = len(set(names.values())) == len(names)
    if unique and all(0 <= number <= 65535 for number in names):
        classes = tuple(SourceClass(name, number) for number, name in names.items())
    else:
        classes = numbered(list(names.values()))
    unlabeled = _free_value({c.value for c in classes})
    by_image: dict[int, list[dict[str, Any]]] = {}
    remarks: dict[str, int] = {}
    for row in rows(document.get("annotations"), "annotations", path):
        annotation = table(row, "an annotation", path)
        if annotation.get("segmentation"):
            by_image.setdefault(_id(annotation, path, "image_id"), []).append(annotation)
        else:
            key = "annotations without a segmentation (boxes only) are not drawn"
            remarks[key] = remarks.get(key, 0) + 1
    images = [table(row, "an image", path) for row in rows(document.get("images"), "images", path)]
    unknown = set(by_image) - {_id(image, path) for image in images}
    if unknown:
        raise DatasetError(
            f"{path}: annotations name {len(unknown)} images that are not listed, such as {min(unknown)}"
        )
    values = {c.name: c.value for c in classes}
    return Annotations(classes, _pictures(images, by_image, names, values, unlabeled, path), unlabeled, remarks)


def _free_value(taken: set[int]) -> int:
    """For pixels that no shape covers: 0, or 255, or the first that no category has."""
    return next((value for value in (0, 255, *range(1, 65536)) if value not in taken), 0)


def _id(row: dict[str, Any], path: Path, key: str = "id") -> int:
    if type(row.get(key)) is not int:
        raise DatasetError(f"{path}: {key} must be a whole number, got {str(row.get(key))[:40]!r}")
    return int(row[key])


def _pictures(
    images: list[dict[str, Any]],
    by_image: dict[int, list[dict[str, Any]]],
    names: dict[int, str],
    values: dict[str, int],
    unlabeled: int,
    path: Path,
) -> Iterator[Annotated]:
    for image in images:
        size = checked(image.get("width"), image.get("height"), path)  # type: ignore[arg-type]
        annotations = by_image.get(_id(image, path), [])

        def draw(size: Size, annotations: list[dict[str, Any]] = annotations) -> Ids:
            canvas = Canvas(size, values, unlabeled, path)
            for annotation in annotations:
                number = _id(annotation, path, "category_id")
                if number not in names:
                    raise DatasetError(f"{path}: an annotation has the category {number}, which is not listed")
                shape = annotation["segmentation"]
                if isinstance(shape, dict):
                    canvas.paint_mask(_mask(shape, size, path), names[number])
                else:
                    canvas.paint_polygons(rows(shape, "a segmentation", path), names[number])
            return canvas.ids

        yield Annotated(safe_name(image.get("file_name"), path), path, size, draw)


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
    summary="COCO: one JSON file of polygons and run lengths",
    order="later annotations over earlier ones (COCO itself defines none)",
    matches=_matches,
    read=_read,
)
