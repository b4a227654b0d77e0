"""Listens to /tf and /tf_static and keeps what they say in a `core.ground.TransformBuffer`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription

from seg_perception.core.ground import TransformBuffer
from seg_perception.ros.log import Throttle
from seg_perception.ros.messages import message_class, why_not_installed

TF_MESSAGE = "tf2_msgs/msg/TFMessage"


class TransformListener:
    """Subscribes while it is open.

    Args:
        on_change: called on the executor's thread after each message.
    """

    def __init__(self, node: Node, buffer: TransformBuffer, on_change: Callable[[], None]) -> None:
        self._node = node
        self._buffer = buffer
        self._on_change = on_change
        self._subscriptions: list[Subscription] = []
        self._refused_log = Throttle(5.0)

    def open(self) -> str | None:
        """Start to listen; answers why that cannot be."""
        if reason := why_not_installed(TF_MESSAGE):
            return f"/tf cannot be read: {reason}"
        message = message_class(TF_MESSAGE)
        for topic, durability, depth, static in (
            ("/tf", DurabilityPolicy.VOLATILE, 100, False),
            ("/tf_static", DurabilityPolicy.TRANSIENT_LOCAL, 100, True),
        ):
            profile = QoSProfile(
                history=HistoryPolicy.KEEP_LAST,
                depth=depth,
                reliability=ReliabilityPolicy.RELIABLE,
                durability=durability,
            )
            callback = self._on_static if static else self._on_moving
            self._subscriptions.append(self._node.create_subscription(message, topic, callback, profile))
        return None

    def close(self) -> None:
        """Stop to listen."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def _on_moving(self, message: Any) -> None:
        self._add(message, static=False)

    def _on_static(self, message: Any) -> None:
        self._add(message, static=True)

    def _add(self, message: Any, static: bool) -> None:
        refused = self._buffer.add_message(message, static)
        if refused and self._refused_log.due():
            topic = "/tf_static" if static else "/tf"
            self._node.get_logger().warning(f"a transform on {topic} is refused, {'; '.join(refused[:3])}")
        self._on_change()
