"""A ROS context of its own with a node in it, opened and closed in the only order that is safe; its environment."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import rclpy
from rclpy.context import Context
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from seg_perception.core.resources import share_path

_PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")  # the same by two names


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the participants and processes of a block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def large_images() -> dict[str, str]:
    """Variables that give Fast DDS room for large images; none where the user has chosen a profile.

    With the default shared-memory segment, best-effort subscribers (such as the node) lose most
    images of 640x480 and more.
    """
    if any(os.environ.get(name) for name in _PROFILE_VARIABLES):
        return {}
    try:
        profile = share_path("config/fastdds_large_images.xml")
    except FileNotFoundError:
        return {}  # an installation without it works, with Fast DDS's own defaults
    return dict.fromkeys(_PROFILE_VARIABLES, str(profile))


def own_domain() -> dict[str, str]:
    """Variables that keep the traffic on this machine and in a domain of its own; none that the user has chosen."""
    usual = {"ROS_DOMAIN_ID": str(1 + os.getpid() % 100), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    return {name: value for name, value in usual.items() if name not in os.environ}


@contextmanager
def ros_node(name: str) -> Iterator[Node]:
    """A node in its own context; Ctrl-C stays a matter of the caller, so that bags can be closed.

    Whoever spins the node must have stopped before the block ends: destroying a context under a
    spinning thread aborts the process.
    """
    context = Context()
    rclpy.init(context=context, signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = Node(name, context=context, enable_rosout=False, start_parameter_services=False)
        try:
            yield node
        finally:
            node.destroy_node()
    finally:
        rclpy.shutdown(context=context)
