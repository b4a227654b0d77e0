"""Publishes a bag with its recorded timing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from seg_perception.bags.reader import BagReader
from seg_perception.bags.types import CDR, BagMessage, Topic
from seg_perception.core.errors import InputError, SettingsError
from seg_perception.ros.context import environment, large_images, ros_node
from seg_perception.ros.messages import check_topic_name, message_class
from seg_perception.ros.qos import full_name

_POLL_S = 0.02
_MOST_SETTLING = 5  # times `settle_s`, after the time to wait for subscribers
_LOOK_S = 0.5  # between two looks at who else publishes
_CLOCK = "/clock"
_PAUSE_S = 60.0  # a longer one is said
_LONGEST_WAIT_S = 3600.0  # at a time: Python refuses some centuries
_SHARED = frozenset(("/tf", "/tf_static", "/rosout", "/parameter_events"))
"""Topics that many nodes publish together, so that another publisher is no reason to leave them out."""
_ACKNOWLEDGE_S = 20.0  # for all topics together; only who has stopped takes so long
_NANOSECONDS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class PlaySettings:
    """How to play.

    Attributes:
        rate: 2.0 plays twice as fast as recorded.
        loop: start again at the end, until stopped; a bag with nothing to play ends at once. Time then
            jumps back, as with `ros2 bag play`.
        topics: only these, whoever else publishes them; empty means all that can be published here
            (message type installed) and that no other node publishes: a topic with two publishers would
            mix the recorded with the new.
        leave_out: not these; a name that ends with a slash stands for every topic below it.
        start_s: skip this much of the bag.
        delay_s: wait this long before the first message.
        wait_for: topics that must have a subscriber before the first message; empty: any one topic.
        wait_timeout_s: how long to wait for subscribers. When it is over, playing begins all the
            same, unless `wait_for` names a topic that nobody subscribed to: that is an error.
            0 does not wait.
        settle_s: in any case, wait until nobody's subscription or publisher came or went for so long: a recorder
            subscribes when it sees the player's topics, one by one.
        discovery_s: unless `topics` are named, look for at least so long who else publishes: the middleware of a
            node that is there already may announce it every 3 s only (Fast DDS).
        clock_hz: publish the bag's time on /clock this often (for use_sim_time), and not the bag's own
            /clock; 0 does not.
    """

    rate: float = 1.0
    loop: bool = False
    topics: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()
    start_s: float = 0.0
    delay_s: float = 0.0
    wait_for: tuple[str, ...] = ()
    wait_timeout_s: float = 10.0
    settle_s: float = 1.0
    discovery_s: float = 3.5
    clock_hz: float = 0.0

    def __post_init__(self) -> None:
        faults = [
            f"{name} is {value}, it must be {accepted}"
            for name, value, accepted, good in (
                ("rate", self.rate, "greater than 0", 0 < self.rate < float("inf")),
                ("start_s", self.start_s, "0 or more", 0 <= self.start_s < float("inf")),
                ("delay_s", self.delay_s, "0 or more", 0 <= self.delay_s < float("inf")),
                ("wait_timeout_s", self.wait_timeout_s, "0 or more", self.wait_timeout_s >= 0),
                ("settle_s", self.settle_s, "0 or more", 0 <= self.settle_s < float("inf")),
                ("discovery_s", self.discovery_s, "0 or more", 0 <= self.discovery_s < float("inf")),
                ("clock_hz", self.clock_hz, "0 to 1000", 0 <= self.clock_hz <= 1000),
            )
            if not good
        ]
        if faults:
            raise SettingsError("; ".join(faults))


@dataclass(slots=True)
class PlayReport:
    """What was played.

    Attributes:
        published: messages by topic.
        skipped: topics that were left out, from the start or from some moment on, with the reason.
        unheard: topics that never had a subscriber.
        unacknowledged: topics whose subscribers had not confirmed the last messages in time.
        messages: that the bag holds, of all topics.
        latest_s: how late the latest message was, in seconds: the disk or the machine was too slow.
        interrupted: `stop` was set before the end.
        notes: what was guessed or left out of the bag, one sentence each.
    """

    published: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    unheard: tuple[str, ...] = ()
    unacknowledged: tuple[str, ...] = ()
    messages: int = 0
    latest_s: float = 0.0
    interrupted: bool = False
    notes: tuple[str, ...] = ()


def play(
    bag: BagReader | Path,
    settings: PlaySettings,
    stop: threading.Event | None = None,
    on_message: Callable[[BagMessage], object] = lambda _: None,
    on_waiting: Callable[[str], object] = lambda _: None,
    on_open: Callable[[BagReader], object] = lambda _: None,
) -> PlayReport:
    """Publish a bag's messages, byte for byte, with the time between them that was recorded.

    Publishers are reliable (so they match any subscriber) and latched where the recorded ones were.

    Args:
        bag: an opened bag, or its path.
        settings: how.
        stop: set it to end early.
        on_message: called after each message.
        on_waiting: told what the player waits for: subscribers, or a message after a long pause.
        on_open: called with the opened bag before anything is published.

    Raises:
        FileNotFoundError, InputError: the bag; a start after its end; a topic it does not have; one
            asked for by name that ROS cannot have or whose type is not installed; nobody subscribed
            to a topic of `wait_for`.
    """
    stop = stop or threading.Event()
    if isinstance(bag, Path):
        with BagReader(bag) as reader:
            return play(reader, settings, stop, on_message, on_waiting, on_open)
    on_open(bag)
    length_s = (bag.end_ns - bag.start_ns) / _NANOSECONDS
    if settings.start_s > length_s:
        raise InputError(f"{bag.path}: a start at {settings.start_s:g} s is after its end; it is {length_s:.3f} s long")
    if settings.clock_hz and not 0 <= bag.start_ns <= bag.end_ns < 2**31 * _NANOSECONDS:
        raise InputError(f"{bag.path}: its times, from {bag.start_ns} to {bag.end_ns} ns, do not fit /clock")
    report = PlayReport(messages=bag.message_count, notes=tuple(bag.notes))
    topics = _playable(bag, settings, report)
    start_ns = bag.start_ns + round(settings.start_s * _NANOSECONDS)
    empty = next(bag.messages([topic.name for topic in topics], start_ns=start_ns), None) is None
    if empty and not settings.wait_for:
        return report
    with environment(large_images()), ros_node("seg_perception_player") as node:
        publishers = {
            topic.name: node.create_publisher(message_class(topic.type), topic.name, _qos(topic)) for topic in topics
        }
        clock = _Clock(node, settings.clock_hz)
        wait_for_subscribers(node, publishers, clock.publishers, settings, stop, on_waiting)
        stop.wait(settings.delay_s)
        others = _Others(node, publishers, bool(settings.topics), report)
        while not stop.is_set() and publishers:
            _play_once(bag, start_ns, settings.rate, publishers, clock, others, stop, on_message, on_waiting, report)
            if not settings.loop or empty:
                break
        report.interrupted = stop.is_set()
        report.unheard = tuple(name for name, p in publishers.items() if p.get_subscription_count() == 0)
        until = time.monotonic() + (0 if report.interrupted else _ACKNOWLEDGE_S)
        report.unacknowledged = tuple(
            name
            for name, publisher in (publishers | clock.publishers).items()
            if not publisher.wait_for_all_acked(Duration(seconds=max(0.0, until - time.monotonic())))
        )
    return report


def _playable(bag: BagReader, settings: PlaySettings, report: PlayReport) -> list[Topic]:
    """The topics to play; those whose types are missing are reported, or refused if asked for."""
    wanted = [bag.topic(name) for name in settings.topics] if settings.topics else list(bag.topics)
    playable = []
    for topic in wanted:
        if _is_named(topic.name, settings.leave_out):
            report.skipped[topic.name] = "left out as asked"
        elif (reason := _why_not_playable(topic, settings)) is None:
            playable.append(topic)
        elif settings.topics:
            raise InputError(f"{bag.path}: topic {topic.name} cannot be played: {reason}")
        else:
            report.skipped[topic.name] = reason
    names = {topic.name for topic in playable}
    for name in settings.wait_for:
        if name not in names:
            raise InputError(f"cannot wait for subscribers of {name!r}: it is not played; played: {sorted(names)}")
    return playable


def _is_named(topic: str, names: tuple[str, ...]) -> bool:
    return topic in names or topic.startswith(tuple(name for name in names if name.endswith("/")))


def _why_not_playable(topic: Topic, settings: PlaySettings) -> str | None:
    if topic.name == _CLOCK and settings.clock_hz:
        return "the player makes the time itself (clock_hz), and two clocks would contradict each other"
    if topic.serialization != CDR:
        return f"its messages are serialized as {topic.serialization!r}; ROS 2's are in cdr"
    try:
        check_topic_name(topic.name)
        message_class(topic.type)
    except InputError as error:
        return str(error)
    return None


def _qos(topic: Topic) -> QoSProfile:
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=max(topic.qos.depth, 10),
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if topic.qos.latched else DurabilityPolicy.VOLATILE,
    )


def wait_for_subscribers(
    node: Node,
    publishers: Mapping[str, Any],
    clock: Mapping[str, Any],
    settings: PlaySettings,
    stop: threading.Event,
    on_waiting: Callable[[str], object],
) -> None:
    """Wait for somebody, and then until everybody is there.

    That is: who is known is connected, and nobody has come or gone for a while; publishers, which are a reason to leave
    topics out, included. When the time for subscribers is over, only the latter is still waited for, unless it goes on
    and on.
    """
    began = time.monotonic()
    deadline = began + settings.wait_timeout_s
    looks_until = began + (0.0 if settings.topics else settings.discovery_s)
    told = False
    seen, changed = None, began
    while not stop.is_set():
        matched = {name: publisher.get_subscription_count() for name, publisher in {**publishers, **clock}.items()}
        known = {name: node.count_subscribers(name) for name in matched}
        others = {name: node.count_publishers(name) for name in matched}
        heard = {name for name in publishers if matched[name]}
        connecting = any(known[name] > count for name, count in matched.items())
        missing = [name for name in settings.wait_for if name not in heard]
        now = time.monotonic()
        if (matched, known, others) != seen:
            seen, changed = (matched, known, others), now
        over = now >= deadline
        if over and missing:
            raise InputError(
                f"nobody subscribed to {', '.join(missing)} within {settings.wait_timeout_s:g} s: is the node "
                "running, with the same topic name, ROS_DOMAIN_ID and ROS_AUTOMATIC_DISCOVERY_RANGE?"
            )
        quiet = now - changed >= settings.settle_s or now >= deadline + _MOST_SETTLING * settings.settle_s
        if quiet and now >= looks_until and not missing and (over or (heard and not connecting)):
            return
        if not told and not over and (missing or not heard):
            on_waiting(f"a subscriber of {', '.join(missing) or 'any of ' + ', '.join(publishers)}")
            told = True
        stop.wait(_POLL_S)


class _Others:
    """Looks now and then whether another node publishes what is played, and stops playing that."""

    def __init__(self, node: Node, publishers: dict[str, Any], keep: bool, report: PlayReport) -> None:
        self._node = node
        self._publishers = publishers
        self._keep = keep
        self._report = report
        self._looked = -_LOOK_S

    def look(self) -> None:
        now = time.monotonic()
        if self._keep or now - self._looked < _LOOK_S:
            return
        self._looked = now
        for name in [name for name in self._publishers if name not in _SHARED]:
            if self._node.count_publishers(name) > 1:
                found = {full_name(e) for e in self._node.get_publishers_info_by_topic(name)}
                who = ", ".join(sorted(found - {self._node.get_fully_qualified_name()})) or "another player"
                told = f"{who} publishes it, and old messages would mix with new ones"
                if before := self._report.published.get(name):
                    told += f"; {before} were published before it was seen"
                self._report.skipped[name] = told
                self._node.destroy_publisher(self._publishers.pop(name))


class _Clock:
    """Publishes the bag's time on /clock while the player waits for the next message."""

    def __init__(self, node: Node, hz: float) -> None:
        self._period_s = 1 / hz if hz else None
        self.publishers: dict[str, Any] = {}  # of /clock, if at all
        if hz:
            self._message = message_class("rosgraph_msgs/msg/Clock")
            self.publishers[_CLOCK] = node.create_publisher(self._message, _CLOCK, 10)

    def sleep_until(self, due: float, bag_ns_at: Callable[[float], int], stop: threading.Event) -> None:
        """Wait until monotonic time `due`, ticking; returns at once when it is past or `stop` is set."""
        while not stop.is_set():
            now = time.monotonic()
            if self._period_s is not None:
                message = self._message()
                message.clock.sec, message.clock.nanosec = divmod(bag_ns_at(min(now, due)), _NANOSECONDS)
                self.publishers[_CLOCK].publish(message)
            if now >= due:
                return
            stop.wait(min(due - now, self._period_s or _LONGEST_WAIT_S))


def _play_once(
    bag: BagReader,
    start_ns: int,
    rate: float,
    publishers: Mapping[str, Any],
    clock: _Clock,
    others: _Others,
    stop: threading.Event,
    on_message: Callable[[BagMessage], object],
    on_waiting: Callable[[str], object],
    report: PlayReport,
) -> None:
    began = time.monotonic()

    def bag_ns_at(now: float) -> int:
        return start_ns + round((now - began) * rate * _NANOSECONDS)

    others.look()
    for message in bag.messages(list(publishers), start_ns=start_ns):
        due = began + (message.stamp_ns - start_ns) / _NANOSECONDS / rate
        if (pause_s := due - time.monotonic()) > _PAUSE_S:
            at_s = (message.stamp_ns - bag.start_ns) / _NANOSECONDS
            on_waiting(f"the next message, which was recorded {at_s:.1f} s after the first: {pause_s:.0f} s from now")
        clock.sleep_until(due, bag_ns_at, stop)
        if stop.is_set():
            return
        others.look()
        if message.topic.name not in publishers:
            continue
        report.latest_s = max(report.latest_s, time.monotonic() - due)
        publishers[message.topic.name].publish(message.data)
        report.published[message.topic.name] = report.published.get(message.topic.name, 0) + 1
        on_message(message)
