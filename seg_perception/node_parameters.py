"""Reads the node's parameters into settings, all faults at once: flat names from ROS, or a parameter file.

The node and the commands that take --params-file read through the same functions, so that they say the
same of the same file. Needs no ROS.
"""

from __future__ import annotations

import difflib
import logging
import math
import re
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import yaml

from seg_perception.core.drivable import DrivableSettings
from seg_perception.core.errors import SettingsError
from seg_perception.core.meters import MetersSettings
from seg_perception.core.settings import StrictLoader, from_mapping, parse_yaml, read_yaml
from seg_perception.core.visual import DEFAULT_OPACITY
from seg_perception.node_settings import (
    COST_PREFIX,
    FOREIGN,
    NODE_NAME,
    PARAMETERS,
    NodeSettings,
    ParameterSpec,
    camera_name_faults,
    cost_parameter,
    is_foreign,
)

_LONGEST_NAME = 200  # characters; nobody says how long one is that a request or a file brings
_MATCHING = ("**", "*")


def parse_settings(values: Mapping[str, Any], source: str) -> NodeSettings:
    """Flat parameter names and values, with per-camera overrides, into settings.

    Args:
        values: what is absent has its default. Unknown names are no fault, see `unknown_parameters`, but named with
            the faults.
        source: where they came from, for the error.

    Raises:
        SettingsError: every fault found, one a line.
    """
    faults: list[str] = []

    def checked(spec: ParameterSpec, otherwise: Any) -> Any:
        value = values.get(spec.name, otherwise)
        if (fault := spec.fault(value)) is None:
            return spec.converted(value)
        faults.append(fault)
        return otherwise  # stands in, so that the other values are checked, too

    common = {spec: checked(spec, spec.default) for spec in PARAMETERS}
    cameras = next(value for spec, value in common.items() if spec.name == "cameras")
    if wrong_names := camera_name_faults(cameras):
        faults += wrong_names
        cameras = ("",)
    tree = _nest({spec.name: spec.parsed(value) for spec, value in common.items() if not spec.per_camera})
    tree["cameras"] = cameras
    if isinstance(tree["grid"]["costs"], dict):
        tree["grid"]["costs"] |= _single_costs(values, faults)
    tree["camera_settings"] = {}
    for camera in cameras:
        own = {spec: checked(spec.override_for(camera), None) for spec in common if spec.per_camera}
        tree["camera_settings"][camera] = _nest(
            {spec.name: spec.parsed(common[spec] if value is None else value) for spec, value in own.items()}
        )
    try:
        settings = from_mapping(NodeSettings, tree, source)
    except SettingsError as error:
        faults += (_by_parameter_name(line.strip(), values) for line in str(error).splitlines()[1:])
    if faults:
        faults += unknown_parameters(values, cameras)
        raise SettingsError("\n  ".join([f"{source}: faults in the parameters:", *dict.fromkeys(faults)]))
    return settings


def _single_costs(values: Mapping[str, Any], faults: list[str]) -> dict[str, Any]:
    """Costs by class that were given as a table in YAML, and so as a parameter each."""
    costs = {}
    for name, value in values.items():
        if name.startswith(COST_PREFIX) and value is not None:
            if (fault := cost_parameter(name).fault(value)) is None:
                costs[name.removeprefix(COST_PREFIX)] = value
            else:
                faults.append(fault)
    return costs


def _by_parameter_name(fault: str, values: Mapping[str, Any]) -> str:
    """A fault of `camera_settings.front.drivable.x`, named as the parameter that was set: the camera's own or the
    common one.
    """
    if not fault.startswith("camera_settings."):
        return fault
    camera, _, rest = fault.removeprefix("camera_settings.").partition(".")
    rest = rest.replace(": drivable: ", ".", 1)  # DrivableSettings names itself
    own = any(
        spec.per_camera and rest.startswith(spec.name) and f"{camera}.{spec.name}" in values for spec in PARAMETERS
    )
    return f"{camera}.{rest}" if camera and own else rest


def unknown_parameters(names: Collection[str], cameras: Collection[str]) -> list[str]:
    """What of the given names is no parameter of the node, each with the nearest that is, if one is near.

    They are worth a warning and not an error: files for every node of a car (`/**`) hold other nodes' parameters.
    """
    known = {spec.name for spec in PARAMETERS}
    known |= {f"{camera}.{spec.name}" for camera in cameras if camera for spec in PARAMETERS if spec.per_camera}
    return [
        describe_unknown(name, known.union(FOREIGN))
        for name in sorted(names)
        if name not in known and not is_foreign(name) and not name.startswith(COST_PREFIX)
    ]


def describe_unknown(name: str, known: Collection[str]) -> str:
    """Such as: modle: no such parameter; did you mean model?"""
    near = difflib.get_close_matches(name[:_LONGEST_NAME], known, n=1, cutoff=0.75)
    name = name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}... ({len(name)} characters)"
    return f"{name}: no such parameter; " + (f"did you mean {near[0]}?" if near else "see config/segmentation.yaml")


def unused_parameter_files(files: Iterable[str], node: str) -> list[str]:
    """Files given as --params-file of which ROS takes nothing, because no section is for this node; and unsound ones.

    Args:
        files: their names.
        node: its full name, such as "/car/segmentation_node".
    """
    unused = []
    for name in files:
        try:
            sections = dict(_sections(read_yaml(Path(name), _RosLoader)))
            for section, parameters in sections.items():
                _flat_once(parameters, f"{name}, section {section}")
        except OSError:
            continue  # ROS has said so
        except SettingsError as error:
            if _TWICE in str(error):  # ROS takes the last without a word; what else is wrong it says
                unused.append(f"{error}; ROS takes the last")
            continue
        if not any(_is_for(section, node) for section in sections):
            listed = ", ".join(sections) or "none"
            unused.append(f"{name} sets nothing here: no section is for {node} or '/**'; its sections: {listed}")
    return unused


def _sections(document: Any, name: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Node names, as deep as they are nested, and their parameters."""
    for key, value in document.items() if isinstance(document, dict) else ():
        if key == "ros__parameters" and isinstance(value, dict):
            yield name, value
        else:
            yield from _sections(value, f"{name}/{str(key).strip('/')}")


def _is_for(section: str, node: str) -> bool:
    """Whether ROS takes a section, whose name may hold * (one part of the name) and ** (any number), for a node."""
    wild = {"**": r"(/\w+)*", "*": r"/\w+"}
    pattern = "".join(wild.get(part, f"/{re.escape(part)}") for part in section[1:].split("/"))
    return re.fullmatch(pattern, node) is not None


@dataclass(frozen=True, slots=True)
class PictureSettings:
    """What of the node's parameters changes masks and overlays.

    Attributes:
        drivable: of every camera that has no settings of its own.
        camera_drivable: of single cameras, by name.
        opacity: of the overlay, 0 to 1.
        meters: where the cameras are, and the grid.
    """

    drivable: DrivableSettings = field(default_factory=DrivableSettings)
    camera_drivable: Mapping[str, DrivableSettings] = field(default_factory=dict)
    opacity: float = DEFAULT_OPACITY
    meters: MetersSettings = field(default_factory=MetersSettings)


def picture_settings(path: str | Path | None) -> PictureSettings:
    """Read what changes masks and overlays from the node's parameter file. Unknown names are logged.

    Args:
        path: a YAML file as config/segmentation.yaml; None gives the node's defaults.

    Raises:
        FileNotFoundError: no such file.
        SettingsError: not a parameter file of the node, or whatever the node would refuse, all at once.
    """
    if path is None:
        return PictureSettings()
    values = read_parameter_file(Path(path))
    settings = parse_settings(values, str(path))
    for unknown in unknown_parameters(values, settings.cameras):
        logging.getLogger(__name__).warning("%s: %s", path, unknown)
    common = parse_settings({name: value for name, value in values.items() if name != "cameras"}, str(path))
    drivable = common.camera_settings[""].drivable
    own = {name: camera.drivable for name, camera in settings.camera_settings.items() if camera.drivable != drivable}
    mount = common.camera_settings[""].ground
    mounts = {name: camera.ground for name, camera in settings.camera_settings.items() if camera.ground != mount}
    meters = MetersSettings(
        settings.ground.frame, mount, mounts, settings.grid, settings.costmap.size, settings.diagnostics.frame_timeout_s
    )
    return PictureSettings(drivable, own, settings.overlay.opacity, meters)


def parameter_value(text: str) -> Any:
    """A value as it might stand in a parameter file; None: nothing.

    Raises:
        SettingsError: not YAML.
    """
    return parse_yaml(text, repr(text), _RosLoader)


def read_parameter_file(path: Path) -> dict[str, Any]:
    """What a file says for the node, whatever its namespace, by flat names; later sections win, as in ROS.

    Raises:
        FileNotFoundError: no such file.
        SettingsError: not YAML, or no section for the node.
    """
    document = read_yaml(path, _RosLoader)
    merged: dict[str, Any] = {}
    found = False
    for node, section in document.items() if isinstance(document, dict) else ():
        if str(node).rpartition("/")[2] not in (*_MATCHING, NODE_NAME) or not isinstance(section, dict):
            continue
        if isinstance(parameters := section.get("ros__parameters"), dict):
            found = True
            merged.update(_flat_once(parameters, f"{path}, section {node}"))
    if not found:
        raise SettingsError(
            f"{path} has no parameters for the node: a section '/**:' or '{NODE_NAME}:' with 'ros__parameters:' "
            "is accepted, as in config/segmentation.yaml"
        )
    return merged


class _RosLoader(StrictLoader):
    """Takes what is not quoted for what ROS takes it (rcl_yaml_param_parser): 1e-1 and 08 are numbers, y is true, 1_0,
    12:30 and ~ are texts, and keys always are.
    """

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        for key, _ in node.value:
            key.style = '"'
        return super().construct_mapping(node, deep)

    def scalar(self, node: yaml.ScalarNode) -> Any:
        return node.value if node.style else _ros_scalar(node.value)


_RosLoader.add_constructor("tag:yaml.org,2002:str", _RosLoader.scalar)

_TRUTHS = dict.fromkeys(
    ["y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"], True
) | dict.fromkeys(["n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"], False)
_INTEGER = re.compile(r"[+-]?(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?\.?(inf|nan)", re.IGNORECASE)


def _ros_scalar(text: str) -> Any:
    """A truth, an integer as C writes it, a number, or else the text; None for nothing."""
    if text in _TRUTHS:
        return _TRUTHS[text]
    if _INTEGER.fullmatch(text):
        digits = text.lstrip("+-").lower()
        number = int(text, 16 if digits.startswith("0x") else 8 if digits.startswith("0") else 10)
        if -(2**63) <= number < 2**63:
            return number
    if _NUMBER.fullmatch(text):
        value = float(re.sub(r"\.(?=[in])", "", text.lower()))
        if math.isfinite(value) or text[-1].isalpha():  # 1e400 is none
            return value
    return text or None


_TWICE = "is given twice"


def _flat_once(tree: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Nested tables as dotted names.

    Raises:
        SettingsError: a parameter stands there twice, once nested and once with dots.
    """
    flat: dict[str, Any] = {}
    for name, value in _flat(tree):
        if name in flat:
            raise SettingsError(f"{source}: the parameter {name!r} {_TWICE}")
        flat[name] = value
    return flat


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested tables as dotted names."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *folders, leaf = name.split(".")
        branch = tree
        for folder in folders:
            branch = branch.setdefault(folder, {})
        branch[leaf] = value
    return tree
