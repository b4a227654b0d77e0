"""The node fails safe: engine failures, time that runs backwards, QoS that does not meet, silence."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus
from node_harness import (
    RELIABLE_INPUT,
    Running,
    image_message,
    level,
    picture,
    running,
    stamp,
    stamp_of,
    values,
    wait_until,
)
from numpy.typing import NDArray
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleState, ManagedEntity, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image
from waiting import PATIENCE_S

from seg_perception.core.drivable import DrivableSettings
from seg_perception.core.errors import EngineError, SettingsError
from seg_perception.core.label_set import load_label_set
from seg_perception.core.model_card import ModelCard
from seg_perception.core.types import Size
from seg_perception.engines.base import Engine, EngineInfo
from seg_perception.node_settings import NodeSettings
from seg_perception.ros.node.camera import make_masker
from seg_perception.ros.node.engine_holder import Opening, open_configured_engine

START = 1_700_000_000_000_000_000
BEST_EFFORT = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)


class BreakingEngine:
    """The real engine until it is told to break."""

    def __init__(self, engine: Engine, broken: Callable[[], str]) -> None:
        self._engine = engine
        self._broken = broken

    @property
    def card(self) -> ModelCard:
        return self._engine.card

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    def infer(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        if reason := self._broken():
            raise EngineError(reason)
        return self._engine.infer(images)

    def close(self) -> None:
        self._engine.close()


class Workshop:
    """Opens engines; `break_now` breaks the present one, `unbuildable` makes opening fail."""

    def __init__(self) -> None:
        self.asked_for = self.opened = 0
        self.broken_up_to = 0
        self.unbuildable = ""
        self.may_open, self.asked, self.refused = threading.Event(), threading.Event(), threading.Event()
        self.may_open.set()

    def __call__(self, settings: NodeSettings, opening: Opening) -> Engine:
        self.asked_for += 1
        self.asked.set()
        assert self.may_open.wait(PATIENCE_S)
        if reason := self.unbuildable:
            self.refused.set()
            raise EngineError(reason)
        self.opened += 1
        number = self.opened
        return BreakingEngine(
            open_configured_engine(settings, opening), lambda: "device lost" if number <= self.broken_up_to else ""
        )

    def break_now(self) -> None:
        self.broken_up_to = self.opened


def feed(run: Running, images: object, index: int) -> None:
    """Send one frame and wait until its fate is booked."""
    before = run.counts().received
    images.publish(image_message(picture(index), START + index))  # type: ignore[attr-defined]
    wait_until(lambda: run.counts().received > before, "the frame")
    run.settled()


def test_an_engine_that_fails_once_is_rebuilt_and_no_stale_mask_goes_out(tiny_model: Path) -> None:
    workshop = Workshop()
    with running({"model": str(tiny_model), **RELIABLE_INPUT}, workshop) as run:
        run.wait_state("active")
        labels = run.peer.subscribe(Image, "/segmentation_node/labels")
        images = run.peer.publisher(Image, "/image")
        feed(run, images, 0)
        workshop.break_now()
        feed(run, images, 1)  # this frame is lost with the engine
        assert run.counts().failed == 1
        wait_until(lambda: run.peer.lines("the engine was rebuilt"), "the rebuilt engine")
        feed(run, images, 2)
        wait_until(lambda: len(labels) == 2, "labels after the rebuild")
        assert [stamp_of(m) for m in labels] == [START, START + 2]
        assert run.node.state == "active"
        assert workshop.opened == 2
        assert any("device lost" in line for line in run.peer.lines("the engine failed, outputs stop"))
        assert run.peer.lines("the engine was rebuilt")
        status = wait_until(
            lambda: [s for s in run.peer.statuses(": engine") if values(s)["engine_rebuilds"] == "1"], "diagnostics"
        )[0]
        assert level(status) == 1
        assert "device lost" in status.message
        assert run.counts().unaccounted == 0


def replace_model(model: Path) -> None:
    """Another version of it in its place."""
    another = onnx.load(model)
    (entry,) = another.metadata_props
    entry.value = dataclasses.replace(ModelCard.from_json(entry.value), version="2").to_json()
    onnx.save(another, model)


@pytest.mark.parametrize("second", ["it breaks again", "it cannot be rebuilt", "its model was replaced"])
def test_an_engine_beyond_repair_makes_the_node_inactive_with_an_error(
    tiny_model: Path, tmp_path: Path, second: str
) -> None:
    workshop = Workshop()
    model = Path(shutil.copy(tiny_model, tmp_path))
    with running({"model": str(model), **RELIABLE_INPUT}, workshop) as run:
        run.wait_state("active")
        labels = run.peer.subscribe(Image, "/segmentation_node/labels")
        images = run.peer.publisher(Image, "/image")
        feed(run, images, 0)
        workshop.break_now()
        if second == "it breaks again":
            feed(run, images, 1)
            wait_until(lambda: run.peer.lines("the engine was rebuilt"), "the rebuilt engine")
            workshop.break_now()
            expected = "device lost"
        elif second == "it cannot be rebuilt":
            workshop.unbuildable = expected = "no memory on the device"
        else:
            replace_model(model)
            expected = "is not tiny-1-fp32-abababab, which ran: was the model file replaced?"
        images.publish(image_message(picture(2), START + 2))
        run.wait_state("inactive")
        wait_until(lambda: run.peer.lines("deactivated after an engine failure"), "the reason in the log")
        status = wait_until(
            lambda: [s for s in run.peer.statuses(": engine") if "deactivated after" in s.message], "diagnostics"
        )[0]
        assert level(status) == 2
        assert expected in status.message
        assert values(status)["lifecycle_state"] == "inactive"
        counts = run.settled()
        assert (counts.published, counts.unaccounted) == (1, 0)
        wait_until(lambda: images.get_subscription_count() == 0, "the subscription is gone")
        assert [stamp_of(m) for m in labels] == [START]
        # an operator may try again without a restart
        workshop.unbuildable = ""
        shutil.copy(tiny_model, model)
        run.call(run.node.trigger_activate)
        assert run.node.state == "active"
        wait_until(images.get_subscription_count, "subscribed again")
        feed(run, images, 3)
        wait_until(lambda: len(labels) == 2, "labels again")
        assert stamp_of(labels[1]) == START + 3


def active_statuses(run: Running, seen: int) -> list[DiagnosticStatus]:
    """The engine's diagnostics of the active state that came after the first `seen`."""
    return [s for s in run.peer.statuses(": engine")[seen:] if values(s)["lifecycle_state"] == "active"]


def test_an_activation_whose_engine_does_not_open_stays_inactive_and_says_why(tiny_model: Path) -> None:
    workshop = Workshop()
    with running({"model": str(tiny_model), **RELIABLE_INPUT}, workshop) as run:
        run.wait_state("active")
        images = run.peer.publisher(Image, "/image")
        workshop.break_now()
        workshop.unbuildable = "still no device"
        images.publish(image_message(picture(0), START))
        run.wait_state("inactive")
        run.call(run.node.trigger_activate)
        assert run.node.state == "inactive"
        why = "activate failed, the node stays inactive: still no device"
        assert wait_until(lambda: run.peer.lines("activate failed"), "the log line") == [why]
        status = wait_until(
            lambda: [s for s in run.peer.statuses(": engine") if "activate failed" in s.message], "diagnostics"
        )[0]
        assert level(status) == 2
        assert status.message == "inactive: activate failed: still no device"
        assert values(status)["lifecycle_state"] == "inactive"
        assert values(status)["engine_state"] == "failed"
        tries = workshop.asked_for
        task = run.executor().create_task(run.node.transitions.make, "activate")  # as the service and the page do
        wait_until(task.done, "the answer")
        assert task.result() is False
        wait_until(lambda: run.peer.lines("activate failed") == [why] * 2, "the second line")
        assert workshop.asked_for == tries + 1  # a second try would block the executor, for minutes if it is a build
        wait_until(lambda: images.get_subscription_count() == 0, "the subscription is gone")


@contextmanager
def rebuilding(model: Path) -> Iterator[tuple[Running, Workshop, list[Any], Publisher]]:
    """A node whose engine has just broken and waits for `may_open`; its labels, and the publisher of its images."""
    workshop = Workshop()
    with running({"model": str(model), **RELIABLE_INPUT}, workshop) as run:
        run.wait_state("active")
        labels = run.peer.subscribe(Image, "/segmentation_node/labels")
        images = run.peer.publisher(Image, "/image")
        workshop.break_now()
        workshop.asked.clear()
        workshop.may_open.clear()
        images.publish(image_message(picture(0), START))
        assert workshop.asked.wait(PATIENCE_S)
        yield run, workshop, labels, images


def test_a_failure_after_the_user_s_deactivation_does_not_taint_the_next_activation(tiny_model: Path) -> None:
    with rebuilding(tiny_model) as (run, workshop, labels, images):
        run.call(run.node.trigger_deactivate)
        workshop.unbuildable = "no memory on the device"
        workshop.may_open.set()
        wait_until(lambda: values(run.report(": engine"))["engine_state"] == "failed", "the failed rebuild")
        workshop.unbuildable = ""
        run.call(run.node.trigger_activate)
        assert run.node.state == "active"
        wait_until(images.get_subscription_count, "subscribed again")
        seen = len(run.peer.statuses(": engine"))
        feed(run, images, 1)
        wait_until(lambda: labels, "labels")
        assert [stamp_of(m) for m in labels] == [START + 1]
        # WARN, since the engine did fail earlier, but not ERROR: nobody was deactivated by it
        status = wait_until(lambda: active_statuses(run, seen), "diagnostics")[-1]
        assert level(status) == 1
        assert not run.peer.lines("deactivated after an engine failure")
        assert run.node.state == "active"


def test_a_failure_of_an_earlier_activation_leaves_the_present_one_alone(tiny_model: Path) -> None:
    with rebuilding(tiny_model) as (run, workshop, labels, images):

        def fail_and_restart() -> None:  # in one go, so that the failure is still queued afterwards
            workshop.unbuildable = "no memory on the device"
            workshop.may_open.set()
            assert workshop.refused.wait(PATIENCE_S)
            workshop.unbuildable = ""
            run.node.trigger_deactivate()
            run.node.trigger_activate()

        run.call(fail_and_restart)
        assert run.node.state == "active"
        wait_until(images.get_subscription_count, "subscribed again")
        for index in (1, 2, 3):  # each takes the executor a round: it has handled the queued failure since
            feed(run, images, index)
        wait_until(lambda: len(labels) == 3, "labels")
        assert run.node.state == "active"
        assert not run.peer.lines("deactivated after an engine failure")
        assert level(run.report(": engine")) == 1  # it did fail

        workshop.break_now()  # but the present one's own failure counts
        workshop.unbuildable = "no memory on the device"
        images.publish(image_message(picture(4), START + 4))
        run.wait_state("inactive")


def test_an_inference_that_fails_while_the_node_is_being_activated_is_no_trap(tiny_model: Path) -> None:
    """The engine was ready when activation began, and is gone when outputs are to be allowed."""
    opened: list[Engine] = []
    active, started, fail, closed = (threading.Event() for _ in range(4))

    class FailingLate(BreakingEngine):
        def infer(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
            if active.is_set() and self is opened[0]:
                started.set()
                assert fail.wait(PATIENCE_S)
                raise EngineError("device lost")
            return super().infer(images)

        def close(self) -> None:
            super().close()
            closed.set()

    def open_failing(settings: NodeSettings, opening: Opening) -> Engine:
        opened.append(FailingLate(open_configured_engine(settings, opening), lambda: ""))
        return opened[-1]

    class Meanwhile(ManagedEntity):
        def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
            fail.set()
            assert closed.wait(PATIENCE_S)
            return TransitionCallbackReturn.SUCCESS

    with running({"model": str(tiny_model), **RELIABLE_INPUT}, open_failing) as run:
        run.wait_state("active")
        labels = run.peer.subscribe(Image, "/segmentation_node/labels")
        images = run.peer.publisher(Image, "/image")
        active.set()
        images.publish(image_message(picture(0), START))
        assert started.wait(PATIENCE_S)
        run.call(run.node.trigger_deactivate)
        assert not closed.is_set()
        run.node.add_managed_entity(Meanwhile())
        run.call(run.node.trigger_activate)
        assert run.node.state == "active"
        assert len(opened) == 2
        wait_until(images.get_subscription_count, "subscribed again")
        feed(run, images, 1)
        wait_until(lambda: labels, "labels")
        assert [stamp_of(m) for m in labels] == [START + 1]
        assert (run.counts().failed, run.counts().published) == (1, 1)


def test_a_deactivation_in_the_middle_of_an_inference_lets_nothing_out(tiny_model: Path) -> None:
    active, started, release = threading.Event(), threading.Event(), threading.Event()

    class Waiting(BreakingEngine):
        def infer(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
            if active.is_set():  # not while it warms up
                started.set()
                release.wait(PATIENCE_S)
            return super().infer(images)

    def open_waiting(settings: NodeSettings, opening: Opening) -> Engine:
        return Waiting(open_configured_engine(settings, opening), lambda: "")

    parameters = {"model": str(tiny_model), "diagnostics.engine_timeout_s": 0.1, **RELIABLE_INPUT}
    with running(parameters, open_waiting) as run:
        run.wait_state("active")
        active.set()
        labels = run.peer.subscribe(Image, "/segmentation_node/labels")
        images = run.peer.publisher(Image, "/image")
        images.publish(image_message(picture(0), START))
        assert started.wait(PATIENCE_S)
        status = wait_until(
            lambda: [s for s in run.peer.statuses(": engine") if "has been running" in s.message], "a stuck engine"
        )[0]
        assert level(status) == 2
        account = run.node.cameras[""].account
        run.call(run.node.trigger_deactivate)
        release.set()
        wait_until(lambda: account.counts().in_flight == 0, "the inference to end")
        assert account.counts().failed == 1
        assert account.counts().unaccounted == 0
        for index in range(1, 40):  # while nobody listens
            images.publish(image_message(picture(index), START + index))
        run.call(run.node.trigger_activate)
        wait_until(images.get_subscription_count, "subscribed again")
        images.publish(image_message(picture(1), START + 40))
        wait_until(lambda: labels, "labels")
        assert [stamp_of(m) for m in labels] == [START + 40]
        assert values(run.report(": camera"))["lost_before_node"] == "0"


def test_stamps_that_go_back_are_counted_and_reset_the_mask_s_memory(tiny_model: Path) -> None:
    parameters = {
        "model": str(tiny_model),
        "drivable.appear_frames": 2,
        "drivable.max_gap_s": 3600.0,
        **RELIABLE_INPUT,
    }
    road = np.zeros((48, 64, 3), np.uint8)  # red 0: class 0, road, everywhere
    road[..., 1] = 255
    with running(parameters) as run:
        run.wait_state("active")
        masks = run.peer.subscribe(Image, "/segmentation_node/drivable")
        images = run.peer.publisher(Image, "/image")
        shares = []
        for index, seconds in enumerate((10, 11, 12, 1, 2)):
            images.publish(image_message(road, START + seconds * 10**9))
            wait_until(lambda n=index: len(masks) > n, "mask")
            shares.append(np.frombuffer(masks[index].data, np.uint8).mean() / 255)
        # two frames in a row are needed; the jump from 12 s to 1 s starts the count anew
        assert shares == [0.0, 1.0, 1.0, 0.0, 1.0]
        assert run.node.cameras[""].time_jumps == 1
        (line,) = run.peer.lines("went back")
        assert line == "camera: stamps went back by 11.000 s (a looping bag?); the mask forgets the past"
        # the first report after the jump says so, unless frames are so rare that it must say that instead
        run.set("diagnostics.error_rate_hz", 0.0)
        images.publish(image_message(road, START + 10**9))  # goes back once more
        wait_until(lambda: run.node.cameras[""].time_jumps == 2, "the second jump")
        run.call(run.node.publish_diagnostics)
        status = wait_until(
            lambda: [s for s in run.peer.statuses(": camera") if values(s)["time_jumps"] == "2"], "diagnostics"
        )[0]
        assert level(status) == 1, status.message
        assert status.message == "stamps went back in time; the mask's memory was reset"
        assert run.node.state == "active"


def test_a_simulated_clock_that_goes_back_is_counted(tiny_model: Path) -> None:
    with running({"model": str(tiny_model), "use_sim_time": True}) as run:
        run.wait_state("active")
        assert "use_sim_time is set, but no /clock has come from anybody" in run.report(": engine").message
        clock = run.peer.publisher(Clock, "/clock", QoSProfile(depth=10))
        for seconds in (100, 101):
            clock.publish(Clock(clock=stamp(seconds * 10**9)))
            wait_until(lambda s=seconds: run.node.get_clock().now().nanoseconds == s * 10**9, "simulated time")
        assert values(run.report(": engine"))["clock_jumps"] == "0"
        clock.publish(Clock(clock=stamp(5 * 10**9)))
        line = "the node's clock jumped by -96.000 s (jumps so far: 1); the masks' memory is reset"
        assert wait_until(lambda: run.peer.lines("clock jumped by -96"), "the log line") == [line]
        status = wait_until(
            lambda: [s for s in run.peer.statuses(": engine") if values(s)["clock_jumps"] == "1"], "diagnostics"
        )[0]
        assert (level(status), status.message) == (0, "active")  # counted; no fault of the node's, and over
        assert values(status)["lifecycle_state"] == "active" == run.node.state
        run.peer.publisher(Clock, "/clock", QoSProfile(depth=10))
        text = "active; /peer and /peer publish /clock, and time jumps between them: end all but one"
        wait_until(lambda: text in [s.message for s in run.peer.statuses(": engine")], "the word about two clocks")


def test_a_clock_before_1970_is_left_out_and_a_changed_time_source_is_no_jump(tiny_model: Path) -> None:
    with running({"model": str(tiny_model), "use_sim_time": True}) as run:
        run.wait_state("active")
        clock = run.peer.publisher(Clock, "/clock", QoSProfile(depth=10))
        clock.publish(Clock(clock=Time(sec=-5)))
        wait_until(lambda: run.peer.lines("/clock says -5 s, before 1970: left out"), "the word about it")
        clock.publish(Clock(clock=stamp(100 * 10**9)))  # the node lives, and its time goes on
        wait_until(lambda: run.node.get_clock().now().nanoseconds == 100 * 10**9, "simulated time")
        assert run.set("use_sim_time", False) == ""
        assert wait_until(lambda: run.peer.lines("the node's time is now the system's"), "the word about it")
        assert run.set("use_sim_time", True) == ""
        assert wait_until(lambda: len(run.peer.lines("the node's time is now that of /clock")) == 1, "and back")
        assert not run.peer.lines("clock jumped")
        assert values(run.report(": engine"))["clock_jumps"] == "0"


def test_two_nodes_of_one_name_are_a_warning_until_one_ends(tiny_model: Path) -> None:
    with running({"model": str(tiny_model)}) as run:
        run.wait_state("active")
        other = Node("segmentation_node", context=run.peer.node.context)
        text = "another node is named /segmentation_node: calls and topics mix; end it, or rename one"
        found = wait_until(lambda: [s for s in run.peer.statuses(": engine") if text in s.message], "a WARN")[0]
        assert (level(found), found.message) == (1, f"active; {text}")
        assert run.peer.lines(text)
        other.destroy_node()
        wait_until(lambda: run.peer.status(": engine").message == "active", "the end of the warning")


@pytest.mark.parametrize("kind", ["/dev/zero", "pipe", "folder", "absent"])
def test_a_live_mask_that_is_no_file_is_refused_at_once(tiny_model: Path, tmp_path: Path, kind: str) -> None:
    path = {"/dev/zero": Path("/dev/zero"), "folder": tmp_path}.get(kind, tmp_path / kind)
    if kind == "pipe":
        os.mkfifo(path)
    with running({"model": str(tiny_model)}) as run:
        run.wait_state("active")
        reason = run.set("drivable.ignore_mask", str(path))
        assert reason.startswith("drivable")
        assert str(path) in reason
        assert "Traceback" not in reason
        assert run.set("drivable.min_confidence", 0.25) == ""  # the node goes on


def test_a_live_parameter_never_ends_the_node(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_path: Path) -> None:
        raise RuntimeError("a defect")

    with running({"model": str(tiny_model), "cameras": ["front"]}) as run:
        run.wait_state("active")
        monkeypatch.setattr("seg_perception.core.drivable.read_labels", fail)  # stands in for any defect of ours
        assert run.set("drivable.ignore_mask", "mask.png") == "unexpected RuntimeError: a defect"
        assert run.set("front.drivable.ignore_mask", "mask.png") == "unexpected RuntimeError: a defect"
        assert run.set("drivable.min_confidence", 0.25) == ""  # the node goes on


def test_a_mask_on_a_disk_that_hangs_does_not_hold_the_node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    release = threading.Event()  # stands in for a network folder that does not answer
    monkeypatch.setattr("seg_perception.core.drivable.read_labels", lambda _path: release.wait(PATIENCE_S))
    with pytest.raises(SettingsError, match=r"drivable.ignore_mask: .*mask.png was not read within 0.1 s"):
        make_masker(DrivableSettings(ignore_mask=tmp_path / "mask.png"), load_label_set(), patience_s=0.1)
    release.set()


def test_silence_is_stale_and_says_that_nobody_publishes(tiny_model: Path) -> None:
    with running({"model": str(tiny_model)}) as run:
        run.wait_state("active")
        status = wait_until(lambda: [s for s in run.peer.statuses(": camera") if level(s) == 3], "STALE")[0]
        assert "never received a frame" in status.message
        assert status.message.endswith("s: nobody publishes on /image")
        assert "last_frame_age_s" not in values(status)
        wait_until(lambda: run.peer.lines("no frame yet"), "the log line")


def test_images_on_another_topic_are_named(tiny_model: Path) -> None:
    with running({"model": str(tiny_model), "input": "compressed"}) as run:
        run.peer.publisher(Image, "/image", wait=False)
        expected = (
            "nobody publishes on /image/compressed, but sensor_msgs/msg/Image is published on /image: set input to"
        )
        wait_until(lambda: [s for s in run.peer.statuses(": camera") if s.message.endswith(f"{expected} raw")], "it")


def test_the_wrong_type_on_the_topic_is_named(tiny_model: Path) -> None:
    with running({"model": str(tiny_model)}) as run:
        run.wait_state("active")
        run.peer.publisher(CompressedImage, "/image", wait=False)
        lines = wait_until(
            lambda: [s.message for s in run.peer.statuses(": camera") if "but this node takes" in s.message], "STALE"
        )
        assert "/peer publishes sensor_msgs/msg/CompressedImage" in lines[0]
        assert "but this node takes sensor_msgs/msg/Image there" in lines[0]


def test_frames_that_stop_are_overdue_and_come_back(tiny_model: Path) -> None:
    with running({"model": str(tiny_model), "diagnostics.frame_timeout_s": 1.0, **RELIABLE_INPUT}) as run:
        run.wait_state("active")
        images = run.peer.publisher(Image, "/image")
        feed(run, images, 0)
        status = wait_until(lambda: [s for s in run.peer.statuses(": camera") if "overdue" in s.message], "STALE")[0]
        assert level(status) == 3
        assert "/peer publishes sensor_msgs/msg/Image (reliable, volatile)" in status.message
        seen = len(run.peer.statuses(": camera"))
        index = iter(range(1, 10**6))

        def came_back() -> bool:
            feed(run, images, next(index))
            run.call(run.node.publish_diagnostics)  # at once: a busy machine may leave the frame to grow old
            return any(level(s) != 3 for s in run.peer.statuses(": camera")[seen:])

        wait_until(came_back, "the camera to come back", lambda: run.peer.statuses(": camera")[-1:])


@pytest.mark.parametrize(
    "request_of, helps",
    [
        ({"durability": DurabilityPolicy.TRANSIENT_LOCAL}, "set the subscriber's durability to volatile"),
        ({"deadline": Duration(nanoseconds=10**8)}, "request no deadline and no liveliness of it"),
    ],
)
def test_the_advice_fits_the_policy_that_does_not_meet(
    tiny_model: Path, request_of: dict[str, Any], helps: str
) -> None:
    with running({"model": str(tiny_model)}) as run:
        run.wait_state("active")
        run.peer.subscribe(Image, "/segmentation_node/labels", QoSProfile(depth=1, **request_of), wait=False)
        (line,) = wait_until(lambda: run.peer.lines("incompatible QoS"), "the warning")
        assert helps in line
        assert "qos.output.reliability" not in line  # it is reliable already


def test_events_are_heard_while_frames_come(tiny_model: Path) -> None:
    """The executor leaves them out of most of its waits then."""
    with running({"model": str(tiny_model), "qos.output.reliability": "best_effort"}) as run:
        run.wait_state("active")
        images = run.peer.publisher(Image, "/image")
        run.peer.subscribe(Image, "/segmentation_node/labels", QoSProfile(depth=1), wait=False)
        sent = itertools.count()

        def told() -> bool:
            images.publish(image_message(picture(0), START + next(sent)))
            return bool(run.peer.lines("incompatible QoS"))

        wait_until(told, "the warning")


@pytest.mark.parametrize("side", ["input", "output"])
def test_incompatible_qos_is_explained_with_both_sides(tiny_model: Path, side: str) -> None:
    reliability = {"input": "reliable", "output": "best_effort"}[side]
    with running({"model": str(tiny_model), f"qos.{side}.reliability": reliability}) as run:
        run.wait_state("active")
        if side == "input":
            run.peer.publisher(Image, "/image", BEST_EFFORT, wait=False)
            expected = (
                "incompatible QoS on /image: this node requests reliable, volatile, but /peer offers best_effort, "
                "volatile (reliability: offered best_effort, requested reliable). No frame will come from there: set "
                "qos.input.reliability to best_available or change the publisher"
            )
        else:
            run.peer.subscribe(Image, "/segmentation_node/labels", QoSProfile(depth=1), wait=False)
            expected = (
                "incompatible QoS on /segmentation_node/labels: this node offers best_effort, volatile, but /peer "
                "requests reliable, volatile (reliability: offered best_effort, requested reliable). Nothing will "
                "reach it: set qos.output.reliability to reliable, or the subscriber's to best_effort"
            )
        (line,) = wait_until(lambda: run.peer.lines("incompatible QoS"), "the warning")
        # the event may come before discovery has the other side's node, or even the other side
        unnamed = expected.replace("/peer", "a node that discovery has not named yet")
        other = "a publisher" if side == "input" else "a subscriber"
        unseen = re.sub(r"/peer .*?\)", f"{other} that discovery has not named yet", expected)
        assert line in (expected, unnamed, unseen)
        assert run.node.state == "active"
        if side == "output":  # the input is not concerned
            assert level(run.peer.status(": engine")) == 0
            return
        status = wait_until(
            lambda: [s for s in run.peer.statuses(": camera") if "/peer publishes" in s.message], "diagnostics"
        )[0]
        assert level(status) == 3
        assert status.message.endswith(
            "on /image: /peer publishes sensor_msgs/msg/Image (best_effort, volatile), which does not fit this "
            "node's request (reliability: offered best_effort, requested reliable)"
        )


def test_qos_overrides_win(tiny_model: Path) -> None:
    parameters = {
        "model": str(tiny_model),
        "qos_overrides./image.subscription.reliability": "reliable",
        "qos_overrides./segmentation_node/labels.publisher.depth": 17,
        "qos_overrides./imgae.subscription.depth": 3,
    }
    with running(parameters) as run:
        run.wait_state("active")
        run.peer.subscribe(Image, "/segmentation_node/labels")
        (endpoint,) = run.node.get_subscriptions_info_by_topic("/image")
        assert endpoint.qos_profile.reliability == ReliabilityPolicy.RELIABLE
        assert run.node.get_parameter("qos_overrides./segmentation_node/labels.publisher.depth").value == 17
        misspelt = "qos_overrides./imgae.subscription.depth: no such parameter; did you mean "
        assert run.peer.lines(f"parameter {misspelt}qos_overrides./image.subscription.depth?")
        wait_until(lambda: misspelt in run.peer.status("engine").message, "a warning")
        assert isinstance(run.node.get_parameter("qos_overrides./image.subscription.reliability"), Parameter)


def test_large_frames_with_gaps_get_one_hint(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("seg_perception.ros.compat.HAS_MESSAGE_INFO", False)  # only stamps tell what was lost
    with running({"model": str(tiny_model), **RELIABLE_INPUT}) as run:
        run.wait_state("active")
        images = run.peer.publisher(Image, "/image")
        pixels = picture(0, Size(640, 360))  # 691 200 bytes, above 512 KB
        for tick in range(90):
            if tick % 3 != 2:  # every third was lost
                before = run.counts().received
                images.publish(image_message(pixels, START + tick * 10**8))
                wait_until(lambda n=before: run.counts().received > n, "the frame")
        lines = wait_until(lambda: run.peer.lines("fastdds_large_images.xml"), "the hint")
        assert len(lines) == 1
        # of the first 30 frames, ticks 0 to 43, 14 came after a gap
        assert "14 of the last 44 frames on /image (675 KB each)" in lines[0]
