"""Opens an engine by name."""

from __future__ import annotations

from pathlib import Path

from seg_perception.core.errors import EngineError
from seg_perception.engines.base import Engine

RUNTIMES = ("auto", "onnxruntime", "tensorrt")


def open_engine(model: Path, runtime: str = "auto", threads: int = 0) -> Engine:
    """Open a model with the named runtime.

    Raises:
        FileNotFoundError: no such model.
        ModelError: the model breaks the contract of a deployed graph.
        EngineError: unknown runtime, or what was asked for by name is not installed.
    """
    if runtime in ("auto", "onnxruntime"):
        from seg_perception.engines.onnxruntime import OnnxRuntimeEngine

        return OnnxRuntimeEngine(model, threads)
    raise EngineError(f"engine {runtime!r} is not known; accepted: {', '.join(RUNTIMES)}")
