"""A camera's image subscription: it requests what the publishers offer, and follows when that changes.

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

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from rclpy.topic_endpoint_info import TopicEndpointInfo
from rclpy.utilities import get_rmw_implementation_identifier

from seg_perception.node_settings import InputQos
from seg_perception.ros import qos
from seg_perception.ros.compat import (
    HAS_MESSAGE_INFO,
    SubscriptionEventCallbacks,
    parameter_overrides,
    publisher_count,
    with_message_info,
)
from seg_perception.ros.log import Throttle

_BEST_EFFORT_FOR_S = 3.0  # after an event: discovery may list the publisher that it was about only later


@dataclass(frozen=True, slots=True)
class Arrival:
    """What the middleware tells of a message, besides itself.

    Attributes:
        transport_s: seconds since its publisher handed it over; None: not told.
        lost: messages that the middleware lost since the one before; None: not told.
        left: messages that were left in the middleware, because newer ones came before the node wanted one.
    """

    transport_s: float | None = None
    lost: int | None = None
    left: int = 0


class _Gate(CallbackGroup):
    """Lets the executor take a message only when the node has use for it; until then the middleware keeps the
    newest, and what it replaces is neither copied nor converted.
    """

    def __init__(self, open_: Callable[[], bool]) -> None:
        super().__init__()
        self._open = open_

    def can_execute(self, entity: Any) -> bool:
        return not isinstance(entity, Subscription) or self._open()

    def beginning_execution(self, _entity: Any) -> bool:
        return True

    def ending_execution(self, _entity: Any) -> None:
        pass


class ImageInput:
    """Subscribes to one image topic. Every method runs on the executor's thread.

    Args:
        label: the camera's, for the log.
        topic: resolved.
        message_type: sensor_msgs' Image or CompressedImage; `type_name` is its ROS name.
        on_frame: takes each message.
        wanted: whether the node has use for a message now; `look` wakes the executor when that becomes true.
    """

    def __init__(
        self,
        node: Node,
        label: str,
        topic: str,
        message_type: Any,
        type_name: str,
        settings: InputQos,
        on_frame: Callable[[Any, Arrival], None],
        wanted: Callable[[], bool],
    ) -> None:
        self.topic, self.type_name = topic, type_name
        self._node, self._label = node, label
        self._message_type = message_type
        self._on_frame = on_frame
        self._depth = settings.depth
        overridden = f"qos_overrides.{topic}.subscription.reliability" in parameter_overrides(node)
        self._fixed = settings.reliability if settings.reliability != qos.BEST_AVAILABLE or overridden else None
        self._subscription: Subscription | None = None
        self._reliability = ReliabilityPolicy.RELIABLE
        self._best_effort_until = 0.0
        self._qos_log = Throttle(5.0)
        self._met_best_effort = node.create_guard_condition(self.follow_publishers)
        self._wanted_now = wanted
        self._look = node.create_guard_condition(lambda: None)  # the executor then asks the gate anew
        self._gate = _Gate(self._may_take)
        self._tells_losses = HAS_MESSAGE_INFO and "fastrtps" in get_rmw_implementation_identifier()
        self._sequence: int | None = None
        self._missing = self._lost = self._left = 0  # by sequence numbers; by the middleware; the rest
        self._lost_before = 0

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
        self._node.destroy_guard_condition(self._look)

    def look(self) -> None:
        """From any thread: a message is wanted now."""
        self._look.trigger()

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
        policies = [QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH]
        if self._fixed is not None:  # rclpy would make the first request a parameter, and every later one equal to it
            policies.append(QoSPolicyKind.RELIABILITY)
        before = self._subscription
        self._sequence = None
        self._subscription = self._node.create_subscription(
            self._message_type,
            self.topic,
            with_message_info(self._received),
            qos.profile(reliability.name, self._depth),
            callback_group=self._gate,
            event_callbacks=SubscriptionEventCallbacks(
                incompatible_qos=self._on_incompatible_publisher,
                message_lost=self._on_message_lost if self._tells_losses else None,
            ),
            qos_overriding_options=QoSOverridingOptions(policies),
        )
        self._reliability = reliability
        if before is not None:
            self._node.destroy_subscription(before)

    def _may_take(self) -> bool:
        """Without a way to count what is left in the middleware, everything is taken."""
        countable = self._tells_losses and self.requested.depth == 1 and self._alone()
        return not countable or self._wanted_now()

    def _alone(self) -> bool:
        """Whether the publisher is the only one: the numbers of several mix."""
        return self._subscription is not None and publisher_count(self._node, self._subscription) == 1

    def _received(self, message: Any, info: Mapping[str, Any]) -> None:
        sent_ns = info.get("source_timestamp") or 0
        transport = (time.time_ns() - sent_ns) * 1e-9 if sent_ns else None
        sequence = info.get("publication_sequence_number") if self._alone() else None
        before, self._sequence = self._sequence, sequence
        missing = 0 if sequence is None or before is None else max(0, sequence - before - 1)
        if sequence is None:
            arrival = Arrival(transport)
        elif not self._tells_losses:
            arrival = Arrival(transport, missing)
        else:
            # one message later than it was missed: the middleware may tell of a loss after the next message
            left = max(0, self._missing - self._lost - self._left)
            self._left += left
            self._missing += missing
            arrival = Arrival(transport, self._lost - self._lost_before, left)
            self._lost_before = self._lost
        self._on_frame(message, arrival)

    def _on_message_lost(self, event: Any) -> None:
        if self._sequence is not None:  # what was sent before the first message came is not missing
            self._lost += event.total_count_change

    def _on_incompatible_publisher(self, _event: object) -> None:
        if self._fixed is None:
            self._best_effort_until = time.monotonic() + _BEST_EFFORT_FOR_S
            self._met_best_effort.trigger()  # not here: this callback belongs to the subscription that goes
        elif self._qos_log.due():
            self._node.get_logger().warning(qos.explain_incompatible_publishers(self._node, self.topic, self.requested))
