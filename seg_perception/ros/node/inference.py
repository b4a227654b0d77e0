"""The inference thread: takes the prepared frames of all cameras and runs them as a batch.

It alone has the engine opened that the node's settings ask for, uses it and has it closed. Around it, each camera's
thread prepares and finishes: see `lanes`.
"""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from enum import Enum
from functools import partial

from seg_perception.core.errors import EngineError
from seg_perception.core.model_card import ModelCard
from seg_perception.engines.base import EngineInfo
from seg_perception.engines.processor import usable_cores
from seg_perception.node_settings import NodeSettings
from seg_perception.ros.log import describe_error
from seg_perception.ros.node.accounting import Fate, Stage
from seg_perception.ros.node.camera import Camera
from seg_perception.ros.node.camera_thread import Answered, CameraThread, FrameLanes, Work
from seg_perception.ros.node.engine_holder import EngineHolder, Log, OpenEngine, open_configured_engine
from seg_perception.ros.node.lanes import UsualTime
from seg_perception.ros.node.outputs import PUBLISHING_TIMEOUT_S
from seg_perception.ros.node.side_by_side import AT_ONCE, Pressure, SideBySide
from seg_perception.segmenter import Segmenter


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
        self._cameras: dict[str, CameraThread] = {}
        self._engine = EngineHolder(settings, open_configured, log)
        self._state = EngineState.CLOSED
        self._failure = ""
        self._rebuilds = 0
        self._rebuild_allowed = True
        self._busy_since: float | None = None
        self._gate = threading.Lock()  # where activation and failure meet
        self._active = False
        self._activation = 0
        self._usual: defaultdict[int, UsualTime] = defaultdict(UsualTime)  # of an inference, by the frames in it
        self._pressure = Pressure()
        self._beside: SideBySide | None = None
        self._error_after: tuple[int, Exception] | None = None  # finishing or publishing raised, and in which epoch
        self._stop = threading.Event()
        self._opened: Future[ModelCard] | None = None  # set by the executor's thread, resolved by this one
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)

    # --- executor thread -----------------------------------------------------------------------

    def open(self) -> Future[ModelCard]:
        """Open the engine, or open it again, on the inference thread; the answer carries its card.

        Asked again while that is still to be done, the answer is the same. It always comes, at the latest with `stop`.
        The future raises what opening raises: FileNotFoundError, ModelError, EngineError.
        """
        if self._opened is None or self._opened.done():
            self._opened = Future()
            self._state = EngineState.OPENING
            if self._thread.is_alive():
                self._lanes.nudge()
            else:
                self._thread.start()
        return self._opened

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
                self._cameras[name] = CameraThread(
                    camera, self._lanes, lambda: self._engine.segmenter, self._on_camera_error
                )
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
        self._engine.opening.stop.set()
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
        segmenter = self._engine.segmenter
        return segmenter is not None and segmenter.takes_gpu_images

    def status(self) -> EngineStatus:
        """A snapshot."""
        engine, beside = self._engine.engine, self._beside
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
            self._engine.opening.progress,
            None if engine is None else self._engine.device_memory,
        )

    # --- inference thread ----------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.is_set():
            if (opened := self._opened) is not None and not opened.done():
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
        if (opened := self._opened) is not None and not opened.done():
            opened.set_exception(EngineError("the engine is not opened any more: the node gives it back"))

    def _open_for(self, opened: Future[ModelCard]) -> None:
        try:
            opened.set_result(self._open_engine())
        except Exception as error:  # noqa: BLE001  whatever it is, whoever configures must learn it
            self._state = EngineState.FAILED
            self._failure = describe_error(error)
            opened.set_exception(error)

    def _open_engine(self) -> ModelCard:
        self._close_engine()
        card = self._engine.open()
        self._usual.clear()
        self._pressure = Pressure()
        self._state = EngineState.READY
        self._lanes.expect_engine(0.0)
        return card

    def _close_engine(self) -> None:
        beside, self._beside = self._beside, None
        if beside is not None:
            beside.close()
        self._engine.close()

    def _infer(self, batch: Mapping[str, Work]) -> None:
        segmenter = self._engine.segmenter
        if segmenter is None:  # it was closed while the node was being deactivated
            _fail(batch)
            return
        began = time.monotonic()
        self._busy_since = began
        self._lanes.expect_engine(self._usual[len(batch)].early_s)
        try:
            answers = segmenter.infer([work.prepared for work in batch.values()])
        except Exception as error:  # noqa: BLE001  one way for every failure: stop, say so, rebuild once
            self._busy_since = None
            _fail(batch)
            self._recover(error)
            return
        done = time.monotonic()
        self._busy_since = None
        self._usual[len(batch)].note(done - began)
        for (name, work), raw in zip(batch.items(), answers, strict=True):
            self._answer(name, Answered(work, raw, segmenter, done), began)
        self._lanes.expect_engine(0.0)

    def _side_by_side(self) -> SideBySide | None:
        """Two engines with half of the threads each, where that is wanted and possible and frames come too fast."""
        segmenter = self._engine.segmenter
        threads = self._settings.threads or usable_cores()
        wanted = self._settings.inferences_at_once == AT_ONCE
        if not wanted or segmenter is None or segmenter.info.device != "CPU" or threads < AT_ONCE:
            return None
        alone_s = min((usual.mean_s / frames for frames, usual in self._usual.items()), default=0.0)
        if not self._pressure.look(time.monotonic(), *self._lanes.pressure(), alone_s):
            return None
        if self._beside is None:
            settings = dataclasses.replace(self._settings, threads=threads // AT_ONCE)
            self._log.info(
                "frames come faster than one inference at a time answers them: two at the same time, with "
                f"{settings.threads} of {threads} threads each, until they come slower"
            )
            self._beside = SideBySide(partial(self._engine.open_beside, settings, segmenter), self._log.error)
        return self._beside if self._beside.ready else None

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
