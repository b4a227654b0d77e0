"""TensorRT and TensorRT-RTX: an ONNX file is compiled once for this GPU, kept in a cache, and run.

plan (what to build, and its key) -> build -> file (the engine in its private folder) -> engine (running);
compilation joins them, versions holds all that differs between TensorRTs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from seg_perception.core.errors import EngineError
from seg_perception.engines.base import BuildEngine, Device, Engine, EngineOptions, EngineSpec
from seg_perception.engines.cuda import Gpu, find_gpu

if TYPE_CHECKING:
    from seg_perception.engines.tensorrt.versions import TensorRtLibrary


def why_no_engine(flavor: str) -> str | None:
    """What keeps engines of "tensorrt" or "tensorrt_rtx" from running on this machine; None where they do."""
    from seg_perception.engines.tensorrt.versions import load_library

    gpu = find_gpu()
    if isinstance(gpu, str):
        return gpu
    try:
        return why_gpu_unsupported(load_library(flavor), gpu)
    except EngineError as error:
        return str(error)


def why_gpu_unsupported(library: TensorRtLibrary, gpu: Gpu) -> str | None:
    """Why engines of this library do not run on this GPU, as the library itself says; None where they do."""
    from seg_perception.engines.tensorrt.build import make_logger
    from seg_perception.engines.tensorrt.versions import why_unsupported

    errors: list[str] = []
    return why_unsupported(library, gpu, make_logger(library, errors), errors)


def open_tensorrt(model: Path, options: EngineOptions, flavor: str) -> Engine:
    """Open a compiled engine, or find or build the engine of an ONNX file.

    Raises:
        ModelError: the model breaks the contract, or no such engine can be made of it.
        EngineError: no GPU or library, or they do not fit each other; building is switched off or failed.
    """
    from seg_perception.engines.tensorrt.build import BuildProgress
    from seg_perception.engines.tensorrt.compilation import find_or_build
    from seg_perception.engines.tensorrt.engine import TensorRtEngine
    from seg_perception.engines.tensorrt.file import read_engine
    from seg_perception.engines.tensorrt.plan import SUFFIX, BuildSettings, plan_compilation
    from seg_perception.engines.tensorrt.versions import load_library

    built = read_engine(model) if model.suffix == SUFFIX else None
    library = load_library(flavor if built is None else built.key.library)
    gpu = find_gpu()
    if isinstance(gpu, str):
        raise EngineError(f"{library} cannot run {model}: {gpu}")
    if built is not None:
        return TensorRtEngine(built, library, cuda_graph=options.cuda_graph)
    unsupported = why_gpu_unsupported(library, gpu)
    if unsupported is not None:  # before minutes are spent on what would not open
        raise EngineError(f"{unsupported}; open {model} with the engine 'auto' or another one")
    settings = BuildSettings(options.precision, options.batch, options.size)
    report = options.progress

    def show(progress: BuildProgress) -> None:
        if report is not None:
            report(progress.phase, progress.fraction)

    file = find_or_build(
        plan_compilation(model, settings, library, gpu),
        options.build_engine is BuildEngine.IF_MISSING,
        options.cache,
        show,
        options.stop_requested,
    )
    return TensorRtEngine(file, library, cuda_graph=options.cuda_graph)


def _spec(flavor: str, summary: str, auto: int) -> EngineSpec:
    return EngineSpec(
        flavor,
        summary,
        extra="tensorrt",
        device=Device.GPU,
        why_not=lambda: why_no_engine(flavor),
        open=lambda model, options: open_tensorrt(model, options, flavor),
        auto=auto,
        suffixes=(".onnx", ".engine"),
    )


ENGINES = (
    _spec(
        "tensorrt", "TensorRT 8.5 to 11, fp16 by default; comes with JetPack or NVIDIA's apt packages, not with pip", 10
    ),
    _spec("tensorrt_rtx", "TensorRT-RTX for GeForce, RTX and workstation GPUs, fp16 by default", 20),
)
