"""The life of the node's engine: asked for, waited for while others are served, given up, opened again, given back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace

from seg_perception.core.errors import SegPerceptionError
from seg_perception.core.model_card import ModelCard
from seg_perception.node_settings import NodeSettings
from seg_perception.ros.node.camera_thread import FrameLanes
from seg_perception.ros.node.engine_holder import Log, OpenEngine
from seg_perception.ros.node.inference import EngineState, EngineStatus, InferenceThread
from seg_perception.ros.node.lanes import Lanes

STOP_TIMEOUT_S = 10.0  # for an inference under way
ABANDON_TIMEOUT_S = 0.3  # for an engine that is still opening (that may take minutes), or when the process ends
OPENING_STEP_S = 0.05
OPENING_SAID_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class FirstOpening:
    """The engine that configuring waits for, the settings it is for, and the lanes of their cameras."""

    settings: NodeSettings
    lanes: FrameLanes
    engine: Future[ModelCard]


class Others:
    """Awaited, it lets the executor run what else is ready, once."""

    def __await__(self) -> Generator[None, None, None]:
        yield


class EngineLife:
    """Has the inference thread open, pause and close the engine, and waits for it.

    Every method but `request_stop` runs on the executor's thread.

    Args:
        open_configured: opens the engine that the settings ask for; called on the inference thread.
        on_opening: called once a second while an engine is waited for, with the seconds so far.
        on_failure: see `InferenceThread`.

    Attributes:
        thread: uses the engine; None while the node is not configured.
        first: the opening that configuring waits for; None before and after.
        left_behind: whether a thread could not be ended.
    """

    def __init__(
        self,
        log: Log,
        open_configured: OpenEngine,
        on_opening: Callable[[float], None],
        on_failure: Callable[[int, str], None],
    ) -> None:
        self._log = log
        self._open_configured = open_configured
        self._on_opening = on_opening
        self._on_failure = on_failure
        self._stop_requested = threading.Event()
        self._given_up = False  # whether configuring shall wait no more
        self._again: Future[ModelCard] | None = None  # opened for an activation that is about to be made
        self.thread: InferenceThread | None = None
        self.first: FirstOpening | None = None
        self.left_behind = False

    def begin(self, settings: NodeSettings) -> None:
        """Let the inference thread open the engine that the settings ask for; `first` until `configured`."""
        lanes: FrameLanes = Lanes(settings.cameras)
        self.thread = InferenceThread(settings, lanes, self._log, self._on_failure, self._open_configured)
        self.first = FirstOpening(settings, lanes, self.thread.open())

    def apply(self, settings: NodeSettings) -> None:
        """Live parameters changed while the first engine is opening."""
        assert self.first is not None
        self.first = replace(self.first, settings=settings)

    def wait_for_first(self) -> ModelCard:
        """Block until it is open, but let a stop through.

        Raises:
            SegPerceptionError: a stop came, or configuring was given up.
            FileNotFoundError, ModelError, EngineError: it cannot be opened.
        """
        assert self.first is not None
        return self._wait(self.first.engine)

    def configured(self) -> None:
        """What waited for the first engine is done."""
        self.first, self._given_up = None, False

    def wait_until_ready(self) -> None:
        """Block until an engine that failed in an earlier activation is open again.

        Raises:
            SegPerceptionError, FileNotFoundError, ModelError, EngineError: as `wait_for_first`.
        """
        assert self.thread is not None
        opened, self._again = self._again, None
        if not self.thread.ready:
            self._wait(opened or self.thread.open())

    async def let_first_open(self) -> None:
        """Wait until it is open, or given up, or cannot be opened, while the executor serves others."""
        assert self.first is not None
        await self._let_open(self.first.engine)

    async def let_open_again(self) -> None:
        """As `let_first_open`, for an activation that needs it; `forget_again` when that has been made."""
        if self.thread is not None and not self.thread.ready:
            self._again = self.thread.open()
            await self._let_open(self._again)

    def forget_again(self) -> None:
        """The activation for which an engine was opened has been made, or could not be."""
        self._again = None

    async def give_up_first(self) -> None:
        """Let configuring end, if it waits for an engine: the node shuts down."""
        self._given_up = self.first is not None
        while self.first is not None:
            await Others()

    def give_back(self) -> None:
        """Close the engine and end its threads."""
        if self.thread is not None:
            hurry = self._stop_requested.is_set() or self.thread.status().state is EngineState.OPENING
            if not self.thread.stop(ABANDON_TIMEOUT_S if hurry else STOP_TIMEOUT_S):
                self.left_behind = True
                self._log.warning("the engine is busy; its thread is left behind")
        self.thread, self.first, self._again, self._given_up = None, None, None, False

    def request_stop(self) -> None:
        """From any thread: wait for no engine any more."""
        self._stop_requested.set()

    def status(self) -> EngineStatus | None:
        """A snapshot; None while there is no engine."""
        return None if self.thread is None else self.thread.status()

    def _wait(self, opened: Future[ModelCard]) -> ModelCard:
        began = said = time.monotonic()
        while not opened.done():
            if self._gave_up:
                raise SegPerceptionError("stopped while the engine was opening")
            said = self._say_that_it_opens(began, said)
            wait([opened], timeout=OPENING_STEP_S)
        return opened.result()

    async def _let_open(self, opened: Future[ModelCard]) -> None:
        """A build takes minutes, in which services, timers and the bond must answer.

        Each step blocks the executor for a moment: rclpy polls what waits as fast as it can.
        """
        thread = self.thread
        began = said = time.monotonic()
        while not (opened.done() or self._gave_up) and self.thread is thread:
            said = self._say_that_it_opens(began, said)
            wait([opened], timeout=OPENING_STEP_S)
            await Others()

    @property
    def _gave_up(self) -> bool:
        return self._stop_requested.is_set() or self._given_up

    def _say_that_it_opens(self, began: float, said: float) -> float:
        """Once a second to who listens, every five seconds in the log; answers when it was said last."""
        now = time.monotonic()
        if now - said < OPENING_SAID_EVERY_S:
            return said
        seconds = now - began
        self._on_opening(seconds)
        if int(seconds) % 5 == 0 and (status := self.status()) is not None:
            progress = status.opening or "no progress is reported"
            self._log.info(f"still opening the engine, for {seconds:.0f} s: {progress}")
        return now
