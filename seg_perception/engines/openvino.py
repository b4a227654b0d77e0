"""OpenVINO on the CPU: optional, and faster than ONNX Runtime on processors that compute in bfloat16 or int8.

OpenVINO by itself takes bfloat16 wherever the processor has it, so that one model would answer
differently from one car's computer to the next. Here the precision is always stated: fp32 unless
bfloat16 is asked for by name, and then a processor without it is an error.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from seg_perception.core.errors import EngineError, pip_install
from seg_perception.core.model_card import ModelCard
from seg_perception.core.types import Precision
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
    import openvino as ov

_TELEMETRY = "openvino_telemetry"


class FloatPrecision(Enum):
    """What float layers are computed in; the value is OpenVINO's name for it. int8 layers stay int8."""

    FP32 = "f32"
    BF16 = "bf16"


class OpenVinoEngine(CheckedEngine):
    """Runs an exported ONNX file with OpenVINO's CPU plug-in.

    Args:
        path: the ONNX file.
        threads: threads of one inference; 0 takes all cores this process may use.
        precision: of what is float in the graph. An fp16 graph is computed in this precision, too:
            its weights were rounded to half, its sums are not.

    Raises:
        FileNotFoundError: no such file.
        ModelError: not an ONNX file of ours, or it breaks the graph contract.
        EngineError: OpenVINO is not installed, refuses the graph, or lacks the precision here; see `int8_in_float`.
    """

    def __init__(self, path: Path, threads: int = 0, precision: FloatPrecision = FloatPrecision.FP32) -> None:
        from seg_perception.engines.graph import fixed_batch, fixed_size
        from seg_perception.engines.graph.model_file import load_model

        try:
            openvino = _import_openvino()
        except ImportError as error:
            raise EngineError(f"the engine 'openvino' needs OpenVINO: {pip_install('openvino')} ({error})") from error
        model = load_model(path)
        in_float = int8_in_float(model.graph, model.card.id)
        self._card = model.card
        options = {
            "INFERENCE_PRECISION_HINT": precision.value,
            "INFERENCE_NUM_THREADS": threads or usable_cores(),
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            # A pinned thread waits while other work has its core, though another core may be idle.
            "ENABLE_CPU_PINNING": False,
        }
        if in_float:
            options["LP_TRANSFORMS_MODE"] = "NO"  # no int8 kernels; a version that does not know it refuses to open
        try:
            core = openvino.Core()
            if precision is FloatPrecision.BF16:
                _demand_bf16(core)
            compiled = core.compile_model(core.read_model(model.content), "CPU", options)
            request = compiled.create_infer_request()
        except RuntimeError as error:
            raise EngineError(f"{path}: OpenVINO cannot open this model: {error}") from error
        if in_float:
            tell_int8_in_float(model.card.id)
        self._request: ov.InferRequest = request
        self._info = EngineInfo(
            runtime="openvino",
            version=openvino.__version__.partition("-")[0],  # without the build's number and hash
            device="CPU",
            precision=_computed_in(self._card, precision, in_float),
            max_batch=fixed_batch(model.graph),
            fixed_size=fixed_size(model.graph),
        )

    def _run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        try:
            # inputs are read in place; outputs are copies, which belong to the caller
            answer = self._request.infer({INPUT_NAME: images}, share_inputs=True, share_outputs=False)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO failed: {error}") from error
        labels, confidence = (answer[name] for name in OUTPUT_NAMES)
        return labels, confidence

    def _release(self) -> None:
        del self._request


def _import_openvino() -> ModuleType:
    """OpenVINO without its telemetry, which would report each import to a server, and ask nobody.

    Raises:
        ImportError: it is not installed, or does not load.
    """
    if "openvino" in sys.modules:
        return importlib.import_module("openvino")
    loaded = sys.modules.get(_TELEMETRY)
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment] # "not found": OpenVINO then takes its own stub
    try:
        return importlib.import_module("openvino")
    finally:
        del sys.modules[_TELEMETRY]
        if loaded is not None:
            sys.modules[_TELEMETRY] = loaded


def _demand_bf16(core: ov.Core) -> None:
    reason = _no_bf16(core)
    if reason is not None:
        raise EngineError(f"{reason}; the engine 'openvino' takes fp32")


def _no_bf16(core: ov.Core) -> str | None:
    able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "BF16" in able:
        return None
    name = core.get_property("CPU", "FULL_DEVICE_NAME")
    return f"{name} does not compute in bfloat16 (OpenVINO lists {', '.join(able)})"


def _computed_in(card: ModelCard, precision: FloatPrecision, in_float: bool) -> str:
    floats = precision.name.lower()
    if in_float:
        return INT8_IN_FLOAT.format(floats)
    if card.precision is Precision.INT8:
        return "int8" if precision is FloatPrecision.FP32 else f"int8 and {floats}"
    return floats


def _open_fp32(model: Path, options: EngineOptions) -> Engine:
    return OpenVinoEngine(model, options.threads, FloatPrecision.FP32)


def _open_bf16(model: Path, options: EngineOptions) -> Engine:
    return OpenVinoEngine(model, options.threads, FloatPrecision.BF16)


def _why_not() -> str | None:
    return None if importlib.util.find_spec("openvino") else f"openvino is not installed: {pip_install('openvino')}"


def _why_not_bf16() -> str | None:
    missing = _why_not()
    if missing is not None:
        return missing
    try:
        return _no_bf16(_import_openvino().Core())
    except (ImportError, RuntimeError) as error:
        return f"openvino does not load ({error})"


ENGINES = (
    EngineSpec("openvino", "OpenVINO, fp32 (or int8 graphs)", "openvino", Device.CPU, _why_not, _open_fp32),
    EngineSpec(
        "openvino_bf16",
        "OpenVINO in bfloat16, on processors that compute in it: about twice as fast, few labels in a thousand differ",
        "openvino",
        Device.CPU,
        _why_not_bf16,
        _open_bf16,
    ),
)
