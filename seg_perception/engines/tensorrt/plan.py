"""From a model and the wish to what will be built: everything is worked out once, here, and carried along."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from seg_perception.core.errors import ModelError
from seg_perception.core.model_card import ModelCard
from seg_perception.core.types import Precision
from seg_perception.engines.cuda import Gpu
from seg_perception.engines.graph.choices import InputSizes, input_sizes, resolve_precision
from seg_perception.engines.graph.edits import fixed_batch
from seg_perception.engines.graph.model_file import CheckedModel, load_model
from seg_perception.engines.tensorrt.cache import default_cache_folder
from seg_perception.engines.tensorrt.file import EngineKey, cached_name, engine_key
from seg_perception.engines.tensorrt.settings import BuildSettings
from seg_perception.engines.tensorrt.versions import TensorRtLibrary


@dataclass(frozen=True, slots=True)
class CompilePlan:
    """A model, how its engine is to be built, and the key that says so.

    Attributes:
        source: where the model came from, for messages.
        model: as read and checked.
        settings: as asked for.
        precision: of the engine.
        sizes: of the images the engine takes.
        card: of the engine: its precision, and its input size where it takes camera images.
        library: the builder.
        key: of the engine.
    """

    source: Path
    model: CheckedModel
    settings: BuildSettings
    precision: Precision
    sizes: InputSizes
    card: ModelCard
    library: TensorRtLibrary
    key: EngineKey

    @property
    def weakly_typed(self) -> bool:
        """Whether precision comes from builder flags instead of the graph's types: in 8.x, and on a DLA before 11."""
        on_old_dla = self.settings.dla_core is not None and not self.library.strongly_typed_only
        return not self.library.strongly_typed or on_old_dla

    def cached_path(self, folder: Path | None = None) -> Path:
        return (folder or default_cache_folder()) / cached_name(self.card, self.key)


def plan_compilation(model: Path, settings: BuildSettings, library: TensorRtLibrary, gpu: Gpu | None) -> CompilePlan:
    """Read and check the model, and work out its engine.

    Raises:
        FileNotFoundError: no such model.
        ModelError: it breaks the contract, or cannot have this precision, batch or size.
        EngineError: plain TensorRT without a GPU.
    """
    return make_plan(load_model(model), settings, library, gpu, model)


def make_plan(
    model: CheckedModel,
    settings: BuildSettings,
    library: TensorRtLibrary,
    gpu: Gpu | None,
    source: Path = Path("model"),
) -> CompilePlan:
    """The plan for a model that was read already; the errors of `plan_compilation`."""
    card = model.card
    precision = resolve_precision(card.precision, settings.precision)
    sizes = input_sizes(model, settings.size, settings.camera_size, one_shape=settings.dla_core is not None)
    batch = fixed_batch(model.graph)
    if batch is not None and batch != settings.batch:
        raise ModelError(
            f"{card.id} is fixed to a batch of {batch}; an engine for {settings.batch} needs an open batch"
        )
    if settings.dla_core is not None and precision is Precision.INT8 and not library.strongly_typed_only:
        raise ModelError(
            f"the DLA of {library} takes no graph with quantize nodes as {card.id} has them: "
            "compile an fp32 or fp16 export, or leave out --dla-core"
        )
    settings = _for_turing(settings, library, gpu)
    of_engine = dataclasses.replace(card, precision=precision)
    if settings.camera_size is not None:
        of_engine = dataclasses.replace(
            of_engine,
            input_size=settings.camera_size,
            size_multiple=1,
            camera_encoding=settings.camera_encoding,
        )
    key = engine_key(model.content, sizes, settings, precision, library, gpu)
    return CompilePlan(source, model, settings, precision, sizes, of_engine, library, key)


def _for_turing(settings: BuildSettings, library: TensorRtLibrary, gpu: Gpu | None) -> BuildSettings:
    """An engine of TensorRT-RTX that is built for every GPU runs from Ampere on; Turing needs one of its own."""
    if library.is_rtx and settings.target is None and gpu is not None and gpu.capability == "7.5":
        return dataclasses.replace(settings, target="sm75")
    return settings
