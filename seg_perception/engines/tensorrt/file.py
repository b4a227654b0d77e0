"""Engine files: one binary and one JSON beside it that says what it was built from, and for what.

`NAME.engine` is what TensorRT wrote, `NAME.engine.json` the key and the SHA-256 of the binary. TensorRT plans are
executable code, so nothing is read that somebody else could have put there, and a plan is deserialized only after its
key, its length and its hash were checked.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seg_perception.core.errors import EngineError, SegPerceptionError
from seg_perception.core.files import make_folder, write_atomically
from seg_perception.core.model_card import ModelCard
from seg_perception.core.settings import from_mapping, to_mapping
from seg_perception.engines.cuda import Gpu
from seg_perception.engines.tensorrt.build import BuildStoppedError, BuiltEngine
from seg_perception.engines.tensorrt.plan import ANY_GPU, EngineKey, this_platform
from seg_perception.engines.tensorrt.versions import TensorRtLibrary

log = logging.getLogger(__name__)

_ABANDONED_S = 600.0  # writing takes seconds
_LOCK_POLL_S = 0.2


def make_private_folder(folder: Path) -> None:
    """Make a cache folder that only its owner can enter.

    Raises:
        EngineError: it exists and belongs to, or can be written by, somebody else.
        OSError: it cannot be made.
    """
    make_folder(folder, 0o700)
    check_private(folder)


def check_private(folder: Path) -> None:
    """Refuse a folder from which somebody else could feed us an engine.

    Raises:
        EngineError: owner or permissions are wrong; says how to mend them.
    """
    _check_owner_and_mode(folder, folder.stat())


def read_private(path: Path, limit: int) -> bytes:
    """Read a file that only its owner, who is you or root, can change or replace.

    A link is followed, and the folder that the file really lies in must be private, too.

    Args:
        path: the file.
        limit: bytes; a larger file is refused before it is read.

    Raises:
        FileNotFoundError: no such file.
        EngineError: not a regular file, too large, or somebody else could have put it there; says how to mend it.
    """
    try:
        real = path.resolve(strict=True)
    except RuntimeError as error:  # links in a circle, before Python 3.13
        raise OSError(errno.ELOOP, "too many levels of symbolic links", str(path)) from error
    for folder in dict.fromkeys((path.parent, real.parent)):
        check_private(folder)
    handle = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)
        raise EngineError(f"{path} is not a regular file ({stat.filemode(status.st_mode)})")
    with os.fdopen(handle, "rb") as file:  # what is checked is what is read
        _check_owner_and_mode(path, status)
        if status.st_size > limit:
            raise EngineError(f"{path} has {status.st_size} bytes; more than {limit} are refused")
        return file.read()


def _check_owner_and_mode(path: Path, status: os.stat_result) -> None:
    if status.st_uid not in (os.getuid(), 0):
        raise EngineError(f"{path} belongs to user {status.st_uid}; engines are loaded only from your own or root's")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise EngineError(
            f"{path} can be written by other users ({stat.filemode(status.st_mode)}), and engines are executable "
            f"code; run: chmod go-w {path}"
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


def remove_leftovers(path: Path) -> None:
    """Delete parts of this file that a killed process left, but none that another may be writing now."""
    for part in path.parent.glob(f".{path.name}*.part"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - part.stat().st_mtime > _ABANDONED_S:
                part.unlink()


FORMAT = 2

_REBUILD = "seg-perception compile MODEL.onnx"
_MAX_SIDECAR_BYTES = 1 << 20
_MAX_ENGINE_BYTES = 4 << 30


@dataclass(frozen=True, slots=True)
class EngineFile:
    """A checked engine: safe to hand to TensorRT."""

    path: Path
    key: EngineKey
    card: ModelCard
    content: bytes


def sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".json")


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
