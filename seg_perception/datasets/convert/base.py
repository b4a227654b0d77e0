"""What an annotation format gives, and how its shapes become pixels.

Nothing in a foreign file is trusted: names cannot leave their folder, sizes and coordinates are bounded, and what
was packed is unpacked no further than its picture.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from seg_perception.core.errors import DatasetError, InputError, first_of
from seg_perception.core.files import read_regular_file
from seg_perception.core.label_set import Color
from seg_perception.core.settings import parse_json
from seg_perception.core.types import MAX_PIXELS, Size

MAX_BYTES: Final = 1 << 29
"""Of one annotation file."""

_MAX_POINTS: Final = 100_000  # of one shape

TOO_FEW_POINTS: Final = "polygons of under three points are not drawn"
NO_PIXEL: Final = "shapes that cover no pixel of their picture are not seen"
BOXES_ONLY: Final = (
    "A box does not say which of its pixels are the thing: export polygons or masks, or label anew with those"
)
BOXES_FILLED: Final = "boxes filled as rectangles, as the tool's own export does"

Ids = NDArray[np.uint16]
"""uint16 [H, W]: the value of each pixel's class."""


@dataclass(frozen=True, slots=True)
class SourceClass:
    """A class as the source names it.

    Attributes:
        value: that stands for it in the label files, 0 to 65,535.
        color: the source's, or None.
    """

    name: str
    value: int
    color: Color | None = None


@dataclass(frozen=True, slots=True)
class Annotated:
    """One picture's annotation.

    Attributes:
        image: the picture's file as the source names it: a path below the folder of the images.
        source: the annotation's file, for errors.
        size: of the picture as the source states it; None if it does not.
        draw: paints the values of a picture of this size.
        embedded: the picture itself, where the annotation's file holds it.
    """

    image: str
    source: Path
    size: Size | None
    draw: Callable[[Size], Ids]
    embedded: bytes | None = None


@dataclass(frozen=True, slots=True)
class Annotations:
    """All that a source holds.

    Attributes:
        classes: in the source's order; names and values do not repeat.
        pictures: in order; may be read as they are asked for.
        unlabeled: the value of pixels that no shape covers.
        remarks: what is not drawn or is drawn in some way to know of, counted: filled while the pictures are drawn.
    """

    classes: tuple[SourceClass, ...]
    pictures: Iterator[Annotated]
    unlabeled: int = 0
    remarks: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Format:
    """An annotation format.

    Attributes:
        name: as `--from` takes it.
        summary: what it is, and what its path names.
        order: which of two overlapping shapes is seen.
        matches: whether a path looks like it.
        read: opens it.
    """

    name: str
    summary: str
    order: str
    matches: Callable[[Path], bool]
    read: Callable[[Path], Annotations]


class Canvas:
    """Paints one picture's values, one shape over another.

    Args:
        size: of the picture.
        values: class name -> value.
        unlabeled: the value to begin with.
        source: for errors.
        remarks: counts what is not drawn.
    """

    def __init__(
        self,
        size: Size,
        values: Mapping[str, int],
        unlabeled: int,
        source: Path | str,
        remarks: Counter[str] | None = None,
    ) -> None:
        checked(size.width, size.height, source)
        self.ids: Ids = np.full((size.height, size.width), unlabeled, np.uint16)
        self._values = values
        self._source = source
        self._remarks: Counter[str] = Counter() if remarks is None else remarks

    def note(self, remark: str) -> None:
        """Count what is not drawn, or is drawn in some way to know of."""
        self._remarks[remark] += 1

    def value_of(self, name: str) -> int:
        if name not in self._values:
            known = ", ".join(list(self._values)[:20])
            raise DatasetError(f"{self._source}: a shape is labeled {name!r}, which is no class of it; known: {known}")
        return self._values[name]

    def points(self, points: Any) -> NDArray[np.float64]:
        """Corner points, float64 [N, 2] of x and y.

        Raises:
            DatasetError: not pairs of numbers, or far outside of the picture.
        """
        try:
            found = np.array(points, np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise DatasetError(f"{self._source}: points of a shape must be pairs of numbers ({error})") from error
        if found.shape == (0,):  # tools write a shape that was never finished so
            found = found.reshape(0, 2)
        if found.ndim != 2 or found.shape[1] != 2 or len(found) > _MAX_POINTS:
            raise DatasetError(f"{self._source}: points of a shape must be pairs of numbers, got {list(found.shape)}")
        height, width = self.ids.shape
        limit = np.array([width, height]) * 2.0 + 1000
        if not (np.isfinite(found).all() and (np.abs(found) <= limit).all()):
            raise DatasetError(f"{self._source}: a shape has points far outside of the picture of {width}x{height}")
        return found

    def paint_mask(self, mask: NDArray[Any], name: str, left: int = 0, top: int = 0) -> None:
        """Paint where a mask [h, w] is not 0, its corner at column `left` and row `top`; what is outside is cut off."""
        height, width = self.ids.shape
        x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + mask.shape[1], width), min(top + mask.shape[0], height)
        inside = mask[max(y0 - top, 0) : max(y1 - top, 0), max(x0 - left, 0) : max(x1 - left, 0)] != 0
        if inside.any():
            self.ids[y0:y1, x0:x1][inside] = self.value_of(name)
        else:
            self.note(NO_PIXEL)

    def draw(self, paint: Callable[[Any], None], name: str) -> None:
        """Paint what Pillow's ImageDraw draws with 1."""
        from PIL import Image, ImageDraw

        height, width = self.ids.shape
        image = Image.new("L", (width, height), 0)
        paint(ImageDraw.Draw(image))
        self.paint_mask(np.asarray(image), name)

    def paint_polygons(self, polygons: Sequence[Any], name: str) -> None:
        """Paint the union of polygons by COCO's own rule (pycocotools), [x0, y0, x1, y1, ...] each."""
        from pycocotools import mask as coco

        height, width = self.ids.shape
        flat = []
        for polygon in polygons:
            if not isinstance(polygon, (list, tuple)) or len(polygon) % 2:
                raise DatasetError(f"{self._source}: a polygon must be a list of x and y in turn")
            corners = self.points(np.array(polygon, dtype=object).reshape(-1, 2).tolist())
            if len(corners) >= 3:
                flat.append(corners.reshape(-1).tolist())
            else:
                self.note(TOO_FEW_POINTS)
        if flat:
            # an encoding that pycocotools made itself, of bounded coordinates: safe to decode
            encoded = coco.frPyObjects(flat, height, width)  # type: ignore[arg-type]  # floats are taken, too
            self.paint_mask(coco.decode(coco.merge(encoded)), name)


def checked(width: Any, height: Any, source: Path | str) -> Size:
    """A picture's size as a file states it.

    Raises:
        DatasetError: not two whole numbers, or more pixels than are accepted.
    """
    width, height = (int(v) if isinstance(v, float) and v.is_integer() else v for v in (width, height))
    if type(width) is not int or type(height) is not int:
        raise DatasetError(f"{source}: a picture's width and height must be whole numbers, got {width!r}, {height!r}")
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        shown = f"{str(width)[:20]}x{str(height)[:20]}"
        raise DatasetError(f"{source}: a picture of {shown} is not accepted; 1 to {MAX_PIXELS} pixels are")
    return Size(width, height)


def safe_name(name: Any, source: Path | str) -> str:
    """A file's name in an annotation as a path below the pictures' folder.

    Raises:
        DatasetError: it is absolute, leaves the folder, or is no text.
    """
    if not isinstance(name, str) or not name or "\0" in name or len(name) > 1000:
        raise DatasetError(f"{source}: {str(name)[:80]!r} is no name of a picture")
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise DatasetError(
            f"{source}: the picture {name!r} lies outside of the folder; only names below it are taken, such as "
            f"{path.name!r}"
        )
    return path.as_posix()


def runs_to_mask(counts: Sequence[Any], height: int, width: int, by_columns: bool, source: Path | str) -> NDArray[Any]:
    """Run lengths of 0 and 1 in turn, beginning with 0, as uint8 [H, W].

    pycocotools 2.0.11 aborts the process on damaged run lengths (docs/adr/0014); this does not.

    Args:
        by_columns: the runs go down the columns (COCO) and not along the rows (CVAT).

    Raises:
        DatasetError: they are not whole numbers that add up to the picture.
    """
    checked(width, height, source)
    try:
        runs = np.array(counts, np.int64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DatasetError(f"{source}: run lengths must be whole numbers ({error})") from error
    if runs.ndim != 1 or (runs < 0).any() or (runs > MAX_PIXELS).any() or int(runs.sum()) != height * width:
        raise DatasetError(f"{source}: the run lengths of a mask do not add up to its {width}x{height} pixels")
    flat = np.repeat(np.arange(len(runs)) % 2, runs).astype(np.uint8)
    return flat.reshape(width, height).T if by_columns else flat.reshape(height, width)


def unpacked(text: Any, limit: int, source: Path | str, compressed: bool = False) -> bytes:
    """Base64, and zlib below it, as bytes.

    Raises:
        DatasetError: it is neither, or unpacks to more than `limit` bytes.
    """
    try:
        content = base64.b64decode(text, validate=True)
        if compressed:
            content = zlib.decompressobj().decompress(content, limit + 1)
    except (binascii.Error, zlib.error, TypeError, ValueError) as error:
        raise DatasetError(f"{source}: packed data cannot be read ({error})") from error
    if len(content) > limit:
        raise DatasetError(f"{source}: packed data of more than {limit} bytes is not accepted")
    return content


def read_json(path: Path) -> Any:
    """A JSON file.

    Raises:
        OSError: it cannot be read.
        DatasetError: no regular file, too large, or not JSON.
    """
    try:
        return parse_json(read_regular_file(path, MAX_BYTES), str(path))
    except InputError as error:
        raise DatasetError(str(error)) from error


def demand_json(paths: Iterable[Path]) -> None:
    """See that files are JSON: one that is damaged must not pass for one of another kind.

    Raises:
        DatasetError: some are not; all are listed.
    """
    faults = []
    for path in paths:
        try:
            read_json(path)
        except (DatasetError, OSError) as error:  # noqa: PERF203  all are told
            faults.append(str(error))
    if faults:
        raise DatasetError(f"{first_of(faults)}; mend or move what cannot be read")


def json_keys(path: Path) -> frozenset[str]:
    """The keys of a JSON file's object, or of the first object of its list (then with "[]"); else none."""
    try:
        status = path.stat()
    except OSError:
        return frozenset()
    return _json_keys(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1 << 16)  # every format that is JSON looks, and the files are large
def _json_keys(path: Path, _changed: int, _size: int) -> frozenset[str]:
    try:
        document = read_json(path)
    except (DatasetError, OSError):
        return frozenset()
    if isinstance(document, list):
        first = document[0] if document else None
        return frozenset({"[]", *first}) if isinstance(first, dict) else frozenset()
    return frozenset(document) if isinstance(document, dict) else frozenset()


def table(value: Any, what: str, source: Path | str) -> dict[str, Any]:
    """A JSON object, or a DatasetError that says what was expected."""
    if not isinstance(value, dict):
        raise DatasetError(f"{source}: {what} must be an object, got {type(value).__name__}")
    return value


def rows(value: Any, what: str, source: Path | str) -> list[Any]:
    """A JSON list, or a DatasetError that says what was expected."""
    if not isinstance(value, list):
        raise DatasetError(f"{source}: {what} must be a list, got {type(value).__name__}")
    return value


def tables(value: Any, what: str, source: Path | str) -> list[dict[str, Any]]:
    """A JSON list of objects, or a DatasetError that says what was expected."""
    return [table(row, f"each of {what}", source) for row in rows(value, what, source)]


def fitting(ids: NDArray[Any], size: Size, source: Path | str) -> Ids:
    """Values that cover their picture, or a DatasetError."""
    if ids.shape != (size.height, size.width):
        raise DatasetError(f"{source}: {ids.shape[1]}x{ids.shape[0]}, its picture {size}")
    return ids.astype(np.uint16)


def text(value: Any, what: str, source: Path | str) -> str:
    """Text, or a DatasetError that says what was expected."""
    if not isinstance(value, str) or not value.strip():
        raise DatasetError(f"{source}: {what} must be text, got {str(value)[:80]!r}")
    return value.strip()


def numbered(
    names: Iterator[str] | Sequence[str], colors: Mapping[str, Color | None] | None = None
) -> tuple[SourceClass, ...]:
    """Classes with the values 1, 2, ... in the order of their names' first appearance."""
    unique = dict.fromkeys(names)
    return tuple(SourceClass(name, value, (colors or {}).get(name)) for value, name in enumerate(unique, 1))
