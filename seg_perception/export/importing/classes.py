"""What the classes of an imported model are, and how they become another label set's.

A preset names a label set under config/labels and the mapping that turns its ids into the driving classes.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seg_perception.core.errors import InputError, ModelError, SettingsError
from seg_perception.core.label_mapping import LabelMapping, load_label_mapping
from seg_perception.core.label_set import LabelClass, LabelSet, load_label_set

BACKGROUND = "background"
PRESETS = {  # name -> label set, mapping of its ids to the driving classes
    "cityscapes19": ("cityscapes19", "cityscapes_train_ids"),
    "cityscapes-ids": ("cityscapes_ids", "cityscapes"),
    "camvid11": ("camvid11", "camvid"),
    "voc21": ("voc21", "voc21_to_driving"),
    "ade150": ("ade150", "ade150_to_driving"),
    "binary-road": ("background_and_road", "binary_road"),
}
_SUFFIXES = (".yaml", ".yml")
_ROAD_NAMES = frozenset({"road", "drivable", "drivable area", "drivable_area", "street", "lane"})


@dataclass(frozen=True, slots=True)
class ImportedClasses:
    """The model's own classes, and what becomes of them.

    Attributes:
        source: names of the model's channels or ids, in order.
        label_set: of the imported graph.
        targets: for each source class its id in `label_set`; identity where nothing is mapped.
        notes: a line for each thing that was decided here.
    """

    source: tuple[str, ...]
    label_set: LabelSet
    targets: tuple[int, ...]
    notes: tuple[str, ...] = ()

    @property
    def mapped(self) -> bool:
        return self.targets != tuple(range(len(self.source)))

    def matrix(self) -> NDArray[np.float32]:
        """float32 [classes of the label set, source classes] of 0 and 1: sums probabilities."""
        table = np.zeros((len(self.label_set), len(self.source)), np.float32)
        table[list(self.targets), range(len(self.source))] = 1.0
        return table


def imported_classes(classes: str, names: tuple[str, ...], to: str | None) -> ImportedClasses:
    """Find the classes of a model.

    Args:
        classes: a preset's name, "names" (those that the model's metadata holds), or a YAML file: a
            label set, or a mapping of the model's ids.
        names: class names in the model's metadata.
        to: a label set that the classes shall become; None keeps them.

    Raises:
        InputError: no such preset.
        ModelError: `to` is asked for and nothing says which class becomes which; names them.
        SettingsError: a file is wrong.
    """
    if classes in PRESETS:
        source, mapping_name = load_label_set(PRESETS[classes][0]), PRESETS[classes][1]
        return _mapped(source, load_label_mapping(mapping_name), to) if to else _kept(source)
    if classes == "names":
        source = LabelSet("imported", tuple(LabelClass(i, n, _color(i), _is_road(n)) for i, n in enumerate(names)))
        return _mapped_by_name(source, load_label_set(to)) if to else _kept(source)
    if Path(classes).suffix not in _SUFFIXES:
        known = ", ".join(PRESETS)
        raise InputError(f"--classes {classes!r} is not accepted: one of {known}, names, or a .yaml file is")
    return _from_file(classes, to)


def _from_file(classes: str, to: str | None) -> ImportedClasses:
    try:
        mapping = load_label_mapping(classes)
    except SettingsError as no_mapping:
        try:
            source = load_label_set(classes)
        except SettingsError as no_set:
            raise SettingsError(
                f"{classes} is neither a mapping ({no_mapping}) nor a label set ({no_set}); see config/labels"
            ) from no_set
        return _mapped_by_name(source, load_label_set(to)) if to else _kept(source)
    if to is not None and load_label_set(to).names != mapping.target.names:
        raise InputError(f"{classes} maps to {mapping.target.name}, not to {to}: leave --to out or name that one")
    values = sorted(value for value in mapping.classes_of_values if value != 255)
    if values != list(range(len(values))):
        raise InputError(f"{classes}: values must be 0 to {len(values) - 1} without gaps to name a model's classes")
    source = LabelSet(mapping.name, tuple(LabelClass(i, f"class {i}", _color(i)) for i in values))
    return _mapped(source, mapping, mapping.target.name)


def _kept(source: LabelSet) -> ImportedClasses:
    notes = () if source.drivable_ids else (f"no class of {source.name} is drivable: the drivable mask stays empty",)
    return ImportedClasses(source.names, source, tuple(range(len(source))), notes)


def _mapped(source: LabelSet, mapping: LabelMapping, to: str) -> ImportedClasses:
    target = load_label_set(to)
    if target.names != mapping.target.names:
        raise InputError(f"--to {to} is not accepted: the classes of {source.name} map to {mapping.target.name}")
    known = {i: mapping.classes_of_values.get(i, "ignore") for i in range(len(source))}
    return _filled(source, target, [None if name == "ignore" else name for name in known.values()])


def _mapped_by_name(source: LabelSet, target: LabelSet) -> ImportedClasses:
    """Classes of equal name; all others become background, and are named."""
    simplified = {_simple(name): name for name in target.names}
    found = [simplified.get(_simple(name)) or (simplified.get("road") if c.drivable else None)
             for name, c in zip(source.names, source.classes)]  # fmt: skip
    if not any(found):
        raise ModelError(
            f"none of the model's classes ({', '.join(source.names[:20])}) is called like one of {target.name}: "
            f"write a mapping of its ids (docs/your_model.md) and give it as --classes FILE"
        )
    return _filled(source, target, found)


def _filled(source: LabelSet, target: LabelSet, found: list[str | None]) -> ImportedClasses:
    missing = [name for name, to in zip(source.names, found) if to is None]
    if missing and BACKGROUND not in target.names:
        raise ModelError(f"{', '.join(missing)}: no class of {target.name} stands for them; write a mapping")
    notes = (f"background in {target.name}, for want of another class: {', '.join(missing)}",) if missing else ()
    return ImportedClasses(source.names, target, tuple(target.id_of(name or BACKGROUND) for name in found), notes)


def _simple(name: str) -> str:
    return name.lower().replace("_", " ").replace("-", " ").strip()


def _is_road(name: str) -> bool:
    return _simple(name) in _ROAD_NAMES


def _color(index: int) -> tuple[int, int, int]:
    """A color for a class without one: hues by the golden angle, so that neighbors differ."""
    red, green, blue = colorsys.hsv_to_rgb((index * 0.618034) % 1.0, 0.65, 0.9)
    return round(red * 255), round(green * 255), round(blue * 255)
