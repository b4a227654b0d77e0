"""A ROS context of its own with a node in it, opened and closed in the only order that is safe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import rclpy
from rclpy.context import Context
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions


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
