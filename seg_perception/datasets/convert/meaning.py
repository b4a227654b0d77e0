"""What the classes of a source become in our folder: its own label set, or the classes of another one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import yaml

from seg_perception.core.errors import SettingsError, first_of
from seg_perception.core.files import real_path, write_atomically
from seg_perception.core.label_set import IGNORE, Color, LabelSet, load_label_mapping, load_label_set
from seg_perception.core.types import UNKNOWN
from seg_perception.datasets.convert import cityscapes_polygons
from seg_perception.datasets.convert.base import Annotations

OWN: Final = "own"
"""The target that keeps the source's classes."""

_OWN_FILE: Final = "label_set.yaml"
_UNLABELED_NAMES: Final = frozenset({"ignore", "void", "unlabeled", "unlabelled", "_ignore_", "__ignore__"})


@dataclass(frozen=True)
class Meaning:
    """What the source's values stand for in the target."""

    became: Mapping[int, str]
    own: tuple[tuple[str, Color], ...]
    target: str
    remarks: tuple[str, ...]

    @classmethod
    def of(cls, annotations: Annotations, to: str, renamed: Mapping[str, str], unlabeled: str) -> Meaning:
        """Decide by names, and say which are not found.

        Raises:
            SettingsError: an unknown class or target, or more classes than a label set holds.
        """
        names = {c.name for c in annotations.classes}
        if unknown := [name for name in renamed if name not in names]:
            raise SettingsError(f"no class {unknown[0]!r} in the source; known: {', '.join(sorted(names))}")
        remarks: list[str] = []
        own: tuple[tuple[str, Color], ...] = ()
        if to == OWN:
            own = _own_classes(annotations, renamed)
            accepted = tuple(name for name, _ in own)
            matched = {name: name for name in accepted}
            if not any(_plain(name) == "road" for name in accepted):
                remarks.append(f"no class is named 'road', so none is drivable: set drivable: true in {_OWN_FILE}")
        else:
            target = load_label_set(to)
            accepted, matched = target.names, _matched(target)
        for name in (*renamed.values(), unlabeled):
            if name not in (*accepted, IGNORE):
                raise SettingsError(f"no class {name!r} in the target; known: {', '.join(accepted)}, {IGNORE}")
        became = {annotations.unlabeled: unlabeled}
        lost = []
        for c in annotations.classes:
            found = renamed.get(c.name) or matched.get(c.name) or matched.get(_plain(c.name))
            if found is None and not _is_unlabeled(c.name):
                lost.append(c.name)
            if c.value != annotations.unlabeled or c.name in renamed or unlabeled == IGNORE:
                became[c.value] = found or IGNORE
        if lost:
            remarks.append(f"no class of {to} by that name, so not labeled: {first_of(lost)}; say --map 'NAME=CLASS'")
        return cls(became, own, _OWN_FILE if to == OWN else to, tuple(remarks))

    def write(self, folder: Path) -> None:
        if self.own:
            rows = [
                {"name": name, "color": list(color)} | ({"drivable": True} if _plain(name) == "road" else {})
                for name, color in self.own
            ]
            _write_yaml(folder / _OWN_FILE, {"name": "converted", "classes": rows})
        values = dict(sorted(self.became.items()))
        target = self.target
        if target.lower().endswith((".yaml", ".yml")) and target != _OWN_FILE:
            target = str(real_path(Path(target)))
        _write_yaml(folder / "mapping.yaml", {"name": "converted", "target": target, "values": values})


def _own_classes(annotations: Annotations, renamed: Mapping[str, str]) -> tuple[tuple[str, Color], ...]:
    keep = [c for c in annotations.classes if c.name in renamed or not _is_unlabeled(c.name)]
    colors = {renamed.get(c.name, c.name): c.color for c in keep}
    names = [name for name in colors if name != IGNORE]
    if not names or len(names) > UNKNOWN:
        raise SettingsError(f"{len(names)} classes do not fit a label set of 1 to {UNKNOWN}; join some by --map 'A=B'")
    return tuple((name, colors[name] or _color(index)) for index, name in enumerate(names))


def _is_unlabeled(name: str) -> bool:
    return _plain(name) in _UNLABELED_NAMES


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold() if name.strip("_") else name


def _matched(target: LabelSet) -> dict[str, str]:
    """Plain name -> class of the target: its own names, and for the driving classes those of Cityscapes."""
    found = {}
    if target == load_label_set("driving"):
        cityscapes = load_label_mapping("cityscapes").classes_of_values
        names = enumerate(cityscapes_polygons.NAMES)
        found = {_plain(name): cityscapes[value] for value, name in names}
    return found | {_plain(name): name for name in target.names}


def _color(index: int) -> Color:
    """Colors that differ, for classes that have none: hues a golden angle apart."""
    hsv = np.array([[[int(index * 137.508) % 180, 160 + 95 * (index % 2), 230 - 60 * (index % 3)]]], np.uint8)
    red, green, blue = (int(value) for value in cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0])
    return red, green, blue


def _write_yaml(path: Path, document: Any) -> None:
    write_atomically(path, yaml.safe_dump(document, sort_keys=False, allow_unicode=True).encode())
