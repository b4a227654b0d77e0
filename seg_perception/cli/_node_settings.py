"""The node's parameter file, as far as the commands without ROS can use it: mask and overlay."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seg_perception.bags.topics import NODE_NAME
from seg_perception.core.drivable import DrivableSettings
from seg_perception.core.errors import SettingsError
from seg_perception.core.settings import from_mapping, read_yaml
from seg_perception.node_settings import PARAMETERS, is_foreign  # a table only: no ROS
from seg_perception.ros.node.settings import camera_name_faults  # no ROS either

_MATCHING = ("**", "*")


@dataclass(frozen=True, slots=True)
class PictureSettings:
    """What of the node's parameters changes masks and overlays.

    Attributes:
        drivable: of every camera that has no settings of its own.
        camera_drivable: of single cameras, by name.
        opacity: of the overlay, 0 to 1.
    """

    drivable: DrivableSettings = field(default_factory=DrivableSettings)
    camera_drivable: Mapping[str, DrivableSettings] = field(default_factory=dict)
    opacity: float = 0.5


@dataclass(frozen=True, slots=True)
class _Overlay:
    opacity: float


@dataclass(frozen=True, slots=True)
class _Tree:
    """The parameters as nested settings, so that all faults are reported at once."""

    drivable: DrivableSettings
    overlay: _Overlay
    cameras: Mapping[str, DrivableSettings]


def picture_settings(path: Path | None) -> PictureSettings:
    """Read the node's parameter file; None gives the node's defaults.

    Raises:
        FileNotFoundError: no such file.
        SettingsError: not a parameter file of the node, or any fault in what is used of it, and
            names that the node would refuse, all at once.
    """
    if path is None:
        return PictureSettings()
    values = dict(_flat(_parameters_of_the_node(path)))
    specs = {spec.name: spec for spec in PARAMETERS}
    named = values.get("cameras", specs["cameras"].default)
    if isinstance(named, (list, tuple)) and all(isinstance(name, str) for name in named):
        camera_faults = camera_name_faults(tuple(named))
    else:
        camera_faults = [f"cameras: {named!r} is not accepted; a list of names is expected"]
    cameras = [] if camera_faults else [str(name) for name in named or () if name]
    masks = [name for name in specs if name.startswith("drivable.")]
    own = {f"{camera}.{name}" for camera in cameras for name, spec in specs.items() if spec.per_camera}
    faults = camera_faults + [
        f"{name}: no such parameter; see config/segmentation.yaml"
        for name in sorted(values)
        if name not in specs and name not in own and not is_foreign(name)
    ]

    def drivable(camera: str = "") -> dict[str, Any]:
        return {
            name.removeprefix("drivable."): specs[name].parsed(
                values.get(f"{camera}.{name}", values.get(name, specs[name].default))
            )
            for name in masks
        }

    opacity = values.get("overlay.opacity", specs["overlay.opacity"].default)
    if isinstance(opacity, (int, float)) and not 0 <= opacity <= 1:
        faults.append(f"overlay.opacity: {opacity} is not in 0 to 1")
    tree = {
        "drivable": drivable(),
        "overlay": {"opacity": opacity},
        "cameras": {camera: drivable(camera) for camera in cameras if any(n.startswith(f"{camera}.") for n in values)},
    }
    try:
        settings = from_mapping(_Tree, tree, str(path))
    except SettingsError as error:
        raise SettingsError("\n  ".join([str(error), *faults])) from error
    if faults:
        raise SettingsError("\n  ".join([f"{path}: faults in the parameters:", *faults]))
    return PictureSettings(settings.drivable, settings.cameras, settings.overlay.opacity)


def _parameters_of_the_node(path: Path) -> dict[str, Any]:
    """What the file says for the node, whatever its namespace; later sections win, as in ROS."""
    document = read_yaml(path)
    merged: dict[str, Any] = {}
    found = False
    for node, section in document.items() if isinstance(document, dict) else ():
        if str(node).rpartition("/")[2] not in (*_MATCHING, NODE_NAME) or not isinstance(section, dict):
            continue
        if isinstance(parameters := section.get("ros__parameters"), dict):
            found = True
            merged.update(_flat(parameters))
    if not found:
        raise SettingsError(
            f"{path} has no parameters for the node: a section '/**:' or '{NODE_NAME}:' with 'ros__parameters:' "
            "is accepted, as in config/segmentation.yaml"
        )
    return merged


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested tables as dotted names."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
