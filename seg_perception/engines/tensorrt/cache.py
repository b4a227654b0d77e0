"""The folder of engines: who may write there, who may build, and what may be read.

TensorRT plans are executable code, so nothing is read that somebody else could have put there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from seg_perception.core.errors import EngineError
from seg_perception.engines.tensorrt.progress import BuildStoppedError

log = logging.getLogger(__name__)

_ABANDONED_S = 600.0  # writing takes seconds
_LOCK_POLL_S = 0.2


def default_cache_folder() -> Path:
    """$XDG_CACHE_HOME/seg_perception/engines, or ~/.cache/…"""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "seg_perception" / "engines"


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
    with os.fdopen(handle, "rb") as file:  # what is checked is what is read
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise EngineError(f"{path} is not a regular file ({stat.filemode(status.st_mode)})")
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
