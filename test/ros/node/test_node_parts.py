"""The node's parts on their own: account, mailboxes, percentiles, losses, camera_info, QoS words, label info."""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from node_harness import stamp
from rclpy.duration import Duration
from rclpy.qos import LivelinessPolicy, QoSProfile
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header
from waiting import PATIENCE_S

from seg_perception.core.errors import EngineError
from seg_perception.core.types import Size
from seg_perception.engines.base import Engine
from seg_perception.engines.opening import open_engine
from seg_perception.node_outputs import Facts, LatchedOutput, output
from seg_perception.node_parameters import parse_settings
from seg_perception.node_settings import NodeSettings
from seg_perception.ros import qos
from seg_perception.ros.compat import all_confirmed
from seg_perception.ros.log import Throttle
from seg_perception.ros.messages import build_message
from seg_perception.ros.node.accounting import Fate, FrameAccount, FrameCounts, LatencyWindow, RateMeter, Stage
from seg_perception.ros.node.camera_geometry import CameraGeometry, Shot
from seg_perception.ros.node.engine_holder import Opening
from seg_perception.ros.node.inference import InferenceThread
from seg_perception.ros.node.lanes import Lanes
from seg_perception.ros.node.lost_frames import LossMeter, large_images_hint, leftovers_hint
from seg_perception.ros.node.outputs import CameraInfoMatcher


def test_whoever_waits_for_an_engine_gets_an_answer() -> None:
    asked, may_fail = threading.Event(), threading.Event()

    def open_late(_settings: NodeSettings, _opening: Opening) -> Engine:
        asked.set()
        assert may_fail.wait(PATIENCE_S)
        raise EngineError("no device")

    log = SimpleNamespace(info=print, warning=print, error=print)
    inference = InferenceThread(parse_settings({}, "test"), Lanes([""]), log, print, open_late)
    first = inference.open()
    assert asked.wait(PATIENCE_S)
    assert inference.open() is first  # two managers that activate at once wait for the same
    may_fail.set()
    with pytest.raises(EngineError, match="no device"):
        first.result(PATIENCE_S)
    asked.clear()
    may_fail.clear()
    second = inference.open()
    assert second is not first
    assert asked.wait(PATIENCE_S)
    may_fail.set()
    assert inference.stop(PATIENCE_S)
    assert second.done()

    never_begun = InferenceThread(parse_settings({}, "test"), Lanes([""]), log, print, open_late)
    assert never_begun.stop(PATIENCE_S)
    with pytest.raises(EngineError, match="not opened any more"):
        never_begun.open().result(PATIENCE_S)


def test_every_way_of_a_frame_is_booked_and_only_once() -> None:
    account = FrameAccount()
    tickets = {fate: account.receive() for fate in Fate}
    waiting = [account.receive(), account.receive()]
    for fate, ticket in tickets.items():
        assert ticket.book(fate)
        assert not ticket.book(Fate.FAILED)  # too late: it counts as what it was booked first
    # 4 ended, one each way, and 2 that somebody holds
    expected = FrameCounts(received=6, published=1, superseded=1, rejected=1, failed=1, in_flight=2)
    assert account.counts() == expected
    assert expected.unaccounted == 0
    assert waiting[0].book(Fate.PUBLISHED)
    assert account.counts() == FrameCounts(6, 2, 1, 1, 1, in_flight=1)


def test_a_frame_that_was_dropped_without_a_word_shows() -> None:
    account = FrameAccount()
    kept, dropped = account.receive(), account.receive()
    del dropped
    assert account.counts() == FrameCounts(received=2, in_flight=1)
    assert account.counts().unaccounted == 1
    assert kept.book(Fate.PUBLISHED)


def test_percentiles_by_hand() -> None:
    window = LatencyWindow(frames=100)
    for milliseconds in range(1, 202):  # the first 101 fall out of the window: 102 to 201 remain
        window.add({Stage.INFER: milliseconds / 1e3})
    found = window.percentiles()
    # of 100 numbers 102..201, linear: 102 + 0.50 x 99, 102 + 0.95 x 99, 102 + 0.99 x 99
    assert found[Stage.INFER].p50 == pytest.approx(151.5)
    assert found[Stage.INFER].p95 == pytest.approx(196.05)
    assert found[Stage.INFER].p99 == pytest.approx(200.01)
    assert Stage.RECEIVE not in found


def test_rate_is_exact_falls_in_silence_and_waits_before_it_judges() -> None:
    meter = RateMeter(window_s=3.0)
    assert meter.rate(0.0) is None
    for i in range(31):
        meter.tick(i * 0.1)
    assert meter.rate(3.0) == pytest.approx(10.0)
    # at 4.0 the ticks 1.0 to 3.0 remain: 20 intervals over 2.0 s, and 0.9 s of silence beyond one interval
    assert meter.rate(4.0) == pytest.approx(20 / 2.9)
    assert meter.rate(6.1) == 0.0
    early = RateMeter(window_s=3.0)
    early.tick(0.0)
    assert early.rate(1.4) is None


def test_losses_by_sequence_number() -> None:
    watch = LossMeter(window=4, share=0.1)
    for sequence in (10, 11, 14, 15):  # 12 and 13 were lost
        watch.note(sequence, stamp_ns=0)
    assert watch.lost == 2
    assert watch.worth_a_hint()
    assert watch.recent() == (2, 6)
    watch.note(3, 0)  # the publisher restarted: nothing is known to be lost
    assert watch.lost == 2


def test_losses_by_stamp_where_there_are_no_sequence_numbers() -> None:
    watch = LossMeter(window=10)
    period = 33_000_000
    for index in (0, 1, 2, 3, 6, 7):  # 4 and 5 were lost
        watch.note(None, index * period)
    assert watch.lost == 2
    watch.note(None, 7 * period + 5_000_000_000)  # a pause of 5 s is no loss
    watch.note(None, 0)  # nor is a loop of the bag
    assert watch.lost == 2


def test_the_hint_depends_on_whether_a_profile_is_set() -> None:
    without = large_images_hint(3, 30, "/image", 2_764_800, {})
    assert "3 of the last 30 frames on /image (2700 KB each)" in without
    assert "config/fastdds_large_images.xml" in without
    assert "overloaded" in large_images_hint(3, 30, "/image", 1, {"FASTDDS_DEFAULT_PROFILES_FILE": "x.xml"})


def test_segments_that_nobody_locks_are_leftovers(tmp_path: Path) -> None:
    long_ago = time.time() - 60

    def segment(name: str) -> Path:
        with (tmp_path / name).open("wb") as file:
            file.truncate(70_000_000)
        lock = tmp_path / f"{name}_el"
        lock.touch()
        os.utime(lock, (long_ago, long_ago))
        return lock

    lock = segment("fastrtps_0123456789abcdef")
    with lock.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # as its process does
        assert leftovers_hint(tmp_path) is None
    hint = leftovers_hint(tmp_path)
    assert hint is not None
    assert hint.startswith("1 Fast DDS segments of processes that were killed hold 70 MB")
    assert "'fastdds shm clean' removes them" in hint
    os.utime(lock)  # just made: perhaps not locked yet
    assert leftovers_hint(tmp_path) is None


def test_no_hint_before_the_window_is_full() -> None:
    watch = LossMeter(window=30)
    for sequence in range(0, 40, 2):
        watch.note(sequence, 0)
    assert not watch.worth_a_hint()


def test_camera_info_is_paired_by_exact_stamp_in_either_order() -> None:
    matcher = CameraInfoMatcher(limit=2)
    first, second = CameraInfo(width=1), CameraInfo(width=2)
    assert matcher.add(100, first) is None
    assert matcher.match(100) is first
    assert matcher.match(100) is None  # given once
    assert matcher.match(200) is None
    assert matcher.add(201, first) is None  # one nanosecond off is another frame
    assert matcher.add(200, second) is second
    for stamp_ns in range(300, 310):
        matcher.add(stamp_ns, first)
    assert matcher.match(300) is None  # forgotten: only the last two are kept
    assert matcher.match(309) is first


def test_a_slow_engine_still_finds_the_camera_info_of_its_frame() -> None:
    geometry = CameraGeometry(Mock(), [""], lambda _: "/camera_info", lambda: None)
    settings = parse_settings({"ground.source": "fixed", "ground.height": 1.5}, "test")
    for k in range(300):  # 30 Hz for ten seconds
        info = CameraInfo(header=Header(stamp=stamp(k)), width=64, height=48)
        info.k = [50.0 + k, 0.0, 32.0, 0.0, 50.0, 24.0, 0.0, 0.0, 1.0]
        geometry.add_camera_info("", info)
    assert geometry.of(Shot("", "camera", 1, Size(64, 48)), settings)[0].fx == 51.0


def test_throttle_lets_one_line_through(monkeypatch: pytest.MonkeyPatch) -> None:
    now = SimpleNamespace(value=100.0)
    monkeypatch.setattr("seg_perception.ros.log.time.monotonic", lambda: now.value)
    throttle = Throttle(5.0)
    assert [throttle.due(), throttle.due()] == [True, False]
    now.value = 105.0
    assert throttle.due()


@pytest.mark.parametrize(
    "answer, expected", [(True, True), (False, False), (NotImplementedError("not by this rmw"), True)]
)
def test_a_middleware_that_cannot_tell_who_confirmed_stops_nothing(answer: Any, expected: bool) -> None:
    publisher = Mock()  # no middleware of this kind is to be had here
    publisher.wait_for_all_acked.side_effect = [answer]
    assert all_confirmed(publisher) is expected


def test_incompatible_qos_names_both_sides() -> None:
    best_effort, reliable = qos.profile("best_effort", 1), qos.profile("reliable", 1)
    assert qos.incompatibilities(reliable, best_effort) == []
    assert qos.incompatibilities(best_effort, reliable) == ["reliability: offered best_effort, requested reliable"]
    assert qos.incompatibilities(reliable, qos.latched()) == ["durability: offered volatile, requested transient_local"]
    punctual = QoSProfile(depth=1, deadline=Duration(seconds=0.5), liveliness=LivelinessPolicy.MANUAL_BY_TOPIC)
    assert qos.incompatibilities(reliable, punctual) == [
        "deadline: offered none, requested 0.5 s",
        "liveliness: offered automatic, requested manual_by_topic",
    ]


LABEL_INFO = """std_msgs/Header header
vision_msgs/VisionClass[] class_map
float32 threshold
"""
VISION_CLASS = """uint16 class_id
string class_name
"""


def published_vision_msgs() -> Typestore:
    """vision_msgs is on no package registry: its two types, by the fields published in ros-perception/vision_msgs."""
    store = get_typestore(Stores.ROS2_JAZZY)
    store.register(get_types_from_msg(LABEL_INFO, "vision_msgs/msg/LabelInfo"))
    store.register(get_types_from_msg(VISION_CLASS, "vision_msgs/msg/VisionClass"))
    return store


def facts(model: Path) -> Facts:
    camera = parse_settings({"drivable.min_confidence": 0.25}, "test").camera_settings[""]
    return Facts(open_engine(model).card, camera, stamp(5_000_000_007))


def test_label_info_fits_the_published_definition(tiny_model: Path) -> None:
    content = latched("label_info").make(facts(tiny_model))
    assert isinstance(content, dict)
    store = published_vision_msgs()
    types = store.types
    assert content["header"] == {"stamp": {"sec": 5, "nanosec": 7}}
    told = types["vision_msgs/msg/LabelInfo"](  # every field of the definition, and serialized by its types
        header=types["std_msgs/msg/Header"](types["builtin_interfaces/msg/Time"](5, 7), ""),
        class_map=[types["vision_msgs/msg/VisionClass"](**part) for part in content["class_map"]],
        threshold=content["threshold"],
    )
    data = store.serialize_cdr(told, "vision_msgs/msg/LabelInfo")
    understood: Any = store.deserialize_cdr(data, "vision_msgs/msg/LabelInfo")
    pairs = [(c.class_id, c.class_name) for c in understood.class_map]
    assert pairs[:2] == [(0, "road"), (1, "sidewalk")]
    assert len(pairs) == 10
    assert understood.threshold == 0.25


def test_label_info_goes_through_the_real_vision_msgs(tiny_model: Path) -> None:
    vision_msgs = pytest.importorskip("vision_msgs.msg", reason="vision_msgs is not installed (it is on no registry)")
    message = build_message("vision_msgs/msg/LabelInfo", latched("label_info").make(facts(tiny_model)))
    understood = deserialize_message(serialize_message(message), vision_msgs.LabelInfo)
    assert understood == message
    assert [(c.class_id, c.class_name) for c in understood.class_map][:2] == [(0, "road"), (1, "sidewalk")]
    assert (understood.header.stamp.sec, understood.header.stamp.nanosec) == (5, 7)
    # and its definition is the one that the test above writes down
    for name, fields in (("LabelInfo", LABEL_INFO), ("VisionClass", VISION_CLASS)):
        written = [line.split()[1] for line in fields.splitlines()]
        assert list(getattr(vision_msgs, name).get_fields_and_field_types()) == written


def latched(name: str) -> LatchedOutput:
    row = output(name)
    assert isinstance(row, LatchedOutput)
    return row


def test_the_palette_says_what_the_labels_mean(tiny_model: Path) -> None:
    text = latched("palette").make(facts(tiny_model))
    assert isinstance(text, str)
    palette = json.loads(text)
    assert palette["unlabeled"] == 255
    assert palette["classes"][0] == {"id": 0, "name": "road", "color": [128, 64, 128], "drivable": True}
    assert np.array(palette["classes"][9]["color"]).tolist() == [70, 70, 70]
