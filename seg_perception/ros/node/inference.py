"""The inference thread: takes the prepared frames of all cameras and runs them as a batch.

It alone opens the engine that the node's settings ask for, uses and closes it. Around it, each camera's thread
prepares and finishes: see `lanes`.
"""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Protocol, TypeAlias

import numpy as np

from seg_perception.core.errors import EngineError
from seg_perception.core.files import model_file
from seg_perception.core.model_card import ModelCard
from seg_perception.core.types import Size
from seg_perception.engines.base import Engine, EngineInfo, EngineOptions
from seg_perception.engines.opening import open_engine
from seg_perception.engines.processor import usable_cores
from seg_perception.node_settings import NodeSettings
from seg_perception.ros.log import describe_error
from seg_perception.ros.node.accounting import Fate, Stage
from seg_perception.ros.node.camera import Camera
from seg_perception.ros.node.camera_thread import Answered, CameraThread, FrameLanes, Work
from seg_perception.ros.node.outputs import PUBLISHING_TIMEOUT_S
from seg_perception.ros.node.side_by_side import AT_ONCE, Pressure, SideBySide
from seg_perception.segmenter import Segmenter


@dataclass(slots=True)
class Opening:
    """An engine's opening as both threads see it: how far it is, and whether to give up."""

    stop: threading.Event = field(default_factory=threading.Event)
    progress: str = ""

    def report(self, phase: str, fraction: float) -> None:
        """Called by the builder."""
        self.progress = f"building: {phase}, {fraction:.0%}"


OpenEngine: TypeAlias = Callable[[NodeSettings, Opening], Engine]


def open_configured_engine(settings: NodeSettings, opening: Opening) -> Engine:
    """Open the engine that the settings ask for; a TensorRT engine takes all cameras as one batch.

    Raises:
        FileNotFoundError, ModelError, EngineError: see `open_engine`.
    """
    options = EngineOptions(
        threads=settings.threads,
        precision=settings.precision,
        batch=len(settings.cameras),
        size=settings.network_size,
        build_engine=settings.build_engine,
        progress=opening.report,
        stop_requested=opening.stop.is_set,
    )
    engine = open_engine(model_file(settings.model), settings.engine, options=options)
    size, wanted = engine.info.fixed_size, settings.network_size
    if size is not None and wanted is not None and size != wanted:
        engine.close()
        raise EngineError(f"network_size {wanted} does not fit: {engine.info} takes {size} only; leave it empty")
    return engine


def device_memory_of(engine: Engine) -> int | None:
    """Bytes of GPU memory, where the engine has any and can tell."""
    device_memory = getattr(engine, "device_memory", None)
    return None if device_memory is None else int(device_memory())


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
    at_once: int = 1  # inferences at the same time
    opening: str = ""  # how far a build is
    device_memory: int | None = None  # bytes; None: no GPU, or it cannot be told


class InferenceThread:
    """Owns the engine and the thread that uses it.

    Args:
        settings: which engine, at which size.
        lanes: where the frames come from and the answers go.
        open_configured: opens the engine; called on the inference thread.
        on_failure: called on the inference thread when the engine failed and rebuilding it did not help,
            with the number of the activation that this ends (see `activation`) and the reason.
    """

    def __init__(
        self,
        settings: NodeSettings,
        lanes: FrameLanes,
        log: Log,
        on_failure: Callable[[int, str], None],
        open_configured: OpenEngine = open_configured_engine,
    ) -> None:
        self._settings = settings
        self._lanes = lanes
        self._log = log
        self._on_failure = on_failure
        self._open_configured = open_configured
        self._cameras: dict[str, CameraThread] = {}
        self._engine: Engine | None = None
        self._segmenter: Segmenter | None = None
        self._card: ModelCard | None = None  # of the first engine; the node's labels and colors are of it
        self._state = EngineState.CLOSED
        self._opening = Opening()
        self._device_memory: int | None = None
        self._failure = ""
        self._rebuilds = 0
        self._rebuild_allowed = True
        self._busy_since: float | None = None
        self._gate = threading.Lock()  # where activation and failure meet
        self._active = False
        self._activation = 0
        self._usual_s: dict[int, float] = {}  # of an inference, by the frames in it
        self._pressure = Pressure()
        self._beside: SideBySide | None = None
        self._error_after: tuple[int, Exception] | None = None  # finishing or publishing raised, and in which epoch
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
            self._lanes.nudge()
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
            self._rebuild_allowed = True
            self._activation += 1
            self._active = True
        for name, camera in cameras.items():
            if name not in self._cameras:
                self._cameras[name] = CameraThread(camera, self._lanes, lambda: self._segmenter, self._on_camera_error)
                self._cameras[name].start()
        self._lanes.open()
        return True

    def pause(self) -> None:
        """No output goes out after this returns; frames in flight are counted as failed."""
        with self._gate:
            self._active = False
        self._lanes.close()
        for name, camera in self._cameras.items():
            if not camera.wait_published(PUBLISHING_TIMEOUT_S):
                self._log.error(
                    f"camera {name}: the middleware has blocked the publishing of a frame for more than "
                    f"{PUBLISHING_TIMEOUT_S:g} s; is a subscriber stopped?"
                )

    def stop(self, timeout: float) -> bool:
        """Close the engine and end all threads; False when one did not come back in time."""
        self.pause()
        self._stop.set()
        self._opening.stop.set()
        for camera in self._cameras.values():
            camera.stop()
        self._lanes.stop()
        deadline = time.monotonic() + timeout
        threads = [
            thread for thread in (self._thread, *(c.thread for c in self._cameras.values())) if thread.is_alive()
        ]
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    @property
    def activation(self) -> int:
        """Rises with each `resume`: a failure of an earlier activation does not concern the present one."""
        return self._activation

    @property
    def ready(self) -> bool:
        return self._state is EngineState.READY

    @property
    def takes_gpu_images(self) -> bool:
        """Whether the open engine takes images in a GPU's memory."""
        segmenter = self._segmenter
        return segmenter is not None and segmenter.takes_gpu_images

    def status(self) -> EngineStatus:
        """A snapshot."""
        engine, beside = self._engine, self._beside
        both = self._busy_since, beside.busy_since() if beside is not None else None
        busy_since = min((since for since in both if since is not None), default=None)
        return EngineStatus(
            self._state,
            None if engine is None else engine.info,
            None if engine is None else engine.card,
            self._failure,
            self._rebuilds,
            0.0 if busy_since is None else time.monotonic() - busy_since,
            AT_ONCE if self._pressure.high and beside is not None and beside.ready else 1,
            self._opening.progress,
            None if engine is None else self._device_memory,
        )

    # --- inference thread ----------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.is_set():
            if (opened := self._opened) is not None:
                self._opened = None
                self._open_for(opened)
            failed, self._error_after = self._error_after, None
            if failed is not None and failed[0] == self._lanes.epoch:
                self._recover(failed[1])
            beside = self._side_by_side()
            if beside is not None:
                self._infer_beside(beside)
            elif work := self._lanes.take_prepared(timeout=0.5):
                self._infer(work)
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
            _check_model(engine.card, self._card or engine.card)
            segmenter = Segmenter(engine, self._settings.network_size)
            warm_up(segmenter, engine.card.input_size, cameras=len(self._settings.cameras))
        except BaseException:
            self._close_engine()
            raise
        self._device_memory = device_memory_of(engine)
        self._segmenter, self._card = segmenter, engine.card
        self._usual_s = {}
        self._pressure = Pressure()
        self._state = EngineState.READY
        self._lanes.expect_engine(0.0)
        return engine.card

    def _close_engine(self) -> None:
        beside, self._beside = self._beside, None
        if beside is not None:
            beside.close()
        engine, self._engine, self._segmenter = self._engine, None, None
        if engine is None:
            return
        try:
            engine.close()
        except Exception as error:  # noqa: BLE001  a broken engine may not even close; it must not stop the rest
            self._log.error(f"closing the engine failed: {describe_error(error)}")

    def _infer(self, batch: Mapping[str, Work]) -> None:
        segmenter = self._segmenter
        if segmenter is None:  # it was closed while the node was being deactivated
            _fail(batch)
            return
        began = time.monotonic()
        self._busy_since = began
        self._lanes.expect_engine(self._usual_s.get(len(batch), 0.0))
        try:
            answers = segmenter.infer([work.prepared for work in batch.values()])
        except Exception as error:  # noqa: BLE001  one way for every failure: stop, say so, rebuild once
            self._busy_since = None
            _fail(batch)
            self._recover(error)
            return
        done = time.monotonic()
        self._busy_since = None
        took, usual = done - began, self._usual_s.get(len(batch), done - began)
        self._usual_s[len(batch)] = 0.8 * usual + 0.2 * took
        for (name, work), raw in zip(batch.items(), answers, strict=True):
            self._answer(name, Answered(work, raw, segmenter, done), began)
        self._lanes.expect_engine(0.0)

    def _side_by_side(self) -> SideBySide | None:
        """Two engines with half of the threads each, where that is wanted and possible and frames come too fast."""
        segmenter = self._segmenter
        threads = self._settings.threads or usable_cores()
        wanted = self._settings.inferences_at_once == AT_ONCE
        if not wanted or segmenter is None or segmenter.info.device != "CPU" or threads < AT_ONCE:
            return None
        alone_s = min((took / frames for frames, took in self._usual_s.items()), default=0.0)
        if not self._pressure.look(time.monotonic(), *self._lanes.pressure(), alone_s):
            return None
        if self._beside is None:
            settings = dataclasses.replace(self._settings, threads=threads // AT_ONCE)
            self._log.info(
                "frames come faster than one inference at a time answers them: two at the same time, with "
                f"{settings.threads} of {threads} threads each, until they come slower"
            )
            self._beside = SideBySide(partial(self._open_beside, settings, segmenter), self._log.error)
        return self._beside if self._beside.ready else None

    def _open_beside(self, settings: NodeSettings, running: Segmenter) -> Segmenter:
        engine = self._open_configured(settings, self._opening)
        try:
            _check_same(engine, running)
            segmenter = Segmenter(engine, settings.network_size)
            warm_up(segmenter, engine.card.input_size, cameras=1)
        except BaseException:
            engine.close()
            raise
        return segmenter

    def _infer_beside(self, beside: SideBySide) -> None:
        free = beside.take_free(timeout=0.1)
        if free is None:
            return
        self._lanes.expect_engine(0.0)
        taken = self._lanes.take_prepared(timeout=0.5, oldest_only=True)
        if not taken:
            beside.give_back(free)
            return
        ((name, work),) = taken.items()
        beside.run(free, partial(self._answer_beside, name, work))
        self._lanes.expect_engine(beside.free_in_s())

    def _answer_beside(self, name: str, work: Work, segmenter: Segmenter) -> None:
        """On a thread of `SideBySide`."""
        began = time.monotonic()
        try:
            (raw,) = segmenter.infer([work.prepared])
        except Exception as error:  # noqa: BLE001  as in `_infer`
            work.ticket.book(Fate.FAILED)
            self._on_camera_error(work.epoch, error)
            return
        self._answer(name, Answered(work, raw, segmenter, time.monotonic()), began)

    def _answer(self, name: str, answered: Answered, began: float) -> None:
        """On the thread of the inference, which began then."""
        work = answered.work
        work.times[Stage.WAIT] += began - work.at
        work.times[Stage.INFER] = answered.at - began
        self._lanes.answer(name, work.epoch, answered)

    def _on_camera_error(self, epoch: int, error: Exception) -> None:
        """On another thread than the inference thread."""
        self._error_after = (epoch, error)
        self._lanes.nudge()

    def _recover(self, error: Exception) -> None:
        """One attempt to rebuild for each activation; after that the node has to go inactive."""
        self._failure = describe_error(error)
        self._log.error(f"the engine failed, outputs stop: {self._failure}")
        self._lanes.expect_engine(math.inf)
        self._lanes.fail_prepared()
        with self._gate:
            activation, active = self._activation, self._active
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


def _fail(batch: Mapping[str, Work]) -> None:
    for work in batch.values():
        work.ticket.book(Fate.FAILED)


_MIXED_UP = 0.1
"""Share of labels by which a frame's answer in a batch may be nearer to another frame's than to its own alone: what
an engine computes for one frame and for many differs a little.
"""


_REPLACED = "was the model file replaced? deactivate, clean up and configure the node to load it"


def _check_model(card: ModelCard, before: ModelCard) -> None:
    if card != before:
        raise EngineError(f"{card.id} is not {before.id}, which ran: {_REPLACED}")


def _check_same(engine: Engine, running: Segmenter) -> None:
    if (engine.card, engine.info) != (running.card, running.info):
        raise EngineError(
            f"{engine.card.id} by {engine.info} is not {running.card.id} by {running.info}, which runs: {_REPLACED}"
        )


def warm_up(segmenter: Segmenter, size: Size, cameras: int) -> None:
    """Run once for one frame and once for all cameras; `Segmenter.infer` checks what comes back.

    Raises:
        EngineError: the engine fails, its answer has the wrong shape, type or classes, or frames of a batch get each
            other's answers.
    """
    shape = (size.height, size.width, 3)
    black, noise = np.zeros(shape, np.uint8), np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    (alone,) = segmenter.infer([segmenter.prepare(noise)])
    if cameras == 1:
        return
    together = segmenter.infer([segmenter.prepare(image) for image in (noise, *[black] * (cameras - 1))])
    differing = [float((answer.labels != alone.labels).mean()) for answer in together]
    if differing[0] > min(differing) + _MIXED_UP:
        raise EngineError(
            f"{segmenter.card.id}: the answer for the first of {cameras} frames in a batch is that for another of them "
            f"({differing[0]:.0%} of its labels differ from its answer alone): one camera would get another's"
        )
