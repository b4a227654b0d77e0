"""Engine files: one binary and one JSON beside it that says what it was built from, and for what.

`NAME.engine` is what TensorRT wrote, `NAME.engine.json` the key and the SHA-256 of the binary.
TensorRT plans are executable artifacts, so a plan is deserialized only after its key, its length and
its hash were checked, and only from a folder that nobody else can write to.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import logging
import os
import platform
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seg_perception.core.errors import EngineError, SegPerceptionError
from seg_perception.core.files import write_atomically
from seg_perception.core.model_card import ModelCard
from seg_perception.core.types import Size
from seg_perception.engines.cuda import Gpu
from seg_perception.engines.tensorrt.build import BuildSettings, BuildStoppedError, BuiltEngine, InputSizes
from seg_perception.engines.tensorrt.versions import TensorRtLibrary

log = logging.getLogger(__name__)

FORMAT = 1
SUFFIX = ".engine"
_OPEN_SIZE = "up to "
_ABANDONED_S = 600.0  # writing takes seconds
_LOCK_POLL_S = 0.2
ANY_GPU = "any"
"""In a key: TensorRT-RTX engines are not tied to one GPU model."""


@dataclass(frozen=True, slots=True)
class EngineKey:
    """Everything an engine depends on. Two equal keys mean the same engine.

    Attributes:
        onnx_sha256: hex digest of the ONNX file.
        library: "tensorrt" or "tensorrt_rtx".
        library_version: all of it: plans are bound to it.
        gpu: the GPU's name; "any" for TensorRT-RTX.
        capability: compute capability such as "8.7"; "any" where built for all.
        platform: operating system and processor.
        precision: of the engine.
        batch: the largest.
        input_size: of the images the engine takes: "480x352", or "up to 832x608".
        network_size: of the images inside, as asked for; "" where it follows from the input size.
        options: workspace, optimization level, DLA core, hardware compatibility; sorted text.
    """

    onnx_sha256: str
    library: str
    library_version: str
    gpu: str
    capability: str
    platform: str
    precision: str
    batch: int
    input_size: str
    network_size: str
    options: str

    @property
    def digest(self) -> str:
        """Twelve hex digits that differ where the keys do."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def differences(self, expected: EngineKey) -> tuple[str, ...]:
        """One line for each field that differs: its name, what is there, what is needed."""
        return tuple(
            f"{field.name.replace('_', ' ')}: built for {_short(mine)}, needed {_short(theirs)}"
            for field in dataclasses.fields(self)
            if (mine := getattr(self, field.name)) != (theirs := getattr(expected, field.name))
        )


def _short(value: object) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text or "none"


def engine_key(
    content: bytes,
    sizes: InputSizes,
    settings: BuildSettings,
    precision: str,
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
    options = {
        "dla_core": settings.dla_core,
        "hardware_compatible": settings.hardware_compatible,
        "optimization_level": settings.optimization_level,
        "workspace_mib": settings.workspace_mib,
    }
    return EngineKey(
        onnx_sha256=hashlib.sha256(content).hexdigest(),
        library=library.name,
        library_version=library.version_text,
        gpu=gpu_name,
        capability=capability,
        platform=this_platform(),
        precision=precision,
        batch=settings.batch,
        input_size=str(sizes),
        network_size=str(settings.size) if settings.camera_size and settings.size else "",
        options=json.dumps(options, sort_keys=True),
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


def default_cache_folder() -> Path:
    """$XDG_CACHE_HOME/seg_perception/engines, or ~/.cache/…"""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "seg_perception" / "engines"


def cached_path(folder: Path, card: ModelCard, key: EngineKey) -> Path:
    """Where the engine of this key lies: readable name first, then the key's digest."""
    name = f"{card.name}-{card.version}-{key.precision}-{key.input_size}-b{key.batch}-{key.digest}"
    return folder / f"{''.join(c if c.isalnum() or c in '-._' else '_' for c in name)}{SUFFIX}"


def make_private_folder(folder: Path) -> None:
    """Make a cache folder that only its owner can enter.

    Raises:
        EngineError: it exists and belongs to, or can be written by, somebody else.
        OSError: it cannot be made.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_private(folder)


def check_private(folder: Path) -> None:
    """Refuse a folder from which somebody else could feed us an engine.

    Raises:
        EngineError: owner or permissions are wrong; says how to mend them.
    """
    status = folder.stat()
    if status.st_uid not in (os.getuid(), 0):
        raise EngineError(f"{folder} belongs to user {status.st_uid}; engines are loaded only from your own or root's")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise EngineError(
            f"{folder} can be written by other users ({stat.filemode(status.st_mode)}), and engines are executable "
            f"code; run: chmod go-w {folder}"
        )


@contextlib.contextmanager
def sole_builder(path: Path, stop_requested: Callable[[], bool] | None = None) -> Iterator[None]:
    """Hold the right to build this engine; wait while another process has it.

    Two nodes that start together would otherwise both build for minutes, and the one's engine could come to lie
    beside the other's JSON. The lock is the operating system's, so it ends with the process.

    Raises:
        BuildStoppedError: stopped while waiting.
        OSError: the folder cannot be written; names `path`.
    """
    lock = path.with_name(f".{path.stem}.building")
    handle = _take_lock(lock)
    if handle is None:
        log.warning("another process is building %s; waiting for it", path)
    while handle is None:
        if stop_requested is not None and stop_requested():
            raise BuildStoppedError(f"stopped while waiting for another process to build {path}")
        time.sleep(_LOCK_POLL_S)
        handle = _take_lock(lock)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(handle)


def _take_lock(lock: Path) -> int | None:
    try:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise OSError(error.errno, f"cannot write: {error.strerror}", str(lock)) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if lock.stat().st_ino == os.fstat(handle).st_ino:  # else its holder has just deleted it
            return handle
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    return None


def write_engine(path: Path, key: EngineKey, card: ModelCard, built: BuiltEngine) -> None:
    """Write engine and JSON, each whole or not at all; the JSON last, so that it vouches for the engine.

    Raises:
        OSError: the folder cannot be written or the disk is full; no part stays behind.
    """
    document = {
        "format": FORMAT,
        "key": dataclasses.asdict(key),
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
    _remove_leftovers(path)
    sidecar(path).unlink(missing_ok=True)  # from here to the end there is no engine of this name
    write_atomically(path, built.content, mode=0o600)
    try:
        write_atomically(sidecar(path), json.dumps(document, indent=1).encode(), mode=0o600)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _remove_leftovers(path: Path) -> None:
    """Delete parts of this file that a killed process left, but none that another may be writing now."""
    for part in path.parent.glob(f".{path.name}*.part"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - part.stat().st_mtime > _ABANDONED_S:
                part.unlink()


def read_engine(path: Path, expected: EngineKey | None = None) -> EngineFile:
    """Read and check an engine file.

    Args:
        path: the `.engine` file.
        expected: what it must have been built from and for; None where the ONNX is not at hand.

    Raises:
        FileNotFoundError: no such engine.
        EngineError: truncated, changed, foreign or stale; says which, and what to do.
    """
    check_private(path.parent)
    content = path.read_bytes()
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


_REBUILD = "seg-perception compile MODEL.onnx"


def _read_sidecar(path: Path) -> Mapping[str, Any]:
    try:
        document = json.loads(sidecar(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EngineError(
            f"{path} has no {sidecar(path).name} beside it, so nothing says what it was built for; "
            f"build it with: {_REBUILD}"
        ) from None
    except ValueError as error:
        raise EngineError(f"{sidecar(path)} is not JSON ({error}); build the engine anew: {_REBUILD}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise EngineError(
            f"{sidecar(path)} is not of format {FORMAT}, which this version reads; build it anew: {_REBUILD}"
        )
    return document


def _parse_sidecar(path: Path, document: Mapping[str, Any]) -> tuple[EngineKey, ModelCard]:
    try:
        key = EngineKey(**document["key"])
        _check_values(key)
        return key, ModelCard.from_json(json.dumps(document["card"]))
    except (KeyError, TypeError, ValueError, SegPerceptionError) as error:
        raise EngineError(f"{sidecar(path)} cannot be used: {error}; build it anew: {_REBUILD}") from error


def _check_values(key: EngineKey) -> None:
    for field in dataclasses.fields(EngineKey):
        value, kind = getattr(key, field.name), int if field.name == "batch" else str
        if type(value) is not kind:
            raise TypeError(f"{field.name} is {value!r}, not {kind.__name__}")
    sizes_of_key(key)
    if not isinstance(json.loads(key.options), dict):
        raise TypeError(f"options are {key.options}, not a mapping")


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
    compatible = json.loads(key.options).get("hardware_compatible", False)
    if key.capability not in (ANY_GPU, gpu.capability) and not compatible:
        faults.append(f"GPU: built for compute capability {key.capability}, here is {gpu.name} ({gpu.capability})")
    elif key.gpu not in (ANY_GPU, gpu.name) and not compatible:
        faults.append(f"GPU: built for {key.gpu}, here is {gpu.name}")
    if faults:
        raise EngineError(f"{file.path} does not run here; build it anew: {_REBUILD}\n  " + "\n  ".join(faults))


def sizes_of_key(key: EngineKey) -> tuple[Size | None, Size]:
    """The only size an engine takes, or None; and the largest."""
    largest = Size.parse(key.input_size.removeprefix(_OPEN_SIZE))
    return (None if key.input_size.startswith(_OPEN_SIZE) else largest), largest
