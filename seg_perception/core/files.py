"""Files: where those that ship beside the code are, and how any is read bounded and written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import BinaryIO, Final

from seg_perception.core.errors import InputError, SettingsError

PACKAGE = Path(__file__).resolve().parents[1]
NAME: Final = "seg_perception"

DEFAULT_MODEL = PACKAGE / "weights" / "driving.onnx"
"""The shipped model: ONNX with its model card inside."""

DEFAULT_WEIGHTS = PACKAGE / "weights" / "driving.safetensors"
"""The checkpoint that the shipped model was exported from, for training to start from."""


def shipped_models() -> tuple[str, ...]:
    """Names of the models that ship, the default one first."""
    others = sorted(path.stem for path in DEFAULT_MODEL.parent.glob("*.onnx") if path != DEFAULT_MODEL)
    return (DEFAULT_MODEL.stem, *others)


def model_file(name_or_path: str | Path | None = None) -> Path:
    """A model's file: by path, or a shipped one by its bare name (see `shipped_models`); None: the default one."""
    if name_or_path is None:
        return DEFAULT_MODEL
    path = user_path(name_or_path)
    shipped = PACKAGE / "weights" / f"{path}.onnx"
    bare = len(path.parts) == 1 and not path.suffix and not path.exists()
    return shipped if bare and shipped.is_file() else path


def user_path(path: str | Path) -> Path:
    """With ~ as the home folder. Where there is none, or ~NAME is no user's, it is a name like others (Path raises)."""
    return Path(os.path.expanduser(path))  # noqa: PTH111


def cache_folder() -> Path:
    """Where what can be made again is kept: $XDG_CACHE_HOME/seg_perception, or ~/.cache/seg_perception.

    For a user without a home folder (a container's `--user 1234`), a folder of their own beside other temporary files.

    Raises:
        InputError: somebody else has made that one, or may write to it: engines are code.
    """
    base = os.environ.get("XDG_CACHE_HOME") or str(user_path("~/.cache"))
    if base[:1] != "~":
        return Path(base, NAME)
    folder = Path(tempfile.gettempdir(), f"{NAME}-{os.getuid()}")
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700)
    with contextlib.suppress(FileNotFoundError):
        about = folder.lstat()
        if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o022:
            raise InputError(f"{folder}: is not yours alone, so nothing is read from it; set XDG_CACHE_HOME")
    return folder


@cache
def share_path(relative: str = "") -> Path:
    """A file or folder of the package's share directory.

    In a source tree that is the repository root; once installed (pip or colcon) it is
    <prefix>/share/seg_perception, found by walking up from the code.

    Raises:
        FileNotFoundError: there is no such file; names the places that were searched.
    """
    roots = [PACKAGE.parent, *(parent / "share" / "seg_perception" for parent in PACKAGE.parents)]
    for root in roots:
        if (root / "package.xml").is_file() and (root / relative).exists():
            return root / relative
    raise FileNotFoundError(f"{relative!r} was not found under any of: {', '.join(map(str, roots))}")


def shipped_file(folders: str | Sequence[str], name_or_path: str | Path, called: str) -> Path:
    """A YAML file by its path, or a shipped one by its bare name ("folder" for config/train/folder.yaml).

    Args:
        folders: of the share directory, for example "config/train".
        name_or_path: a path ends in .yaml or .yml, holds a slash, or is there; anything else is a name.
        called: what it is, for the error.

    Raises:
        SettingsError: no shipped file of that name; lists those that there are.
    """
    path = Path(name_or_path)
    if path.suffix.lower() in (".yaml", ".yml") or len(path.parts) > 1:
        return user_path(path)
    shipped = {
        file.stem: file
        for folder in ([folders] if isinstance(folders, str) else folders)
        for file in sorted(share_path(folder).glob("*.yaml"))
        if not file.name.startswith(".")
    }
    if str(name_or_path) in shipped:
        return shipped[str(name_or_path)]
    if path.is_file():
        return path
    raise SettingsError(f"no {called} {str(name_or_path)!r}; shipped: {', '.join(shipped)}; or give a .yaml file")


_KINDS: Final = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe (FIFO)"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
    (stat.S_ISSOCK, "a socket"),
)
_LONGEST_NAME: Final = 200  # bytes of a file's name that its temporary neighbor takes over; names may have 255


def read_regular_file(path: Path, limit: int) -> bytes:
    """All of a file, if it is a regular file of at most `limit` bytes.

    A pipe would hold the reader for ever and /dev/zero would fill the memory: neither is opened, and
    no more than `limit` bytes are read of a file that grows meanwhile or hides its size (as /proc does).

    Args:
        path: the file; links are followed.
        limit: the most bytes that are accepted.

    Raises:
        InputError: no regular file, or a larger one; names the file, what it is and what is accepted.
        OSError: it is not there or cannot be read.
    """
    with open_regular_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise _too_large(path, f"{size}", limit)
        content = bytearray()
        while len(content) <= limit:  # piece by piece: asking for `limit` bytes would claim that much memory
            expected = max(size - len(content), 0) + 4096
            try:
                piece = file.read(min(expected, limit + 1 - len(content)))
            except OSError as error:  # a failing disk; Python does not say which file it was
                raise OSError(error.errno, error.strerror, str(path)) from error
            if not piece:
                return bytes(content)
            content += piece
    raise _too_large(path, f"more than {limit}", limit)


def open_regular_file(path: Path) -> BinaryIO:
    """A regular file, opened for reading; pipes, devices and folders are refused without waiting for them.

    Raises:
        InputError: no regular file; names what it is.
        OSError: it is not there or cannot be read.
    """
    if "\0" in str(path):
        raise InputError(f"{str(path)!r}: no file has a zero byte in its name")
    _demand_regular(path, path.stat().st_mode)
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # never waits if it became a pipe meanwhile
    file = os.fdopen(handle, "rb")
    try:
        _demand_regular(path, os.fstat(handle).st_mode)
    except InputError:
        file.close()
        raise
    return file


def _demand_regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise InputError(f"{path}: is {_kind(mode)}; only regular files are read")


def _kind(mode: int) -> str:
    return next((name for test, name in _KINDS if test(mode)), "no regular file")


def real_path(path: Path) -> Path:
    """The absolute path without links; links in a circle stay (`Path.resolve` raises a RuntimeError for them)."""
    return Path(os.path.realpath(path))


def walk(folder: Path, followlinks: bool = False) -> Iterator[tuple[str, list[str], list[str]]]:
    """`os.walk`, which passes over folders that cannot be read; this does not.

    Raises:
        OSError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise error

    return os.walk(folder, onerror=refuse, followlinks=followlinks)


def check_place(path: Path) -> None:
    """Refuse a name that nothing can be written under: what is written takes the place of what has its name.

    Raises:
        InputError: no name at all, that of a pipe, a device or a socket, or one in /dev.
        OSError: nothing can be there: below a file, or behind links in a circle.
    """
    if not path.name:
        raise InputError(f"{str(path)!r} is not the name of a file to write")
    if real_path(path.parent) == Path("/dev"):  # /dev/stdout may lead to a regular file; it is the link that would go
        raise InputError(f"{path}: a file would replace this name of the system's; name one outside of /dev")
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise InputError(f"{path}: is {_kind(mode)}, which a file would replace; name a regular file, or a new one")


def make_folder(path: Path, mode: int = 0o777) -> None:
    """Make a folder to write into, and those above it; it may be there already.

    Raises:
        OSError: it cannot be made, or something else has its name.
    """
    try:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
    except FileExistsError as error:
        what = "a folder to write into is needed, and there is something else of that name"
        raise NotADirectoryError(errno.ENOTDIR, what, str(path)) from error


def _too_large(path: Path, size: str, limit: int) -> InputError:
    return InputError(f"{path}: {size} bytes are not accepted; at most {limit} are read of such a file")


def write_atomically(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a file so that a reader sees the old content or the new one, never a part.

    The content goes to a temporary file in the same folder, is brought to the disk, and takes the
    name in one step. On a full disk or any other failure nothing is left behind.

    Args:
        path: the file; its folder must exist.
        content: all of it.
        mode: permission bits of the new file; those that the process's umask forbids are left out.

    Raises:
        InputError: `path` is no file's name, or that of a pipe or device.
        OSError: the folder cannot be written, or the disk is full; names `path`.
    """
    handle, temporary = _temporary_beside(path, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        _remove(temporary)
        raise OSError(error.errno, f"cannot write {len(content)} bytes: {error.strerror}", str(path)) from error
    except BaseException:
        _remove(temporary)
        raise


def make_room_for(path: Path, *made_from: Path) -> None:
    """Make the folder of a file that comes at the end of long work, and try whether it takes one.

    What cannot be written is better known before the work than after it.

    Args:
        path: the file to come.
        made_from: files that it must not replace.

    Raises:
        InputError: `path` is no file's name, that of a pipe or device, or one of `made_from`.
        OSError: the folder cannot be made or written, or `path` itself is a folder.
    """
    if path.exists() and any(source.exists() and path.samefile(source) for source in made_from):
        raise InputError(f"{path}: would replace what it is made from; name another file")
    make_folder(path.parent)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "cannot write: there is a folder of that name", str(path))
    handle, temporary = _temporary_beside(path, 0o600)
    os.close(handle)
    _remove(temporary)


def _temporary_beside(path: Path, mode: int) -> tuple[int, Path]:
    """An open, empty file in the folder of `path`: its handle and its name, .NAME.RANDOM.part."""
    check_place(path)
    start = os.fsdecode(os.fsencode(path.name)[:_LONGEST_NAME])
    temporary = path.parent / f".{start}.{secrets.token_hex(6)}.part"
    try:
        # opened with the mode, not changed to it afterwards: so the umask counts
        return os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), temporary
    except OSError as error:
        raise OSError(error.errno, f"cannot write: {error.strerror}", str(path)) from error


def _remove(temporary: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()


def _sync_folder(folder: Path) -> None:
    """The rename itself must survive a power cut, too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
