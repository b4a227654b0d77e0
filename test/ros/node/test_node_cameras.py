"""Several cameras, one engine: under three times the load nothing is lost from the account, nobody starves."""

from __future__ import annotations

import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from meters_harness import Driver, parameters
from node_harness import (
    RELIABLE_INPUT,
    Running,
    image_message,
    picture,
    running,
    stamp_of,
    values,
    wait_until,
)
from numpy.typing import NDArray
from sensor_msgs.msg import Image
from waiting import PATIENCE_S

from seg_perception.core.types import Size
from seg_perception.engines.base import Engine
from seg_perception.engines.opening import open_engine
from seg_perception.node_settings import NodeSettings
from seg_perception.ros.node.accounting import FrameCounts
from seg_perception.ros.node.camera import Camera, CameraFrame
from seg_perception.ros.node.diagnostics import resident_mb
from seg_perception.ros.node.engine_holder import Opening, open_configured_engine
from seg_perception.segmenter import Segmenter

START = 1_700_000_000_000_000_000
CAMERAS = {"front": Size(640, 360), "left": Size(320, 240), "rear": Size(160, 120)}
LOAD = 3
WARM_BATCHES, BATCHES = 20, 60
IN_MIDDLEWARE = 10


def test_fresh_frames_of_all_cameras_run_as_one_batch_and_each_gets_its_own_answer(tiny_model: Path) -> None:
    parameters = {"model": str(tiny_model), "cameras": list(CAMERAS), **RELIABLE_INPUT}
    with running(parameters) as run:
        run.wait_state("active")
        labels = {name: run.peer.subscribe(Image, f"/segmentation_node/{name}/labels") for name in CAMERAS}
        images = {name: run.peer.publisher(Image, f"/{name}/image") for name in CAMERAS}
        for index, (name, size) in enumerate(CAMERAS.items()):
            images[name].publish(image_message(picture(index, size), START + index, name))
        wait_until(lambda: all(labels.values()), "labels of every camera")
        segmenter = Segmenter(open_engine(tiny_model))
        for index, (name, size) in enumerate(CAMERAS.items()):
            (message,) = labels[name]
            assert (stamp_of(message), message.header.frame_id) == (START + index, name)
            expected = segmenter.segment(picture(index, size)).labels
            assert np.array_equal(np.frombuffer(message.data, np.uint8).reshape(expected.shape), expected)


def test_a_silent_camera_delays_nobody(tiny_model: Path) -> None:
    with running({"model": str(tiny_model), "cameras": ["front", "dead"], **RELIABLE_INPUT}) as run:
        run.wait_state("active")
        labels = run.peer.subscribe(Image, "/segmentation_node/front/labels")
        images = run.peer.publisher(Image, "/front/image")
        for index in range(20):
            images.publish(image_message(picture(index), START + index))
            wait_until(lambda n=index: len(labels) > n, "labels")
        assert run.counts("front").published == 20
        assert run.counts("dead").received == 0
        wait_until(lambda: [s for s in run.peer.statuses(": camera dead") if s.level == b"\x03"], "STALE for the dead")
        assert run.peer.statuses(": camera front")


@pytest.mark.parametrize("owner, step", [(CameraFrame, "decoded"), (Camera, "publish")])
def test_a_camera_whose_message_takes_for_ever_stops_no_other_and_is_named(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, owner: type, step: str
) -> None:
    """A stand-in for a message that is dear to decode, and for a subscriber that blocks the middleware."""
    begun, release = threading.Event(), threading.Event()
    original = getattr(owner, step)

    def held(of: Any, *arguments: Any) -> Any:
        if threading.current_thread().name == "camera front":
            begun.set()
            release.wait(PATIENCE_S)
        return original(of, *arguments)

    monkeypatch.setattr(owner, step, held)
    with running({"model": str(tiny_model), "cameras": ["front", "rear"], **RELIABLE_INPUT}) as run:
        run.wait_state("active")
        images = {name: run.peer.publisher(Image, f"/{name}/image") for name in ("front", "rear")}
        labels = run.peer.subscribe(Image, "/segmentation_node/rear/labels")
        try:
            images["front"].publish(image_message(picture(0), START))
            assert begun.wait(PATIENCE_S)
            for index in range(10):
                images["front"].publish(image_message(picture(index), START + index))
                images["rear"].publish(image_message(picture(index), START + index))
                wait_until(lambda n=index: len(labels) > n, "the other camera's labels")
            what = {"decoded": "decoding a message, for ", "publish": "finishing and publishing a frame, for "}[step]
            status = wait_until(
                lambda: [s for s in run.peer.statuses(": camera front") if s.message.startswith(what)], "who it is"
            )[0]
            assert status.level == b"\x02"
        finally:
            release.set()
        counts = run.settled("front")
        assert counts.received == 11
        assert counts.unaccounted == 0


@pytest.mark.parametrize(
    "package, kind, topic",
    [
        ("sensor_msgs", "Image", "/segmentation_node/labels"),
        ("nav_msgs", "OccupancyGrid", "/segmentation_node/drivable_grid"),
    ],
)
def test_a_subscriber_that_is_stopped_is_said_until_it_goes_on(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, package: str, kind: str, topic: str
) -> None:
    """Fast DDS says nothing of it: the publisher goes on, and counts it among its subscribers."""
    monkeypatch.setattr("seg_perception.ros.node.diagnostics.UNCONFIRMED_S", 0.5)
    code = (
        f"import rclpy; from {package}.msg import {kind}; rclpy.init(); node = rclpy.create_node('slow')\n"
        f"node.create_subscription({kind}, '{topic}', lambda _: print('came', flush=True), 1)\n"
        "rclpy.spin(node)"
    )
    words = f"on {topic} a reliable subscriber has confirmed nothing for "
    with running(parameters(tiny_model, **RELIABLE_INPUT)) as run:
        run.wait_state("active")
        driver = Driver(run)

        def report(publish: bool = True) -> str:
            if publish:
                driver.send()
                run.settled()
            run.call(run.node.publish_diagnostics)
            return run.peer.status(": engine").message

        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as other:
            try:
                wait_until(lambda: run.peer.subscriptions_known_to_the_node(topic), "the other")
                report()
                assert other.stdout is not None
                wait_until(lambda: (report(), select.select([other.stdout], [], [], 0)[0])[1], "its first message")
                wait_until(lambda: words not in report(publish=False), "its word that all came")
                other.send_signal(signal.SIGSTOP)
                found = wait_until(lambda: words in (text := report()) and text, "a warning")
                assert found.startswith(f"active; on {topic}")
                assert run.peer.lines(words)
                other.send_signal(signal.SIGCONT)
                wait_until(lambda: words not in report(publish=False), "the end of the warning")
            finally:
                other.kill()


class OverloadedEngine:
    """A real engine that is slower than the cameras, however fast or busy the machine.

    Once there are `counts`, an inference ends only after `LOAD` more frames of every camera came and the answers of
    the one before went out, until `finished`.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.card, self.info, self.close = engine.card, engine.info, engine.close
        self.counts: Callable[[], dict[str, FrameCounts]] | None = None
        self.finished = threading.Event()
        self.batches: list[int] = []  # frames of each inference under load

    def infer(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        if self.counts is not None and not self.finished.is_set():
            self.batches.append(len(images))
            before = self.counts()
            late = int(self.batches[0] < len(CAMERAS))  # a camera that was not in the first
            answered = len(self.batches) - 1 - late

            def goes_on(name: str, now: FrameCounts) -> bool:
                return now.received >= before[name].received + LOAD and now.published >= answered

            wait_until(
                lambda: self.finished.is_set() or all(goes_on(*item) for item in self.counts().items()),
                f"{LOAD} more frames of every camera, and the answers before",
            )
        return self._engine.infer(images)


def test_three_cameras_at_three_times_the_load(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seg_perception.ros.node.lanes.PATIENCE_S", 5.0)  # however busy the machine
    parameters = {
        "model": str(tiny_model),
        "cameras": list(CAMERAS),
        "network_size": "160x96",
        **RELIABLE_INPUT,
        "qos.input.depth": 50,
        "qos.output.depth": 400,
        "diagnostics.engine_timeout_s": PATIENCE_S,
    }
    engines: list[OverloadedEngine] = []

    def open_overloaded(settings: NodeSettings, opening: Opening) -> OverloadedEngine:
        engines.append(OverloadedEngine(open_configured_engine(settings, opening)))
        return engines[-1]

    with running(parameters, open_overloaded) as run:
        run.wait_state("active")
        (engine,) = engines
        labels = {  # stamps only: memory is measured here
            name: run.peer.subscribe(Image, f"/segmentation_node/{name}/labels", keep=stamp_of) for name in CAMERAS
        }
        images = {name: run.peer.publisher(Image, f"/{name}/image") for name in CAMERAS}
        messages = {name: image_message(picture(0, size), 0, name) for name, size in CAMERAS.items()}
        engine.counts = lambda: {name: run.counts(name) for name in CAMERAS}
        memory = []

        def batches_done() -> bool:
            if not memory and len(engine.batches) >= WARM_BATCHES:  # buffers and pools have their size
                memory.append(resident_mb())
            return len(engine.batches) >= WARM_BATCHES + BATCHES

        sent = drive(run, images, messages, batches_done)
        grown = resident_mb() - memory[0]
        wait_until(lambda: all(run.counts(n).received == sent[n] for n in CAMERAS), "every frame received")
        engine.finished.set()
        published = {}
        for name in CAMERAS:
            counts = run.settled(name)
            assert counts.unaccounted == 0, name
            assert counts.received == counts.published + counts.superseded + counts.rejected + counts.failed, name
            assert counts.rejected == counts.failed == 0, name
            # each inference under load was waited for by at least LOAD frames; the last two may have been cut short
            assert counts.received >= LOAD * (counts.published - 2), f"{name} was not overloaded"
            wait_until(lambda n=name, p=counts.published: len(labels[n]) == p, f"{name}: every published frame")
            assert labels[name] == sorted(set(labels[name])), f"{name}: never an older frame after a newer one"
            published[name] = counts.published
        # a camera that has a fresh frame is in the next batch: only the first, before all had sent, may lack some,
        # and the very last, after the load
        assert set(engine.batches[1:]) == {len(CAMERAS)}, engine.batches
        assert min(published.values()) >= WARM_BATCHES + BATCHES - 1, published
        assert max(published.values()) - min(published.values()) <= 2, published
        # BATCHES x LOAD front frames of 0.7 MB alone would be 124 MB, were they kept
        print(f"memory grew by {grown:.1f} MB; sent {sent}, published {published}")
        assert grown < 25.0, f"memory grew by {grown:.0f} MB"
        for name in CAMERAS:
            said = [values(s) for s in run.peer.statuses(f": camera {name}")]
            assert all(one["unaccounted"] == "0" for one in said), name

            def last_books(n: str = name) -> list[dict[str, str]]:
                found = [values(s) for s in run.peer.statuses(f": camera {n}")]
                return [one for one in found if one["received"] == str(sent[n])]

            assert float(wait_until(last_books, "diagnostics after the last frame")[-1]["latency_infer_p50_ms"]) > 0


def drive(
    run: Running, images: dict[str, Any], messages: dict[str, Image], enough: Callable[[], bool]
) -> dict[str, int]:
    """Every camera on a thread of its own, as fast as the node's executor receives; frames sent by camera."""
    sent = dict.fromkeys(images, 0)
    stop = threading.Event()

    def run_camera(name: str) -> None:
        while not stop.is_set():
            if sent[name] - run.counts(name).received >= IN_MIDDLEWARE:  # more, and the middleware would drop some
                stop.wait(0.001)
                continue
            now = START + time.monotonic_ns()
            stamp = messages[name].header.stamp
            stamp.sec, stamp.nanosec = now // 10**9, now % 10**9
            images[name].publish(messages[name])
            sent[name] += 1

    threads = [threading.Thread(target=run_camera, args=(name,)) for name in images]
    for thread in threads:
        thread.start()
    try:
        wait_until(enough, "all batches", lambda: sent)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    return sent
