"""The node's parameters in ROS: declared with descriptors and ranges, changed all or none, every fault at once.

A wrong value never stops the process: it is a fault that `read` reports and that setting the
parameter again removes, so a node that failed to configure can be fixed without a restart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, HistoryPolicy, ReliabilityPolicy

from seg_perception.core.errors import SettingsError
from seg_perception.node_parameters import describe_unknown, parse_settings, unknown_parameters
from seg_perception.node_settings import (
    COST_PREFIX,
    PARAMETERS,
    QOS_PREFIX,
    NodeSettings,
    ParameterSpec,
    camera_name_faults,
    cost_parameter,
)
from seg_perception.ros.compat import parameter_overrides
from seg_perception.ros.log import describe_error

_QOS_POLICIES = {"reliability": ReliabilityPolicy, "durability": DurabilityPolicy, "history": HistoryPolicy}
_DEEPEST = 10_000


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
        self._wrong: dict[str, Any] = {}  # given at start and not usable; the default is declared in its place
        self._specs: dict[str, ParameterSpec] = {}
        self._declaring = True
        node.add_on_set_parameters_callback(self._on_set)
        for spec in PARAMETERS:
            self._declare(spec)
        for name in self._overrides():
            if name.startswith(COST_PREFIX):
                self._declare(cost_parameter(name))
        self._declare_camera_overrides(self._value("cameras"))

    def read(self) -> NodeSettings:
        """All parameters as settings.

        Raises:
            SettingsError: every fault found, one a line.
        """
        self._declare_camera_overrides(self._value("cameras"))
        settings = self._parse({name: self._value(name) for name in self._specs})
        if faults := [fault for name in self._qos_overrides() if (fault := self._qos_fault(name))]:
            raise SettingsError("\n  ".join([f"qos_overrides of {self._node.get_fully_qualified_name()}:", *faults]))
        return settings

    def unknown(self) -> list[str]:
        """What was given at start and is no parameter of this node, each with the nearest that is."""
        return unknown_parameters(self._overrides(), tuple(self._value("cameras")))

    def unused_qos_overrides(self) -> list[str]:
        """What was given at start as qos_overrides.* and changes nothing, once all topics have been made."""
        used = [f"{QOS_PREFIX}{name}" for name in self._node.get_parameters_by_prefix(QOS_PREFIX.rstrip("."))]
        return [describe_unknown(name, used) for name in self._qos_overrides() if not self._node.has_parameter(name)]

    def _qos_overrides(self) -> list[str]:
        return sorted(name for name in self._overrides() if name.startswith(QOS_PREFIX))

    def _qos_fault(self, name: str) -> str:
        """What is wrong with the value of one, of which rclpy would say little; '' if nothing is."""
        value, policy = self._overrides()[name].value, name.rpartition(".")[2]
        if policy == "depth" and not (type(value) is int and 1 <= value <= _DEEPEST):
            return f"{name}: {value!r} is not accepted; accepted: an integer from 1 to {_DEEPEST}"
        accepted = (
            [key for key in _QOS_POLICIES[policy].short_keys() if key != "unknown"] if policy in _QOS_POLICIES else []
        )
        if accepted and value not in accepted:
            return f"{name}: {value!r} is not accepted; accepted: {', '.join(accepted)}"
        return ""

    # --- declaring -----------------------------------------------------------------------------

    def _declare(self, spec: ParameterSpec, use_override: bool = True) -> None:
        self._specs[spec.name] = spec
        value = default = None if spec.optional else spec.default
        if use_override and (given := self._overrides().get(spec.name)) is not None:
            value = _given_value(spec, given)
            # rclpy would let a wrong one end the process before anybody could read why
            if value == () or spec.fault(value) is not None:
                self._wrong[spec.name], value = value, default
            value = spec.converted(value)
        self._declaring = True
        try:
            self._node.declare_parameter(spec.name, _ros_value(value), spec_descriptor(spec), ignore_override=True)
        finally:
            self._declaring = False

    def _declare_camera_overrides(self, cameras: Sequence[str]) -> None:
        """<camera>.<parameter> for what may differ between cameras; unset, the common value holds."""
        if camera_name_faults(tuple(cameras)):
            return
        for camera in filter(None, cameras):
            for spec in PARAMETERS:
                if spec.per_camera and f"{camera}.{spec.name}" not in self._specs:
                    self._declare(spec.override_for(camera))

    def _overrides(self) -> Mapping[str, Parameter]:
        return parameter_overrides(self._node)

    def _value(self, name: str) -> Any:
        return self._node.get_parameter_or(name, Parameter(name)).value

    def _parse(self, values: Mapping[str, Any]) -> NodeSettings:
        strays = {name: None for name in self._overrides() if name not in self._specs}
        given = {name: value for name, value in values.items() if value is not None} | strays
        return parse_settings(given | self._wrong, f"parameters of {self._node.get_fully_qualified_name()}")

    # --- changing ------------------------------------------------------------------------------

    def prepared(self, changes: Iterable[Parameter]) -> tuple[list[Parameter], str]:
        """What is left to set of the changes, each in its parameter's own type, and why they are refused, if so.

        Unchanged values are no change, so that a node takes back its own dump; an integer is a number.
        """
        left = []
        known = set(self._specs)
        for change in changes:
            spec = self._specs.get(change.name)
            if spec is None:
                if not self._node.has_parameter(change.name):
                    return [], describe_unknown(change.name, known)
                now = self._value(change.name)
                if type(change.value) is not type(now) or change.value != now:
                    left.append(change)
                continue
            unset = change.value is None and spec.empty_is_unset and spec.default == ""
            value = "" if unset else _given_value(spec, change)
            now = self._value(change.name)
            wanted, present = spec.converted(value), spec.converted(now)
            if change.name not in self._wrong and type(wanted) is type(present) and wanted == present:
                continue
            if (fault := spec.fault(value)) is not None:
                return [], fault
            value = spec.converted(value)
            kind = Parameter.Type.STRING_ARRAY if isinstance(value, tuple) else None  # also of an empty one
            left.append(Parameter(change.name, kind, _ros_value(value)))
        return left, ""

    def changed(self, changes: Iterable[Parameter]) -> None:
        """The changes were made: one that was unset is gone to rclpy, and must stay known."""
        for change in changes:
            if change.name in self._specs and not self._node.has_parameter(change.name):
                self._declare(self._specs[change.name], use_override=False)

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
        forgiven = {p.name: self._wrong.pop(p.name) for p in ours if p.name in self._wrong}
        before = {name: self._value(name) for name in self._specs}
        known_faults = set(self._problems(before))
        after = before | {p.name: p.value for p in ours}
        try:
            if configured:
                self._apply(self._parse(after))
        except SettingsError as error:
            reason = str(error)
        except Exception as error:  # noqa: BLE001  a parameter must never end the node, whatever is wrong with it
            reason = f"unexpected {describe_error(error)}"
        else:  # while unconfigured, faults it had before are configure's to report
            new_faults = [] if configured else [f for f in self._problems(after) if f not in known_faults]
            reason = "\n".join(new_faults)
        if reason:
            self._wrong |= forgiven
        return SetParametersResult(successful=not reason, reason=reason)

    def _problems(self, values: Mapping[str, Any]) -> list[str]:
        try:
            self._parse(values)
        except SettingsError as error:
            return [line.strip() for line in str(error).splitlines()[1:]]
        return []


def _given_value(spec: ParameterSpec, given: Parameter) -> Any:
    """What was given for a parameter; an empty list arrives without a type and without a value."""
    if given.value is None and not spec.optional:
        return ("",) if spec.empty_is_unset and isinstance(spec.default, tuple) else ()
    value = given.value
    plain = value is None or isinstance(value, (bool, int, float, str, bytes))
    return value if plain else tuple(value)  # rclpy gives lists of numbers as array.array


def _ros_value(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def spec_descriptor(spec: ParameterSpec) -> ParameterDescriptor:
    """What `ros2 param describe` shows: meaning, range, whether it may change while running."""
    descriptor = ParameterDescriptor(
        description=spec.description,
        additional_constraints=spec.accepted(),
        dynamic_typing=spec.optional,
        read_only=spec.name == "autostart",
    )
    if spec.minimum is not None and spec.maximum is not None:
        if isinstance(spec.default, float):
            descriptor.floating_point_range = [FloatingPointRange(from_value=spec.minimum, to_value=spec.maximum)]
        else:
            descriptor.integer_range = [IntegerRange(from_value=int(spec.minimum), to_value=int(spec.maximum), step=1)]
    return descriptor
