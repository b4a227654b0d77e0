"""ONNX Runtime on the CPU: the engine that runs everywhere."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from seg_perception.core.errors import EngineError, pip_install
from seg_perception.engines.base import (
    INPUT_NAME,
    OUTPUT_NAMES,
    CheckedEngine,
    Device,
    Engine,
    EngineInfo,
    EngineOptions,
    EngineSpec,
)
from seg_perception.engines.processor import INT8_IN_FLOAT, int8_in_float, tell_int8_in_float, usable_cores

if TYPE_CHECKING:
    import onnx
    import onnxruntime as ort

    from seg_perception.engines.graph.model_file import CheckedModel

NAME = "onnxruntime"

_SPINNING = (("session.force_spinning_stop", "1"), ("session.intra_op.spin_duration_us", "200"))
"""The threads spin briefly between the layers of a run and never after it. With ONNX Runtime's own settings a run at
10 Hz costs 140 ms of CPU instead of 96, at the same latency and throughput; without any spinning it is 95, and up to
15 % slower (docs/adr/0011-threads.md). Versions that do not know a setting ignore it."""

_INT8_IN_FLOAT = ("session.disable_quant_qdq", "1")
"""Keeps the int8 kernels out. Without the layout optimizations, too, a run is bit for bit what the graph says."""

Answerer: TypeAlias = Callable[[NDArray[np.uint8]], tuple[NDArray[np.uint8], NDArray[np.uint8]]]
"""Takes uint8 [N, H, W, 3] RGB, returns (labels, confidence), each uint8 [N, H, W]: `Engine.infer` is one."""


def open_session(content: bytes, threads: int, name: str, in_float: bool) -> ort.InferenceSession:
    """A session on the CPU.

    Args:
        content: a checked ONNX file.
        threads: of one inference; 0 takes all cores this process may use.
        name: of the model, for the error.
        in_float: compute int8 in fp32, see `int8_in_float`.

    Raises:
        EngineError: onnxruntime is not installed, or it refuses the graph.
    """
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise EngineError(f"the engine {NAME!r} needs ONNX Runtime: {pip_install('onnx')} ({error})") from error
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or usable_cores()
    options.log_severity_level = 3
    for key, value in _SPINNING:
        options.add_session_config_entry(key, value)
    if in_float:
        options.add_session_config_entry(*_INT8_IN_FLOAT)
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    try:
        return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises several unrelated classes
        raise EngineError(f"{name}: ONNX Runtime cannot open this model: {error}") from error


def in_memory(model: onnx.ModelProto, threads: int = 0) -> Answerer:
    """Open a graph of the contract that is still in memory; the answerer keeps it open.

    Raises:
        EngineError: see `open_session` and `int8_in_float`.
    """
    name = "a graph in memory"
    session = open_session(model.SerializeToString(), threads, name, int8_in_float(model, name))

    def answer(images: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        labels, confidence = session.run(OUTPUT_NAMES, {INPUT_NAME: images})
        return labels, confidence

    return answer


class OnnxRuntimeEngine(CheckedEngine):
    """Runs an exported ONNX file with ONNX Runtime's CPU provider.

    Args:
        path: the ONNX file.
        threads: threads of one inference; 0 takes all cores this process may use.

    Raises:
        FileNotFoundError: no such file.
        ModelError: not an ONNX file of ours, or it breaks the graph contract.
        EngineError: onnxruntime is not installed, or it refuses the graph; see `int8_in_float`.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        from seg_perception.engines.graph import fixed_batch, fixed_size
        from seg_perception.engines.graph.model_file import load_model

        model = load_model(path)
        in_float = int8_in_float(model.graph, model.card.id)
        session = open_session(self._content(model), threads, str(path), in_float)
        if in_float:
            tell_int8_in_float(model.card.id)
        self._session: ort.InferenceSession = session
        self._card = model.card
        self._info = EngineInfo(
            runtime=NAME,
            version=importlib.import_module("onnxruntime").__version__,
            device="CPU",
            precision=INT8_IN_FLOAT.format("fp32") if in_float else str(self._card.precision),
            max_batch=fixed_batch(model.graph),
            fixed_size=fixed_size(model.graph),
        )

    def _content(self, model: CheckedModel) -> bytes:
        return model.content

    def _run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        labels, confidence = self._outputs(OUTPUT_NAMES, images)
        return labels, confidence

    def _outputs(self, names: Sequence[str], images: NDArray[np.uint8]) -> list[NDArray[Any]]:
        try:
            return list(self._session.run(names, {INPUT_NAME: images}))
        except Exception as error:  # onnxruntime raises several unrelated classes
            raise EngineError(f"ONNX Runtime failed: {error}") from error

    def _release(self) -> None:
        del self._session


class FeatureEngine(OnnxRuntimeEngine):
    """Answers with the network's own features beside labels and confidence, in the same run.

    Attributes:
        features: of the last `infer`, float32 [N, channels, rows, columns]: see `engines.graph.features`.

    Raises:
        NoFeaturesError: no classifier can be recognized in the graph; the others as of an OnnxRuntimeEngine.
    """

    GRID = (3, 4)  # rows and columns: two kilobytes a frame in half precision for a hundred channels
    features: NDArray[np.float32]

    def _content(self, model: CheckedModel) -> bytes:
        from seg_perception.engines.graph.features import with_features

        return with_features(model.graph, *self.GRID).SerializeToString()

    def _run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        from seg_perception.engines.graph.features import FEATURES

        labels, confidence, self.features = self._outputs((*OUTPUT_NAMES, FEATURES), images)
        return labels, confidence


def _open(model: Path, options: EngineOptions) -> Engine:
    return OnnxRuntimeEngine(model, options.threads)


def _why_not() -> str | None:
    return None if importlib.util.find_spec("onnxruntime") else f"onnxruntime is not installed: {pip_install('onnx')}"


ENGINES = (
    EngineSpec(
        NAME,
        "ONNX Runtime, fp32 (or the graph's own precision): runs everywhere, the reference of all others",
        extra="onnx",
        device=Device.CPU,
        why_not=_why_not,
        open=_open,
        auto=100,
    ),
)
