"""From the node's settings to an opened engine: the one place where they meet `open_engine`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from seg_perception.core.errors import EngineError
from seg_perception.core.resources import model_file
from seg_perception.engines.base import Engine, EngineOptions
from seg_perception.engines.opening import open_engine
from seg_perception.node_settings import NodeSettings


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
