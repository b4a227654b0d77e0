"""Pascal VOC segmentation: JPEGImages/ with SegmentationClass/, and what others store in that form.

The label files hold palette indices (or the palette's colors) of the 21 classes of VOC 2012, or of those that
class_names.txt lists, as labelme's labelme2voc writes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seg_perception.core.errors import DatasetError
from seg_perception.core.label_set import Color
from seg_perception.core.types import Size
from seg_perception.datasets.convert.base import (
    BOXES_ONLY,
    Annotated,
    Annotations,
    Format,
    Ids,
    SourceClass,
    fitting,
)
from seg_perception.datasets.masks import MASK_SUFFIXES, read_mask

MASKS = "SegmentationClass"
LABEL_MAP = "labelmap.txt"
_PNG_MASKS = "SegmentationClassPNG"  # of labelme2voc before 5.3, which keeps arrays in SegmentationClass
_CLASS_NAMES = "class_names.txt"
_BOXES = "Annotations"
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


def mask_folder(path: Path) -> Path:
    """The folder of the label files."""
    png = path / _PNG_MASKS
    return png if png.is_dir() else path / MASKS


def mask_files(path: Path) -> list[Path]:
    """The label files, by name.

    Raises:
        DatasetError: there are none.
    """
    folder = mask_folder(path)
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in MASK_SUFFIXES and not p.name.startswith("."))
    if files:
        return files
    if (path / _BOXES).is_dir():
        count = sum(1 for _ in (path / _BOXES).rglob("*.xml"))
        raise DatasetError(
            f"{path}: no label files in {folder.name}/; the {count} files of {_BOXES}/ hold boxes. {BOXES_ONLY}"
        )
    raise DatasetError(f"{folder}: no label files ({', '.join(MASK_SUFFIXES)})")


def image_name(file: Path, path: Path) -> str:
    """A label file's picture: the same path below JPEGImages/, of whatever format."""
    return file.relative_to(mask_folder(path)).with_suffix(".jpg").as_posix()


def _matches(path: Path) -> bool:
    if (path / LABEL_MAP).is_file() and (path / MASKS).is_dir():
        return False  # CVAT's
    boxes = path / _BOXES
    return (path / MASKS).is_dir() or (path / _PNG_MASKS).is_dir() or next(boxes.glob("*.xml"), None) is not None


def _names(path: Path) -> tuple[str, ...]:
    """Names by value: VOC's, or those of class_names.txt without its first line, __ignore__ (stored as 255)."""
    file = path / _CLASS_NAMES
    if not file.is_file():
        return _NAMES
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise DatasetError(f"{file}: not text in UTF-8: {error}") from error
    names = lines[1:] if lines and lines[0] == "__ignore__" else lines
    if not 0 < len(names) < _VOID or len(set(names)) != len(names):
        raise DatasetError(f"{file}: {len(names)} names; 1 to {_VOID - 1} that differ are read, one a line")
    return tuple("background" if name == "_background_" else name for name in names)


def _read(path: Path) -> Annotations:
    names = _names(path)
    files = mask_files(path)
    classes = tuple(SourceClass(name, value, palette_color(value)) for value, name in enumerate(names))
    return Annotations(classes, _pictures(path, files, len(names)), _VOID)


def _pictures(path: Path, files: list[Path], count: int) -> Iterator[Annotated]:
    for file in files:

        def draw(size: Size, file: Path = file) -> Ids:
            mask = read_mask(file)
            values, known = mask.values(), {*range(count), _VOID}
            if mask.pixels.ndim == 3 and (values is None or not known.issuperset(np.unique(values).tolist())):
                values = _from_colors(mask.pixels, count, file)  # some colors of the palette are gray: 7 is 128,128,128
            assert values is not None
            if unknown := sorted(set(np.unique(values).tolist()) - known):
                raise DatasetError(
                    f"{file}: value {unknown[0]} is none of its classes (0 to {count - 1}, and 255 for borders); "
                    f"a {_CLASS_NAMES} beside {MASKS}/ names others, one a line from value 0"
                )
            return fitting(values, size, file)

        yield Annotated(image_name(file, path), file, None, draw)


def _from_colors(pixels: NDArray[np.uint8], count: int, file: Path) -> NDArray[np.uint8]:
    """The values whose colors VOC's palette has, uint8 [H, W], of uint8 [H, W, 3] RGB."""
    packed = pixels.astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)
    values = np.zeros(packed.shape, np.uint8)
    known = {(r << 16) | (g << 8) | b: v for v in (*range(count), _VOID) for r, g, b in (palette_color(v),)}
    for color in np.unique(packed).tolist():
        if color not in known:
            raise DatasetError(
                f"{file}: its color {color >> 16},{color >> 8 & 255},{color & 255} is not in Pascal VOC's palette; a "
                f"{LABEL_MAP} beside {MASKS}/ (as CVAT writes) would say what it means"
            )
        values[packed == color] = known[color]
    return values


FORMAT = Format(
    name="voc",
    summary="Pascal VOC: the folder of JPEGImages/ and SegmentationClass/ (class_names.txt names other classes)",
    order="each pixel has one class",
    matches=_matches,
    read=_read,
)
