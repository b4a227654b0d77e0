"""The engine that the node has open: opened for its settings, proven before its first frame, and closed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np

from seg_perception.core.errors import EngineError
from seg_perception.core.files import model_file
from seg_perception.core.model_card import ModelCard
from seg_perception.core.types import Size
from seg_perception.engines.base import Engine, EngineOptions
from seg_perception.engines.opening import open_engine
from seg_perception.node_settings import NodeSettings
from seg_perception.ros.log import describe_error
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
    def warning(self, message: str) -> object: ...
    def error(self, message: str) -> object: ...


class EngineHolder:
    """Holds one engine, or none.

    The inference thread alone calls `open` and `close`; `open_beside` is called on a thread that opens further engines.
    Every thread may read the attributes, and goes on with what it read: they may change at any moment.

    Args:
        settings: which engine, at which size.
        open_configured: opens the engine that the settings ask for.

    Attributes:
        opening: how far opening is, and whether to give it up.
        engine, segmenter: the open engine; None while there is none that has been proven.
        device_memory: bytes of a GPU that the engine opened last took; None: no GPU, or it cannot be told.
    """

    def __init__(self, settings: NodeSettings, open_configured: OpenEngine, log: Log) -> None:
        self._settings = settings
        self._open_configured = open_configured
        self._log = log
        self._card: ModelCard | None = None  # of the first engine; the node's labels and colors are of it
        self.opening = Opening()
        self.engine: Engine | None = None
        self.segmenter: Segmenter | None = None
        self.device_memory: int | None = None

    def open(self) -> ModelCard:
        """Open the engine in the place of the one that is open, and prove it.

        Raises:
            FileNotFoundError, ModelError, EngineError: see `open_engine`; or its answers are wrong (see `warm_up`), or
                it is of another model than the first one.
        """
        self.close()
        self.opening.progress = ""
        engine = self.engine = self._open_configured(self._settings, self.opening)
        try:
            _check_model(engine.card, self._card or engine.card)
            segmenter = Segmenter(engine, self._settings.network_size)
            warm_up(segmenter, engine.card.input_size, cameras=len(self._settings.cameras))
        except BaseException:
            self.close()
            raise
        self.device_memory = device_memory_of(engine)
        self.segmenter, self._card = segmenter, engine.card
        return engine.card

    def open_beside(self, settings: NodeSettings, running: Segmenter) -> Segmenter:
        """Open and prove one more engine of these settings, which whoever asked holds and closes.

        Raises:
            FileNotFoundError, ModelError, EngineError: as `open`; or it is not the same as the one that runs.
        """
        engine = self._open_configured(settings, self.opening)
        try:
            _check_same(engine, running)
            segmenter = Segmenter(engine, settings.network_size)
            warm_up(segmenter, engine.card.input_size, cameras=1)
        except BaseException:
            engine.close()
            raise
        return segmenter

    def close(self) -> None:
        """Close the engine, if there is one."""
        engine, self.engine, self.segmenter = self.engine, None, None
        if engine is None:
            return
        try:
            engine.close()
        except Exception as error:  # noqa: BLE001  a broken engine may not even close; it must not stop the rest
            self._log.error(f"closing the engine failed: {describe_error(error)}")


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
