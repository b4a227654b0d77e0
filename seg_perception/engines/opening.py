"""Opens an engine by name."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from seg_perception.core.errors import EngineError, ModelError
from seg_perception.engines.base import Engine
from seg_perception.engines.runtimes import RUNTIMES

if TYPE_CHECKING:
    from seg_perception.engines.tensorrt.build import BuildSettings

log = logging.getLogger(__name__)

BUILD_ENGINE = ("if_missing", "never")
ENGINE_SUFFIX = ".engine"
CPU_RUNTIMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "openvino_bf16": "OpenVINO"}


@dataclass(frozen=True, slots=True)
class TensorRtOptions:
    """How `open_engine` gets and runs a TensorRT engine; the CPU's engines ignore them.

    Attributes:
        build: what to build; None: fp16 (int8 of an int8 graph), batch 1, the model card's size.
        build_engine: "if_missing" builds a missing, stale or damaged engine; "never" is an error then.
        cache: folder of engines; None: see `engine_file.default_cache_folder`.
        cuda_graph: replay runs from a captured CUDA graph.
        progress: called with a phase name and a fraction of 0 to 1 while building.
        stop_requested: asked while building; True ends the build with an EngineError.
    """

    build: BuildSettings | None = None
    build_engine: str = "if_missing"
    cache: Path | None = None
    cuda_graph: bool = True
    progress: Callable[[str, float], None] | None = field(default=None, compare=False)
    stop_requested: Callable[[], bool] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.build_engine not in BUILD_ENGINE:
            raise EngineError(f"build_engine {self.build_engine!r} is not one of {', '.join(BUILD_ENGINE)}")


def open_engine(
    model: Path, runtime: str = "auto", threads: int = 0, tensorrt: TensorRtOptions | None = None
) -> Engine:
    """Open a model with the named runtime.

    "auto" takes TensorRT where an NVIDIA GPU, TensorRT and cuda-python are there, else ONNX Runtime,
    and says in the log which and why. OpenVINO is only taken by name: what "auto" finds must not
    depend on an optional package. "openvino" computes in fp32, "openvino_bf16" in bfloat16, which is
    faster on processors that have it, an error on others, and changes a few labels in a thousand.

    Args:
        model: an ONNX file, or a compiled `.engine` file (TensorRT only).
        runtime: one of RUNTIMES.
        threads: of ONNX Runtime and OpenVINO; 0 takes all cores this process may use.
        tensorrt: how to get and run a TensorRT engine.

    Raises:
        FileNotFoundError: no such model.
        ModelError: the model breaks the contract of a deployed graph.
        EngineError: unknown runtime; a negative number of threads; what was asked for by name is not
            installed; or an engine cannot be built, is stale, or does not run here.
    """
    if runtime not in RUNTIMES:
        raise EngineError(f"engine {runtime!r} is not known; accepted: {', '.join(RUNTIMES)}")
    if threads < 0:
        raise EngineError(f"threads {threads} is not accepted: 0 (all cores this process may use) or more is")
    compiled = model.suffix == ENGINE_SUFFIX
    if not model.exists():
        raise FileNotFoundError(2, "there is no such model", str(model))
    if runtime in CPU_RUNTIMES and compiled:
        raise ModelError(
            f"{model} is a TensorRT engine; {CPU_RUNTIMES[runtime]} takes the .onnx file it was compiled from"
        )
    if runtime == "auto" and not compiled:
        missing = why_no_tensorrt()
        runtime = "tensorrt" if missing is None else "onnxruntime"
        log.info("engine auto: %s", "TensorRT on the GPU" if missing is None else f"ONNX Runtime, because {missing}")
        wanted = None
    else:
        wanted = runtime if runtime in ("tensorrt", "tensorrt_rtx") else None
    if runtime == "onnxruntime":
        from seg_perception.engines.onnxruntime import OnnxRuntimeEngine

        return OnnxRuntimeEngine(model, threads)
    if runtime in CPU_RUNTIMES:
        from seg_perception.engines.openvino import FloatPrecision, OpenVinoEngine

        bf16 = runtime == "openvino_bf16"
        return OpenVinoEngine(model, threads, FloatPrecision.BF16 if bf16 else FloatPrecision.FP32)
    return _open_tensorrt(model, wanted, tensorrt or TensorRtOptions(), compiled)


def why_no_tensorrt() -> str | None:
    """What TensorRT lacks on this machine, in a few words; None where it can be used."""
    from seg_perception.engines.cuda import Cuda, load_cuda
    from seg_perception.engines.tensorrt.versions import load_library

    try:
        cuda = Cuda(load_cuda())
    except EngineError:
        return "cuda-python is not installed"
    try:
        if cuda.device_count() == 0:
            return "there is no NVIDIA GPU"
    except EngineError as error:
        return f"there is no usable NVIDIA GPU ({error})"
    try:
        load_library()
    except EngineError as error:
        return str(error)
    return None


def _open_tensorrt(model: Path, wanted: str | None, options: TensorRtOptions, compiled: bool) -> Engine:
    from seg_perception.engines.cuda import Cuda, load_cuda
    from seg_perception.engines.tensorrt import compilation
    from seg_perception.engines.tensorrt import file as engine_file
    from seg_perception.engines.tensorrt.build import BuildProgress, BuildSettings
    from seg_perception.engines.tensorrt.engine import TensorRtEngine
    from seg_perception.engines.tensorrt.versions import load_library

    if compiled:
        file = engine_file.read_engine(model)
        return TensorRtEngine(file, load_library(file.key.library), cuda_graph=options.cuda_graph)
    library = load_library(wanted)
    gpu = Cuda(load_cuda()).gpu()
    plan = compilation.plan_compilation(model, options.build or BuildSettings(), library, gpu)
    report = options.progress

    def show(progress: BuildProgress) -> None:
        if report is not None:
            report(progress.phase, progress.fraction)

    file = compilation.find_or_build(
        plan, options.build_engine == "if_missing", options.cache, show, options.stop_requested
    )
    return TensorRtEngine(file, library, cuda_graph=options.cuda_graph)
