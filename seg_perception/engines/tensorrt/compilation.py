"""ONNX file to engine file: looks into the cache, builds what is missing, writes it whole."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path

from seg_perception.core.errors import EngineError
from seg_perception.core.model_card import ModelCard
from seg_perception.engines.cuda import Cuda, Gpu, load_cuda
from seg_perception.engines.graph.model_file import load_model
from seg_perception.engines.tensorrt import file as engine_file
from seg_perception.engines.tensorrt.build import (
    BuildSettings,
    BuiltEngine,
    ProgressCallback,
    StopRequested,
    build_engine,
    input_sizes,
    resolve_precision,
)
from seg_perception.engines.tensorrt.file import EngineFile, EngineKey
from seg_perception.engines.tensorrt.versions import TensorRtLibrary

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CompilePlan:
    """A model, how it is to be built, and the key that says so."""

    model: Path
    content: bytes
    card: ModelCard  # of the engine: its precision, and its input size where it takes camera images
    settings: BuildSettings
    library: TensorRtLibrary
    key: EngineKey

    def cached_path(self, folder: Path | None = None) -> Path:
        return engine_file.cached_path(folder or engine_file.default_cache_folder(), self.card, self.key)


def plan_compilation(model: Path, settings: BuildSettings, library: TensorRtLibrary, gpu: Gpu | None) -> CompilePlan:
    """Read and check the model, and work out the key of its engine.

    Raises:
        FileNotFoundError: no such model.
        ModelError: it breaks the contract, or cannot have this precision.
        EngineError: plain TensorRT without a GPU.
    """
    checked = load_model(model)
    precision = resolve_precision(checked.card.precision, settings.precision)
    sizes = input_sizes(checked.graph, settings)
    key = engine_file.engine_key(checked.content, sizes, settings, precision, library, gpu)
    of_engine = dataclasses.replace(checked.card, precision=precision)
    if settings.camera_size is not None:
        of_engine = dataclasses.replace(of_engine, input_size=settings.camera_size, size_multiple=1)
    return CompilePlan(model, checked.content, of_engine, settings, library, key)


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
    with engine_file.sole_builder(path, stop_requested):
        return _build_and_write(plan, path, timing_cache, progress, stop_requested)


def _build_and_write(
    plan: CompilePlan,
    path: Path,
    timing_cache: Path | None,
    progress: ProgressCallback | None,
    stop_requested: StopRequested | None,
) -> BuiltEngine:
    built = build_engine(plan.content, plan.settings, plan.library, timing_cache, progress, stop_requested)
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
    engine_file.make_private_folder(path.parent)
    found = _look_up(plan, path)
    if isinstance(found, EngineFile):
        return found
    if not may_build:
        raise EngineError(
            f"{found}\nBuilding is switched off; build it beforehand with: seg-perception compile {plan.model}"
        )
    with engine_file.sole_builder(path, stop_requested):
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
        return f"no engine of {plan.model} for {plan.library} is in {path.parent}"
    except EngineError as error:
        return str(error)


def _timing_cache_name(plan: CompilePlan) -> str:
    gpu = "".join(c if c.isalnum() else "_" for c in plan.key.gpu)
    return f"timing-{plan.key.library}-{plan.key.library_version}-{gpu}.cache"


def machine_gpu() -> Gpu | None:
    """The first GPU, or None where the machine has none, its driver is missing, or cuda-python is."""
    try:
        return Cuda(load_cuda()).gpu()
    except EngineError as error:
        log.debug("no GPU: %s", error)
        return None
