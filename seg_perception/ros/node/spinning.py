"""Spins the node and ends it in the only order that is safe in rclpy."""

from __future__ import annotations

import gc
import threading
from typing import TYPE_CHECKING

from rclpy.executors import SingleThreadedExecutor
from rclpy.task import Future

from seg_perception.ros.compat import finish
from seg_perception.ros.log import describe_error

if TYPE_CHECKING:
    from seg_perception.ros.node.lifecycle import SegmentationNode


SIGNALS_LOOKED_AT_S = 0.1
"""A signal may reach any thread, DDS's too; Python runs the handler when its main thread next wakes."""


def spin_until(node: SegmentationNode, stop: threading.Event, freeze: bool = False) -> int:
    """Spin the node on a thread of its own until `stop` is set, then shut its lifecycle down.

    Args:
        freeze: once the node is active, leave what exists by then out of garbage collections, which would hold a frame
            up for 70 ms of CPU time each; for a process that is this node's alone.

    Returns:
        1 if a callback raised, else 0.
    """
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)
    stopped = Future()
    failures: list[BaseException] = []

    def spin() -> None:
        try:
            executor.spin_until_future_complete(stopped)
        except BaseException as error:
            failures.append(error)
            node.get_logger().fatal(f"a callback raised, the node ends: {describe_error(error)}")
            raise
        finally:
            stop.set()

    thread = threading.Thread(target=spin, name="executor")
    thread.start()
    while not stop.wait(SIGNALS_LOOKED_AT_S):
        if freeze and node.state == "active":
            freeze = False
            gc.freeze()
    node.request_stop()
    finish(executor, stopped)
    thread.join()
    executor.shutdown()  # only now: under a thread that still spins, rclpy can trip over its own guard condition
    node.close()
    return 1 if failures else 0
