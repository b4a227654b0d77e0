"""Records topics as they come, byte for byte."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
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
from seg_perception.ros.compat import SubscriptionEventCallbacks, publisher_count, with_message_info
from seg_perception.ros.context import environment, large_images, ros_node
from seg_perception.ros.messages import check_topic_name, message_class, message_definition

_SPIN_S = 0.1
_FLUSH_S = 1.0  # what a kill may cost
_DEPTH = 100
_OVERLAP_S = 1.0  # for which the old subscription stays beside the new one at least


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
        notes: what changed while recording, one sentence each.
    """

    received: dict[str, int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    skipped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class TopicRecorder:
    """Subscribes to topics when their publishers appear and hands on what comes.

    When a publisher appears whose offer the subscription refuses (it came back as best effort, say), a
    subscription that takes all of them is made; the old one stays until that one is connected.

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
        self._receptions: dict[str, _Reception] = {}
        self.report = RecordReport()
        self.discover()

    def discover(self) -> None:
        """Subscribe to wanted topics that have a publisher, and anew where one offers less than is asked for.

        Raises:
            InputError: a topic that was asked for by name has several types or one not installed.
        """
        for name, types in self._node.get_topic_names_and_types():
            wanted = name in self._topics if self._topics is not None else name not in ("/clock", "/rosout")
            if not wanted or name in self.report.skipped:
                continue
            publishers = self._node.get_publishers_info_by_topic(name)
            if name in self._receptions:
                self._receptions[name].follow(publishers)
            elif publishers:
                self._subscribe(name, types, publishers)

    def _subscribe(self, name: str, types: list[str], publishers: list[Any]) -> None:
        try:
            _check_one_type(name, types)
            qos = _what_all_offer(publishers)
            self._on_topic(name, message_definition(types[0]), qos)
            self._receptions[name] = _Reception(self._node, name, types[0], qos, self.report, self._on_message)
        except InputError as error:
            if self._topics is not None:
                raise
            self.report.skipped[name] = str(error)

    @property
    def matched(self) -> dict[str, int]:
        """Publishers connected right now, by topic subscribed to."""
        return {name: reception.matched for name, reception in self._receptions.items()}

    @property
    def missing(self) -> tuple[str, ...]:
        """Topics that were asked for but have had no publisher yet."""
        return tuple(name for name in self._topics or () if name not in self._receptions)


def _check_one_type(name: str, types: list[str]) -> None:
    if len(types) != 1:
        raise InputError(f"topic {name} has several types: {', '.join(types)}")


def _what_all_offer(publishers: list[Any]) -> OfferedQos:
    offered = [publisher.qos_profile for publisher in publishers]
    return OfferedQos(
        reliable=all(q.reliability != ReliabilityPolicy.BEST_EFFORT for q in offered),
        latched=all(q.durability == DurabilityPolicy.TRANSIENT_LOCAL for q in offered),
    )


class _Reception:
    """The subscription of one topic, or two of them while one follows the other; each message counts once."""

    def __init__(
        self,
        node: Node,
        name: str,
        type_name: str,
        qos: OfferedQos,
        report: RecordReport,
        on_message: Callable[[RecordedMessage], object],
    ) -> None:
        self._node, self._name, self._type_name = node, name, type_name
        self._report, self._on_message = report, on_message
        self._subscriptions: list[Any] = []  # at most two, the older first
        self._losses: list[int] = []  # of every subscription there was
        self._changed = 0.0
        self._times_seen: dict[object, list[int]] = {}  # while there are two: message -> how often by each
        report.received[name] = report.lost[name] = 0
        self._add(qos)

    def _add(self, qos: OfferedQos) -> None:
        number = len(self._losses)
        self._losses.append(0)
        self._qos = qos
        self._subscriptions.append(
            self._node.create_subscription(
                message_class(self._type_name),
                self._name,
                with_message_info(partial(self._received, number)),
                QoSProfile(
                    history=HistoryPolicy.KEEP_LAST,
                    depth=_DEPTH,
                    reliability=ReliabilityPolicy.RELIABLE if qos.reliable else ReliabilityPolicy.BEST_EFFORT,
                    durability=DurabilityPolicy.TRANSIENT_LOCAL if qos.latched else DurabilityPolicy.VOLATILE,
                ),
                raw=True,
                event_callbacks=SubscriptionEventCallbacks(message_lost=partial(self._lost, number)),
            )
        )

    def follow(self, publishers: list[Any]) -> None:
        """Subscribe anew if a publisher offers less than is asked for; let the old subscription go in time."""
        now = time.monotonic()
        if other := {p.topic_type for p in publishers} - {self._type_name}:
            self._note(
                f"somebody publishes {', '.join(sorted(other))} on {self._name}; only {self._type_name} is recorded"
            )
        publishers = [p for p in publishers if p.topic_type == self._type_name]
        offered = _what_all_offer(publishers)
        refused = (self._qos.reliable and not offered.reliable) or (self._qos.latched and not offered.latched)
        if publishers and refused and len(self._subscriptions) == 1:
            latched = self._qos.latched and offered.latched
            self._add(OfferedQos(self._qos.reliable and offered.reliable, latched))
            self._changed = now
            reliability = "reliable" if self._qos.reliable else "best effort"
            kept = "latched" if latched else "volatile"
            self._note(
                f"a publisher of {self._name} came with another quality of service; now taken {reliability}, {kept}"
            )
        elif (
            len(self._subscriptions) == 2
            and now - self._changed > _OVERLAP_S
            and publisher_count(self._node, self._subscriptions[1]) >= len(publishers)
        ):
            self._node.destroy_subscription(self._subscriptions.pop(0))
            self._times_seen.clear()

    def _note(self, text: str) -> None:
        if text not in self._report.notes:
            self._report.notes.append(text)

    def _received(self, number: int, data: bytes, info: Mapping[str, int]) -> None:
        if len(self._subscriptions) > 1:
            # both take what the reliable publishers send: a message counts as often as the one of them saw it
            # that saw it more often
            times = self._times_seen.setdefault((info.get("source_timestamp"), hash(data)), [0, 0])
            before = max(times)
            times[number - len(self._losses) + 2] += 1
            if max(times) == before:
                return
        self._on_message(RecordedMessage(self._name, info.get("received_timestamp") or time.time_ns(), data))
        self._report.received[self._name] += 1

    def _lost(self, number: int, info: Any) -> None:
        self._losses[number] = info.total_count
        self._report.lost[self._name] = sum(self._losses)

    @property
    def matched(self) -> int:
        return publisher_count(self._node, self._subscriptions[-1])


def record(
    topics: tuple[str, ...] | None,
    out: Path,
    stop: threading.Event,
    compress: bool = False,
    overwrite: bool = False,
    on_message: Callable[[RecordedMessage], object] = lambda _: None,
    on_topic: Callable[[str], object] = lambda _: None,
) -> RecordReport:
    """Record topics into a bag until `stop` is set. Whatever ends it, the bag is closed properly; of a killed process,
    all but what came in the last second can be recovered.

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
    earliest_ns = 0  # when the first message of the last turn was received
    with (
        environment(large_images()),
        ros_node("seg_perception_recorder") as node,  # before the bag: where ROS cannot start, an old one stays
        closing(BagWriter(out, compress=compress, overwrite=overwrite)) as writer,
    ):

        def add_topic(name: str, definition: TypeDefinition, qos: OfferedQos) -> None:
            writer.add_topic(name, definition, qos)
            on_topic(name)

        def write(message: RecordedMessage) -> None:
            nonlocal earliest_ns
            earliest_ns = min(earliest_ns, message.received_ns)
            writer.write_raw(message.topic, message.received_ns, message.data)
            on_message(message)

        recorder = TopicRecorder(node, topics, add_topic, write)
        executor = SingleThreadedExecutor(context=node.context)
        executor.add_node(node)
        flushed = time.monotonic()
        try:
            while not stop.is_set():
                recorder.discover()
                spin_for(executor, _SPIN_S, stop)
                if time.monotonic() - flushed >= _FLUSH_S:
                    writer.flush()
                    flushed = time.monotonic()
            stopped_ns, earliest_ns = time.time_ns(), 0
            while earliest_ns <= stopped_ns:  # a busy machine may still have messages from before to hand over
                earliest_ns = stopped_ns + 1
                spin_for(executor, _SPIN_S, threading.Event())
        finally:
            executor.shutdown()
        recorder.report.missing = recorder.missing
        return recorder.report


def spin_for(executor: SingleThreadedExecutor, seconds: float, stop: threading.Event) -> None:
    """Handle whatever comes for a while; discovery runs in between, not after every message."""
    end = time.monotonic() + seconds
    while not stop.is_set() and (left := end - time.monotonic()) > 0:
        executor.spin_once(timeout_sec=left)
