"""Writes files whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a file so that a reader sees the old content or the new one, never a part.

    The content goes to a temporary file in the same folder, is brought to the disk, and takes the
    name in one step. On a full disk or any other failure nothing is left behind.

    Args:
        path: the file; its folder must exist.
        content: all of it.
        mode: permission bits of the new file.

    Raises:
        OSError: the folder cannot be written, or the disk is full; names `path`.
    """
    handle, temporary = _temporary_beside(path)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(temporary).replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        _remove(temporary)
        raise OSError(error.errno, f"cannot write {len(content)} bytes: {error.strerror}", str(path)) from error
    except BaseException:
        _remove(temporary)
        raise


def make_room_for(path: Path) -> None:
    """Make the folder of a file that comes at the end of long work, and try whether it takes one.

    What cannot be written is better known before the work than after it.

    Raises:
        OSError: the folder cannot be made or written, or `path` itself is a folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "cannot write: there is a folder of that name", str(path))
    handle, temporary = _temporary_beside(path)
    os.close(handle)
    _remove(temporary)


def _temporary_beside(path: Path) -> tuple[int, str]:
    """An open, empty file in the folder of `path`: its handle and its name."""
    try:
        return tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    except OSError as error:
        raise OSError(error.errno, f"cannot write: {error.strerror}", str(path)) from error


def _remove(temporary: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        Path(temporary).unlink()


def _sync_folder(folder: Path) -> None:
    """The rename itself must survive a power cut, too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
