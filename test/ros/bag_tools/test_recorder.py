from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import String, UInt8MultiArray
from waiting import PATIENCE_S, wait_until

from seg_perception.bags.locating import partial_path
from seg_perception.bags.reader import BagReader
from seg_perception.bags.salvage import recover
from seg_perception.core.errors import InputError
from seg_perception.ros.bag_tools.recorder import record
from seg_perception.ros.context import ros_node
from seg_perception.ros.messages import message_class, message_definition


def wait_for_subscribers(publisher: Any, count: int = 1) -> None:
    wait_until(lambda: publisher.get_subscription_count() >= count, "subscribers", publisher.get_subscription_count)


def send(publisher: Any, words: str) -> None:
    """Of a reliable publisher: it has arrived."""
    publisher.publish(String(data=words))
    assert publisher.wait_for_all_acked(Duration(seconds=PATIENCE_S))


@contextmanager
def recording(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`seg-perception bag record` in a process of its own."""
    command = [sys.executable, "-m", "seg_perception.cli.main", "bag", "record", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def node() -> Iterator[Node]:
    with ros_node("talker") as node:
        yield node


def test_ctrl_c_closes_the_bag_and_reports(node: Node, tmp_path: Path) -> None:
    publisher = node.create_publisher(String, "/recorder_test/text", 100)
    out, began = tmp_path / "text.mcap", time.time_ns()
    with recording("/recorder_test/text", "--out", str(out)) as process:
        wait_for_subscribers(publisher)
        for i in range(50):
            publisher.publish(String(data=f"message {i}"))
        publisher.wait_for_all_acked()
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, stderr
    assert "/recorder_test/text: 50 recorded, 0 lost" in stdout
    with BagReader(out) as bag:
        assert [bag.decode(m).data for m in bag.messages()] == [f"message {i}" for i in range(50)]
        assert all(began < m.stamp_ns <= time.time_ns() for m in bag.messages())
    assert not partial_path(out).exists()


def test_what_a_killed_recorder_wrote_can_be_recovered(node: Node, tmp_path: Path) -> None:
    """Little that comes slowly, too: once a second it is written so that it can be read."""
    publisher = node.create_publisher(UInt8MultiArray, "/recorder_test/bytes", 100)
    out, saved = tmp_path / "a.mcap", tmp_path / "saved.mcap"
    partial = partial_path(out) / "a" / "a.mcap"

    def recovered() -> dict[str, int]:
        try:
            return recover(partial, saved, overwrite=True).recovered
        except InputError:  # in the middle of its first second
            return {}

    with recording("/recorder_test/bytes", "--out", str(out)) as process:
        wait_for_subscribers(publisher)
        for i in range(40):
            publisher.publish(UInt8MultiArray(data=bytes([i])))
        wait_until(lambda: recovered() == {"/recorder_test/bytes": 40}, "all on the disk", recovered)
        process.send_signal(signal.SIGKILL)
        assert process.wait(PATIENCE_S) == -signal.SIGKILL
    assert not out.exists()
    recovery = recover(partial, saved, overwrite=True)
    assert (recovery.recovered, recovery.lost_bytes, recovery.left_out) == ({"/recorder_test/bytes": 40}, 0, {})
    with BagReader(saved) as bag:
        assert [bag.decode(m).data[0] for m in bag.messages()] == list(range(40))


def test_it_takes_the_publishers_quality_of_service(node: Node, tmp_path: Path) -> None:
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    best_effort = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
    node.create_publisher(String, "/recorder_test/latched", latched).publish(String(data="from before"))
    sensor = node.create_publisher(String, "/recorder_test/sensor", best_effort)
    stop, received = threading.Event(), []
    names = ("/recorder_test/latched", "/recorder_test/sensor", "/recorder_test/nobody")
    reports = []

    def run() -> None:
        reports.append(record(names, tmp_path / "a.mcap", stop, on_message=received.append))

    thread = threading.Thread(target=run)
    thread.start()

    def both() -> bool:
        sensor.publish(String(data="now"))
        return {m.topic for m in received} == set(names[:2])

    wait_until(both, "both topics", lambda: {m.topic for m in received})
    stop.set()
    thread.join(PATIENCE_S)
    assert reports[0].missing == ("/recorder_test/nobody",)
    with BagReader(tmp_path / "a.mcap") as bag:
        assert bag.topic("/recorder_test/latched").qos.latched
        assert not bag.topic("/recorder_test/sensor").qos.reliable
        assert [bag.decode(m).data for m in bag.messages(["/recorder_test/latched"])] == ["from before"]


def test_a_publisher_that_comes_back_with_another_offer_is_recorded(node: Node, tmp_path: Path) -> None:
    """Reliable and latched, then best effort, while another stays reliable: every message once."""
    name = "/recorder_test/back"
    latched = QoSProfile(depth=50, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    first = node.create_publisher(String, name, latched)
    stays = node.create_publisher(String, name, latched)
    stop, reports = threading.Event(), []
    received: list[Any] = []
    thread = threading.Thread(
        target=lambda: reports.append(record((name,), tmp_path / "a.mcap", stop, on_message=received.append))
    )
    thread.start()
    wait_for_subscribers(first)
    wait_for_subscribers(stays)
    for i in range(5):
        send(first, f"first {i}")
        send(stays, "same words")
    node.destroy_publisher(first)
    second = node.create_publisher(String, name, QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT))
    wait_for_subscribers(second)
    sent = 0

    def five_came() -> bool:
        nonlocal sent
        second.publish(String(data=f"second {sent}"))  # best effort: it may be lost
        send(stays, "same words")
        sent += 1
        return sum(m.data.count(b"second") for m in received) >= 5

    wait_until(five_came, "five of the second publisher's messages", lambda: received[-3:])
    wait_until(lambda: stays.get_subscription_count() == 1, "the old subscription to go", stays.get_subscription_count)
    send(stays, "last")
    stop.set()
    thread.join(PATIENCE_S)
    with BagReader(tmp_path / "a.mcap") as bag:
        words = [bag.decode(m).data for m in bag.messages()]
    assert [w for w in words if w.startswith("first")] == [f"first {i}" for i in range(5)]
    seconds = [w for w in words if w.startswith("second")]
    assert len(seconds) >= 5
    assert len(set(seconds)) == len(seconds)
    # latched messages of the one that stayed come once, be there one subscription or two
    assert words.count("same words") == 5 + sent
    assert words.count("last") == 1
    assert "came with another quality of service; now taken best effort, volatile" in reports[0].notes[0]


def test_recording_everything_finds_topics_by_itself(node: Node, tmp_path: Path) -> None:
    publisher = node.create_publisher(String, "/recorder_test/found", 10)
    with recording("--all", "--out", str(tmp_path / "all"), "--compress") as process:
        wait_for_subscribers(publisher)
        publisher.publish(String(data="hello"))
        publisher.wait_for_all_acked()
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, stderr
    with BagReader(tmp_path / "all") as bag:
        assert bag.topic("/recorder_test/found").count == 1
        assert "/rosout" not in {topic.name for topic in bag.topics}


def test_the_command_line_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    for arguments, message in (
        (["--out", "x.mcap"], "name the topics to record, or give --all"),
        (["/a", "--all", "--out", "x.mcap"], "name the topics to record, or give --all"),
        (["/a", "--out", "x.db3"], "recording writes MCAP"),
        (["a b", "--out", str(tmp_path / "x.mcap")], "'/a b' is not accepted as the name of a topic"),
    ):
        with recording(*arguments) as process:
            _, stderr = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 2
        assert message in stderr
    assert list(tmp_path.iterdir()) == []


def test_definitions_come_from_what_is_installed() -> None:
    definition = message_definition("sensor_msgs/msg/Image")
    # the hash that ROS 2 Jazzy's own sensor_msgs carries
    assert definition.digest == "RIHS01_d31d41a9a4c4bc8eae9be757b0beed306564f7526c88ea6a4588fb9582527d47"
    assert "uint32 height" in definition.text
    assert message_class("std_msgs/msg/String") is String
    with pytest.raises(InputError, match="needs the ROS package 'our_msgs': install it"):
        message_class("our_msgs/msg/Wheel")
    for foreign in ("foxglove.CompressedImage", "sensor_msgs/Image", "os.path/msg/join"):
        with pytest.raises(InputError, match=f"'{foreign}' is no message type of ROS 2"):
            message_class(foreign)
    with pytest.raises(InputError, match="'std_msgs' has no message 'Wheel'"):
        message_class("std_msgs/msg/Wheel")
    with pytest.raises(InputError, match="is our_msgs installed"):
        message_definition("our_msgs/msg/Wheel")
