"""One writer for each output: a second one is told who the first is."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Final

OWNER_FILE: Final = "writer.txt"
_TRIES: Final = 5


def partial_path(path: Path) -> Path:
    """Where a bag is while it is written: a folder beside it."""
    return path.with_name(path.name + ".partial")


class OutputLock:
    """Holds the folder `<path>.partial` for this process until it is released or the process ends.

    The lock is the kernel's (flock on the folder), so a killed writer leaves none behind.

    Raises:
        FileExistsError: another process writes this output; names it.
        OSError: the folder cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.folder = partial_path(path)
        self.was_there = self.folder.exists()
        tries = 0
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(self._handle)
                tries += 1
                if tries < _TRIES:  # `writer_of` holds a lock for microseconds
                    time.sleep(0.02)
                    continue
                who = _owner(self.folder) or "another process"
                raise FileExistsError(f"{path} is being written by {who}: wait until it is done, or stop it") from error
            if self.folder.exists() and os.fstat(self._handle).st_ino == self.folder.stat().st_ino:
                break
            os.close(self._handle)  # its owner finished between our two steps
        owner = f"process {os.getpid()} ({_command()})"
        (self.folder / OWNER_FILE).write_text(owner, encoding="utf-8", errors="replace")

    def empty(self) -> None:
        """Remove what an unfinished writer left in the folder."""
        for inside in self.folder.iterdir():
            if inside.is_dir():
                shutil.rmtree(inside)
            elif inside.name != OWNER_FILE:
                inside.unlink()

    def release(self, remove: bool) -> None:
        """Let go, and remove the folder. Calling it twice is harmless."""
        if self._handle < 0:
            return
        if remove:
            shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._handle)
        self._handle = -1


def writer_of(folder: Path) -> str | None:
    """Who holds the lock of a `.partial` folder, in words; None: nobody."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return _owner(folder) or "another process"
    finally:
        os.close(handle)
    return None


def _owner(folder: Path) -> str | None:
    try:
        return (folder / OWNER_FILE).read_text(encoding="utf-8", errors="replace")[:200] or None
    except OSError:
        return None


def _command() -> str:
    return " ".join(Path(part).name if number == 0 else part for number, part in enumerate(sys.argv))[:120]
