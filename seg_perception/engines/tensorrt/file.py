"""Engine files: one binary and one JSON beside it that says what it was built from, and for what.

`NAME.engine` is what TensorRT wrote, `NAME.engine.json` the key and the SHA-256 of the binary.
TensorRT plans are executable artifacts, so a plan is deserialized only after its key, its length and
its hash were checked, and only from files and folders that nobody else can write to.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seg_perception.core.errors import EngineError, SegPerceptionError
from seg_perception.core.files import write_atomically
from seg_perception.core.model_card import ModelCard
from seg_perception.core.settings import from_mapping, to_mapping
from seg_perception.core.types import CameraEncoding, Precision, Size
from seg_perception.engines.cuda import Gpu
from seg_perception.engines.graph.choices import InputSizes
from seg_perception.engines.graph.edits import EDITS_VERSION
from seg_perception.engines.tensorrt.cache import read_private, remove_leftovers
from seg_perception.engines.tensorrt.settings import BuildSettings
from seg_perception.engines.tensorrt.versions import TensorRtLibrary

if TYPE_CHECKING:
    from seg_perception.engines.tensorrt.build import BuiltEngine

FORMAT = 2
SUFFIX = ".engine"
ANY_GPU = "any"
"""In a key: TensorRT-RTX engines are not tied to one GPU model."""

_REBUILD = "seg-perception compile MODEL.onnx"
_MAX_SIDECAR_BYTES = 1 << 20
_MAX_ENGINE_BYTES = 4 << 30


@dataclass(frozen=True, slots=True)
class EngineKey:
    """Everything an engine depends on. Two equal keys mean the same engine.

    Attributes:
        onnx_sha256: hex digest of the ONNX file.
        graph_edits: version of our own edits of the graph (`graph.edits.EDITS_VERSION`).
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


@dataclass(frozen=True, slots=True)
class EngineFile:
    """A checked engine: safe to hand to TensorRT."""

    path: Path
    key: EngineKey
    card: ModelCard
    content: bytes


def sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def cached_name(card: ModelCard, key: EngineKey) -> str:
    """The file name of this key's engine: readable first, then the key's digest."""
    name = f"{card.name}-{card.version}-{key.precision}-{key.input_sizes}-b{key.batch}-{key.digest}"
    return f"{''.join(c if c.isalnum() or c in '-._' else '_' for c in name)}{SUFFIX}"


def write_engine(path: Path, key: EngineKey, card: ModelCard, built: BuiltEngine) -> None:
    """Write engine and JSON, each whole or not at all; the JSON last, so that it vouches for the engine.

    Raises:
        OSError: the folder cannot be written or the disk is full; no part stays behind.
    """
    document = {
        "format": FORMAT,
        "key": to_mapping(key),
        "engine_bytes": len(built.content),
        "engine_sha256": hashlib.sha256(built.content).hexdigest(),
        "card": json.loads(card.to_json()),
        "build": {
            "seconds": round(built.seconds, 2),
            "layers": built.layers,
            "dla_layers": built.dla_layers,
            "gpu_fallback_layers": built.gpu_fallback_layers,
        },
    }
    remove_leftovers(path)
    sidecar(path).unlink(missing_ok=True)  # from here to the end there is no engine of this name
    write_atomically(path, built.content, mode=0o600)
    try:
        write_atomically(sidecar(path), json.dumps(document, indent=1).encode(), mode=0o600)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def read_engine(path: Path, expected: EngineKey | None = None) -> EngineFile:
    """Read and check an engine file.

    Args:
        path: the `.engine` file.
        expected: what it must have been built from and for; None where the ONNX is not at hand.

    Raises:
        FileNotFoundError: no such engine.
        EngineError: truncated, changed, foreign or stale; says which, and what to do.
    """
    content = read_private(path, _MAX_ENGINE_BYTES)
    document = _read_sidecar(path)
    key, card = _parse_sidecar(path, document)
    if len(content) != document.get("engine_bytes"):
        raise EngineError(
            f"{path} is truncated: {len(content)} of {document.get('engine_bytes')} bytes; build it anew: {_REBUILD}"
        )
    if hashlib.sha256(content).hexdigest() != document.get("engine_sha256"):
        raise EngineError(f"{path} was changed after it was built (SHA-256 differs); build it anew: {_REBUILD}")
    if expected is not None and key != expected:
        lines = "\n  ".join(key.differences(expected))
        raise EngineError(f"{path} is stale or was built elsewhere; build it anew: {_REBUILD}\n  {lines}")
    return EngineFile(path, key, card, content)


def _read_sidecar(path: Path) -> Mapping[str, Any]:
    try:
        document = json.loads(read_private(sidecar(path), _MAX_SIDECAR_BYTES).decode("utf-8"))
    except FileNotFoundError:
        raise EngineError(
            f"{path} has no {sidecar(path).name} beside it, so nothing says what it was built for; "
            f"build it with: {_REBUILD}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise EngineError(f"{sidecar(path)} is not JSON ({error}); build the engine anew: {_REBUILD}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise EngineError(
            f"{sidecar(path)} is not of format {FORMAT}, which this version reads; build it anew: {_REBUILD}"
        )
    return document


def _parse_sidecar(path: Path, document: Mapping[str, Any]) -> tuple[EngineKey, ModelCard]:
    try:
        key = from_mapping(EngineKey, document["key"], "the key")
        return key, ModelCard.from_json(json.dumps(document["card"]))
    except (KeyError, TypeError, ValueError, SegPerceptionError) as error:
        raise EngineError(f"{sidecar(path)} cannot be used: {error}; build it anew: {_REBUILD}") from error


def check_runs_here(file: EngineFile, library: TensorRtLibrary, gpu: Gpu) -> None:
    """Refuse an engine that this library or this GPU cannot run.

    Raises:
        EngineError: one line for each thing that does not fit.
    """
    key = file.key
    faults: list[str] = []
    if (key.library, key.library_version) != (library.name, library.version_text):
        faults.append(f"library: built with {key.library} {key.library_version}, here is {library}")
    if key.platform != this_platform():
        faults.append(f"platform: built on {key.platform}, here is {this_platform()}")
    if key.capability not in (ANY_GPU, gpu.capability) and not key.hardware_compatible:
        faults.append(f"GPU: built for compute capability {key.capability}, here is {gpu.name} ({gpu.capability})")
    elif key.gpu not in (ANY_GPU, gpu.name) and not key.hardware_compatible:
        faults.append(f"GPU: built for {key.gpu}, here is {gpu.name}")
    if faults:
        raise EngineError(f"{file.path} does not run here; build it anew: {_REBUILD}\n  " + "\n  ".join(faults))
