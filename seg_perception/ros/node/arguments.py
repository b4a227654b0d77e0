"""The command line as rcl reads it, and which of its remappings and parameters change nothing: rcl takes any name, and
keeps no account.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from seg_perception.node_outputs import OUTPUTS
from seg_perception.ros.node.topics import InputTopics

if TYPE_CHECKING:  # the command reads its arguments before ROS is there
    from rclpy.node import Node

_REMAPPINGS = ("-r", "--remap")
_PARAMETERS = ("-p", "--param")
_FILE = "--params-file"
_OTHERS_WITH_VALUE = ("--log-level", "--log-config-file", "--log-file-name", "-e", "--enclave")
_SPECIAL = ("__node", "__name", "__ns")
_URLS = ("rostopic://", "rosservice://")
_OF_EVERY_NODE = ("/bond", "/clock", "/parameter_events", "/rosout", "/tf", "/tf_static")
_SERVICES = (
    *("describe_parameters", "get_parameter_types", "get_parameters", "list_parameters", "set_parameters"),
    *("set_parameters_atomically", "get_type_description", "change_state", "get_state", "get_available_states"),
    *("get_available_transitions", "get_transition_graph", "transition_event"),
)


@dataclass(frozen=True, slots=True)
class RosArguments:
    """A command line, divided as rcl divides it.

    Attributes:
        options: what stands between --ros-args and -- (or the end) and takes a value, with that value: whatever comes
            next, even what looks like an option. One without its value is left out: rcl refuses it.
        others: what does not stand there.
    """

    options: tuple[tuple[str, str], ...]
    others: tuple[str, ...]

    @classmethod
    def of(cls, arguments: Sequence[str]) -> RosArguments:
        """Read a command line, without the program's name."""
        options, others, for_ros = [], [], False
        rest = iter(arguments)
        for argument in rest:
            if argument == "--ros-args":
                for_ros = True
            elif not for_ros:
                others.append(argument)
            elif argument == "--":
                for_ros = False
            elif argument in (*_REMAPPINGS, *_PARAMETERS, _FILE, *_OTHERS_WITH_VALUE):
                options += [(argument, value) for value in (next(rest, None),) if value is not None]
        return cls(tuple(options), tuple(others))

    @property
    def rules(self) -> list[tuple[str, str]]:
        """Remappings and parameters, each with its flag."""
        return [option for option in self.options if option[0] in (*_REMAPPINGS, *_PARAMETERS)]

    @property
    def parameter_files(self) -> list[str]:
        return [value for flag, value in self.options if flag == _FILE]


def unused_rules(rules: Sequence[tuple[str, str]], node: Node, cameras: Sequence[str]) -> list[str]:
    """Rules of the command line that were hardly meant so: each with what may have been meant.

    A remapping that is near no name of the node is only logged: launch files set some for all nodes of a car.

    Args:
        rules: see `RosArguments`.
        cameras: the node's `cameras`.
    """
    known = {_expanded(name, node): name for name in _names(node, cameras)}
    seen: dict[str, str] = {}
    unused = []
    for flag, rule in rules:
        left, _, to = rule.partition(":=")
        for url in _URLS:
            left = left.replace(url, "")
        of_node, _, name = left.rpartition(":")
        what = f"{flag} {rule} changes nothing: "
        if of_node not in ("", node.get_name()):
            unused.append(f"{what}it is for a node named {of_node}, this one is {node.get_name()}")
        elif flag in _REMAPPINGS and name not in _SPECIAL:
            match = _expanded(name, node)
            if match in seen:
                unused.append(f"{what}{seen[match]} came first")
            elif match not in known and match != _expanded(to, node):
                named_so = [other for other in known if other.rpartition("/")[2] == match.rpartition("/")[2]]
                if near := difflib.get_close_matches(match, known, 1, 0.75) or named_so:
                    unused.append(f"{what}did you mean {known[near[0]]}?")
                else:
                    node.get_logger().info(f"{what}there is no {name} here")
            seen.setdefault(match, rule)
    return unused


def _names(node: Node, cameras: Sequence[str]) -> Iterator[str]:
    """Every name that the node has before remapping, as one would write it."""
    yield from _OF_EVERY_NODE
    yield from (f"~/{service}" for service in _SERVICES)
    for camera in cameras:
        yield from InputTopics.of(camera, node)
        yield from (output.topic(camera) for output in OUTPUTS)
    yield from (output.topic() for output in OUTPUTS)


def _expanded(name: str, node: Node) -> str:
    """As rcl expands a name."""
    full = node.get_fully_qualified_name()
    name = name.replace("{node}", node.get_name()).replace("{ns}", node.get_namespace().strip("/"))
    if name.startswith("~"):
        return full + name[1:]
    return name if name.startswith("/") else f"{node.get_namespace().rstrip('/')}/{name}"
