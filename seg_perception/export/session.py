"""Runs a graph that is still in memory, with ONNX Runtime on the CPU."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from seg_perception.engines.base import INPUT_NAME, OUTPUT_NAMES
from seg_perception.export.parity import Answerer


def in_memory(model: onnx.ModelProto, threads: int = 0) -> Answerer:
    """Open a graph; the answerer keeps it open.

    Args:
        model: any graph of the contract.
        threads: of one inference; 0 leaves it to ONNX Runtime.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def answer(images: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        labels, confidence = session.run(OUTPUT_NAMES, {INPUT_NAME: images})
        return labels, confidence

    return answer
