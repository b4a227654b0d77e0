"""Frames through the real node: accounting, headers, labels, sizes, outputs."""

from __future__ import annotations

import gc
import importlib.util
import json
from array import array
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import onnx
import pytest
from node_harness import (
    RELIABLE_INPUT,
    SMALL,
    Running,
    image_message,
    picture,
    running,
    stamp,
    stamp_of,
    values,
    wait_until,
)
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Float64, Header, String

from seg_perception.core.image_file import decode_rgb
from seg_perception.core.image_message import to_camera_bytes
from seg_perception.core.label_set import load_label_set
from seg_perception.core.types import CameraEncoding, Segmentation, Size
from seg_perception.core.visual import colorize, overlay
from seg_perception.engines.graph.camera import for_camera
from seg_perception.engines.opening import open_engine
from seg_perception.ros import qos
from seg_perception.ros.messages import decode_compressed, decode_image, encode_png
from seg_perception.ros.node import camera as camera_module
from seg_perception.ros.node.accounting import Stage
from seg_perception.segmenter import Segmenter

START, PERIOD = 1_700_000_000_123_456_789, 33_333_333


def as_array(message: Image) -> np.ndarray:
    return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, -1).squeeze()


def mask_of(answer: Segmentation) -> np.ndarray:
    """Road, id 0, is the only drivable class; 128 is the first confidence of at least 0.5."""
    return np.where((answer.labels == 0) & (answer.confidence >= 128), 255, 0)


def test_two_hundred_frames_are_all_accounted_for(tiny_model: Path) -> None:
    with running({"model": str(tiny_model), **RELIABLE_INPUT, "qos.input.depth": 200}) as run:
        run.wait_state("active")
        labels = run.peer.subscribe(Image, "/segmentation_node/labels")
        masks = run.peer.subscribe(Image, "/segmentation_node/drivable")
        images = run.peer.publisher(Image, "/image")
        sent = {}
        for index in range(200):
            stamp_ns = START + index * PERIOD
            sent[stamp_ns] = picture(index)
            images.publish(image_message(sent[stamp_ns], stamp_ns, f"frame_{index}"))
        wait_until(lambda: run.counts().received == 200, "200 frames received")
        counts = run.settled()
        assert counts.received == counts.published + counts.superseded + counts.rejected
        assert counts.unaccounted == counts.rejected == counts.failed == 0
        wait_until(lambda: len(labels) == len(masks) == counts.published, "every published frame")
        segmenter = Segmenter(open_engine(tiny_model))
        for message, mask in zip(labels, masks):
            expected = segmenter.segment(sent[stamp_of(message)])
            assert np.array_equal(as_array(message), expected.labels)
            assert mask.header == message.header
            assert message.header.frame_id == f"frame_{(stamp_of(message) - START) // PERIOD}"
            assert message.encoding == mask.encoding == "mono8"
            assert np.array_equal(as_array(mask), mask_of(expected))
        assert len({stamp_of(m) for m in labels}) == len(labels) > 0
        kept = [o.__qualname__ for o in gc.get_objects() if isinstance(o, FunctionType)]
        wakers = [name for name in kept if "spin_" in name and "until_future_complete.<locals>" in name]
        assert len(wakers) <= 4, len(wakers)  # rclpy's; not one for each frame


def one_frame(run: Running, outputs: dict[str, list[Any]], message: Any, topic: str = "/image") -> None:
    """Send one frame and wait for every output.

    The node must run with RELIABLE_INPUT.
    """
    publisher = run.peer.publisher(type(message), topic)
    publisher.publish(message)
    wait_until(lambda: all(outputs.values()), f"one of each: { {k: len(v) for k, v in outputs.items()} }")


def test_every_output_has_the_camera_s_size_and_exact_header(tiny_model: Path) -> None:
    # the network runs at 96x64, so labels are resized both ways
    with running({"model": str(tiny_model), "network_size": "96x64", **RELIABLE_INPUT}) as run:
        run.wait_state("active")
        names = ("labels", "confidence", "drivable", "color", "overlay")
        outputs: dict[str, list[Any]] = {n: run.peer.subscribe(Image, f"/segmentation_node/{n}") for n in names}
        outputs["labels/compressed"] = run.peer.subscribe(CompressedImage, "/segmentation_node/labels/compressed")
        outputs["drivable_share"] = run.peer.subscribe(Float64, "/segmentation_node/drivable_share")
        outputs["latency_ms"] = run.peer.subscribe(Float64, "/segmentation_node/latency_ms")
        image = picture(3, Size(75, 41))
        one_frame(run, outputs, image_message(image, START, "front_left_optical"))
        expected = Segmenter(open_engine(tiny_model), Size(96, 64)).segment(image)
        for name in (*names, "labels/compressed"):
            (message,) = outputs[name]
            assert stamp_of(message) == START, name
            assert message.header.frame_id == "front_left_optical", name
        for name in names:
            assert (outputs[name][0].width, outputs[name][0].height) == (75, 41), name
        assert np.array_equal(as_array(outputs["labels"][0]), expected.labels)
        assert np.array_equal(as_array(outputs["confidence"][0]), expected.confidence)
        assert outputs["color"][0].encoding == outputs["overlay"][0].encoding == "rgb8"
        assert np.array_equal(as_array(outputs["color"][0]), colorize(expected.labels, load_label_set()))
        assert np.array_equal(as_array(outputs["overlay"][0]), overlay(image, expected.labels, load_label_set(), 0.5))
        compressed = outputs["labels/compressed"][0]
        assert np.array_equal(decode_rgb(bytes(compressed.data), "labels")[..., 0], expected.labels)
        assert np.array_equal(as_array(outputs["drivable"][0]), mask_of(expected))
        assert outputs["drivable_share"][0].data == pytest.approx(float(np.mean(mask_of(expected) == 255)))
        assert outputs["latency_ms"][0].data > 0


def test_compressed_input_gives_the_same_labels(tiny_model: Path) -> None:
    with running({"model": str(tiny_model), "input": "compressed", **RELIABLE_INPUT}) as run:
        run.wait_state("active")
        gray = picture(2)[..., 0].copy()
        message = encode_png(gray, Header(stamp=stamp(START), frame_id="c"))  # any PNG will do
        labels = run.peer.subscribe(Image, "/segmentation_node/labels")
        one_frame(run, {"labels": labels}, message, "/image/compressed")
        expected = Segmenter(open_engine(tiny_model)).segment(decode_compressed(message)).labels
        assert np.array_equal(as_array(labels[0]), expected)
        assert labels[0].header == message.header


def test_camera_info_of_the_same_stamp_goes_out_whichever_comes_first(tiny_model: Path) -> None:
    remapping = ["--ros-args", "-r", "image:=/cam/image_raw"]
    with running({"model": str(tiny_model), **RELIABLE_INPUT}, cli_args=remapping) as run:
        run.wait_state("active")
        infos = run.peer.subscribe(CameraInfo, "/segmentation_node/camera_info")
        labels = run.peer.subscribe(Image, "/segmentation_node/labels")
        calibrations = run.peer.publisher(CameraInfo, "/cam/camera_info")
        images = run.peer.publisher(Image, "/cam/image_raw")
        first, second = (
            CameraInfo(header=Header(stamp=stamp(START + n), frame_id="optical"), width=64, height=48, k=[float(n)] * 9)
            for n in range(2)
        )
        images.publish(image_message(picture(0), START, "optical"))
        wait_until(lambda: labels, "labels")
        calibrations.publish(second)  # long before its image: that it came is seen by what comes after it
        calibrations.publish(first)
        wait_until(lambda: infos, "camera_info of the first image")
        images.publish(image_message(picture(1), START + 1, "optical"))
        wait_until(lambda: len(infos) == 2, "camera_info of the second image")
        assert infos == [first, second]


def test_frames_arrive_where_callbacks_get_no_message_info(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seg_perception.ros.compat.HAS_MESSAGE_INFO", False)  # ROS 2 Humble
    with running({"model": str(tiny_model), **RELIABLE_INPUT}) as run:
        run.wait_state("active")
        labels = run.peer.subscribe(Image, "/segmentation_node/labels")
        one_frame(run, {"labels": labels}, image_message(picture(0), START))
        wait_until(run.node.cameras[""].latency.percentiles, "times")
        assert Stage.RECEIVE not in run.node.cameras[""].latency.percentiles()


def test_the_palette_is_latched(tiny_model: Path) -> None:
    with running({"model": str(tiny_model), **RELIABLE_INPUT}) as run:
        run.wait_state("active")
        palette = run.peer.subscribe(String, "/segmentation_node/palette", qos.latched())
        wait_until(lambda: palette, "the palette, although it was published before")
        assert json.loads(palette[0].data)["classes"][0]["name"] == "road"
        if importlib.util.find_spec("vision_msgs") is None:
            wait_until(lambda: run.peer.lines("~/label_info is not published"), "the word about label_info")


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"encoding": "32FC1"}, "32FC1"),
        ({"step": 10}, "step"),
        ({"height": 1000}, "1000"),
    ],
)
def test_a_message_that_cannot_be_used_is_rejected_counted_and_explained_once(
    tiny_model: Path, change: dict[str, Any], reason: str
) -> None:
    with running({"model": str(tiny_model), **RELIABLE_INPUT}) as run:
        run.wait_state("active")
        labels = run.peer.subscribe(Image, "/segmentation_node/labels")
        images = run.peer.publisher(Image, "/image")
        for index in range(5):
            bad = image_message(picture(index), START + index)
            for name, value in change.items():
                setattr(bad, name, value)
            images.publish(bad)
            wait_until(lambda n=index: run.counts().received == n + 1, "received")
            run.settled()
        assert run.counts().rejected == 5
        status = wait_until(
            lambda: [s for s in run.peer.statuses(": camera") if values(s)["rejected"] == "5"], "diagnostics"
        )[0]
        assert reason in values(status)["last_rejection"]
        assert status.level in (b"\x01", b"\x02")
        assert len(run.peer.lines("message rejected")) == 1
        assert reason in run.peer.lines("message rejected")[0]
        images.publish(image_message(picture(0), START + 10))
        wait_until(lambda: labels, "good frames still work")
        assert stamp_of(labels[0]) == START + 10
        assert run.counts().unaccounted == 0


@pytest.mark.parametrize("encoding", list(CameraEncoding)[1:], ids=str)
def test_a_cameras_bytes_go_to_an_engine_that_decodes_them(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: CameraEncoding
) -> None:
    """The answer is that of the same message decoded on the host, to the byte; nothing is decoded there."""
    graph = for_camera(onnx.load(tiny_model), SMALL, SMALL, encoding)
    onnx.save(graph, tmp_path / "camera.onnx")
    pixels = to_camera_bytes(picture(5), encoding)
    tight = image_message(picture(5), START)
    tight.encoding, tight.step = encoding.messages[0], pixels.shape[1] * pixels.shape[2]
    tight.data = array("B", pixels.tobytes())
    expected = Segmenter(open_engine(tiny_model)).segment(decode_image(tight))
    padded = image_message(picture(5), START + 1)
    wide = np.pad(pixels.reshape(pixels.shape[0], -1), ((0, 0), (0, 7)), constant_values=0xA5)
    padded.encoding, padded.step, padded.data = encoding.messages[-1], wide.shape[1], array("B", wide.tobytes())
    drawn = encoding is CameraEncoding.NV12  # then somebody watches the picture, for which it is decoded
    if not drawn:
        monkeypatch.setattr(camera_module, "decode_image", lambda _: pytest.fail("decoded for nothing"))
    with running({"model": str(tmp_path / "camera.onnx"), **RELIABLE_INPUT}) as run:
        run.wait_state("active")
        names = ("labels", "confidence", "drivable", *(["overlay"] if drawn else []))
        outputs = {n: run.peer.subscribe(Image, f"/segmentation_node/{n}") for n in names}
        images = run.peer.publisher(Image, "/image")
        for number, message in enumerate((tight, padded)):
            images.publish(message)
            wait_until(lambda n=number: all(len(o) > n for o in outputs.values()), "every output")
        for message in outputs["labels"]:
            assert np.array_equal(as_array(message), expected.labels)
        for message in outputs["confidence"]:
            assert np.array_equal(as_array(message), expected.confidence)
        assert np.array_equal(as_array(outputs["drivable"][0]), mask_of(expected))
        if drawn:
            picture_of = overlay(decode_image(tight), expected.labels, load_label_set(), 0.5)
            assert np.array_equal(as_array(outputs["overlay"][0]), picture_of)
        for number, wrong in enumerate((picture(5), picture(5, Size(128, 96)))):  # rgb8
            images.publish(image_message(wrong, START + 2 + number))
            wait_until(lambda n=number: run.counts().rejected == n + 1, "rejected")
        counts = run.settled()
        assert (counts.received, counts.published, counts.unaccounted) == (4, 2, 0)
        (line,) = wait_until(lambda: run.peer.lines("message rejected"), "the log line")
        assert "this engine takes the camera's bytes as they are, " in line
        assert f"{' or '.join(encoding.messages)} images of 64x48" in line


def test_megabytes_of_text_in_a_message_stay_out_of_log_and_diagnostics(tiny_model: Path) -> None:
    with running({"model": str(tiny_model), **RELIABLE_INPUT}) as run:
        run.wait_state("active")
        images = run.peer.publisher(Image, "/image")
        bad = image_message(picture(0), START)
        bad.encoding = "x" * 1_000_000
        images.publish(bad)
        status = wait_until(
            lambda: [s for s in run.peer.statuses(": camera") if values(s)["rejected"] == "1"], "diagnostics"
        )[0]
        assert len(status.message) < 3000
        assert 0 < len(values(status)["last_rejection"]) < 3000
        (line,) = wait_until(lambda: run.peer.lines("message rejected"), "the log line")
        assert len(line) < 3000


def test_stamps_that_say_nothing_are_said_and_the_mask_still_appears(tiny_model: Path) -> None:
    road = picture(0)
    road[..., 0], road[..., 1] = 0, 255  # class 0, road, and sure of it
    parameters = {"model": str(tiny_model), "drivable.appear_frames": 2, **RELIABLE_INPUT}
    with running(parameters) as run:
        run.wait_state("active")
        masks = run.peer.subscribe(Image, "/segmentation_node/drivable")
        images = run.peer.publisher(Image, "/image")
        for index in range(3):
            images.publish(image_message(road, 0))
            wait_until(lambda n=index: len(masks) > n, "mask")
        run.call(run.node.trigger_deactivate)
        wait_until(lambda: images.get_subscription_count() == 0, "the subscription is gone")
        run.call(run.node.trigger_activate)
        wait_until(images.get_subscription_count, "subscribed again")
        images.publish(image_message(road, 0))
        wait_until(lambda: len(masks) > 3, "mask")
        assert [as_array(mask).any() for mask in masks] == [False, True, True, False]  # what was before is no evidence
        assert len(run.peer.lines("the images have no stamp (zero)")) == 1
        for index in range(6):  # nor is one and the same moment any further, and that is said
            images.publish(image_message(road, START))
            wait_until(lambda n=index: len(masks) > 4 + n, "mask")
        status = wait_until(
            lambda: [s for s in run.peer.statuses(": camera") if "all have the same stamp" in s.message], "WARN"
        )[0]
        assert status.level == b"\x01"
        assert len(run.peer.lines("all have the same stamp")) == 1


def test_the_shipped_model_runs_in_the_node_as_in_the_segmenter() -> None:
    from seg_perception.core.files import DEFAULT_MODEL

    with running(RELIABLE_INPUT) as run:
        run.wait_state("active")
        labels = run.peer.subscribe(Image, "/segmentation_node/labels")
        image = picture(1, Size(320, 240))
        one_frame(run, {"labels": labels}, image_message(image, START))
        expected = Segmenter(open_engine(DEFAULT_MODEL)).segment(image).labels
        assert np.array_equal(as_array(labels[0]), expected)
