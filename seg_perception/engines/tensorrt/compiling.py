"""ONNX file to engine file, as the command `compile` does it: look, build where needed, write."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from seg_perception.core.errors import EngineError
from seg_perception.core.resources import model_file
from seg_perception.engines.cuda import find_gpu
from seg_perception.engines.tensorrt import why_gpu_unsupported
from seg_perception.engines.tensorrt.build import BuiltEngine
from seg_perception.engines.tensorrt.cache import check_private, make_private_folder
from seg_perception.engines.tensorrt.compilation import compile_engine
from seg_perception.engines.tensorrt.file import read_engine
from seg_perception.engines.tensorrt.plan import CompilePlan, plan_compilation
from seg_perception.engines.tensorrt.progress import BuildProgress
from seg_perception.engines.tensorrt.settings import BuildSettings
from seg_perception.engines.tensorrt.versions import load_library


@dataclass(frozen=True, slots=True)
class CompileReport:
    """A compiled engine.

    Attributes:
        path: of the engine file.
        plan: what it is made from and for.
        built: how the build went; None where a sound engine was there already.
    """

    path: Path
    plan: CompilePlan
    built: BuiltEngine | None


def compile_model(
    model: str | Path | None = None,
    out: str | Path | None = None,
    library: str | None = None,
    settings: BuildSettings | None = None,
    force: bool = False,
    timing_cache: str | Path | None = None,
    on_start: Callable[[str], object] = lambda _: None,
    on_stale: Callable[[str], object] = lambda _: None,
    on_progress: Callable[[BuildProgress], None] = lambda _: None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> CompileReport:
    """Compile an ONNX graph to a TensorRT engine, with a JSON file beside it that says what it is for.

    Args:
        model: an ONNX file; None: the shipped model.
        out: the engine file; None: in the engine cache, where the node looks.
        library: "tensorrt" or "tensorrt_rtx"; None: the first that is installed.
        settings: precision, batch, sizes; None: fp16 (int8 of an int8 graph), batch 1, any camera shape.
        force: build even if a sound engine is there.
        timing_cache: keep kernel timings here for later builds.
        on_start: is told what is compiled, with what, for which GPU, where a build is needed.
        on_stale: is told why an engine that is there is built anew, and why what is built cannot run here.
        on_progress: is called with each phase while building, in another thread than the caller's.
        stop_requested: asked while building; True ends the build with a `BuildStoppedError`.

    Raises:
        FileNotFoundError: no such model, or no folder to write to.
        ModelError: the model breaks the contract, or cannot have this precision.
        EngineError: no TensorRT or GPU here, or the build failed.
    """
    settings = settings or BuildSettings()
    loaded = load_library(library)
    found = find_gpu()
    gpu = None if isinstance(found, str) else found
    plan = plan_compilation(model_file(model), settings, loaded, gpu)
    if gpu is not None and settings.target is None and (reason := why_gpu_unsupported(loaded, gpu)) is not None:
        if not loaded.is_rtx:
            raise EngineError(reason)
        on_stale(f"the engine will not run on this machine: {reason}")
    if out is None:
        path = plan.cached_path()
        make_private_folder(path.parent)
    else:
        path = Path(out)
        if not path.parent.is_dir():
            raise FileNotFoundError(2, "there is no such folder to write to", str(path.parent))
        check_private(path.parent)  # else nothing would open the engine afterwards
    if not force:
        try:
            read_engine(path, plan.key)
            return CompileReport(path, plan, None)
        except FileNotFoundError:
            pass
        except EngineError as error:
            on_stale(f"building anew: {error}")
    on_start(
        f"compiling {plan.card.id} with {loaded} for {gpu.name if gpu else settings.target or 'any supported GPU'}"
    )
    # In a thread of its own: Python handles signals in the main one, and not while that is inside TensorRT.
    with ThreadPoolExecutor(1, "compile") as worker:
        cache = Path(timing_cache) if timing_cache is not None else None
        built = worker.submit(compile_engine, plan, path, cache, on_progress, stop_requested).result()
    return CompileReport(path, plan, built)
