"""Drives images through DDS into the running node and collects what it publishes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from seg_perception.bags import messages
from seg_perception.bags.messages import INFO_TOPIC, INPUT_TOPICS, TRUTH_TOPIC, stamp_ns_of
from seg_perception.bags.reader import BagReader
from seg_perception.bags.types import BagMessage, OfferedQos, TypeDefinition
from seg_perception.bags.writer import BagWriter
from seg_perception.core.errors import EngineError, InputError
from seg_perception.node_outputs import DIAGNOSTICS, OUTPUTS, FrameOutput, Output
from seg_perception.node_settings import NODE_NAME
from seg_perception.ros.bag_tools.recorder import RecordedMessage, TopicRecorder, spin_for
from seg_perception.ros.context import NodeProcess, ros_node
from seg_perception.ros.demo.times import DriveTimes
from seg_perception.ros.messages import message_class

_NANOSECONDS = 1_000_000_000
_LAST_SECOND_NS = (2**31 - 1) * _NANOSECONDS  # of a stamp's 32-bit seconds
_SPIN_S = 0.05
_QUIET_S = 2.0
_HUNG_S = 30.0  # a busy machine may take a while; only who hangs takes this long
_ENOUGH_REJECTED = 3  # first frames, to say that the node will take none
_ERROR = 2  # diagnostic_msgs/DiagnosticStatus.ERROR


def recorded_outputs() -> dict[str, Output]:
    """What is recorded of the node, by topic; the layouts in config/ show nothing else (test/launch/test_views.py)."""
    return {row.topic(node=f"/{NODE_NAME}"): row for row in OUTPUTS if row.recorded}


def answers_of_a_frame() -> frozenset[str]:
    """The recorded outputs that say by their stamp which frame they answer, by name."""
    return frozenset(r.name for r in recorded_outputs().values() if isinstance(r, FrameOutput) and r.stamped)


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """How to drive.

    Attributes:
        image_topic: of the drive's bag; it reaches the node as /image or /image/compressed.
        truth_topic: of the drive's bag; None: it has none.
        lockstep: publish a frame when the answer to the one before is here, so that none is
            superseded; otherwise keep the recorded timing.
        rate: with the recorded timing, 2.0 drives twice as fast.
        limit: at most so many frames; None: all.
        start_timeout_s: how long the node may take until it answers a first frame.
        answer_timeout_s: how long one answer may take in lockstep.
        info_topic: of the bag's camera_info, each before its image; None: it is not sent.
    """

    image_topic: str
    truth_topic: str | None
    lockstep: bool
    rate: float = 1.0
    limit: int | None = None
    start_timeout_s: float = 300.0
    answer_timeout_s: float = 30.0
    info_topic: str | None = None


@dataclass(frozen=True, slots=True)
class NodeAccount:
    """The node's own account of its frames, from its diagnostics; warm-up frames included."""

    received: int
    published: int
    superseded: int
    rejected: int
    failed: int
    in_flight: int
    lost_before_node: int
    """Dropped by the middleware before the node could take them; not among the received."""

    @property
    def adds_up(self) -> bool:
        """Whether every received frame is accounted for."""
        return self.received == self.published + self.superseded + self.rejected + self.failed + self.in_flight


@dataclass(slots=True)
class SessionReport:
    """What went in and what came out.

    Attributes:
        published: frames sent, without the warm-up frames.
        answered: frames for which labels came back.
        outputs: messages that came back, by output.
        warm_up_frames: frames sent before the drive, until the node answered.
        account: the node's own account at the end; None if it gave none.
        lost: messages that the middleware lost on the way back.
        unknown_stamps: messages whose stamp is no published frame's; must be 0.
        latency_s: from just before publishing an image to the middleware's receiving its labels.
        latest_s: how late a frame was published, at worst, against the recorded timing.
        seconds: from the first frame to the last answer.
        interrupted: `stop` was set before the end.
    """

    published: int = 0
    answered: int = 0
    outputs: dict[str, int] = field(default_factory=lambda: dict.fromkeys(answers_of_a_frame(), 0))
    warm_up_frames: int = 0
    account: NodeAccount | None = None
    lost: int = 0
    unknown_stamps: int = 0
    latency_s: list[float] = field(default_factory=list)
    latest_s: float = 0.0
    seconds: float = 0.0
    interrupted: bool = False


def drive_session(
    bag: BagReader,
    out: Path,
    node_process: NodeProcess,
    settings: SessionSettings,
    stop: threading.Event,
    on_waiting: Callable[[str], object] = lambda _: None,
    on_frame: Callable[[int], object] = lambda _: None,
) -> SessionReport:
    """Publish a bag's images to the node and write images, truth and answers to a new bag.

    The new bag has /image or /image/compressed, /truth (if there is truth) and `recorded_outputs`. A message's
    record time is its frame's stamp, so that a frame and its answers play together; see `DriveTimes` for
    those without a stamp. Stamps inside /diagnostics stay those of the day of the demo.

    Raises:
        InputError: a topic is missing or has the wrong type, or a stamp occurs twice.
        EngineError: the node ended or did not answer.
    """
    source = bag.topic(settings.image_topic)
    if source.type not in INPUT_TOPICS:
        raise InputError(f"{bag.path}: topic {source.name} is a {source.type}; images are {', '.join(INPUT_TOPICS)}")
    with BagWriter(out, overwrite=True) as writer, ros_node("seg_perception_demo") as node:
        session = _Session(bag, writer, node, node_process, settings, stop)
        executor = SingleThreadedExecutor(context=node.context)
        executor.add_node(node)
        try:
            session.wait_for_node(executor, on_waiting)
            session.drive_all(executor, on_frame)
        finally:
            executor.shutdown()
        return session.report


class _Session:
    def __init__(
        self,
        bag: BagReader,
        writer: BagWriter,
        node: Node,
        process: NodeProcess,
        settings: SessionSettings,
        stop: threading.Event,
    ) -> None:
        self._bag = bag
        self._writer = writer
        self._node = node
        self._process = process
        self._settings = settings
        self._stop = stop
        self._definitions: dict[str, TypeDefinition] = {}
        self._recorded = recorded_outputs()
        self._expected = answers_of_a_frame()
        self._times = DriveTimes(self._recorded)
        self._sent_ns: dict[int, int] = {}  # stamp -> wall time of publishing
        self._answers: dict[int, set[str]] = {}  # stamp -> outputs that came back
        self._warm_up: set[int] = set()
        self._last_answer = time.monotonic()
        self._account_at = float("-inf")
        self.report = SessionReport()
        source = bag.topic(settings.image_topic)
        self._input = INPUT_TOPICS[source.type]
        writer.add_topic(self._input, source.definition)
        if settings.truth_topic is not None:
            writer.add_topic(TRUTH_TOPIC, bag.topic(settings.truth_topic).definition)
        self._publisher: Publisher = node.create_publisher(
            message_class(source.type),
            self._input,
            QoSProfile(
                history=HistoryPolicy.KEEP_LAST,
                depth=5,
                reliability=ReliabilityPolicy.RELIABLE,
                durability=DurabilityPolicy.VOLATILE,
            ),
        )
        self._info_publisher: Publisher | None = None
        if settings.info_topic is not None:
            info = bag.topic(settings.info_topic)
            writer.add_topic(INFO_TOPIC, info.definition)
            self._info_publisher = node.create_publisher(message_class(info.type), INFO_TOPIC, 10)
        self._recorder = TopicRecorder(node, tuple(self._recorded), self._add_topic, self._received)

    def _add_topic(self, name: str, definition: TypeDefinition, qos: OfferedQos) -> None:
        self._definitions[name] = definition
        self._writer.add_topic(name, definition, qos)

    def _received(self, message: RecordedMessage) -> None:
        output = self._recorded[message.topic].name
        if output not in self._expected:
            self._times.keep(message)
            if output == DIAGNOSTICS.name:
                self._read_account(messages.decode(message.data, self._definitions[message.topic]))
            return
        decoded = messages.decode(message.data, self._definitions[message.topic])
        stamp_ns = stamp_ns_of(decoded)
        if stamp_ns in self._warm_up:
            self._answers.setdefault(stamp_ns, set()).add(output)
            if output == "labels":
                self._times.labeled(message.received_ns, None)
            return
        if stamp_ns not in self._sent_ns:
            self.report.unknown_stamps += 1
            return
        self._last_answer = time.monotonic()
        self._answers[stamp_ns].add(output)
        self.report.outputs[output] += 1
        if output == "labels":
            self.report.answered += 1
            self._times.labeled(message.received_ns, stamp_ns)
            self.report.latency_s.append((message.received_ns - self._sent_ns[stamp_ns]) / _NANOSECONDS)
        self._writer.write_raw(message.topic, stamp_ns, message.data)

    def _read_account(self, diagnostics: Any) -> None:
        for status in diagnostics.status:
            values = {pair.key: pair.value for pair in status.values}
            if not status.name.startswith(f"{NODE_NAME}: "):
                continue
            if values.get("lifecycle_state") == "unconfigured" and status.level == _ERROR:
                raise EngineError(f"the node could not be configured: {status.message} (log: {self._process.log})")
            if "received" in values:
                names = ("received", "published", "superseded", "rejected", "failed", "in_flight", "lost_before_node")
                self.report.account = NodeAccount(*(int(values[name]) for name in names))
                self._account_at = time.monotonic()

    def _complete(self, stamp_ns: int) -> bool:
        return len(self._answers.get(stamp_ns, ())) == len(self._expected)

    def wait_for_node(self, executor: SingleThreadedExecutor, on_waiting: Callable[[str], object]) -> None:
        """Send frames that are not of the drive until one is answered in full.

        Only an answer proves that both directions are connected and the engine is warm. These frames
        carry stamps of their own and are neither counted nor recorded; a drive that has one of these stamps
        is refused when it comes to that frame.
        """
        first = next(self._bag.messages((self._settings.image_topic,)), None)
        if first is None:
            raise InputError(f"{self._bag.path}: topic {self._settings.image_topic} has no messages")
        decoded = self._bag.decode(first)
        # before the drive, and where there is no time before it, after everything
        before = stamp_ns_of(decoded) - 10 * _NANOSECONDS
        before = before if before >= 0 else _LAST_SECOND_NS
        deadline = time.monotonic() + self._settings.start_timeout_s
        next_try = 0.0
        on_waiting("the node")
        while not self._stop.is_set():
            self._process.check()
            self._recorder.discover()
            now = time.monotonic()
            if now > deadline:
                missing = ", ".join(self._recorder.missing) or "an answer"
                raise EngineError(
                    f"the node did not answer a first frame within {self._settings.start_timeout_s:g} s; missing: "
                    f"{missing}; its log ({self._process.log}) ends:\n{self._process.log_tail()}"
                )
            if self._publisher.get_subscription_count() and not self._recorder.missing and now >= next_try:
                stamp_ns = before + len(self._warm_up)
                self._warm_up.add(stamp_ns)
                self.report.warm_up_frames += 1
                decoded.header = messages.header(stamp_ns, decoded.header.frame_id)
                self._publisher.publish(messages.encode(decoded, first.topic.definition))
                next_try = now + 1.0
            spin_for(executor, _SPIN_S, self._stop)
            account = self.report.account
            if account is not None and account.rejected >= _ENOUGH_REJECTED and not account.published:
                raise EngineError(
                    f"the node takes no image as this drive has them on {self._input}: it rejected all "
                    f"{account.rejected} of them; its log ({self._process.log}) ends:\n{self._process.log_tail()}"
                )
            if any(self._complete(stamp_ns) for stamp_ns in self._warm_up):
                spin_for(executor, 0.2, self._stop)  # answers to other warm-up frames on their way
                self._demand_alone()
                return

    def _demand_alone(self) -> None:
        """Another camera's images would be answered, too, and another node would answer ours."""
        for topic in (self._input, *self._recorded):
            if topic != DIAGNOSTICS.name and (publishers := self._node.count_publishers(topic)) > 1:
                domain = os.environ.get("ROS_DOMAIN_ID", "0")
                raise EngineError(
                    f"{publishers} nodes publish on {topic} in ROS domain {domain}, where only the demo's may: end the "
                    "others, or unset ROS_DOMAIN_ID, and the demo takes a domain that nobody is in"
                )

    def drive_all(self, executor: SingleThreadedExecutor, on_frame: Callable[[int], object]) -> None:
        """Publish every frame, then wait for the last answers."""
        wanted = (self._settings.image_topic, self._settings.truth_topic, self._settings.info_topic)
        topics = [topic for topic in wanted if topic]
        began = time.monotonic()
        start_ns: int | None = None
        for message in self._limited(self._bag.messages(topics)):
            stamp_ns = stamp_ns_of(self._bag.decode(message))
            if message.topic.name == self._settings.info_topic and self._info_publisher is not None:
                self._writer.write_raw(INFO_TOPIC, stamp_ns, message.data)
                self._info_publisher.publish(message.data)
                continue
            if message.topic.name != self._settings.image_topic:
                self._writer.write_raw(TRUTH_TOPIC, stamp_ns, message.data)
                continue
            if stamp_ns in self._sent_ns:
                raise InputError(f"{self._bag.path}: two images have the stamp {stamp_ns} ns")
            if stamp_ns in self._warm_up:
                raise InputError(
                    f"{self._bag.path}: an image has the stamp {stamp_ns} ns, which a warm-up frame had; "
                    "accepted are images whose stamps do not run backwards"
                )
            start_ns = message.stamp_ns if start_ns is None else start_ns
            if not self._settings.lockstep:
                due = began + (message.stamp_ns - start_ns) / _NANOSECONDS / self._settings.rate
                spin_for(executor, max(0.0, due - time.monotonic()), self._stop)
                self.report.latest_s = max(self.report.latest_s, time.monotonic() - due)
            self._publish(stamp_ns, message)
            on_frame(self.report.answered)
            if self._settings.lockstep:
                self._wait_for_answer(executor, stamp_ns)
            self._process.check()
        self._settle(executor)
        self._demand_alone()
        self.report.seconds = self._last_answer - began if self.report.answered else 0.0
        self._wait_for_account(executor)
        for record_ns, dated in self._times.dated():
            self._writer.write_raw(dated.topic, record_ns, dated.data)
        self.report.interrupted = self._stop.is_set()
        self.report.lost = sum(
            self._recorder.report.lost.get(t, 0)  # which was stopped before it saw the topic
            for t, row in self._recorded.items()
            if row.name in self._expected
        )
        on_frame(self.report.answered)

    def _limited(self, found: Iterable[BagMessage]) -> Iterable[BagMessage]:
        """Up to the limit of frames; truth may follow its image, so it ends before the frame after."""
        images = 0
        for message in found:
            if self._stop.is_set():
                return
            if message.topic.name == self._settings.image_topic:
                images += 1
                if self._settings.limit is not None and images > self._settings.limit:
                    return
            yield message

    def _publish(self, stamp_ns: int, message: BagMessage) -> None:
        self._writer.write_raw(self._input, stamp_ns, message.data)
        self._answers[stamp_ns] = set()
        self.report.published += 1
        self._sent_ns[stamp_ns] = time.time_ns()
        self._times.sent(self._sent_ns[stamp_ns], stamp_ns)
        self._publisher.publish(message.data)

    def _wait_for_answer(self, executor: SingleThreadedExecutor, stamp_ns: int) -> None:
        deadline = time.monotonic() + self._settings.answer_timeout_s
        while not self._complete(stamp_ns) and not self._stop.is_set():
            self._process.check()
            if time.monotonic() > deadline:
                raise EngineError(
                    f"the node did not answer frame {self.report.published} (stamp {stamp_ns} ns) within "
                    f"{self._settings.answer_timeout_s:g} s; it gave {sorted(self._answers[stamp_ns]) or 'nothing'}; "
                    f"its log ({self._process.log}) ends:\n{self._process.log_tail()}"
                )
            executor.spin_once(timeout_sec=_SPIN_S)

    def _settle(self, executor: SingleThreadedExecutor) -> None:
        """Wait until every frame is answered, or the node works on none and is silent (the rest was superseded)."""
        self._publisher.wait_for_all_acked(Duration(seconds=_HUNG_S))
        sent = time.monotonic()
        while not self._stop.is_set() and time.monotonic() - max(sent, self._last_answer) < _HUNG_S:
            self._process.check()
            if all(map(self._complete, self._answers)) and self._times.complete:
                return
            quiet_since = max(sent, self._last_answer)
            told = self.report.account if self._account_at > quiet_since else None
            idle = told is not None and told.in_flight == 0
            if idle and time.monotonic() - quiet_since > _QUIET_S:
                return
            executor.spin_once(timeout_sec=_SPIN_S)

    def _wait_for_account(self, executor: SingleThreadedExecutor) -> None:
        """The next diagnostics after the last answer; the node sends them every second."""
        now = time.monotonic()
        while not self._stop.is_set() and self._account_at < now and time.monotonic() < now + _HUNG_S:
            self._process.check()
            executor.spin_once(timeout_sec=_SPIN_S)
        if self._account_at < now:
            self.report.account = None
