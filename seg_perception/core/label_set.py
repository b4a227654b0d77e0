"""Classes and label sets, and the mappings that bring the values and colors of other taxonomies to them.

A label set is a YAML file, such as config/labels/driving.yaml. A mapping is one, too, such as
config/labels/cityscapes.yaml:

    name: mine
    target: driving             # a shipped label set, or a .yaml file beside this one
    values: {7: road, 0: ignore}
    colors: {"128,64,128": road, "#000000": ignore}    # beside or instead of values

`values` reads files of ids (gray, palette); `colors` reads files of colors.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from seg_perception.core.errors import DatasetError, SettingsError, first_of
from seg_perception.core.files import shipped_file
from seg_perception.core.settings import TRUTH_VALUES, load_settings, read_yaml
from seg_perception.core.types import UNKNOWN, UNLABELED, LabelImage, RgbImage


@dataclass(frozen=True, slots=True)
class LabelClass:
    """One class: its id in label images, its name, its display color (RGB)."""

    id: int
    name: str
    color: tuple[int, int, int]
    drivable: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.id < UNKNOWN:
            raise SettingsError(f"class {self.name!r}: id {self.id} is not in 0 to {UNKNOWN - 1}")
        channels: tuple[int, ...] = self.color  # a model card's JSON can hold any number
        if len(channels) != 3 or any(not 0 <= channel <= 255 for channel in channels):
            raise SettingsError(f"class {self.name!r}: color {self.color} is not three values in 0 to 255")


@dataclass(frozen=True)
class LabelSet:
    """An ordered set of classes with ids 0 to len-1; 255 means unlabeled, 254 is kept for training.

    Attributes:
        name: as config/labels has it.
        classes: each with its id, name, color (RGB) and whether it is drivable, in the order of ids.

    Raises:
        SettingsError: no classes, ids out of order, or a name twice.
    """

    name: str
    classes: tuple[LabelClass, ...]

    def __post_init__(self) -> None:
        if not self.classes:
            raise SettingsError(f"label set {self.name!r}: it has no classes")
        if [c.id for c in self.classes] != list(range(len(self.classes))):
            raise SettingsError(f"label set {self.name!r}: ids must be 0 to {len(self.classes) - 1} in order")
        if len({c.name for c in self.classes}) != len(self.classes):
            raise SettingsError(f"label set {self.name!r}: class names repeat")

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.classes)

    @property
    def drivable_ids(self) -> tuple[int, ...]:
        return tuple(c.id for c in self.classes if c.drivable)

    @cached_property
    def palette(self) -> NDArray[np.uint8]:
        """RGB of every id, uint8 [256, 3]; black where there is no class."""
        palette = np.zeros((256, 3), np.uint8)
        for c in self.classes:
            palette[c.id] = c.color
        return palette

    def id_of(self, name: str) -> int:
        """The id of a class.

        Raises:
            SettingsError: no such class; the message lists the known ones.
        """
        if name not in self.names:
            raise SettingsError(f"label set {self.name!r} has no class {name!r}; known: {', '.join(self.names)}")
        return self.names.index(name)


@dataclass(frozen=True, slots=True)
class _ClassRow:
    name: str
    color: tuple[int, int, int]
    drivable: bool = False


@dataclass(frozen=True, slots=True)
class _LabelSetFile:
    """What a label set's YAML file holds; ids are the rows' positions."""

    name: str
    classes: tuple[_ClassRow, ...]


def load_label_set(name_or_path: str | Path = "driving") -> LabelSet:
    """Load a label set by shipped name or YAML path.

    Raises:
        FileNotFoundError: no such file.
        SettingsError: unknown name or malformed file.
    """
    path = shipped_file("config/labels", name_or_path, "label set or mapping")
    return _read_label_set(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=32)
def _read_label_set(path: Path, _written: int) -> LabelSet:
    document = load_settings(_LabelSetFile, path)
    try:
        rows = enumerate(document.classes)
        return LabelSet(document.name, tuple(LabelClass(i, row.name, row.color, row.drivable) for i, row in rows))
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error


Color: TypeAlias = tuple[int, int, int]
"""Red, green, blue, 0 to 255."""

IGNORE: Final = "ignore"
TRAIN_IDS: Final = frozenset({*range(19), 255})
"""Cityscapes' 19 evaluation classes and void, as many tools write them."""

_MAX_VALUE: Final = 65535
_KEYS: Final = ("name", "target", "values", "colors")


@dataclass(frozen=True)
class LabelMapping:
    """Which class a stored label value (0 to 65,535) or color stands for.

    Attributes:
        name: for errors.
        target: the label set.
        classes_of_values: value -> class name, or "ignore".
        classes_of_colors: color -> class name, or "ignore".
    """

    name: str
    target: LabelSet
    classes_of_values: Mapping[int, str]
    classes_of_colors: Mapping[Color, str] = field(default_factory=dict)

    @cached_property
    def table(self) -> NDArray[np.int16]:
        """Class id of every value, int16 [65536]; 255 for ignored values, -1 for values the mapping does not know."""
        table = np.full(_MAX_VALUE + 1, -1, np.int16)
        for value, class_name in self.classes_of_values.items():
            if not 0 <= value <= _MAX_VALUE:
                raise SettingsError(f"mapping {self.name!r}: value {value} is not in 0 to {_MAX_VALUE}")
            table[value] = self._id_of(class_name)
        return table

    @cached_property
    def color_table(self) -> NDArray[np.uint8]:
        """Class id by red x 65536 + green x 256 + blue, uint8 [2^24]; 255 ignored, 254 not known."""
        table = np.full(1 << 24, UNKNOWN, np.uint8)
        for (red, green, blue), class_name in self.classes_of_colors.items():
            table[(red << 16) | (green << 8) | blue] = self._id_of(class_name)
        return table

    def _id_of(self, class_name: str) -> int:
        return UNLABELED if class_name == IGNORE else self.target.id_of(class_name)

    def __getstate__(self) -> dict[str, Any]:
        """Without the tables, which are rebuilt: 16 MB to each process that reads."""
        return {f: self.__dict__[f] for f in ("name", "target", "classes_of_values", "classes_of_colors")}

    def content(self) -> dict[str, Any]:
        """What decides the labels, as plain values: the classes in order, and the class of each value and color."""
        return {
            "classes": list(self.target.names),
            "values": {str(value): name for value, name in sorted(self.classes_of_values.items())},
            "colors": {text_of(color): name for color, name in sorted(self.classes_of_colors.items())},
        }

    def apply(self, values: NDArray[Any], source: Path | str) -> LabelImage:
        """Map an image of label values.

        Args:
            values: uint8 or uint16 [H, W] in the foreign taxonomy.
            source: where it came from, for the error.

        Raises:
            DatasetError: a value the mapping does not know; names the file and the value.
        """
        if values.ndim != 2 or values.dtype not in (np.uint8, np.uint16):
            shape = f"{values.dtype} {list(values.shape)}"
            raise DatasetError(f"{source}: a label image must be 8-bit or 16-bit [H, W], got {shape}")
        counts = np.bincount(values.reshape(-1))
        present = np.flatnonzero(counts)
        unknown = present[self.table[present] < 0]
        if unknown.size:
            listed = first_of(f"{value} ({counts[value]} pixels)" for value in unknown)
            raise DatasetError(
                f"{source}: label values {listed} are unknown to the mapping {self.name!r}; "
                f"add each to its YAML with a class name or 'ignore'{self._advice(present)}"
            )
        return np.asarray(self.table.astype(np.uint8)[values])

    def _advice(self, present: NDArray[np.int64]) -> str:
        seen = {int(value) for value in present}
        if seen <= {0, 255}:
            return "; values 0 and 255 only are a binary mask: the mapping 'binary_road' reads 255 as road"
        if seen <= TRAIN_IDS and len(seen) > 2 and (255 in seen or max(seen) > 11):  # CamVid's go to 11
            return "; values in 0 to 18 and 255 look like Cityscapes train ids: the mapping 'cityscapes_train_ids'"
        return ""

    def apply_colors(self, colors: RgbImage, source: Path | str) -> LabelImage:
        """Map an image of colors, uint8 [H, W, 3] RGB.

        Raises:
            DatasetError: a color the mapping does not know; names the file, the colors with their pixels, the
                nearest known one, and whether they look like smoothed edges.
        """
        codes = _codes(colors)
        labels = np.asarray(self.color_table[codes])
        unknown = labels == UNKNOWN
        if unknown.any():
            raise DatasetError(f"{source}: {self._unknown_colors(codes, unknown)}")
        return labels

    def _unknown_colors(self, codes: NDArray[np.int32], unknown: NDArray[np.bool_]) -> str:
        found, counts = np.unique(codes[unknown], return_counts=True)
        order = np.argsort(-counts, kind="stable")
        listed = first_of(
            f"{text_of(_color(found[i]))} ({counts[i]} pixels; nearest: {self._nearest(_color(found[i]))})"
            for i in order
        )
        what = "color" if found.size == 1 else f"{found.size} colors"
        text = f"{what} not in the mapping {self.name!r}: {listed}"
        if _are_edges(codes, unknown):
            return (
                f"{text}; they lie between the known colors of their neighbors: anti-aliased edges. Export the masks "
                "without smoothing, and resize masks by nearest neighbor only"
            )
        return f"{text}; add each to 'colors' with a class name or 'ignore'"

    def _nearest(self, color: Color) -> str:
        known = np.array(list(self.classes_of_colors), np.int64)  # [N, 3]
        distances = ((known - np.array(color)) ** 2).sum(axis=1)
        nearest = tuple(int(c) for c in known[int(distances.argmin())])
        name = self.classes_of_colors[nearest[0], nearest[1], nearest[2]]
        return f"{text_of((nearest[0], nearest[1], nearest[2]))} {name}, off by {distances.min() ** 0.5:.0f}"


def text_of(color: Color) -> str:
    return ",".join(map(str, color))


def _codes(colors: RgbImage) -> NDArray[np.int32]:
    """int32 [H, W]: red x 65536 + green x 256 + blue."""
    wide = colors.astype(np.int32)
    return np.asarray((wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2], np.int32)


def _color(code: Any) -> Color:
    return int(code) >> 16, (int(code) >> 8) & 255, int(code) & 255


def _are_edges(codes: NDArray[np.int32], unknown: NDArray[np.bool_]) -> bool:
    """Whether nine in ten of the unknown pixels have a color between two known ones within three pixels of them."""
    places = np.argwhere(unknown)
    sampled = places[:: max(1, len(places) // 500)]
    blended = 0
    for row, column in sampled:
        around = np.s_[max(0, row - 3) : row + 4, max(0, column - 3) : column + 4]
        near = np.unique(codes[around][~unknown[around]])[:8]
        ends = np.array([_color(code) for code in near], np.float64)  # [N, 3]
        blended += _is_between(np.array(_color(codes[row, column]), np.float64), ends)
    return blended >= 0.9 * len(sampled)


def _is_between(color: NDArray[np.float64], ends: NDArray[np.float64]) -> bool:
    """Whether a color lies on the line from one of the ends to another, give or take rounding and gamma."""
    for i, start in enumerate(ends):
        for end in ends[i + 1 :]:
            along = end - start
            share = float(np.dot(color - start, along) / max(np.dot(along, along), 1.0))
            if 0 < share < 1 and np.linalg.norm(start + share * along - color) <= 12:
                return True
    return False


def load_label_mapping(name_or_path: str | Path) -> LabelMapping:
    """Load a mapping by shipped name or YAML path.

    Raises:
        FileNotFoundError: no such file.
        SettingsError: unknown name, or every fault of the file: keys, values, colors, and classes that the
            target set does not have.
    """
    path = shipped_file("config/labels", name_or_path, "label set or mapping")
    written = path.stat().st_mtime_ns
    return _mapping(path, written, _target(path, _document(path, written)))


@lru_cache(maxsize=32)
def _document(path: Path, _written: int) -> dict[str, Any]:
    document = read_yaml(path)
    if not isinstance(document, dict):
        raise SettingsError(f"{path}: a YAML mapping is expected, got {type(document).__name__}")
    return document


@lru_cache(maxsize=32)
def _mapping(path: Path, written: int, target: LabelSet) -> LabelMapping:
    document = _document(path, written)
    faults = [f"{key}: unknown; known here: {', '.join(_KEYS)}" for key in document if key not in _KEYS]
    tables = {key: document[key] for key in ("values", "colors") if document.get(key) not in (None, {})}
    if not tables:
        raise SettingsError(
            f"{path}: a mapping needs 'values', a table of label value to class name or 'ignore', or 'colors', "
            'a table of "R,G,B" to the same' + ("".join(f"\n  {fault}" for fault in faults))
        )
    values = _values(tables.get("values", {}), target, faults)
    colors = _colors_of(tables.get("colors", {}), target, faults)
    faults += _commented_colors(path)
    if faults:
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise SettingsError(f"{path}: {count} in the mapping:\n  " + "\n  ".join(faults))
    return LabelMapping(str(document.get("name", path.stem)), target, values, colors)


def _rows(table: str, rows: Any, target: LabelSet, faults: list[str]) -> Iterable[tuple[Any, str]]:
    if not isinstance(rows, dict):
        faults.append(f"{table}: a table is expected, got {type(rows).__name__}")
        return
    for key, class_name in rows.items():
        if fault := _class_fault(class_name, target):
            faults.append(f"{table}.{key}: {fault}")
        else:
            yield key, class_name


def _values(rows: Any, target: LabelSet, faults: list[str]) -> dict[int, str]:
    values: dict[int, str] = {}
    for key, class_name in _rows("values", rows, target, faults):
        if type(key) is not int:  # a bool is an int
            whole = ""
            if isinstance(key, str) and key.isascii() and key.isdecimal():
                whole = f"; write {key.lstrip('0') or '0'}: without quotes or zeros in front"
            shown = f"{key!r} is {_kind(key)}, not a whole number"
            faults.append(f"values.{key}: {shown}{whole}; a table of label value (0 to {_MAX_VALUE}) is expected")
        elif not 0 <= key <= _MAX_VALUE:
            faults.append(f"values.{key}: not in 0 to {_MAX_VALUE}")
        else:
            values[key] = class_name
    return values


def _colors_of(rows: Any, target: LabelSet, faults: list[str]) -> dict[Color, str]:
    colors: dict[Color, str] = {}
    for key, class_name in _rows("colors", rows, target, faults):
        color = parse_color(key)
        if color is None:
            faults.append(f'colors.{key}: {key!r} is no color; write "R,G,B" (0 to 255) or "#RRGGBB", in quotes')
        elif colors.setdefault(color, class_name) != class_name:
            faults.append(f"colors.{key}: the same color stands for {colors[color]!r}, too")
    return colors


def _target(path: Path, document: Mapping[str, Any]) -> LabelSet:
    named = Path(str(document.get("target", "driving")))
    if named.suffix.lower() in (".yaml", ".yml"):
        named = path.parent / named  # a label set's file is named relative to the mapping's own
    try:
        return load_label_set(named)
    except SettingsError as error:
        raise SettingsError(f"{path}: target: {error}") from error


def _class_fault(class_name: Any, target: LabelSet) -> str | None:
    if not isinstance(class_name, str):
        hint = f"; {TRUTH_VALUES}" * isinstance(class_name, bool)
        return f"a class name or 'ignore' is expected, got {class_name!r}{hint}"
    if class_name == IGNORE or class_name in target.names:
        return None
    near = difflib.get_close_matches(class_name, target.names, 1)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    return f"label set {target.name!r} has no class {class_name!r}; known: {', '.join(target.names)}, ignore{meant}"


def _kind(key: Any) -> str:
    kinds = {str: "text", bool: "a truth value", float: "a fraction", type(None): "nothing"}
    return kinds.get(type(key), type(key).__name__)


_HEX = re.compile(r"#([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})")


def parse_color(key: Any) -> Color | None:
    """Red, green, blue of "128,64,128" or "#804080"; None for anything else."""
    if not isinstance(key, str):
        return None
    if found := _HEX.fullmatch(key.strip()):
        return int(found[1], 16), int(found[2], 16), int(found[3], 16)
    parts = [part.strip() for part in key.strip().strip("()[]").split(",")]
    if len(parts) != 3 or not all(re.fullmatch("[0-9]{1,3}", part) and int(part) <= 255 for part in parts):
        return None
    return int(parts[0]), int(parts[1]), int(parts[2])


def _commented_colors(path: Path) -> list[str]:
    """A color written as #804080 without quotes begins a comment: YAML drops the line without a word."""
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    return [
        f'line {number}: YAML takes {line.strip()!r} for a comment; put the color in quotes: "{line.strip()[:7]}"'
        for number, line in enumerate(lines, 1)
        if re.match(r"\s*#[0-9a-fA-F]{6}\s*:", line)
    ]
