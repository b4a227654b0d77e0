"""CVAT's "Segmentation mask 1.1": SegmentationClass/ in the colors of labelmap.txt; JPEGImages/ if asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from seg_perception.core.errors import DatasetError
from seg_perception.core.label_mapping import Color, LabelMapping, parse_color
from seg_perception.core.label_set import LabelClass, LabelSet
from seg_perception.core.types import Size
from seg_perception.datasets.convert.base import Annotated, Annotations, Format, Ids, SourceClass, fitting
from seg_perception.datasets.convert.voc import LABEL_MAP, MASKS, image_name, mask_files
from seg_perception.datasets.masks import read_mask

_MAX_CLASSES = 250


def _matches(path: Path) -> bool:
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
    if not 0 < len(found) <= _MAX_CLASSES:
        raise DatasetError(f"{path}: {len(found)} classes; 1 to {_MAX_CLASSES} are read")
    return found


def _read(path: Path) -> Annotations:
    colors = _label_map(path / LABEL_MAP)
    classes = tuple(SourceClass(name, value, color) for value, (name, color) in enumerate(colors.items()))
    own = LabelSet(LABEL_MAP, tuple(LabelClass(c.value, c.name, c.color or (0, 0, 0)) for c in classes))
    mapping = LabelMapping(LABEL_MAP, own, {}, {color: name for name, color in colors.items()})
    return Annotations(classes, _pictures(path, mapping), _MAX_CLASSES)


def _pictures(path: Path, mapping: LabelMapping) -> Iterator[Annotated]:
    for file in mask_files(path):

        def draw(size: Size, file: Path = file) -> Ids:
            return fitting(read_mask(file).labels(mapping, file), size, file)

        yield Annotated(image_name(file, path), file, None, draw)


FORMAT = Format(
    name="cvat-masks",
    summary="CVAT Segmentation mask 1.1: the folder of SegmentationClass/ and labelmap.txt",
    order="each pixel has one class",
    matches=_matches,
    read=_read,
)
