"""What will be built: from a model and the wish everything is worked out once, here, and carried along with its key."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
from dataclasses import dataclass
from pathlib import Path

from seg_perception.core.errors import EngineError, InputError, ModelError
from seg_perception.core.files import cache_folder
from seg_perception.core.model_card import ModelCard
from seg_perception.core.settings import to_mapping
from seg_perception.core.types import CameraEncoding, Precision, Size, parse_fields
from seg_perception.engines.cuda import Gpu
from seg_perception.engines.graph import EDITS_VERSION, InputSizes, fixed_batch, input_sizes, resolve_precision
from seg_perception.engines.graph.model_file import CheckedModel, load_model
from seg_perception.engines.tensorrt.versions import TensorRtLibrary


@dataclass(frozen=True, slots=True)
class BuildSettings:
    """What to build; every field is part of the engine's cache key.

    Attributes:
        precision: None takes fp16, or int8 from an int8 graph.
        batch: the largest batch; smaller ones run, too.
        size: the only network input size; None takes any shape with about the model card's pixel count,
            so that every camera keeps its shape (see `graph.input_sizes`).
        camera_size: images come at this size and are resized inside the engine, to `size` where given.
        camera_encoding: of images that come at `camera_size`; they are decoded inside the engine.
        workspace_mib: scratch memory the builder may plan with; None leaves it to TensorRT.
        optimization_level: 0 (builds fastest) to 5; None is TensorRT's own default.
        dla_core: run what can on this DLA core, the rest on the GPU; None: all on the GPU.
        hardware_compatible: also runs on other GPUs from the Ampere generation on.
        target: GPU to build for that is not in this machine, such as "sm89" (TensorRT-RTX only).

    Raises:
        EngineError: values that do not fit together or are out of range; all of them are listed.
    """

    precision: Precision | None = None
    batch: int = 1
    size: Size | None = None
    camera_size: Size | None = None
    camera_encoding: CameraEncoding = CameraEncoding.RGB
    workspace_mib: int | None = None
    optimization_level: int | None = None
    dla_core: int | None = None
    hardware_compatible: bool = False
    target: str | None = None

    def __post_init__(self) -> None:
        faults: list[str] = []
        try:
            parse_fields(
                self,
                precision=Precision.parse,
                size=Size.parse,
                camera_size=Size.parse,
                camera_encoding=CameraEncoding.parse,
            )
        except InputError as error:
            faults.append(str(error))
        if self.camera_encoding is not CameraEncoding.RGB and self.camera_size is None and not faults:
            faults.append(f"camera encoding {self.camera_encoding} needs a camera size")
        if _is_below(1, self.batch):
            faults.append(f"batch {self.batch} must be at least 1")
        if _is_below(1, self.workspace_mib):
            faults.append(f"workspace {self.workspace_mib} MiB must be at least 1")
        if _is_below(0, self.dla_core):
            faults.append(f"DLA core {self.dla_core} must be 0 or more")
        if faults:
            raise EngineError("engine settings: " + "; ".join(faults))


def _is_below(least: int, value: object) -> bool:
    """Of a number; what is none has been named already."""
    return isinstance(value, int) and value < least


SUFFIX = ".engine"
ANY_GPU = "any"
"""In a key: TensorRT-RTX engines are not tied to one GPU model."""


@dataclass(frozen=True, slots=True)
class EngineKey:
    """Everything an engine depends on. Two equal keys mean the same engine.

    Attributes:
        onnx_sha256: hex digest of the ONNX file.
        graph_edits: version of our own edits of the graph (`graph.EDITS_VERSION`).
        library: "tensorrt" or "tensorrt_rtx".
        library_version: all of it: plans are bound to it.
        gpu: the GPU's name; "any" for TensorRT-RTX.
        capability: compute capability such as "8.7"; "any" where built for all.
        platform: operating system and processor.
        precision: of the engine.
        batch: the largest.
        input_sizes: of the images the engine takes.
        camera_encoding: of the images the engine takes.
        network_size: of the images inside, where asked for; None where it follows from the input sizes.
        workspace_mib, optimization_level, dla_core, hardware_compatible: see `BuildSettings`.
    """

    onnx_sha256: str
    graph_edits: int
    library: str
    library_version: str
    gpu: str
    capability: str
    platform: str
    precision: Precision
    batch: int
    input_sizes: InputSizes
    network_size: Size | None
    camera_encoding: CameraEncoding
    workspace_mib: int | None
    optimization_level: int | None
    dla_core: int | None
    hardware_compatible: bool

    @property
    def digest(self) -> str:
        """Twelve hex digits that differ where the keys do."""
        return hashlib.sha256(json.dumps(to_mapping(self), sort_keys=True).encode()).hexdigest()[:12]

    def differences(self, expected: EngineKey) -> tuple[str, ...]:
        """One line for each field that differs: its name, what is there, what is needed."""
        return tuple(
            f"{field.name.replace('_', ' ')}: built for {_short(mine)}, needed {_short(theirs)}"
            for field in dataclasses.fields(self)
            if (mine := getattr(self, field.name)) != (theirs := getattr(expected, field.name))
        )


def _short(value: object) -> str:
    text = "none" if value is None else str(value)
    return f"{text[:12]}…" if len(text) == 64 else text or "none"


def engine_key(
    content: bytes,
    sizes: InputSizes,
    settings: BuildSettings,
    precision: Precision,
    library: TensorRtLibrary,
    gpu: Gpu | None,
) -> EngineKey:
    """The key of the engine that these settings make on this machine.

    Args:
        content: the ONNX file.
        sizes: that the engine takes.
        settings: what to build.
        precision: as resolved for this graph.
        library: the builder.
        gpu: the machine's GPU; None where there is none (TensorRT-RTX only).

    Raises:
        EngineError: plain TensorRT without a GPU.
    """
    if library.is_rtx:
        capability = f"{settings.target[2:-1]}.{settings.target[-1]}" if settings.target else ANY_GPU
        gpu_name = ANY_GPU
    elif gpu is None:
        raise EngineError(f"{library} builds for the GPU in the machine, and there is none")
    else:
        gpu_name, capability = gpu.name, gpu.capability
    return EngineKey(
        onnx_sha256=hashlib.sha256(content).hexdigest(),
        graph_edits=EDITS_VERSION,
        library=library.name,
        library_version=library.version_text,
        gpu=gpu_name,
        capability=capability,
        platform=this_platform(),
        precision=precision,
        batch=settings.batch,
        input_sizes=sizes,
        network_size=settings.size if settings.camera_size else None,
        camera_encoding=settings.camera_encoding,
        workspace_mib=settings.workspace_mib,
        optimization_level=settings.optimization_level,
        dla_core=settings.dla_core,
        hardware_compatible=settings.hardware_compatible,
    )


def this_platform() -> str:
    return f"{platform.system()}-{platform.machine()}"


def cached_name(card: ModelCard, key: EngineKey) -> str:
    """The file name of this key's engine: readable first, then the key's digest."""
    name = f"{card.name}-{card.version}-{key.precision}-{key.input_sizes}-b{key.batch}-{key.digest}"
    return f"{''.join(c if c.isalnum() or c in '-._' else '_' for c in name)}{SUFFIX}"


def default_cache_folder() -> Path:
    """Where engines are kept: $XDG_CACHE_HOME/seg_perception/engines, or ~/.cache/…"""
    return cache_folder() / "engines"


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
