"""All that differs between ROS 2 Humble, Jazzy, Kilted and later, and between middlewares, in one place.

Elsewhere in `ros` no code asks which distribution it runs on.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from rclpy._rclpy_pybind11 import RCLError  # rclpy has no public name for it
from rclpy.duration import Duration
from rclpy.executors import Executor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.subscription import Subscription
from rclpy.task import Future

try:  # Humble has the same classes under their older name
    from rclpy.event_handler import EventHandler, PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks
    from rclpy.qos_event import QoSEventHandler as EventHandler

__all__ = [
    "HAS_CUDA_BUFFERS",
    "HAS_MESSAGE_INFO",
    "EventHandler",
    "PublisherEventCallbacks",
    "RCLError",
    "SubscriptionEventCallbacks",
    "all_confirmed",
    "buffer_backends",
    "finish",
    "gpu_reading",
    "parameter_overrides",
    "publisher_count",
    "with_message_info",
]

HAS_MESSAGE_INFO = hasattr(Subscription, "CallbackType")
"""Whether subscriptions tell when and as which message of its publisher each one was sent. Not on Humble."""


HAS_CUDA_BUFFERS = (
    "acceptable_buffer_backends" in inspect.signature(Node.create_subscription).parameters
    and importlib.util.find_spec("cuda_buffer") is not None
)
"""Whether images may arrive in a GPU's memory: ROS 2 Lyrical with the package cuda_buffer_py. What of this is proven:
docs/adr/0019-camera-bytes.md."""


def buffer_backends(on_gpu: bool) -> dict[str, Any]:
    """What `create_subscription` is told of the memory that messages may come in."""
    return {"acceptable_buffer_backends": "cuda"} if on_gpu and HAS_CUDA_BUFFERS else {}


def gpu_reading(data: Any) -> Callable[[int], AbstractContextManager[int]] | None:
    """How to read a message's data in a GPU's memory, see `engines.base.DeviceImage.reading`; None: it is on the host.

    The block's end tells the publisher that what was enqueued by then must be done before it writes there again.
    """
    if getattr(data, "backend_type", "cpu") != "cuda":
        return None

    @contextmanager
    def reading(stream: int) -> Iterator[int]:
        buffers = importlib.import_module("cuda_buffer")
        with buffers.CudaBuffer.from_input_buffer(data, stream) as handle:
            yield int(handle.device_ptr)

    return reading


def with_message_info(callback: Callable[[Any, Mapping[str, Any]], None]) -> Callable[..., None]:
    """A subscription's callback of a message and its info; the info is empty where ROS tells none."""
    if HAS_MESSAGE_INFO:
        return callback
    return lambda message: callback(message, {})


def publisher_count(node: Node, subscription: Subscription) -> int:
    """How many publishers a subscription has; on Humble, how many there are of its topic."""
    if hasattr(subscription, "get_publisher_count"):
        return int(subscription.get_publisher_count())
    return int(node.count_publishers(subscription.topic_name))


def all_confirmed(publisher: Publisher, within_s: float = 0.0) -> bool:
    """Whether every reliable subscriber has confirmed all that it was sent; True where the middleware cannot tell.

    Args:
        within_s: so long it is waited for.
    """
    try:
        return bool(publisher.wait_for_all_acked(Duration(seconds=within_s)))
    except RuntimeError:  # NotImplementedError and RCLError are
        return True


def finish(executor: Executor, stopped: Future) -> None:
    """End another thread's `spin_until_future_complete`; Humble's does not wake up for the future alone."""
    stopped.set_result(None)
    executor.wake()


def parameter_overrides(node: Node) -> Mapping[str, Parameter]:
    """What was given at start, by name, also of parameters that nobody declared; rclpy has no public way to ask."""
    return getattr(node, "_parameter_overrides", {})
