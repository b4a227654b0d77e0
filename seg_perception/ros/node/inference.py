"""The inference thread: takes the fresh frames of all cameras, runs them as a batch, publishes.

It alone opens, uses and closes the engine.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import numpy as np

from seg_perception.core.errors import InputError
from seg_perception.core.model_card import ModelCard
from seg_perception.core.types import RgbImage, Segmentation, Size
from seg_perception.engines.base import Engine, EngineInfo
from seg_perception.node_settings import NodeSettings
from seg_perception.ros.log import describe_error
from seg_perception.ros.node.accounting import Fate
from seg_perception.ros.node.camera import Camera, CameraFrame
from seg_perception.ros.node.engine_setup import OpenEngine, Opening, device_memory_of, open_configured_engine
from seg_perception.ros.node.latency import Stage
from seg_perception.ros.node.mailbox import Mailboxes
from seg_perception.segmenter import PreparedImage, Segmenter


class Log(Protocol):
    """The part of a ROS logger that is used here."""

    def info(self, message: str) -> object: ...
    def error(self, message: str) -> object: ...


class EngineState(Enum):
    """For diagnostics."""

    CLOSED = "closed"
    OPENING = "opening"
    READY = "ready"
    REBUILDING = "rebuilding after a failure"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """What diagnostics say of the engine."""

    state: EngineState = EngineState.CLOSED
    info: EngineInfo | None = None
    card: ModelCard | None = None
    failure: str = ""  # the last one's reason, also after a rebuild
    rebuilds: int = 0
    busy_s: float = 0.0  # how long the present inference has been running
    opening: str = ""  # how far a build is
    device_memory: int | None = None  # bytes; None: no GPU, or it cannot be told


@dataclass(frozen=True, slots=True)
class _Work:
    """A frame that was decoded and resized."""

    camera: Camera
    frame: CameraFrame
    image: RgbImage
    prepared: PreparedImage


class InferenceThread:
    """Owns the engine and the thread that uses it.

    Args:
        settings: which engine, at which size.
        mailboxes: where the frames come from.
        open_configured: opens the engine; called on the inference thread.
        on_failure: called on the inference thread when the engine failed and rebuilding it did not help,
            with the number of the activation that this ends (see `activation`) and the reason.
    """

    def __init__(
        self,
        settings: NodeSettings,
        mailboxes: Mailboxes[CameraFrame],
        log: Log,
        on_failure: Callable[[int, str], None],
        open_configured: OpenEngine = open_configured_engine,
    ) -> None:
        self._settings = settings
        self._mailboxes = mailboxes
        self._log = log
        self._on_failure = on_failure
        self._open_configured = open_configured
        self._cameras: Mapping[str, Camera] = {}
        self._engine: Engine | None = None
        self._segmenter: Segmenter | None = None
        self._state = EngineState.CLOSED
        self._opening = Opening()
        self._device_memory: int | None = None
        self._failure = ""
        self._rebuilds = 0
        self._rebuild_allowed = True
        self._busy_since: float | None = None
        self._gate = threading.Lock()  # held while one frame is published, and where activation and failure meet
        self._publishing_allowed = False
        self._activation = 0  # which activation may publish; a batch taken in an earlier one may not
        self._activation_of_batch = 0
        self._stop = threading.Event()
        self._opened: Future[ModelCard] | None = None
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)

    # --- executor thread -----------------------------------------------------------------------

    def open(self) -> Future[ModelCard]:
        """Open the engine, or open it again, on the inference thread; the answer carries its card.

        The future raises what opening raises: FileNotFoundError, ModelError, EngineError.
        """
        opened: Future[ModelCard] = Future()
        self._state = EngineState.OPENING
        self._opened = opened
        if self._thread.is_alive():
            self._mailboxes.nudge()
        else:
            self._thread.start()
        return opened

    def resume(self, cameras: Mapping[str, Camera]) -> bool:
        """Publish from now on; the engine may be rebuilt once until the next `resume`.

        Returns:
            False, and nothing is changed, when the engine is not ready: an inference of an earlier
            activation may fail at any moment. `open` it and try again.
        """
        with self._gate:
            if not self.ready:
                return False
            self._cameras = cameras
            self._rebuild_allowed = True
            self._activation += 1
            self._publishing_allowed = True
        self._mailboxes.open()
        return True

    def pause(self) -> None:
        """No output goes out after this returns; frames in flight are counted as failed."""
        with self._gate:
            self._publishing_allowed = False
        self._mailboxes.close()

    def stop(self, timeout: float) -> bool:
        """Close the engine and end the thread; False when an inference did not come back in time."""
        self.pause()
        self._stop.set()
        self._opening.stop.set()
        self._mailboxes.nudge()
        if self._thread.is_alive():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def activation(self) -> int:
        """Rises with each `resume`: a failure of an earlier activation does not concern the present one."""
        return self._activation

    @property
    def ready(self) -> bool:
        return self._state is EngineState.READY

    def status(self) -> EngineStatus:
        """A snapshot."""
        engine, busy_since = self._engine, self._busy_since
        return EngineStatus(
            self._state,
            None if engine is None else engine.info,
            None if engine is None else engine.card,
            self._failure,
            self._rebuilds,
            0.0 if busy_since is None else time.monotonic() - busy_since,
            self._opening.progress,
            None if engine is None else self._device_memory,
        )

    # --- inference thread ----------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.is_set():
            if (opened := self._opened) is not None:
                self._opened = None
                self._open_for(opened)
            frames = self._mailboxes.take_all(timeout=0.5)
            if frames:
                self._work_off(frames)
        self._close_engine()
        self._state = EngineState.CLOSED

    def _open_for(self, opened: Future[ModelCard]) -> None:
        try:
            opened.set_result(self._open_engine())
        except Exception as error:  # noqa: BLE001  whatever it is, whoever configures must learn it
            self._state = EngineState.FAILED
            self._failure = describe_error(error)
            opened.set_exception(error)

    def _open_engine(self) -> ModelCard:
        self._close_engine()
        self._opening.progress = ""
        engine = self._open_configured(self._settings, self._opening)
        self._engine = engine
        try:
            segmenter = Segmenter(engine, self._settings.network_size)
            warm_up(segmenter, engine.card.input_size, cameras=len(self._settings.cameras))
        except BaseException:
            self._close_engine()
            raise
        self._device_memory = device_memory_of(engine)
        self._segmenter = segmenter
        self._state = EngineState.READY
        return engine.card

    def _close_engine(self) -> None:
        engine, self._engine, self._segmenter = self._engine, None, None
        if engine is None:
            return
        try:
            engine.close()
        except Exception as error:  # noqa: BLE001  a broken engine may not even close; it must not stop the rest
            self._log.error(f"closing the engine failed: {describe_error(error)}")

    def _work_off(self, frames: Mapping[str, CameraFrame]) -> None:
        self._busy_since = time.monotonic()
        self._activation_of_batch = self._activation
        failure: Exception | None = None
        try:
            self._process({self._cameras[name]: frame for name, frame in frames.items()})
        except Exception as error:  # noqa: BLE001  one way for every failure: stop, say so, rebuild once
            failure = error
        finally:
            self._busy_since = None
        for frame in frames.values():
            frame.ticket.book(Fate.FAILED)  # whatever was not booked before
        if failure is not None:
            self._recover(failure)

    def _process(self, frames: Mapping[Camera, CameraFrame]) -> None:
        """Answer the frames that can be; those whose ticket is open when this ends have failed."""
        if self._segmenter is None:
            return
        work: list[_Work] = []
        times: list[dict[Stage, float]] = []
        for camera, frame in frames.items():
            began = time.monotonic()
            if (item := self._prepare(camera, frame)) is not None:
                work.append(item)
                times.append({Stage.WAIT: began - frame.received_at, Stage.PREPARE: time.monotonic() - began})
        if not work:
            return
        began = time.monotonic()
        answers = self._segmenter.infer([item.prepared for item in work])
        inferred = time.monotonic() - began
        for item, raw, spent in zip(work, answers, times, strict=True):
            began = time.monotonic()
            segmentation = self._segmenter.finish(raw)
            spent |= {Stage.INFER: inferred, Stage.FINISH: time.monotonic() - began}
            self._publish(item, segmentation, spent)

    def _prepare(self, camera: Camera, frame: CameraFrame) -> _Work | None:
        assert self._segmenter is not None
        try:
            image = camera.decode(frame)
            return _Work(camera, frame, image, self._segmenter.prepare(image))
        except InputError as error:
            reason = str(error)
        except Exception as error:  # noqa: BLE001  a message must never stop the node, whatever is wrong with it
            reason = f"unexpected {describe_error(error)}"
        camera.reject(frame, reason)
        return None

    def _publish(self, item: _Work, segmentation: Segmentation, times: dict[Stage, float]) -> None:
        camera, frame = item.camera, item.frame
        with self._gate:
            if not self._publishing_allowed or self._activation != self._activation_of_batch:
                return
            spent = camera.publish(frame, item.image, segmentation)
            frame.ticket.book(Fate.PUBLISHED)
        times[Stage.FINISH] += spent[Stage.FINISH]
        times[Stage.PUBLISH] = spent[Stage.PUBLISH]
        times[Stage.NODE] = time.monotonic() - frame.received_at
        camera.note_latency(frame, times)

    def _recover(self, error: Exception) -> None:
        """One attempt to rebuild for each activation; after that the node has to go inactive."""
        self._failure = describe_error(error)
        self._log.error(f"the engine failed, outputs stop: {self._failure}")
        with self._gate:
            activation, active = self._activation, self._publishing_allowed
            rebuild, self._rebuild_allowed = active and self._rebuild_allowed, False
            self._state = EngineState.REBUILDING if rebuild else EngineState.FAILED
        if not active:
            self._close_engine()
            return
        if rebuild:
            try:
                self._open_engine()
            except Exception as again:  # noqa: BLE001  opening fails in as many ways as running
                self._failure = f"{self._failure}; rebuilding it failed too: {describe_error(again)}"
            else:
                self._rebuilds += 1
                self._log.info("the engine was rebuilt, outputs continue; another failure deactivates the node")
                return
        self._close_engine()
        self._state = EngineState.FAILED
        self._on_failure(activation, self._failure)


def warm_up(segmenter: Segmenter, size: Size, cameras: int) -> None:
    """Run once for one frame and once for all cameras; `Segmenter.infer` checks what comes back.

    Raises:
        EngineError: the engine fails, or its answer has the wrong shape, type or classes.
    """
    shape = (size.height, size.width, 3)
    black, noise = np.zeros(shape, np.uint8), np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for count in sorted({1, cameras}):
        segmenter.infer([segmenter.prepare(image) for image in (noise, *[black] * (count - 1))])
