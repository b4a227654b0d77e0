"""Spins the node, keeps malformed requests from ending it, and ends it in the only order that is safe in rclpy."""

from __future__ import annotations

import gc
import inspect
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import cv2
from rcl_interfaces.msg import SetParametersResult
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.task import Future

from seg_perception.ros.compat import EventHandler, finish
from seg_perception.ros.log import Throttle, describe_error

if TYPE_CHECKING:
    from seg_perception.ros.node.lifecycle import SegmentationNode


EVENTS_LOOKED_AT_S = 0.5
"""While frames come, the middleware's events (a subscriber of another QoS, for example) wait for up to so long."""

_FLOWING_S = 0.2  # frames less than that apart

SIGNALS_LOOKED_AT_S = 0.1
"""A signal may reach any thread, DDS's too; Python runs the handler when its main thread next wakes."""


class SpinningEnd(Future):
    """What `Executor.spin_until_future_complete` spins for, in bounded memory.

    rclpy adds a callback that wakes the executor before everything it executes, and keeps them all: 220 bytes for each
    frame, half a gigabyte a day, and all of them to be called at the end. The first does what all do.
    """

    def __init__(self) -> None:
        super().__init__()
        self._wakes = False

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        if not self._wakes:
            self._wakes = True
            super().add_done_callback(callback)


class _FrameExecutor(SingleThreadedExecutor):
    """Leaves the middleware's events out of most waits while frames come.

    rclpy gathers all that it waits for anew before each wait, twice for each message, and two of three are
    events: two for each publisher. Without them a wait takes 0.17 CPU ms instead of 0.47.
    """

    def __init__(self, node: SegmentationNode) -> None:
        super().__init__(context=node.context)
        self._node = node
        self._events, self._looked_at = True, 0.0
        self.add_node(node)

    def get_nodes(self) -> list[Node]:
        """What rclpy asks at the beginning of each wait."""
        now = time.monotonic()
        self._events = now - self._node.last_frame_at > _FLOWING_S or now - self._looked_at > EVENTS_LOOKED_AT_S
        if self._events:
            self._looked_at = now
        return list(super().get_nodes())

    def can_execute(self, entity: Any) -> bool:
        """Whether to wait for it now."""
        return (self._events or not isinstance(entity, EventHandler)) and bool(super().can_execute(entity))


def spin_until(node: SegmentationNode, stop: threading.Event, alone: bool = False) -> int:
    """Spin the node on a thread of its own until `stop` is set, then shut its lifecycle down.

    Args:
        alone: in this process. So what exists once the node is active may be left out of garbage collections, which
            would hold a frame up for 70 ms of CPU time each; and OpenCV may be kept from threads of its own, which spin
            for work on cores that the engine needs.

    Returns:
        1 if a callback raised, else 0.
    """
    executor = _FrameExecutor(node)
    stopped = SpinningEnd()
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
    if alone:
        cv2.setNumThreads(1)
    thawed = alone
    while not stop.wait(SIGNALS_LOOKED_AT_S):
        if thawed and node.state == "active":
            thawed = False
            gc.freeze()
    node.request_stop()
    finish(executor, stopped)
    thread.join()
    executor.shutdown()  # only now: under a thread that still spins, rclpy can trip over its own guard condition
    node.close()
    return 1 if failures else 0


def guard_services(node: Node) -> None:
    """Let every service that the node has by now answer such a request, and log it, instead of ending the process;
    those that are awaited answer for themselves.

    rclpy raises for a parameter whose type is none, for example. Parameters that were not set are answered with the
    reason, whatever else is asked with nothing.
    """
    log = Throttle(1.0)
    for service in node.services:
        if not inspect.iscoroutinefunction(service.callback):
            service.callback = _guarded(node, service.service_name, service.callback, log)


def _guarded(node: Node, name: str, callback: Callable[[Any, Any], Any], log: Throttle) -> Callable[[Any, Any], Any]:
    def answer(request: Any, response: Any) -> Any:
        try:
            return callback(request, response)
        except Exception as error:  # noqa: BLE001  whatever was asked, others must be answered
            reason = f"the request cannot be answered: {describe_error(error)}"
            if log.due():
                node.get_logger().error(f"{name}: {reason}")
            refusal = SetParametersResult(successful=False, reason=reason)
            if hasattr(response, "result") and isinstance(response.result, SetParametersResult):
                response.result = refusal
            elif hasattr(response, "results"):  # those that were set before it have theirs
                response.results += [refusal] * (len(request.parameters) - len(response.results))
            return response

    return answer
