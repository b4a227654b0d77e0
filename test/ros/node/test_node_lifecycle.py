"""Lifecycle: every transition, its mirror, and what a failed one leaves behind."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from bond_stand_in import StandInLifecycleManager
from lifecycle_msgs.msg import Transition
from node_harness import RELIABLE_INPUT, Peer, image_message, level, picture, running, values, wait_until
from sensor_msgs.msg import Image
from std_msgs.msg import String
from waiting import PATIENCE_S

from seg_perception import node_outputs
from seg_perception.core.errors import EngineError
from seg_perception.engines.base import Engine
from seg_perception.engines.opening import open_engine
from seg_perception.node_outputs import CAMERA_INFO, Facts, FrameOutput, LatchedOutput
from seg_perception.node_settings import NodeSettings
from seg_perception.ros import qos
from seg_perception.ros.node.engine_holder import Opening, open_configured_engine

START = 1_700_000_000_000_000_000


PUBLISHED = {row.name for row in node_outputs.frame_outputs()} | {CAMERA_INFO.name}


def topics_of(peer: Peer) -> set[str]:
    """The outputs that have a publisher; asked of DDS itself, since the per-node graph can lag for long."""
    return {name for name in PUBLISHED if peer.node.count_publishers(f"/segmentation_node/{name}")}


def test_a_lifecycle_manager_takes_the_node_up_and_down(tiny_model: Path) -> None:
    with running({"model": str(tiny_model), "autostart": False, **RELIABLE_INPUT}) as run:
        manager = StandInLifecycleManager(run.peer.node)
        assert manager.state() == "unconfigured"
        for _ in range(3):
            assert manager.request(Transition.TRANSITION_CONFIGURE)
            assert manager.state() == "inactive" == run.node.state
            wait_until(lambda: topics_of(run.peer) == PUBLISHED, "publishers")
            assert run.peer.node.count_subscribers("/image") == 0
            assert manager.request(Transition.TRANSITION_ACTIVATE)
            assert manager.state() == "active" == run.node.state
            labels = run.peer.subscribe(Image, "/segmentation_node/labels")
            images = run.peer.publisher(Image, "/image")
            images.publish(image_message(picture(0), START))
            wait_until(lambda seen=labels: seen, "labels")
            assert manager.request(Transition.TRANSITION_DEACTIVATE)
            assert manager.state() == "inactive" == run.node.state
            wait_until(lambda p=images: p.get_subscription_count() == 0, "no subscription while inactive")
            assert manager.request(Transition.TRANSITION_CLEANUP)
            assert manager.state() == "unconfigured" == run.node.state
            wait_until(lambda: not topics_of(run.peer), "no publishers left")
            run.peer.node.destroy_publisher(images)
        assert not manager.request(Transition.TRANSITION_ACTIVATE)
        said = "transition activate is not possible while the node is unconfigured; possible: configure or shutdown"
        assert run.peer.lines(said)
        assert manager.state() == "unconfigured"
        threads = [t for t in threading.enumerate() if t.name == "inference"]
        assert not threads, "an inference thread outlived its configuration"


def test_a_missing_model_leaves_the_node_unconfigured_until_it_is_fixed(tiny_model: Path) -> None:
    with running({"model": "/nowhere/driving.onnx"}) as run:
        manager = StandInLifecycleManager(run.peer.node)
        log = wait_until(lambda: run.peer.lines("configure failed"), "the reason")
        assert "/nowhere/driving.onnx" in log[0]
        assert "stays unconfigured" in log[0]
        assert manager.state() == "unconfigured"
        status = wait_until(
            lambda: [s for s in run.peer.statuses(": engine") if "/nowhere/driving.onnx" in s.message], "diagnostics"
        )[-1]
        assert level(status) == 2
        assert not topics_of(run.peer)
        assert run.set("model", str(tiny_model)) == ""
        assert manager.request(Transition.TRANSITION_CONFIGURE)
        assert manager.request(Transition.TRANSITION_ACTIVATE)
        assert run.node.state == "active"
        wait_until(lambda: level(run.peer.status(": engine")) == 0, "diagnostics OK again")


@pytest.mark.parametrize(
    "content, expected", [(b"", "the file is empty"), (b"not onnx at all", "is no ONNX model but a text")]
)
def test_a_broken_model_is_named(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with running({"model": str(path)}) as run:
        log = wait_until(lambda: run.peer.lines("configure failed"), "the reason")
        assert "broken.onnx" in log[0]
        assert expected in log[0]
        assert run.node.state == "unconfigured"


def test_an_unknown_drivable_class_fails_configure_and_undoes_the_engine(tiny_model: Path) -> None:
    opened: list[Engine] = []

    def open_and_keep(settings: NodeSettings, opening: Opening) -> Engine:
        opened.append(open_configured_engine(settings, opening))
        return opened[-1]

    with running({"model": str(tiny_model), "drivable.classes": ["river"]}, open_and_keep) as run:
        log = wait_until(lambda: run.peer.lines("configure failed"), "the reason")
        assert "no class 'river'" in log[0]
        assert run.node.state == "unconfigured"
        wait_until(lambda: "inference" not in [t.name for t in threading.enumerate()], "the engine is given back")
        wait_until(lambda: not topics_of(run.peer), "no publishers")
        (engine,) = opened
        with pytest.raises(EngineError, match="closed"):
            engine.infer(picture(0)[None])


def test_a_slow_engine_is_reported_while_it_opens_and_does_not_block_a_stop(tiny_model: Path) -> None:
    release = threading.Event()

    def open_late(_settings: NodeSettings, opening: Opening) -> Engine:
        opening.report("timing kernels", 0.25)
        release.wait(PATIENCE_S)
        return open_engine(tiny_model)

    with running({}, open_late) as run:
        status = wait_until(
            lambda: [s for s in run.peer.statuses(": engine") if "opening the engine" in s.message], "progress"
        )[0]
        assert level(status) == 1
        assert "building: timing kernels, 25%" in status.message
        assert values(status)["lifecycle_state"] == "unconfigured"
    # leaving the block stopped the node although the engine was still opening
    release.set()


def test_a_latched_output_is_published_at_activation_and_when_what_it_says_changes(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def say(facts: Facts) -> str:
        return f"{facts.card.name} at {facts.camera.drivable.min_confidence}"

    row = LatchedOutput("facts", "std_msgs/msg/String", "for this test", make=say)
    monkeypatch.setattr(node_outputs, "OUTPUTS", (*node_outputs.OUTPUTS, row))
    with running({"model": str(tiny_model), "cameras": ["front"], "drivable.min_confidence": 0.25}) as run:
        run.wait_state("active")
        received = run.peer.subscribe(String, "/segmentation_node/front/facts", qos.latched())
        wait_until(lambda: received, "the latched facts")
        assert run.set("drivable.min_confidence", 0.5) == ""
        wait_until(lambda: len(received) == 2, "the facts with the new threshold")
        assert [message.data for message in received] == ["tiny at 0.25", "tiny at 0.5"]


def test_an_output_whose_message_is_not_installed_is_named_and_the_rest_is_published(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = FrameOutput("depths", "nowhere_msgs/msg/Depths", "for this test", make=lambda answer: answer.mask)
    monkeypatch.setattr(node_outputs, "OUTPUTS", (row, *node_outputs.OUTPUTS))
    with running({"model": str(tiny_model)}) as run:
        run.wait_state("active")
        reason = "message type 'nowhere_msgs/msg/Depths' needs the ROS package 'nowhere_msgs': install it"
        assert run.peer.lines(f"~/depths is not published: {reason}")
        status = run.peer.status(": engine")
        assert values(status)["depths"] == f"not published: {reason}"
