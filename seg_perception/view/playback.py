"""Plays a video, a folder, a bag, a camera or a URL onto a board, with the answers of a model."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seg_perception.model import Model
from seg_perception.sources import SourceKind, find_source
from seg_perception.video import MAX_STILL_S
from seg_perception.view.board import Board, Slider, ViewFrame

STILL_S = 1.0  # how long a picture without time is shown


class RealTime:
    """When the time of a film's frame has come, so that it plays in real time.

    It begins anew with another film of a folder, and where the stamps jump, back or by more than ten seconds: the clock
    of a robot is set while it drives, and nobody waits for an hour, or looks at a minute that rushes by.
    """

    def __init__(self) -> None:
        self.jumped = False
        self._began, self._first, self._before = 0.0, 0, ("", 0)

    def due(self, now: float, source: str, stamp_ns: int | None) -> float:
        """Until when the frame stands, in the seconds of `now`; `jumped` tells whether its stamp jumped."""
        before, self.jumped = self._before, False
        if stamp_ns is None:
            return now + STILL_S
        if source == before[0]:
            self.jumped = not 0 <= stamp_ns - before[1] <= MAX_STILL_S * 1e9
        if source != before[0] or self.jumped:
            self._began, self._first = now, stamp_ns
        self._before = (source, stamp_ns)
        return self._began + (stamp_ns - self._first) * 1e-9

    def hold(self, seconds: float) -> None:
        """A pause is no delay to catch up with."""
        self._began += seconds


class Playback:
    """Plays until `stop` is set, over and over with `loop`; a page may pause it and go frame by frame.

    Args:
        model: an open model; used on the calling thread of `run` only.
        source: what `Model.stream` takes.
        topic: the image topic of a bag.
    """

    def __init__(self, model: Model, source: str | Path | int, topic: str | None = None, loop: bool = True) -> None:
        self.board = Board(f"{source} with {model.card.id}", self)
        self.board.set_cameras([""])
        self._model, self._source, self._topic, self._loop = model, source, topic, loop
        self._paused = False
        self._steps = 0
        self._moved = threading.Condition()
        self._times: deque[float] = deque(maxlen=100)
        self._faults: dict[str, None] = {}  # each once, however often the source is played
        self._jumps = 0
        self._shown: ViewFrame | None = None
        self._status: dict[str, Any] = {}
        live = find_source(source).kind in (SourceKind.CAMERA, SourceKind.URL)
        self._of_file = {} if live else {"stale_s": None}  # a file cannot be late

    # --- what pages may do (view.board.Controls) ---

    def sliders(self) -> Sequence[Slider]:
        return ()

    def set_parameter(self, name: str, value: float) -> str:  # noqa: ARG002  nothing to set
        return f"{name}: a file's playback has no parameters"

    def transitions(self) -> Sequence[str]:
        return ()

    def change_state(self, transition: str) -> str:
        return f"{transition}: a file's playback has no lifecycle"

    def pause(self, paused: bool) -> str:
        with self._moved:
            self._paused = paused
            self._moved.notify_all()
            self._show_status()
        return ""

    def step(self) -> str:
        with self._moved:
            self._steps += 1
            self._moved.notify_all()
        return ""

    # --- the source's thread ---

    def run(self, stop: threading.Event) -> int:
        """Play.

        Returns:
            how many frames were shown.

        Raises:
            FileNotFoundError, InputError, EngineError: as `Model.stream`.
        """
        number = 0
        while not stop.is_set():
            real_time, shown = RealTime(), 0
            for result in self._timed(stop):
                number, shown, stamp = number + 1, shown + 1, result.stamp_ns
                self._shown = ViewFrame(
                    "", number, stamp, time.monotonic(), result.image, result.labels,
                    result.confidence, result.drivable, result.label_set, self._model.card.id,
                )  # fmt: skip
                self.board.offer(self._shown)
                due = real_time.due(time.monotonic(), result.source, stamp)
                self._jumps += real_time.jumped
                self._tell(result.source, number, stamp)
                real_time.hold(self._wait(due, stop))
            if not self._loop or not shown:
                break
        return number

    def _timed(self, stop: threading.Event) -> Any:
        frames = iter(self._model.stream(self._source, self._topic, on_fault=self._note_fault))
        while not stop.is_set():
            began = time.perf_counter()
            result = next(frames, None)
            if result is None:
                return
            self._times.append((time.perf_counter() - began) * 1e3)
            yield result

    def _note_fault(self, text: str) -> None:
        self._faults[text] = None

    def _wait(self, due: float, stop: threading.Event) -> float:
        """Until the frame's time has passed and nobody holds the playback; returns how long it was held."""
        held = 0.0
        with self._moved:
            while not stop.is_set():
                if self._shown is not None and self.board.watched("") and self.board.latest("") is None:
                    self.board.offer(self._shown)  # to a page that came later
                if self._paused:
                    if self._steps:
                        self._steps -= 1
                        return held
                    began = time.monotonic()
                    self._moved.wait(0.1)
                    held += time.monotonic() - began
                    continue
                self._steps = 0
                left = due + held - time.monotonic()
                if left <= 0:
                    return held
                self._moved.wait(min(left, 0.1))
        return held

    def _tell(self, source: str, number: int, stamp_ns: int | None) -> None:
        p50, p95 = np.percentile(self._times, (50, 95))
        rows: dict[str, Any] = {
            "source": source,
            "frame": number,
            "time": "-" if stamp_ns is None else f"{stamp_ns / 1e9:.3f} s",
            "model": self._model.card.id,
            "engine": str(self._model.info),
            "left out": len(self._faults),
            "jumps in time": self._jumps,
        }
        if self._faults:
            rows["last fault"] = next(reversed(self._faults))
        with self._moved:
            self._status = {
                "level": "OK",
                "latency_ms": {"p50": float(p50), "p95": float(p95)},
                "tables": {"playback": rows},
            } | self._of_file
            self._show_status()

    def _show_status(self) -> None:
        if self._status:
            self.board.set_status(self._status | {"state": "paused" if self._paused else "playing"})
