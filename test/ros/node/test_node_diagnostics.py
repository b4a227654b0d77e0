"""Levels and numbers on /diagnostics, one threshold at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from builtin_interfaces.msg import Time
from node_harness import RELIABLE_INPUT, image_message, picture, running, values, wait_until
from sensor_msgs.msg import Image

from seg_perception.engines.base import EngineInfo
from seg_perception.node_settings import DiagnosticsSettings
from seg_perception.ros.compat import HAS_MESSAGE_INFO
from seg_perception.ros.node.accounting import FrameCounts, Percentiles, Stage
from seg_perception.ros.node.diagnostics import (
    CameraReport,
    Level,
    NodeReport,
    diagnostic_array,
    judge_camera,
    judge_node,
)
from seg_perception.ros.node.inference import EngineState, EngineStatus

THRESHOLDS = DiagnosticsSettings(
    frame_timeout_s=1.0, warn_rate_hz=5.0, error_rate_hz=1.0, warn_latency_ms=500.0, engine_timeout_s=5.0
)
GOOD = CameraReport(
    label="camera front",
    active=True,
    counts=FrameCounts(received=10, published=8, superseded=2),
    rate_in_hz=10.0,
    rate_out_hz=8.0,
    silent_s=0.1,
    ever_received=True,
    silence_reason=None,
    latency={Stage.NODE: Percentiles(20.0, 30.0, 40.0)},
    drivable_share=0.25,
    last_rejection=None,
    last_rejection_age_s=None,
    rejected_since_last=0,
    time_jumps=0,
    time_jumps_since_last=0,
    stamp_age_s=0.05,
    lost_before_node=0,
    topic="/front/image",
)
INFO = EngineInfo("onnxruntime", "1.0", "CPU", "fp32", None, None)
NODE = NodeReport(
    name="segmentation_node",
    state="active",
    failure=None,
    engine=EngineStatus(state=EngineState.READY, info=INFO),
    opening_s=None,
    clock_jumps=0,
    missing_outputs={},
    warnings=(),
    bond="none",
    cameras=[GOOD],
)


@pytest.mark.parametrize(
    "change, level, message",
    [
        ({}, Level.OK, "publishing at 8.0 frames/s"),
        ({"active": False}, Level.OK, "inactive"),
        ({"silent_s": 0.99}, Level.OK, "publishing"),
        ({"silent_s": 1.0, "silence_reason": "nobody publishes"}, Level.STALE, "overdue: no frame any more, for 1.0 s"),
        ({"silent_s": 1.0, "ever_received": False}, Level.STALE, "never received a frame"),
        ({"rate_out_hz": 5.0}, Level.OK, "publishing"),
        ({"rate_out_hz": 4.99}, Level.WARN, "4.99 frames/s published, below 5"),
        ({"rate_out_hz": 1.0}, Level.WARN, "1.00 frames/s published, below 5"),
        ({"rate_out_hz": 0.99}, Level.ERROR, "0.99 frames/s published, below 1"),
        ({"rate_out_hz": None}, Level.OK, "publishing"),  # too early to judge
        ({"rejected_since_last": 3, "last_rejection": "bad step"}, Level.WARN, "3 messages rejected: bad step"),
        ({"time_jumps_since_last": 1}, Level.WARN, "went back in time"),
        ({"latency": {Stage.NODE: Percentiles(1.0, 501.0, 600.0)}}, Level.WARN, "delayed: 501 ms"),
        ({"latency": {Stage.NODE: Percentiles(1.0, 500.0, 600.0)}}, Level.OK, "publishing"),
        ({"counts": FrameCounts(received=5, published=3)}, Level.ERROR, "2 frames are unaccounted for"),
        (  # everything that comes is rejected: nothing is published although frames arrive
            {
                "counts": FrameCounts(received=5, rejected=5),
                "rate_out_hz": None,
                "rejected_since_last": 5,
                "last_rejection": "32FC1",
            },
            Level.ERROR,
            "0.00 frames/s published, below 1; last rejection: 32FC1",
        ),
    ],
)
def test_a_camera_s_level(change: dict[str, object], level: Level, message: str) -> None:
    verdict = judge_camera(replace(GOOD, **change), THRESHOLDS)  # type: ignore[arg-type]
    assert verdict.level is level
    assert message in verdict.message


@pytest.mark.parametrize(
    "change, level, message",
    [
        ({}, Level.OK, "active"),
        ({"opening_s": 12.0}, Level.WARN, "opening the engine, for 12 s"),
        ({"failure": "configure failed: no model", "state": "unconfigured"}, Level.ERROR, "unconfigured: configure"),
        ({"engine": EngineStatus(state=EngineState.FAILED, failure="lost")}, Level.ERROR, "engine failed: lost"),
        ({"engine": EngineStatus(state=EngineState.REBUILDING, failure="lost")}, Level.ERROR, "rebuilding"),
        ({"engine": EngineStatus(state=EngineState.READY, busy_s=5.1)}, Level.ERROR, "running for 5.1 s"),
        ({"engine": EngineStatus(state=EngineState.READY, busy_s=4.9)}, Level.OK, "active"),
        (
            {"engine": EngineStatus(state=EngineState.READY, failure="lost", rebuilds=1)},
            Level.WARN,
            "was rebuilt: lost",
        ),
    ],
)
def test_the_engine_s_level(change: dict[str, object], level: Level, message: str) -> None:
    verdict = judge_node(replace(NODE, **change), THRESHOLDS)  # type: ignore[arg-type]
    assert verdict.level is level
    assert message in verdict.message


def test_the_message_has_one_status_each_and_plain_numbers() -> None:
    message = diagnostic_array(Time(sec=7), NODE, THRESHOLDS)
    assert message.header.stamp.sec == 7
    assert [s.name for s in message.status] == ["segmentation_node: engine", "segmentation_node: camera front"]
    camera = values(message.status[1])
    assert camera["received"] == "10"
    assert camera["in_flight"] == "0"
    assert float(camera["latency_node_p95_ms"]) == 30.0
    assert float(camera["drivable_share"]) == 0.25
    # what was not measured has no key: a zero would look like a measurement
    assert "latency_receive_p50_ms" not in camera
    assert "last_rejection_age_s" not in camera
    engine = values(message.status[0])
    assert engine["engine"] == "onnxruntime 1.0 on CPU (fp32)"
    assert float(engine["process_memory_mb"]) > 1
    assert "label_info" not in engine  # nothing is missing


def test_a_missing_vision_msgs_shows_in_every_message() -> None:
    message = diagnostic_array(Time(), replace(NODE, missing_outputs={"label_info": "no vision_msgs"}), THRESHOLDS)
    assert values(message.status[0])["label_info"] == "not published: no vision_msgs"


def test_a_running_node_reports_every_stage(tiny_model: Path) -> None:
    with running({"model": str(tiny_model), **RELIABLE_INPUT}) as run:
        run.wait_state("active")
        images = run.peer.publisher(Image, "/image")
        for index in range(5):
            before = run.counts().published
            now = run.node.get_clock().now().nanoseconds
            images.publish(image_message(picture(index), now))
            wait_until(lambda n=before: run.counts().published > n, "published")
        status = wait_until(
            lambda: [s for s in run.peer.statuses(": camera") if values(s).get("published") == "5"], "diagnostics"
        )[0]
        found = values(status)
        counted = ("published", "superseded", "rejected", "failed", "in_flight")
        assert int(found["received"]) == 5 == sum(int(found[name]) for name in counted)
        for stage in Stage:
            if stage is Stage.RECEIVE and not HAS_MESSAGE_INFO:  # Humble does not tell when a message was sent
                assert "latency_receive_p50_ms" not in found
                continue
            assert float(found[f"latency_{stage.value}_p99_ms"]) >= float(found[f"latency_{stage.value}_p50_ms"]) >= 0
        for part in ("wait", "prepare", "infer", "finish", "publish"):  # each frame's time in the node contains them
            assert float(found["latency_node_p99_ms"]) >= float(found[f"latency_{part}_p99_ms"]), part
        assert 0 <= float(found["last_frame_age_s"]) < 20
        engine = values(run.peer.status(": engine"))
        assert engine["model"].startswith("tiny-1-fp32")
        assert engine["engine_state"] == "ready"
        wait_until(lambda: len(run.peer.diagnostics) >= 3, "it keeps ticking")


def test_stamps_of_another_day_are_no_latency(tiny_model: Path) -> None:
    with running({"model": str(tiny_model), **RELIABLE_INPUT}) as run:
        run.wait_state("active")
        day_ago = run.node.get_clock().now().nanoseconds - 86_400 * 10**9  # a bag of yesterday, without use_sim_time
        run.peer.publisher(Image, "/image").publish(image_message(picture(0), day_ago))
        found = wait_until(
            lambda: [values(s) for s in run.peer.statuses(": camera") if values(s).get("published") == "1"],
            "diagnostics",
        )[0]
        assert "latency_stamp_to_output_p50_ms" not in found
        assert float(found["stamp_age_s"]) == pytest.approx(86_400, abs=30)
        assert "latency_node_p50_ms" in found
