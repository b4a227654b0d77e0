"""Speak to a running segmentation_node where there is no `ros2` command: parameters, state, topics, diagnostics.

Another node or namespace is named with --node. ROS_DOMAIN_ID and ROS_AUTOMATIC_DISCOVERY_RANGE must be
those of the node.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from seg_perception.core.errors import InputError

HELP = "read and set a running node's parameters, show and change its state, echo its topics"
EXAMPLES = (
    "get",
    "get drivable.min_confidence",
    "set drivable.min_confidence=0.7 overlay.opacity=0.3",
    "state",
    "state deactivate",
    "echo /segmentation_node/drivable_share --count 10",
    "diagnostics",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    get = actions.add_parser("get", help="parameters and their values")
    get.add_argument("names", nargs="*", metavar="NAME", help="(default: all)")
    change = actions.add_parser("set", help="set parameters; refused ones are named with the node's reason")
    change.add_argument("values", nargs="+", metavar="NAME=VALUE", help="the value in YAML: 0.7, true, [road, terrain]")
    state = actions.add_parser("state", help="show the lifecycle state, or change it")
    state.add_argument("transition", nargs="?", choices=("configure", "activate", "deactivate", "cleanup", "shutdown"))
    echo = actions.add_parser("echo", help="print a topic's messages; long arrays are cut")
    echo.add_argument("topic")
    echo.add_argument("--count", type=int, metavar="N", help="end after so many (default: when none comes any more)")
    report = actions.add_parser("diagnostics", help="the node's next report")
    for action in (get, change, state, echo, report):
        action.add_argument("--node", default="/segmentation_node", metavar="NAME", help="(default: %(default)s)")
        action.add_argument(
            "--wait", type=float, default=5.0, metavar="SECONDS",
            help="how long to look for the node, and for a message (default: %(default)s)",
        )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    from seg_perception.ros.remote import remote_node

    with remote_node(arguments.node, arguments.wait) as node:
        return {"get": _get, "set": _set, "state": _state, "echo": _echo, "diagnostics": _diagnostics}[
            arguments.action
        ](node, arguments)


def _get(node: Any, arguments: argparse.Namespace) -> int:
    import yaml

    for name, value in node.parameters(arguments.names).items():
        print(f"{name}: {yaml.safe_dump(value, default_flow_style=True, width=10**6).splitlines()[0]}")
    return 0


def _set(node: Any, arguments: argparse.Namespace) -> int:
    import yaml

    values = {}
    for text in arguments.values:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"{text!r} is not NAME=VALUE")
        try:
            values[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(f"{text!r}: the value is not YAML: {error}") from error
    refused = node.set_parameters(values)
    for name, reason in refused.items():
        print(f"{name} was not set: {reason}", file=sys.stderr)
    return 1 if refused else 0


def _state(node: Any, arguments: argparse.Namespace) -> int:
    print(node.state() if arguments.transition is None else node.change_state(arguments.transition))
    return 0


def _echo(node: Any, arguments: argparse.Namespace) -> int:
    import yaml

    from seg_perception.ros.remote import plain

    shown = 0
    for message in node.messages(arguments.topic):
        print(yaml.safe_dump(plain(message), sort_keys=False, width=120), end="---\n", flush=True)
        shown += 1
        if shown == arguments.count:
            break
    if arguments.count is not None and shown < arguments.count:
        print(f"{shown} of {arguments.count} messages came; none for {arguments.wait:g} s", file=sys.stderr)
        return 1
    return 0


def _diagnostics(node: Any, arguments: argparse.Namespace) -> int:  # noqa: ARG001  one signature for all
    worst = 0
    for status in node.diagnostics():
        level = status.level[0] if isinstance(status.level, bytes) else status.level
        worst = max(worst, level)
        print(f"{('OK', 'WARN', 'ERROR', 'STALE')[level]} {status.name}: {status.message}")
        for pair in status.values:
            print(f"    {pair.key}: {pair.value}")
    return 1 if worst >= 2 else 0
