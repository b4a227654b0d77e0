"""Classes and label sets, and how other taxonomies map to them.

A label set and a mapping are YAML files under config/labels/: see driving.yaml and cityscapes.yaml.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seg_perception.core.errors import DatasetError, SettingsError
from seg_perception.core.resources import share_path
from seg_perception.core.settings import load_settings, read_yaml
from seg_perception.core.types import UNKNOWN, UNLABELED, LabelImage

IGNORE = "ignore"
_YAML_SUFFIXES = frozenset({".yaml", ".yml"})


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
    """An ordered set of classes with ids 0 to len-1; 255 means unlabeled, 254 is kept for training."""

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
        """uint8 [256, 3]: RGB of every id; black where there is no class."""
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


@dataclass(frozen=True)
class LabelMapping:
    """Turns another taxonomy's label values (0 to 255) into class ids of a label set."""

    name: str
    target: LabelSet
    classes_of_values: Mapping[int, str]  # value -> class name, or "ignore"

    @cached_property
    def table(self) -> NDArray[np.int16]:
        """int16 [256]: class id, 255 for ignored values, -1 for values the mapping does not know."""
        table = np.full(256, -1, np.int16)
        for value, class_name in self.classes_of_values.items():
            if not 0 <= value <= 255:
                raise SettingsError(f"mapping {self.name!r}: value {value} is not in 0 to 255")
            table[value] = UNLABELED if class_name == IGNORE else self.target.id_of(class_name)
        return table

    def apply(self, values: NDArray[np.uint8], source: Path | str) -> LabelImage:
        """Map a label image.

        Args:
            values: uint8 [H, W] in the foreign taxonomy.
            source: where it came from, for the error.

        Raises:
            DatasetError: a value the mapping does not know; names the file and the value.
        """
        if values.ndim != 2 or values.dtype != np.uint8:
            raise DatasetError(f"{source}: a label image must be 8-bit [H, W], got {values.dtype} {list(values.shape)}")
        counts = np.bincount(values.reshape(-1), minlength=256)
        unknown = np.flatnonzero((counts > 0) & (self.table < 0))
        if unknown.size:
            listed = ", ".join(f"{value} ({counts[value]} pixels)" for value in unknown[:8])
            raise DatasetError(
                f"{source}: label values {listed} are unknown to the mapping {self.name!r}; "
                "add each to its YAML with a class name or 'ignore'"
            )
        return self.table.astype(np.uint8)[values]


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


def _read_yaml(path: Path) -> Mapping[str, object]:
    document = read_yaml(path)
    if not isinstance(document, dict):
        raise SettingsError(f"{path}: a YAML mapping is expected, got {type(document).__name__}")
    return document


def _labels_file(name_or_path: str | Path) -> Path:
    """A file by path, or a shipped one by its bare name."""
    path = Path(name_or_path)
    if path.suffix in _YAML_SUFFIXES:
        return path
    shipped = share_path("config/labels") / f"{name_or_path}.yaml"
    if not shipped.is_file():
        known = ", ".join(sorted(p.stem for p in shipped.parent.glob("*.yaml")))
        raise SettingsError(f"no label set or mapping {str(name_or_path)!r}; shipped: {known}; or give a .yaml file")
    return shipped


@lru_cache(maxsize=32)
def load_label_set(name_or_path: str | Path = "driving") -> LabelSet:
    """Load a label set by shipped name or YAML path.

    Raises:
        SettingsError: unknown name or malformed file.
    """
    path = _labels_file(name_or_path)
    document = load_settings(_LabelSetFile, path)
    try:
        rows = enumerate(document.classes)
        return LabelSet(document.name, tuple(LabelClass(i, row.name, row.color, row.drivable) for i, row in rows))
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error


@lru_cache(maxsize=32)
def load_label_mapping(name_or_path: str | Path) -> LabelMapping:
    """Load a mapping by shipped name or YAML path.

    Raises:
        SettingsError: unknown name, malformed file, or a class that the target set does not have.
    """
    path = _labels_file(name_or_path)
    document = _read_yaml(path)
    values = document.get("values")
    if not isinstance(values, dict) or not all(type(value) is int for value in values):  # a bool is an int
        raise SettingsError(f"{path}: a mapping needs 'values', a table of label value to class name or 'ignore'")
    target = Path(str(document.get("target", "driving")))
    if target.suffix in _YAML_SUFFIXES:
        target = path.parent / target  # a label set's file is named relative to the mapping's own
    mapping = LabelMapping(
        str(document.get("name", path.stem)),
        load_label_set(target),
        {value: str(class_name) for value, class_name in values.items()},
    )
    mapping.table  # noqa: B018  build it now, so that a wrong class name fails here
    return mapping
