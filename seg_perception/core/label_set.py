"""Classes and label sets; label_mapping.py brings other taxonomies to them.

A label set is a YAML file, such as config/labels/driving.yaml.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seg_perception.core.errors import SettingsError
from seg_perception.core.resources import shipped_file
from seg_perception.core.settings import load_settings
from seg_perception.core.types import UNKNOWN


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
