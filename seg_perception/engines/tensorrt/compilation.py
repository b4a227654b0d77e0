"""From an ONNX file or a plan to an engine file: looks into the cache, builds what is missing, writes it whole."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from seg_perception.core.errors import EngineError
from seg_perception.core.files import make_room_for, model_file
from seg_perception.engines.cuda import find_gpu
from seg_perception.engines.tensorrt import file as engine_file
from seg_perception.engines.tensorrt import why_gpu_unsupported
from seg_perception.engines.tensorrt.build import (
    BuildProgress,
    BuiltEngine,
    ProgressCallback,
    StopRequested,
    build_engine,
)
from seg_perception.engines.tensorrt.file import (
    EngineFile,
    check_private,
    make_private_folder,
    read_engine,
    sole_builder,
)
from seg_perception.engines.tensorrt.plan import BuildSettings, CompilePlan, plan_compilation
from seg_perception.engines.tensorrt.versions import load_library

log = logging.getLogger(__name__)


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
        InputError: `out` is no file's name, that of a pipe or device, or the model.
        ModelError: the model breaks the contract, or cannot have this precision.
        EngineError: no TensorRT or GPU here, or the build failed.
    """
    settings = settings or BuildSettings()
    loaded = load_library(library)
    found = find_gpu()
    gpu = None if isinstance(found, str) else found
    source = model_file(model)
    plan = plan_compilation(source, settings, loaded, gpu)
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
    make_room_for(path, source)
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


def compile_engine(
    plan: CompilePlan,
    path: Path,
    timing_cache: Path | None = None,
    progress: ProgressCallback | None = None,
    stop_requested: StopRequested | None = None,
) -> BuiltEngine:
    """Build the engine and write it with its JSON.

    While another process builds the same file, this one waits.

    Raises:
        EngineError: TensorRT refused or failed; nothing was written.
        OSError: the disk is full or the folder cannot be written; nothing half-written stays.
    """
    with sole_builder(path, stop_requested):
        return _build_and_write(plan, path, timing_cache, progress, stop_requested)


def _build_and_write(
    plan: CompilePlan,
    path: Path,
    timing_cache: Path | None,
    progress: ProgressCallback | None,
    stop_requested: StopRequested | None,
) -> BuiltEngine:
    built = build_engine(plan, timing_cache, progress, stop_requested)
    engine_file.write_engine(path, plan.key, plan.card, built)
    return built


def find_or_build(
    plan: CompilePlan,
    may_build: bool,
    folder: Path | None = None,
    progress: ProgressCallback | None = None,
    stop_requested: StopRequested | None = None,
) -> EngineFile:
    """The engine of a plan: from the cache where it is there and sound, else built into it.

    Raises:
        EngineError: it is missing, stale or damaged and may not be built; or the build failed.
    """
    path = plan.cached_path(folder)
    make_private_folder(path.parent)
    found = _look_up(plan, path)
    if isinstance(found, EngineFile):
        return found
    if not may_build:
        raise EngineError(
            f"{found}\nBuilding is switched off; build it beforehand with: seg-perception compile {plan.source}"
        )
    with sole_builder(path, stop_requested):
        found = _look_up(plan, path)  # another process may have built it while this one waited
        if isinstance(found, EngineFile):
            return found
        log.warning("%s; building it now, which can take minutes", found)
        built = _build_and_write(plan, path, path.parent / _timing_cache_name(plan), progress, stop_requested)
        log.info("built %s in %.1f s", path, built.seconds)
        return engine_file.read_engine(path, plan.key)


def _look_up(plan: CompilePlan, path: Path) -> EngineFile | str:
    """The sound engine of this plan, or why there is none."""
    try:
        return engine_file.read_engine(path, plan.key)
    except FileNotFoundError:
        return f"no engine of {plan.source} for {plan.library} is in {path.parent}"
    except EngineError as error:
        return str(error)


def _timing_cache_name(plan: CompilePlan) -> str:
    gpu = "".join(c if c.isalnum() else "_" for c in plan.key.gpu)
    return f"timing-{plan.key.library}-{plan.key.library_version}-{gpu}.cache"
