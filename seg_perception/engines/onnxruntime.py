"""ONNX Runtime on the CPU: the engine that runs everywhere."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seg_perception.core.errors import EngineError
from seg_perception.core.model_card import ModelCard
from seg_perception.engines.base import INPUT_NAME, OUTPUT_NAMES, EngineInfo, check_batch
from seg_perception.engines.graph.edits import fixed_batch, fixed_size
from seg_perception.engines.graph.model_file import load_model
from seg_perception.engines.processor import demand_exact_int8


class OnnxRuntimeEngine:
    """Runs an exported ONNX file with ONNX Runtime's CPU provider.

    Args:
        path: the ONNX file.
        threads: threads of one inference; 0 takes all cores this process may use.

    Raises:
        FileNotFoundError: no such file.
        ModelError: not an ONNX file of ours, or it breaks the graph contract.
        EngineError: onnxruntime is not installed, or it refuses the graph; an int8 graph on a
            processor that cannot sum int8.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        try:
            import onnxruntime as ort
        except ImportError as error:
            raise EngineError("the engine 'onnxruntime' needs ONNX Runtime: pip install onnxruntime") from error
        model = load_model(path)
        demand_exact_int8(model.card)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
        options.log_severity_level = 3
        try:
            session = ort.InferenceSession(model.content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises several unrelated classes
            raise EngineError(f"{path}: ONNX Runtime cannot open this model: {error}") from error
        self._session: ort.InferenceSession | None = session
        self._card = model.card
        self._info = EngineInfo(
            runtime="onnxruntime",
            version=ort.__version__,
            device="CPU",
            precision=self._card.precision,
            max_batch=fixed_batch(model.graph),
            fixed_size=fixed_size(model.graph),
        )

    @property
    def card(self) -> ModelCard:
        return self._card

    @property
    def info(self) -> EngineInfo:
        return self._info

    def infer(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        if self._session is None:
            raise EngineError("this engine is closed")
        check_batch(images, self._card, self._info)
        try:
            labels, confidence = self._session.run(OUTPUT_NAMES, {INPUT_NAME: images})
        except Exception as error:  # onnxruntime raises several unrelated classes
            raise EngineError(f"ONNX Runtime failed: {error}") from error
        return labels, confidence

    def close(self) -> None:
        self._session = None
