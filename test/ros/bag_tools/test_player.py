from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from waiting import PATIENCE_S, wait_until

import seg_perception as sp
from seg_perception.bags import messages
from seg_perception.bags.reader import BagReader
from seg_perception.bags.types import OfferedQos, TypeDefinition
from seg_perception.bags.writer import BagWriter
from seg_perception.core.errors import InputError, SettingsError
from seg_perception.ros.bag_tools import player
from seg_perception.ros.bag_tools.player import PlaySettings, play
from seg_perception.ros.bag_tools.recorder import RecordReport, record
from seg_perception.ros.context import ros_node

CLOCK_TEXT = (
    "builtin_interfaces/Time clock\n" + "=" * 80 + "\nMSG: builtin_interfaces/Time\nint32 sec\nuint32 nanosec\n"
)
START = 1_700_000_000_123_456_789
STEP = 20_000_000


def picture(index: int) -> np.ndarray:
    return np.full((48, 64, 3), index, np.uint8)


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    """20 images and camera infos, 50 a second."""
    with BagWriter(tmp_path / "drive.mcap") as bag:
        bag.add_topic("/player_test/image", messages.IMAGE)
        bag.add_topic("/player_test/info", messages.CAMERA_INFO, OfferedQos(latched=True, depth=1))
        for i in range(20):
            stamp = START + i * STEP
            header = messages.header(stamp, "camera")
            bag.write("/player_test/image", stamp, messages.image(picture(i), header))
            bag.write("/player_test/info", stamp, messages.camera_info(64, 48, 40.0, header))
    return tmp_path / "drive.mcap"


@contextmanager
def listening() -> Iterator[Node]:
    """A node that spins in a thread until the block ends."""
    with ros_node("listener") as node:
        executor = SingleThreadedExecutor(context=node.context)
        executor.add_node(node)
        thread = threading.Thread(target=executor.spin)
        thread.start()
        try:
            yield node
        finally:
            executor.shutdown()
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


def patient(**settings: Any) -> PlaySettings:
    """Where somebody subscribes: a busy machine may take its time to."""
    return PlaySettings(wait_timeout_s=PATIENCE_S, discovery_s=0, **settings)


def at_once(**settings: Any) -> PlaySettings:
    """Where nobody is there."""
    return PlaySettings(wait_timeout_s=0, settle_s=0, discovery_s=0, **settings)


def stamp_of(message: Any) -> int:
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def test_a_recording_of_a_played_bag_holds_the_same_messages(drive: Path, tmp_path: Path) -> None:
    topics = ("/player_test/image", "/player_test/info")
    stop, reports = threading.Event(), list[RecordReport]()
    out = tmp_path / "recorded.mcap"
    thread = threading.Thread(target=lambda: reports.append(record(topics, out, stop)))
    thread.start()
    try:
        report = play(drive, patient(wait_for=topics))
    finally:
        stop.set()
        thread.join(PATIENCE_S)
    assert report.published == dict.fromkeys(topics, 20)
    assert (report.unacknowledged, report.unheard, report.interrupted) == ((), (), False)
    assert reports[0].received == dict.fromkeys(topics, 20)
    assert reports[0].lost == dict.fromkeys(topics, 0)
    with BagReader(drive) as played, BagReader(out) as recorded:
        for topic in topics:  # byte for byte, so with stamps and frame ids
            assert [m.data for m in played.messages([topic])] == [m.data for m in recorded.messages([topic])]
            assert played.topic(topic).qos.latched == recorded.topic(topic).qos.latched
            assert recorded.topic(topic).definition == played.topic(topic).definition


def test_rate_start_and_loop(drive: Path) -> None:
    stamps: list[int] = []
    stop = threading.Event()
    with listening() as node:
        node.create_subscription(Image, "/player_test/image", lambda m: stamps.append(stamp_of(m)), 100)
        settings = patient(rate=4.0, start_s=0.1, loop=True, topics=("/player_test/image",))
        count = iter(range(1, 1000))
        report = play(drive, settings, stop, on_message=lambda _: next(count) == 40 and stop.set())
        wait_until(lambda: len(stamps) == 40, "40 images")
    # 0.1 s at 50 Hz skips 5 of 20 images; then 15 + 15 + 10
    once = [START + i * STEP for i in range(5, 20)]
    assert stamps == (once * 3)[:40]
    assert report.published == {"/player_test/image": 40}
    assert report.interrupted


def test_playing_faster_takes_less_time_but_never_runs_ahead(drive: Path) -> None:
    began = time.monotonic()
    play(drive, at_once(rate=2.0))
    # 19 steps of 20 ms at double rate: no message may be early, however slow the machine is
    assert time.monotonic() - began >= 0.19


def test_the_clock_follows_the_bag(drive: Path) -> None:
    clocks: list[int] = []
    stop = threading.Event()
    with listening() as node:

        def tick(message: Clock) -> None:
            clocks.append(message.clock.sec * 10**9 + message.clock.nanosec)
            if len(clocks) == 10:
                stop.set()

        node.create_subscription(Clock, "/clock", tick, 100)
        node.create_subscription(Image, "/player_test/image", lambda _: None, 10)
        # the second message is due after 20 s: meanwhile the clock goes on
        play(drive, patient(rate=0.001, clock_hz=200.0, wait_for=("/player_test/image",), settle_s=0.1), stop)
    assert clocks == sorted(clocks)
    assert START <= clocks[0] < clocks[9] < START + 19 * STEP


def test_the_clock_of_the_bag_is_not_played_beside_the_players(tmp_path: Path) -> None:
    stamps = [START + i * STEP for i in range(5)]
    with BagWriter(tmp_path / "a.mcap") as bag:
        bag.add_topic("/player_test/image", messages.IMAGE)
        bag.add_topic("/clock", TypeDefinition("rosgraph_msgs/msg/Clock", CLOCK_TEXT))
        for stamp in stamps:
            bag.write("/player_test/image", stamp, messages.image(picture(0), messages.header(stamp, "")))
            time_of_old = SimpleNamespace(sec=(stamp - 10**9) // 10**9, nanosec=0)
            bag.write("/clock", stamp, SimpleNamespace(clock=time_of_old))
    clocks: list[int] = []
    with listening() as node:
        node.create_subscription(Clock, "/clock", lambda m: clocks.append(m.clock.sec * 10**9 + m.clock.nanosec), 100)
        node.create_subscription(Image, "/player_test/image", lambda _: None, 10)
        report = play(tmp_path / "a.mcap", patient(clock_hz=100.0, settle_s=0.2))
        wait_until(lambda: clocks and clocks[-1] >= stamps[-1], "the clock of the last message")
    assert clocks == sorted(clocks)
    assert clocks[0] >= START
    assert "the player makes the time itself" in report.skipped["/clock"]
    assert report.published == {"/player_test/image": 5}
    # without a clock of its own, the player plays the bag's
    assert play(tmp_path / "a.mcap", at_once()).published["/clock"] == 5


def test_what_a_live_node_publishes_is_not_played_beside_it(drive: Path) -> None:
    received: list[str] = []
    with listening() as node:
        live = node.create_publisher(CameraInfo, "/player_test/info", 10)
        node.create_subscription(CameraInfo, "/player_test/info", lambda m: received.append(m.header.frame_id), 10)
        node.create_subscription(Image, "/player_test/image", lambda _: None, 10)
        live.publish(CameraInfo(header=Header(frame_id="live")))
        report = play(drive, patient())
        wait_until(lambda: received, "the live message")
        named = play(drive, patient(topics=("/player_test/info",), rate=20.0))
    assert report.published == {"/player_test/image": 20}
    assert report.skipped["/player_test/info"].startswith("/listener publishes it, and old messages would mix")
    assert received[0] == "live"
    assert named.published == {"/player_test/info": 20}  # asked for by name


def test_a_node_that_comes_later_ends_the_playing_of_its_topics(drive: Path) -> None:
    with listening() as node:
        node.create_subscription(Image, "/player_test/image", lambda _: None, 10)
        played: list[Any] = []
        publishers: list[int] = []
        stop = threading.Event()
        began = time.monotonic()

        def come(message: Any) -> None:
            played.append(message)
            if len(played) == 4:
                node.create_publisher(CameraInfo, "/player_test/info", 10)
            publishers.append(node.count_publishers("/player_test/info"))
            if (2 in publishers and publishers[-1] == 1) or time.monotonic() - began > PATIENCE_S:
                stop.set()  # the player's is gone

        report = play(drive, patient(loop=True, settle_s=0.2), stop, on_message=come)
    assert report.published["/player_test/image"] > report.published["/player_test/info"] >= 2
    before = f"; {report.published['/player_test/info']} were published before it was seen"
    assert report.skipped["/player_test/info"].endswith(before)


@dataclass
class Time:
    """A stand-in for the module and for the event that ends the playing: as much time passes as is waited."""

    now: float = 100.0

    def monotonic(self) -> float:
        return self.now

    def is_set(self) -> bool:
        return False

    def wait(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(
    "matches_at, begins_at",
    [
        ({"/a": 0.0}, 1.0),  # the other topic is nobody's
        ({"/a": 0.0, "/b": 0.9}, 1.9),  # a recorder subscribes to one after the other
        ({"/a": 0.0, "/b": 3.5}, 4.5),  # known from the start, and connected at last
        ({"/a": 0.0, "/b": 99.0}, 10.0),  # never connected
        ({"/a": 99.0}, 10.0),  # nobody
    ],
)
def test_playing_begins_when_everybody_is_connected(
    monkeypatch: pytest.MonkeyPatch, matches_at: dict[str, float], begins_at: float
) -> None:
    clock = Time()
    monkeypatch.setattr(player, "time", clock)

    def publisher(name: str) -> Any:
        return SimpleNamespace(get_subscription_count=lambda: int(clock.now - 100.0 >= matches_at.get(name, 1e9)))

    def subscribers(name: str) -> int:
        known_at = {"/b": 0.0} if begins_at != 1.9 else {}
        return int(name in matches_at and clock.now - 100.0 >= known_at.get(name, matches_at[name]))

    node = SimpleNamespace(count_subscribers=subscribers, count_publishers=lambda _: 1)
    publishers = {name: publisher(name) for name in ("/a", "/b")}
    for settings, begins in (
        (PlaySettings(discovery_s=0), begins_at),
        (PlaySettings(), max(begins_at, 3.5)),  # who publishes, and was there before, may be heard of as late
        (PlaySettings(topics=("/a",)), begins_at),
        (PlaySettings(wait_timeout_s=0), 4.5 if begins_at == 4.5 else 3.5),  # somebody came at 3.5
    ):
        clock.now = 100.0
        player.wait_for_subscribers(node, publishers, {}, settings, clock, lambda _: None)
        assert clock.now - 100.0 == pytest.approx(begins, abs=0.05)


def test_a_recorder_that_waits_for_the_topics_gets_every_message(drive: Path, tmp_path: Path) -> None:
    """It subscribes when it sees the player, and to one topic after the other."""
    stop, reports = threading.Event(), list[RecordReport]()
    thread = threading.Thread(target=lambda: reports.append(record(None, tmp_path / "recorded.mcap", stop)))
    thread.start()
    try:
        report = play(drive, patient(wait_for=("/player_test/image", "/player_test/info")))
    finally:
        stop.set()
        thread.join(PATIENCE_S)
    assert report.published == {"/player_test/image": 20, "/player_test/info": 20}
    assert reports[0].received["/player_test/image"] == reports[0].received["/player_test/info"] == 20


def test_late_subscribers_get_what_was_latched(drive: Path) -> None:
    infos: list[Any] = []
    stop = threading.Event()
    with listening() as node:
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        played: list[Any] = []

        def subscribe_late(message: Any) -> None:
            played.append(message)
            if len(played) == 2:  # both topics' first messages are out
                node.create_subscription(CameraInfo, "/player_test/info", infos.append, latched)
                wait_until(lambda: infos, "the latched message")
                stop.set()

        play(drive, at_once(), stop, on_message=subscribe_late)
    assert stamp_of(infos[0]) == START


def test_nobody_there_is_an_error_only_for_a_topic_asked_for(drive: Path) -> None:
    with pytest.raises(InputError, match=r"nobody subscribed to /player_test/image within 0\.05 s: is"):
        play(drive, PlaySettings(wait_for=("/player_test/image",), wait_timeout_s=0.05))
    with pytest.raises(InputError, match="cannot wait for subscribers of '/other': it is not played"):
        play(drive, patient(wait_for=("/other",)))
    report = play(drive, at_once(rate=100.0))
    assert set(report.unheard) == {"/player_test/image", "/player_test/info"}


def test_a_type_that_is_not_installed_is_left_out_and_said(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "a.mcap") as bag:
        bag.add_topic("/player_test/image", messages.IMAGE)
        bag.add_topic("/wheel", TypeDefinition("our_msgs/msg/Wheel", "float64 speed\n"))
        bag.write("/player_test/image", START, messages.image(picture(0), messages.header(START, "")))
    report = play(tmp_path / "a.mcap", at_once())
    assert report.published == {"/player_test/image": 1}
    assert "needs the ROS package 'our_msgs': install it" in report.skipped["/wheel"]
    with pytest.raises(InputError, match="topic /wheel cannot be played"):
        play(tmp_path / "a.mcap", at_once(topics=("/wheel",)))


def test_a_pause_of_centuries_is_said_and_can_be_ended(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "a.mcap") as bag:
        bag.add_topic("/player_test/image", messages.IMAGE)
        for stamp in (0, 2**64 - 1):  # 584 years
            bag.write("/player_test/image", stamp, messages.image(picture(0), messages.header(START, "")))
    stop, told = threading.Event(), list[str]()

    def waiting(text: str) -> None:
        told.append(text)
        stop.set()

    report = play(tmp_path / "a.mcap", at_once(rate=0.5), stop, on_waiting=waiting)
    assert report.published == {"/player_test/image": 1}
    assert told[0].startswith("the next message, which was recorded 18446744073.7 s after the first: 3689348814")


def test_topics_are_left_out_by_name_or_by_what_they_stand_below(tmp_path: Path) -> None:
    names = ("/image", "/imagery/a", "/node/labels", "/node/front/labels", "/diagnostics")
    with BagWriter(tmp_path / "in.mcap") as bag:
        for name in names:
            bag.add_topic(name, messages.IMAGE)
            bag.write(name, START, messages.image(picture(0), messages.header(START, "")))
    settings = at_once(leave_out=("/image", "/node/", "/diagnostics"))
    report = play(tmp_path / "in.mcap", settings)
    assert report.published == {"/imagery/a": 1}
    assert report.skipped == dict.fromkeys(sorted(set(names) - {"/imagery/a"}), "left out as asked")


def test_a_name_that_ros_cannot_have_is_left_out_and_said(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "a.mcap") as bag:
        for name in ("/player_test/image", "/front camera"):
            bag.add_topic(name, messages.IMAGE)
            bag.write(name, START, messages.image(picture(0), messages.header(START, "")))
    report = play(tmp_path / "a.mcap", at_once())
    assert report.published == {"/player_test/image": 1}
    assert "'/front camera' is not accepted as the name of a topic" in report.skipped["/front camera"]
    with pytest.raises(InputError, match="topic /front camera cannot be played"):
        play(tmp_path / "a.mcap", at_once(topics=("/front camera",)))


def test_a_start_after_the_end_is_refused_and_a_loop_over_nothing_ends(drive: Path, tmp_path: Path) -> None:
    # 20 messages 0.02 s apart: 0.38 s from the first to the last
    with pytest.raises(InputError, match=r"drive.mcap: a start at 0.39 s is after its end; it is 0.380 s long"):
        play(drive, at_once(start_s=0.39))
    assert play(drive, at_once(start_s=0.38)).published["/player_test/image"] == 1
    with BagWriter(tmp_path / "empty.mcap") as bag:
        bag.add_topic("/player_test/image", messages.IMAGE)
    report = play(tmp_path / "empty.mcap", at_once(loop=True))
    assert (report.published, report.interrupted) == ({}, False)


def test_wrong_settings_are_all_named() -> None:
    with pytest.raises(SettingsError, match=r"rate is 0, it must be greater than 0; start_s is -1.0"):
        PlaySettings(rate=0, start_s=-1.0)


def test_best_effort_subscribers_are_served(drive: Path) -> None:
    received: list[int] = []
    with listening() as node:
        qos = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
        node.create_subscription(Image, "/player_test/image", lambda m: received.append(stamp_of(m)), qos)
        play(drive, patient(topics=("/player_test/image",), wait_for=("/player_test/image",)))
        wait_until(lambda: received and received[-1] == START + 19 * STEP, "the last image")


def test_play_bag_in_python_is_the_command(drive: Path) -> None:
    opened = list[int]()
    settings = {"rate": 20.0, "wait_timeout_s": 0.0, "settle_s": 0.0, "discovery_s": 0.0}
    report = sp.play_bag(str(drive), on_open=lambda bag: opened.append(bag.message_count), **settings)
    assert opened == [40]
    assert (report.messages, report.interrupted, report.skipped) == (40, False, {})
    assert report.published == {"/player_test/image": 20, "/player_test/info": 20}
    with pytest.raises(SettingsError, match=r"rate is 0, it must be greater than 0"):
        sp.play_bag(drive, rate=0)
