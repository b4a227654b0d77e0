"""Two inferences at the same time, each with half of the threads, while frames come faster than one at a time answers
them: for who asks for it (`inferences_at_once: 2`).

On a CPU, the threads of one inference wait for each other at every layer, and all of them for the one that shares its
core with the camera's driver. Two inferences side by side do not, so they answer more frames for less CPU time each,
but each takes longer (docs/adr/0011-threads.md). A frame that comes when the last one is done gets all threads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from seg_perception.ros.log import describe_error
from seg_perception.ros.node.lanes import UsualTime
from seg_perception.segmenter import Segmenter

AT_ONCE: Final = 2
WINDOW_S: Final = 1.0
_PUSHED_OUT: Final = 0.1  # of the frames that came, by newer ones: more is pressure
_EASY: Final = 0.8  # of the time busy with one at a time: less is none
_FEWEST: Final = 5  # frames in a window; of fewer nothing is concluded


class Pressure:
    """Whether frames come faster than one inference at a time answers them; looked at once a second."""

    def __init__(self) -> None:
        self.high = False
        self._at: float | None = None
        self._came = self._pushed_out = 0

    def look(self, now: float, came: int, pushed_out: int, alone_s: float) -> bool:
        """Look, and return `high`.

        Args:
            now: monotonic seconds.
            came, pushed_out: frames since the start, and those of them that a newer one replaced.
            alone_s: how long one frame takes, one inference at a time.
        """
        if self._at is None or now - self._at >= WINDOW_S:
            if self._at is not None:
                came_now, out_now, window_s = came - self._came, pushed_out - self._pushed_out, now - self._at
                if self.high:
                    self.high = came_now / window_s * alone_s > _EASY
                else:
                    self.high = came_now >= _FEWEST and out_now > _PUSHED_OUT * came_now
            self._at, self._came, self._pushed_out = now, came, pushed_out
        return self.high


class SideBySide:
    """Opens the engines in a thread of its own, and runs them in one thread each.

    Args:
        open_engine: opens one of them; called twice. When it fails, one at a time goes on, and the log says so once.
        log: takes a line.
    """

    def __init__(self, open_engine: Callable[[], Segmenter], log: Callable[[str], object]) -> None:
        self._open_engine = open_engine
        self._log = log
        self._free: list[Segmenter] = []
        self._running: dict[Segmenter, float] = {}  # since when
        self._usual = UsualTime()
        self._changed = threading.Condition()
        self._closed = False
        self._workers = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="inference")
        self.ready = False
        self._opener = threading.Thread(target=self._open, name="opening engines", daemon=True)
        self._opener.start()

    def _open(self) -> None:
        opened: list[Segmenter] = []
        try:
            while len(opened) < AT_ONCE and not self._closed:
                opened.append(self._open_engine())
        except Exception as error:  # noqa: BLE001  the engine that runs goes on
            self._log(f"two inferences at the same time are not possible, one goes on: {describe_error(error)}")
        with self._changed:
            self._free = opened
            self.ready = len(opened) == AT_ONCE
        if not self.ready:
            self._close_free()

    def take_free(self, timeout: float) -> Segmenter | None:
        """An engine that nobody uses; `run` it, or `give_back`. None after `timeout` seconds."""
        with self._changed:
            if not self._free:
                self._changed.wait(timeout)
            return self._free.pop() if self._free else None

    def give_back(self, segmenter: Segmenter) -> None:
        with self._changed:
            self._running.pop(segmenter, None)
            self._free.append(segmenter)
            self._changed.notify_all()

    def run(self, segmenter: Segmenter, infer: Callable[[Segmenter], object]) -> None:
        """Call `infer` with it in its thread, and give it back."""
        began = time.monotonic()
        with self._changed:
            self._running[segmenter] = began

        def work() -> None:
            try:
                infer(segmenter)
            finally:
                self._usual.note(time.monotonic() - began)
                self.give_back(segmenter)

        self._workers.submit(work)

    def free_in_s(self) -> float:
        """When one of them will be free, in seconds from now."""
        with self._changed:
            if self._free or not self._running:
                return 0.0
            return max(0.0, min(self._running.values()) + self._usual.early_s - time.monotonic())

    def busy_since(self) -> float | None:
        """When the oldest inference that is running began, monotonic seconds."""
        with self._changed:
            return min(self._running.values(), default=None)

    def close(self) -> None:
        """Wait for what is running and close the engines."""
        self._closed = True
        self._opener.join()
        self._workers.shutdown(wait=True)
        self.ready = False
        self._close_free()

    def _close_free(self) -> None:
        while self._free:
            self._free.pop().close()
