"""The node's parameters: declared with descriptors and ranges, read into `NodeSettings`, all faults at once.

A wrong value never stops the process: it is a fault that `read` reports and that setting the
parameter again removes, so a node that failed to configure can be fixed without a restart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from seg_perception.core.errors import SettingsError
from seg_perception.core.settings import from_mapping
from seg_perception.node_settings import PARAMETERS, ParameterSpec, ParameterValue, is_foreign
from seg_perception.ros.node.settings import NodeSettings, camera_name_faults


class NodeParameters:
    """Declares the parameters of a node and answers changes.

    Args:
        node: the node that owns them.
        configured: whether the node is configured; then only live parameters may change.
        apply: takes the new settings after a live change; they count from the next frame.
    """

    def __init__(self, node: Node, configured: Callable[[], bool], apply: Callable[[NodeSettings], None]) -> None:
        self._node = node
        self._configured = configured
        self._apply = apply
        self._faults: dict[str, str] = {}
        self._specs: dict[str, ParameterSpec] = {}
        self._declaring = True
        node.add_on_set_parameters_callback(self._on_set)
        for spec in PARAMETERS:
            self._declare(spec)
        self._declare_camera_overrides(self._value("cameras"))

    def read(self) -> NodeSettings:
        """All parameters as settings.

        Raises:
            SettingsError: every fault found, one a line.
        """
        self._declare_camera_overrides(self._value("cameras"))
        return self._parse({name: self._value(name) for name in self._specs})

    def _declare(self, spec: ParameterSpec) -> None:
        self._declaring = True
        self._specs[spec.name] = spec
        try:
            self._node.declare_parameter(spec.name, _ros_default(spec), spec_descriptor(spec))
        except (InvalidParameterTypeException, InvalidParameterValueException):
            # rclpy would let this end the process before anybody could read why
            wrong = self._override(spec.name)
            usable = float(wrong) if isinstance(spec.default, float) and type(wrong) is int else None
            if usable is not None and _in_range(spec, usable):  # 5 in YAML where 5.0 is meant
                self._node.declare_parameter(spec.name, usable, spec_descriptor(spec), ignore_override=True)
            else:
                self._faults[spec.name] = f"{spec.name}: {wrong!r} is not accepted; accepted: {spec.accepted()}"
                self._node.declare_parameter(spec.name, _ros_default(spec), spec_descriptor(spec), ignore_override=True)
        finally:
            self._declaring = False

    def _declare_camera_overrides(self, cameras: Sequence[str]) -> None:
        """<camera>.<parameter> for what may differ between cameras; unset, the common value holds."""
        if cameras == [""] or camera_name_faults(tuple(cameras)):
            return
        for camera in cameras:
            for spec in PARAMETERS:
                if spec.per_camera and f"{camera}.{spec.name}" not in self._specs:
                    self._declare(spec.override_for(camera))

    def _override(self, name: str) -> Any:
        parameter = self._overrides().get(name)
        return None if parameter is None else parameter.value

    def _overrides(self) -> Mapping[str, Parameter]:
        # rclpy has no public way to see overrides of parameters nobody declared
        return getattr(self._node, "_parameter_overrides", {})

    def _value(self, name: str) -> Any:
        return self._node.get_parameter_or(name, Parameter(name)).value

    def _unknown(self) -> list[str]:
        return [
            f"{name}: no such parameter; see config/segmentation.yaml"
            for name in sorted(self._overrides())
            if name not in self._specs and not is_foreign(name)
        ]

    def _parse(self, values: Mapping[str, Any]) -> NodeSettings:
        faults = [f"  {fault}" for fault in (*self._faults.values(), *self._unknown())]
        source = f"parameters of {self._node.get_fully_qualified_name()}"
        try:
            settings = parse_settings(values, source)
        except SettingsError as error:
            raise SettingsError("\n".join([*str(error).splitlines(), *faults])) from error
        if faults:
            raise SettingsError("\n".join([f"{source}:", *faults]))
        return settings

    def _on_set(self, changes: list[Parameter]) -> SetParametersResult:
        ours = [p for p in changes if p.name in self._specs]
        if self._declaring or not ours:
            return SetParametersResult(successful=True)
        configured = self._configured()
        fixed = [p.name for p in ours if configured and not self._specs[p.name].live]
        if fixed:
            return SetParametersResult(
                successful=False,
                reason=f"{', '.join(fixed)}: read when the node is configured; "
                "deactivate and clean up the node, set it, and configure again",
            )
        names = {p.name for p in ours}
        before = {name: self._value(name) for name in self._specs}
        known_faults = set(self._problems(before))
        forgiven = {name: self._faults.pop(name) for name in names & self._faults.keys()}
        after = before | {p.name: p.value for p in ours}
        try:
            if configured:
                self._apply(self._parse(after))
        except (SettingsError, OSError) as error:
            reason = str(error)
        else:  # while unconfigured, faults it had before are configure's to report
            new_faults = [] if configured else [f for f in self._problems(after) if f not in known_faults]
            reason = "\n".join(new_faults)
        if reason:
            self._faults |= forgiven
        return SetParametersResult(successful=not reason, reason=reason)

    def _problems(self, values: Mapping[str, Any]) -> list[str]:
        try:
            self._parse(values)
        except SettingsError as error:
            return str(error).splitlines()[1:]
        return []


def parse_settings(values: Mapping[str, Any], source: str) -> NodeSettings:
    """Flat parameter names and values, with per-camera overrides, into settings.

    Raises:
        SettingsError: every fault found, one a line.
    """
    table = {spec.name: spec for spec in PARAMETERS}
    common = {name: spec.parsed(values[name]) for name, spec in table.items()}
    cameras = tuple(values["cameras"] or ())
    per_camera = {name for name, spec in table.items() if spec.per_camera}
    shared = {name: value for name, value in common.items() if name not in per_camera}
    cameras_tree = {
        camera: _nest(
            {
                name: table[name].parsed(override)
                if (override := values.get(f"{camera}.{name}")) is not None
                else common[name]
                for name in per_camera
            }
        )
        for camera in cameras
    }
    return from_mapping(NodeSettings, _nest(shared) | {"camera_settings": cameras_tree}, source)


def _nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *folders, leaf = name.split(".")
        branch = tree
        for folder in folders:
            branch = branch.setdefault(folder, {})
        branch[leaf] = value
    return tree


_RosDefault: TypeAlias = Any


def _ros_default(spec: ParameterSpec) -> _RosDefault:
    return list(spec.default) if isinstance(spec.default, tuple) else spec.default


def _in_range(spec: ParameterSpec, value: float) -> bool:
    return (spec.minimum is None or value >= spec.minimum) and (spec.maximum is None or value <= spec.maximum)


def spec_descriptor(spec: ParameterSpec) -> ParameterDescriptor:
    """What `ros2 param describe` shows: meaning, range, whether it may change while running."""
    descriptor = ParameterDescriptor(
        description=spec.description,
        additional_constraints=spec.accepted(),
        dynamic_typing=spec.default is None,
        read_only=spec.name == "autostart",
    )
    if spec.minimum is not None and spec.maximum is not None:
        if isinstance(spec.default, float):
            descriptor.floating_point_range = [FloatingPointRange(from_value=spec.minimum, to_value=spec.maximum)]
        elif isinstance(spec.default, int):
            descriptor.integer_range = [IntegerRange(from_value=int(spec.minimum), to_value=int(spec.maximum), step=1)]
    return descriptor


__all__ = ["NodeParameters", "ParameterValue", "parse_settings", "spec_descriptor"]
