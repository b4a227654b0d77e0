"""Pascal VOC segmentation: JPEGImages/ with SegmentationClass/, palette PNGs of the 21 classes of VOC 2012."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from seg_perception.core.errors import DatasetError
from seg_perception.core.label_mapping import Color
from seg_perception.core.types import Size
from seg_perception.datasets.convert.base import Annotated, Annotations, Format, Ids, SourceClass
from seg_perception.datasets.masks import MASK_SUFFIXES, read_mask

MASKS = "SegmentationClass"
LABEL_MAP = "labelmap.txt"
_VOID = 255  # the border between objects
_NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def palette_color(value: int) -> Color:
    """VOC's color of a value: its bits dealt to red, green and blue in turn, from the highest bit down."""
    color = [0, 0, 0]
    for place in range(8):
        for channel in range(3):
            color[channel] |= ((value >> (3 * place + channel)) & 1) << (7 - place)
    return color[0], color[1], color[2]


def mask_files(path: Path) -> list[Path]:
    """The label files, by name.

    Raises:
        DatasetError: there are none.
    """
    files = sorted(
        p for p in (path / MASKS).rglob("*") if p.suffix.lower() in MASK_SUFFIXES and not p.name.startswith(".")
    )
    if not files:
        raise DatasetError(f"{path / MASKS}: no label files; this format needs them (boxes alone make no labels)")
    return files


def _matches(path: Path) -> bool:
    return (path / MASKS).is_dir() and not (path / LABEL_MAP).is_file()


def _read(path: Path) -> Annotations:
    classes = tuple(SourceClass(name, value, palette_color(value)) for value, name in enumerate(_NAMES))
    return Annotations(classes, _pictures(path), _VOID)


def _pictures(path: Path) -> Iterator[Annotated]:
    for file in mask_files(path):

        def draw(size: Size, file: Path = file) -> Ids:
            values = read_mask(file).values()
            if values is None:
                raise DatasetError(
                    f"{file}: it holds colors, and Pascal VOC's files palette indices; a {LABEL_MAP} beside "
                    f"{MASKS}/ (as CVAT writes) would say what they mean"
                )
            unknown = sorted(set(np.unique(values).tolist()) - {*range(len(_NAMES)), _VOID})
            if unknown:
                raise DatasetError(f"{file}: value {unknown[0]} is none of VOC's (0 to 20, and 255 for borders)")
            return _fitting(values.astype(np.uint16), size, file)

        yield Annotated(image_name(file, path), file, None, draw)


def image_name(file: Path, path: Path) -> str:
    """A label file's picture: the same path below JPEGImages/, of whatever format."""
    return file.relative_to(path / MASKS).with_suffix(".jpg").as_posix()


def _fitting(ids: Ids, size: Size, file: Path) -> Ids:
    if ids.shape != (size.height, size.width):
        raise DatasetError(f"{file}: {ids.shape[1]}x{ids.shape[0]}, its picture {size}")
    return ids


FORMAT = Format(
    name="voc",
    summary="Pascal VOC: the folder of JPEGImages/ and SegmentationClass/",
    order="each pixel has one class",
    matches=_matches,
    read=_read,
)
