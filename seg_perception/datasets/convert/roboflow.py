"""Roboflow's "Semantic Segmentation Masks": NAME.jpg beside NAME_mask.png, and _classes.csv in each folder."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from seg_perception.core.errors import DatasetError
from seg_perception.core.types import Size
from seg_perception.datasets.convert.base import Annotated, Annotations, Format, Ids, SourceClass, fitting
from seg_perception.datasets.masks import read_mask

_CLASSES, _ENDING = "_classes.csv", "_mask.png"


def _tables(path: Path) -> list[Path]:
    return sorted((*path.glob(_CLASSES), *path.glob(f"*/{_CLASSES}"))) if path.is_dir() else []


def _classes(file: Path) -> dict[int, str]:
    found: dict[int, str] = {}
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:
            lines = [[cell.strip() for cell in line] for line in csv.reader(text) if line]
    except (csv.Error, UnicodeDecodeError) as error:
        raise DatasetError(f"{file}: not a table of classes: {error}") from error
    if not lines or [cell.lower() for cell in lines[0][:2]] != ["pixel value", "class"]:
        raise DatasetError(f"{file}: its first line must be 'Pixel Value, Class'")
    for line in lines[1:]:
        value = line[0]
        if len(line) < 2 or not line[1] or not (value.isascii() and value.isdecimal() and len(value) <= 5):
            raise DatasetError(f"{file}: {','.join(line)[:80]!r} is no value and class")
        if int(value) in found or line[1] in found.values():
            raise DatasetError(f"{file}: {','.join(line)[:80]!r} is there twice")
        found[int(value)] = line[1]
    return found


def _read(path: Path) -> Annotations:
    tables = _tables(path)
    known = _classes(tables[0])
    for table in tables[1:]:
        if _classes(table) != known:
            raise DatasetError(f"{table}: other classes than {tables[0]}; convert the folders one by one")
    classes = tuple(SourceClass(name, value) for value, name in sorted(known.items()))
    unlabeled = next(value for value in (255, *range(65535, 0, -1)) if value not in known)
    return Annotations(classes, _pictures(path, [table.parent for table in tables], set(known)), unlabeled)


def _pictures(path: Path, folders: list[Path], known: set[int]) -> Iterator[Annotated]:
    for folder in folders:
        for file in sorted(p for p in folder.iterdir() if p.name.lower().endswith(_ENDING) and p.name[0] != "."):

            def draw(size: Size, file: Path = file) -> Ids:
                values = read_mask(file).values()
                if values is None:
                    raise DatasetError(f"{file}: it holds colors, and one value of {_CLASSES} a pixel is expected")
                if unknown := sorted(set(np.unique(values).tolist()) - known):
                    raise DatasetError(f"{file}: value {unknown[0]} is not in {_CLASSES}")
                return fitting(values, size, file)

            name = file.relative_to(path).as_posix()[: -len(_ENDING)]
            yield Annotated(f"{name}.jpg", file, None, draw)


FORMAT = Format(
    name="roboflow",
    summary="Roboflow semantic segmentation: the folder of _classes.csv, or of train/, valid/ and test/ with one each",
    order="each pixel has one class",
    matches=lambda path: bool(_tables(path)),
    read=_read,
)
