"""A camera's own thread: it prepares the camera's frames and finishes and publishes their answers.

So the next frame is prepared and the last one finished while the engine works on the present one, and a
message that costs much, or a subscriber that blocks the middleware, delays no other camera.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

from seg_perception.core.errors import InputError
from seg_perception.core.types import RgbImage, Segmentation
from seg_perception.ros.log import describe_error
from seg_perception.ros.node.accounting import Fate, Stage, Ticket
from seg_perception.ros.node.camera import Camera, CameraFrame
from seg_perception.ros.node.lanes import Lanes
from seg_perception.segmenter import PreparedImage, PreparedOnGpu, RawSegmentation, Segmenter


@dataclass(frozen=True, slots=True)
class Work:
    """A frame that is ready for the engine.

    Attributes:
        decode: gives the image, uint8 [H, W, 3] RGB.
        epoch: of the lanes when it was taken.
        times: seconds of its stages so far.
        at: when it was prepared, monotonic seconds.
    """

    frame: CameraFrame
    decode: Callable[[], RgbImage]
    prepared: PreparedImage | PreparedOnGpu
    epoch: int
    times: dict[Stage, float]
    at: float

    @property
    def ticket(self) -> Ticket:
        return self.frame.ticket


@dataclass(frozen=True, slots=True)
class Answered:
    """The engine's answer to it, at the network's size.

    Attributes:
        at: when it came, monotonic seconds.
    """

    work: Work
    raw: RawSegmentation
    segmenter: Segmenter
    at: float

    @property
    def ticket(self) -> Ticket:
        return self.work.frame.ticket

    def finish(self) -> Segmentation:
        """Labels and confidence at the camera's size."""
        return self.segmenter.finish(self.raw)


FrameLanes: TypeAlias = Lanes[CameraFrame, Work, Answered]
"""The lanes as the node uses them."""


class CameraThread:
    """Works on one camera's lane until the lanes are stopped.

    Args:
        segmenter: the present one; None while no engine is open. Its `prepare` and `finish` use no engine.
        on_error: called on this thread when finishing or publishing raised, with the epoch and the error.
    """

    def __init__(
        self,
        camera: Camera,
        lanes: FrameLanes,
        segmenter: Callable[[], Segmenter | None],
        on_error: Callable[[int, Exception], None],
    ) -> None:
        self._camera = camera
        self._lanes = lanes
        self._segmenter = segmenter
        self._on_error = on_error
        self._publishing = threading.Lock()
        self._stop = threading.Event()
        self.thread = threading.Thread(target=self._run, name=f"camera {camera.name}", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        """End when the job under way is done."""
        self._stop.set()

    def wait_published(self, timeout: float) -> bool:
        """Wait for a frame that is being published; False: the middleware still blocks."""
        if not self._publishing.acquire(timeout=timeout):
            return False
        self._publishing.release()
        return True

    def _run(self) -> None:
        while not self._stop.is_set():
            job = self._lanes.next_job(self._camera.name, timeout=0.5)
            if job is None:
                continue
            if job.answer is not None:
                with self._camera.doing("finishing and publishing a frame"):
                    self._finish(job.answer)
            elif job.frame is not None:
                began = time.monotonic()
                with self._camera.doing("decoding a message"):
                    work = self._prepare(job.frame, job.epoch, began)
                self._lanes.prepared(self._camera.name, job.epoch, work, time.monotonic() - began)

    def _prepare(self, frame: CameraFrame, epoch: int, began: float) -> Work | None:
        segmenter = self._segmenter()
        if segmenter is None:
            frame.ticket.book(Fate.FAILED)
            return None
        try:
            decode = cache(frame.decoded)
            prepared = frame.prepared(segmenter, decode)
        except InputError as error:
            self._camera.reject(frame, str(error))
            return None
        except Exception as error:  # noqa: BLE001  a message must never stop the node, whatever is wrong with it
            self._camera.reject(frame, f"unexpected {describe_error(error)}")
            return None
        done = time.monotonic()
        times = {Stage.WAIT: began - frame.received_at, Stage.PREPARE: done - began}
        return Work(frame, decode, prepared, epoch, times, done)

    def _finish(self, answered: Answered) -> None:
        work = answered.work
        try:
            segmentation = answered.finish()
            with self._publishing:
                if work.epoch != self._lanes.epoch:
                    work.ticket.book(Fate.FAILED)
                    return
                masked_at = self._camera.publish(work.frame, work.decode, segmentation)
                work.ticket.book(Fate.PUBLISHED)
        except Exception as error:  # noqa: BLE001  handled as an engine failure: stop, say so, rebuild once
            work.ticket.book(Fate.FAILED)
            self._on_error(work.epoch, error)
            return
        done = time.monotonic()
        times = work.times | {
            Stage.FINISH: masked_at - answered.at,
            Stage.PUBLISH: done - masked_at,
            Stage.NODE: done - work.frame.received_at,
        }
        self._camera.note_latency(work.frame, times)
