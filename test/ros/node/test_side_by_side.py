"""Two inferences at the same time, while frames come faster than one at a time answers them."""

from __future__ import annotations

import dataclasses
import itertools
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from node_harness import RELIABLE_INPUT, image_message, picture, running, stamp_of, values
from numpy.typing import NDArray
from sensor_msgs.msg import Image
from waiting import PATIENCE_S, wait_until

from seg_perception.core.errors import EngineError
from seg_perception.engines.base import Engine
from seg_perception.node_settings import NodeSettings
from seg_perception.ros.node.engine_holder import Opening, open_configured_engine
from seg_perception.ros.node.side_by_side import Pressure

START = 1_700_000_000_000_000_000


def test_pressure_is_frames_pushed_out_and_goes_when_one_at_a_time_would_do() -> None:
    pressure = Pressure()
    assert not pressure.look(100.0, 0, 0, 0.1)
    assert not pressure.look(100.9, 9, 9, 0.1)  # a second is not over
    assert not pressure.look(101.0, 10, 1, 0.1)  # 1 of 10 replaced
    assert pressure.look(102.0, 20, 3, 0.1)  # 2 of 10
    assert pressure.look(103.0, 30, 3, 0.1)  # none, but ten a second would keep one at a time busy for a whole second
    assert pressure.look(104.0, 39, 3, 0.1)
    assert not pressure.look(105.0, 46, 3, 0.1)  # 0.7 of it
    assert not pressure.look(106.0, 50, 7, 0.1)  # all of only 4


class Slow:
    """A real engine that answers when it may; `threads` as it was opened with."""

    def __init__(self, engine: Engine, threads: int, may: threading.Semaphore) -> None:
        self._engine = engine
        self._may = may
        self.threads = threads
        self.card, self.info = engine.card, engine.info
        self.answered = 0
        self.closed = False

    def infer(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        assert self._may.acquire(timeout=PATIENCE_S)
        self.answered += 1
        return self._engine.infer(images)

    def close(self) -> None:
        self.closed = True
        self._engine.close()


def opener(engines: list[Slow], may: threading.Semaphore) -> Callable[[NodeSettings, Opening], Slow]:
    def open_slow(settings: NodeSettings, opening: Opening) -> Slow:
        may.release()  # for the warm-up
        engines.append(Slow(open_configured_engine(settings, opening), settings.threads, may))
        return engines[-1]

    return open_slow


def test_frames_that_come_too_fast_are_answered_two_at_a_time_and_in_order(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seg_perception.ros.node.side_by_side.WINDOW_S", 0.2)
    engines: list[Slow] = []
    may = threading.Semaphore(0)
    parameters = {"model": str(tiny_model), "threads": 4, "inferences_at_once": 2, **RELIABLE_INPUT}
    parameters |= {"qos.output.depth": 100}
    with running(parameters, opener(engines, may)) as run:
        run.wait_state("active")
        labels = run.peer.subscribe(Image, "/segmentation_node/labels")
        images = run.peer.publisher(Image, "/image")
        numbers = itertools.count()

        def at_once(frames_for_each: int, runs: str) -> bool:
            """Send some frames, let one inference end, and look."""
            for _ in range(frames_for_each):
                index = next(numbers)
                images.publish(image_message(picture(index), START + index))
                wait_until(lambda n=index: run.counts().received == n + 1, "the frame")
            may.release()
            run.call(run.node.publish_diagnostics)
            return values(run.peer.status(": engine"))["inferences_at_once"] == runs

        wait_until(lambda: at_once(3, "2"), "two at a time")
        assert [engine.threads for engine in engines] == [4, 2, 2]
        assert len(run.peer.lines("two at the same time, with 2 of 4 threads each")) == 1
        wait_until(lambda: at_once(3, "2") and min(engine.answered for engine in engines) >= 3, "answers of both")
        for _ in range(100):
            may.release()  # from here on no inference takes long
        wait_until(lambda: at_once(0, "1"), "one at a time again")
        alone = engines[0].answered
        images.publish(image_message(picture(7), START + (last := next(numbers))))
        wait_until(lambda: labels and stamp_of(labels[-1]) == START + last, "the last frame's labels")
        assert engines[0].answered == alone + 1
        counts = run.settled()
        assert counts.received == last + 1 == counts.published + counts.superseded
        stamps = [stamp_of(message) for message in labels]
        assert stamps == sorted(set(stamps))
        answer, _ = engines[0].infer(picture(7)[None])
        assert bytes(labels[-1].data) == answer[0].tobytes()
    assert [engine.closed for engine in engines] == [True] * 3


@pytest.mark.parametrize(
    "fault, said", [("no memory", "EngineError: no memory"), ("another model", "was the model file replaced?")]
)
def test_one_at_a_time_goes_on_where_no_more_engines_can_be_opened(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, fault: str, said: str
) -> None:
    monkeypatch.setattr("seg_perception.ros.node.side_by_side.WINDOW_S", 0.2)
    engines: list[Slow] = []
    may = threading.Semaphore(0)
    open_slow = opener(engines, may)

    def open_once(settings: NodeSettings, opening: Opening) -> Slow:
        if engines and fault == "no memory":
            raise EngineError(fault)
        engine = open_slow(settings, opening)
        if len(engines) > 1:
            engine.card = dataclasses.replace(engine.card, version="2")
        return engine

    parameters = {"model": str(tiny_model), "threads": 2, "inferences_at_once": 2, **RELIABLE_INPUT}
    with running(parameters, open_once) as run:
        run.wait_state("active")
        images = run.peer.publisher(Image, "/image")
        numbers = itertools.count()

        def refused() -> list[str]:
            for _ in range(3):
                index = next(numbers)
                images.publish(image_message(picture(index), START + index))
                wait_until(lambda n=index: run.counts().received == n + 1, "the frame")
            may.release()
            return [line for line in run.peer.lines("are not possible, one goes on: ") if said in line]

        wait_until(refused, "a line that says so")
        for _ in range(100):
            may.release()
        counts = run.settled()
        assert counts.published + counts.superseded == counts.received
        assert counts.published > 1
        assert len(refused()) == 1
