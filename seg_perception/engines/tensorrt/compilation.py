"""From a plan to an engine file: looks into the cache, builds what is missing, writes it whole."""

from __future__ import annotations

import logging
from pathlib import Path

from seg_perception.core.errors import EngineError
from seg_perception.engines.tensorrt import file as engine_file
from seg_perception.engines.tensorrt.build import BuiltEngine, build_engine
from seg_perception.engines.tensorrt.cache import make_private_folder, sole_builder
from seg_perception.engines.tensorrt.file import EngineFile
from seg_perception.engines.tensorrt.plan import CompilePlan
from seg_perception.engines.tensorrt.progress import ProgressCallback, StopRequested

log = logging.getLogger(__name__)


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
