"""Records topics as they come, byte for byte."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from seg_perception.bags.types import OfferedQos, TypeDefinition
from seg_perception.bags.writer import BagWriter
from seg_perception.core.errors import InputError
from seg_perception.ros.compat import SubscriptionEventCallbacks, with_message_info
from seg_perception.ros.context import ros_node
from seg_perception.ros.interfaces import check_topic_name, message_class, message_definition

_SPIN_S = 0.1
_DEPTH = 100


@dataclass(frozen=True, slots=True)
class RecordedMessage:
    """One message as it came.

    Attributes:
        topic: absolute name.
        received_ns: when the middleware received it (on Humble: when it was taken), nanoseconds since 1970.
        data: serialized (CDR).
    """

    topic: str
    received_ns: int
    data: bytes


@dataclass(slots=True)
class RecordReport:
    """What was recorded, by topic.

    Attributes:
        received: messages.
        lost: messages that the middleware says it lost because they were not taken in time.
        missing: topics that nobody published.
        skipped: topics that cannot be recorded, with the reason.
    """

    received: dict[str, int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    skipped: dict[str, str] = field(default_factory=dict)


class TopicRecorder:
    """Subscribes to topics when their publishers appear and hands on what comes.

    Args:
        node: who subscribes; the caller spins it.
        topics: absolute names; None means every topic there is or will be.
        on_topic: called once for each topic, before its first message.
        on_message: called for each message, from the spinning thread. An exception it raises
            leaves the spin.
    """

    def __init__(
        self,
        node: Node,
        topics: tuple[str, ...] | None,
        on_topic: Callable[[str, TypeDefinition, OfferedQos], None],
        on_message: Callable[[RecordedMessage], object],
    ) -> None:
        self._node = node
        self._topics = topics
        self._on_topic = on_topic
        self._on_message = on_message
        self._subscriptions: dict[str, Any] = {}
        self.report = RecordReport()
        self.discover()

    def discover(self) -> None:
        """Subscribe to wanted topics that have a publisher and are not subscribed to yet.

        Raises:
            InputError: a topic that was asked for by name has several types or one not installed.
        """
        for name, types in self._node.get_topic_names_and_types():
            wanted = name in self._topics if self._topics is not None else name not in ("/clock", "/rosout")
            if not wanted or name in self._subscriptions or name in self.report.skipped:
                continue
            publishers = self._node.get_publishers_info_by_topic(name)
            if not publishers:
                continue
            try:
                self._subscribe(name, types, publishers)
            except InputError as error:
                if self._topics is not None:
                    raise
                self.report.skipped[name] = str(error)

    def _subscribe(self, name: str, types: list[str], publishers: list[Any]) -> None:
        if len(types) != 1:
            raise InputError(f"topic {name} has several types: {', '.join(types)}")
        type_name = types[0]
        offered = [publisher.qos_profile for publisher in publishers]
        qos = OfferedQos(
            reliable=all(q.reliability != ReliabilityPolicy.BEST_EFFORT for q in offered),
            latched=all(q.durability == DurabilityPolicy.TRANSIENT_LOCAL for q in offered),
        )
        self._on_topic(name, message_definition(type_name), qos)
        self._subscriptions[name] = self._node.create_subscription(
            message_class(type_name),
            name,
            with_message_info(partial(self._received, name)),
            QoSProfile(
                history=HistoryPolicy.KEEP_LAST,
                depth=_DEPTH,
                reliability=ReliabilityPolicy.RELIABLE if qos.reliable else ReliabilityPolicy.BEST_EFFORT,
                durability=DurabilityPolicy.TRANSIENT_LOCAL if qos.latched else DurabilityPolicy.VOLATILE,
            ),
            raw=True,
            event_callbacks=SubscriptionEventCallbacks(message_lost=partial(self._lost, name)),
        )
        self.report.received[name] = 0
        self.report.lost[name] = 0

    def _received(self, name: str, data: bytes, info: Mapping[str, int]) -> None:
        self._on_message(RecordedMessage(name, info.get("received_timestamp") or time.time_ns(), data))
        self.report.received[name] += 1

    def _lost(self, name: str, info: Any) -> None:
        self.report.lost[name] = info.total_count

    @property
    def matched(self) -> dict[str, int]:
        """Publishers connected right now, by topic subscribed to."""
        return {name: subscription.get_publisher_count() for name, subscription in self._subscriptions.items()}

    @property
    def missing(self) -> tuple[str, ...]:
        """Topics that were asked for but have had no publisher yet."""
        return tuple(name for name in self._topics or () if name not in self._subscriptions)


def record(
    topics: tuple[str, ...] | None,
    out: Path,
    stop: threading.Event,
    compress: bool = False,
    overwrite: bool = False,
    on_message: Callable[[RecordedMessage], object] = lambda _: None,
    on_topic: Callable[[str], object] = lambda _: None,
) -> RecordReport:
    """Record topics into a bag until `stop` is set. Whatever ends it, the bag is closed properly.

    Args:
        topics: absolute names; None records everything except /clock and /rosout.
        out: the bag, see `BagWriter`.
        stop: set it to finish.
        compress: zstd; costs CPU time while recording.
        overwrite: replace an existing bag.
        on_message: called after each message was written.
        on_topic: called when a topic is first recorded.

    Raises:
        FileExistsError: the bag exists.
        InputError: a topic cannot be recorded, or ROS has no topics of such a name.
        OSError: the disk is full; what was written so far is kept.
    """
    for name in topics or ():
        check_topic_name(name)
    writer = BagWriter(out, compress=compress, overwrite=overwrite)
    try:
        with ros_node("seg_perception_recorder") as node:

            def add_topic(name: str, definition: TypeDefinition, qos: OfferedQos) -> None:
                writer.add_topic(name, definition, qos)
                on_topic(name)

            def write(message: RecordedMessage) -> None:
                writer.write_raw(message.topic, message.received_ns, message.data)
                on_message(message)

            recorder = TopicRecorder(node, topics, add_topic, write)
            executor = SingleThreadedExecutor(context=node.context)
            executor.add_node(node)
            try:
                while not stop.is_set():
                    recorder.discover()
                    spin_for(executor, _SPIN_S, stop)
                spin_for(executor, _SPIN_S, threading.Event())  # what had arrived when `stop` was set
            finally:
                executor.shutdown()
            recorder.report.missing = recorder.missing
            return recorder.report
    finally:
        writer.close()


def spin_for(executor: SingleThreadedExecutor, seconds: float, stop: threading.Event) -> None:
    """Handle whatever comes for a while; discovery runs in between, not after every message."""
    end = time.monotonic() + seconds
    while not stop.is_set() and (left := end - time.monotonic()) > 0:
        executor.spin_once(timeout_sec=left)
