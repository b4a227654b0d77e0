"""A camera's image subscription: which topics it takes, and that it requests what the publishers offer.

A reliable request takes reliable publishers' images of any size; Fast DDS loses best-effort ones that do
not fit its shared memory. A best-effort request alone meets best-effort publishers. rclpy's own
BEST_AVAILABLE (Iron and later) decides once, when the subscription is made, and so before the camera has
started; here the graph and the middleware's events are followed as long as the subscription lives.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from rclpy.topic_endpoint_info import TopicEndpointInfo

from seg_perception.node_settings import InputQos
from seg_perception.ros import qos
from seg_perception.ros.compat import (
    SubscriptionEventCallbacks,
    buffer_backends,
    parameter_overrides,
    publisher_count,
    with_message_info,
)
from seg_perception.ros.log import Throttle

_BEST_EFFORT_FOR_S = 3.0  # after an event: discovery may list the publisher that it was about only later

RAW, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"

OnFrame = Callable[[Any, "float | None", "int | None"], None]


@dataclass(frozen=True, slots=True)
class Listening:
    """What a camera listens to.

    Attributes:
        parameter: the name of the camera's `input` parameter: "input" or "front.input".
        remapped: the relative topic of the raw image, which a remapping names: "image" or "front/image".
        image_topic: the resolved topic of the raw image.
        topic: the resolved topic that is subscribed to, of type `accepted_type`.
    """

    parameter: str
    remapped: str
    image_topic: str
    topic: str
    accepted_type: str

    @classmethod
    def of(cls, node: Node, camera: str, compressed: bool) -> Listening:
        """By a camera's name; compressed images come below the image's topic, as image_transport sends them."""
        prefix = f"{camera}/" if camera else ""
        image = str(node.resolve_topic_name(f"{prefix}image"))
        topic = str(node.resolve_topic_name(f"{image}/compressed")) if compressed else image
        parameter = f"{camera}.input" if camera else "input"
        return cls(parameter, f"{prefix}image", image, topic, COMPRESSED if compressed else RAW)

    @property
    def info_topic(self) -> str:
        """The resolved topic of the calibration, beside the image's."""
        return f"{self.image_topic.rpartition('/')[0]}/camera_info"


class ImageInput:
    """Subscribes to one image topic. Every method runs on the executor's thread.

    Args:
        label: the camera's, for the log.
        topic: resolved.
        message_type: sensor_msgs' Image or CompressedImage; `type_name` is its ROS name.
        on_frame: takes each message, the seconds since its publisher handed it over (None: not told) and
            the publisher's sequence number (None: not told, or several publishers, whose numbers mix).
        on_gpu: take messages also in a GPU's memory, where ROS can.
    """

    def __init__(
        self,
        node: Node,
        label: str,
        topic: str,
        message_type: Any,
        type_name: str,
        wanted: InputQos,
        on_frame: OnFrame,
        on_gpu: bool = False,
    ) -> None:
        self.topic, self.type_name = topic, type_name
        self._node, self._label = node, label
        self._message_type = message_type
        self._on_frame = on_frame
        self._backends = buffer_backends(on_gpu)
        self._depth = wanted.depth
        overridden = f"qos_overrides.{topic}.subscription.reliability" in parameter_overrides(node)
        self._fixed = wanted.reliability if wanted.reliability != qos.BEST_AVAILABLE or overridden else None
        self._subscription: Subscription | None = None
        self._reliability = ReliabilityPolicy.RELIABLE
        self._best_effort_until = 0.0
        self._qos_log = Throttle(5.0)
        self._met_best_effort = node.create_guard_condition(self.follow_publishers)

    @property
    def is_open(self) -> bool:
        return self._subscription is not None

    @property
    def requested(self) -> QoSProfile:
        """With qos_overrides.* applied, once the subscription is open."""
        if self._subscription is not None:
            return self._subscription.qos_profile
        return qos.profile(self._reliability.name, self._depth)

    def open(self) -> None:
        """Start to receive."""
        self._subscribe(self._wanted())
        self._node.get_logger().info(
            f"{self._label}: waiting for {self.type_name} on {self.topic} ({qos.describe(self.requested)})"
        )

    def close(self) -> None:
        """Stop to receive."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            self._node.destroy_subscription(subscription)

    def destroy(self) -> None:
        """Give everything back."""
        self.close()
        self._node.destroy_guard_condition(self._met_best_effort)

    def follow_publishers(self) -> None:
        """Subscribe anew if what the publishers offer has changed; call it now and then."""
        if self._subscription is None or self._fixed is not None or (wanted := self._wanted()) == self._reliability:
            return
        self._subscribe(wanted)
        self._node.get_logger().info(
            f"{self._label}: {self.topic} is requested as its publishers offer it now ({qos.describe(self.requested)})"
        )

    def publishers(self) -> list[TopicEndpointInfo]:
        """Who publishes on the topic, whatever the type, as far as discovery knows."""
        return list(self._node.get_publishers_info_by_topic(self.topic))

    def _wanted(self) -> ReliabilityPolicy:
        if self._fixed is not None:
            return qos.reliability_of(self._fixed)
        if time.monotonic() < self._best_effort_until:
            return ReliabilityPolicy.BEST_EFFORT
        return qos.best_available([p.qos_profile for p in self.publishers() if p.topic_type == self.type_name])

    def _subscribe(self, reliability: ReliabilityPolicy) -> None:
        """Anew, if there is one already: the new one first, so that as few frames as can be fall between them."""
        policies = [QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.DURABILITY]
        if self._fixed is not None:  # rclpy would make the first request a parameter, and every later one equal to it
            policies.append(QoSPolicyKind.RELIABILITY)
        before = self._subscription
        self._subscription = self._node.create_subscription(
            self._message_type,
            self.topic,
            with_message_info(self._received),
            qos.profile(reliability.name, self._depth),
            event_callbacks=SubscriptionEventCallbacks(incompatible_qos=self._on_incompatible_publisher),
            qos_overriding_options=QoSOverridingOptions(policies),
            **self._backends,
        )
        self._reliability = reliability
        if before is not None:
            self._node.destroy_subscription(before)

    def _received(self, message: Any, info: Mapping[str, Any]) -> None:
        sent_ns = info.get("source_timestamp") or 0
        transport = (time.time_ns() - sent_ns) * 1e-9 if sent_ns else None
        alone = self._subscription is not None and publisher_count(self._node, self._subscription) == 1
        self._on_frame(message, transport, info.get("publication_sequence_number") if alone else None)

    def _on_incompatible_publisher(self, _event: object) -> None:
        if self._fixed is None:
            self._best_effort_until = time.monotonic() + _BEST_EFFORT_FOR_S
            self._met_best_effort.trigger()  # not here: this callback belongs to the subscription that goes
        elif self._qos_log.due():
            self._node.get_logger().warning(qos.explain_incompatible_publishers(self._node, self.topic, self.requested))
