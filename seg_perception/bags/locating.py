"""What a path is: which storage files make up the bag, by their first bytes, not their names, and who writes it."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import zstandard

from seg_perception.bags.mcap_records import MAGIC
from seg_perception.bags.sqlite_file import SIGNATURE
from seg_perception.bags.types import FILE_NAME, NEWEST_VERSION, Metadata, Storage, read_metadata
from seg_perception.core.errors import InputError
from seg_perception.core.files import check_place, make_folder, open_regular_file, write_atomically

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
        InputError: `path` is no file's name, or that of a pipe or device.
        OSError: the folder cannot be made.
    """

    def __init__(self, path: Path) -> None:
        check_place(path)
        self.folder = partial_path(path)
        self.was_there = self.folder.exists()
        tries = 0
        while True:
            make_folder(self.folder)
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
        write_atomically(self.folder / OWNER_FILE, owner.encode(errors="replace"))

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


_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_SUFFIXES: Final = (".mcap", ".db3", ".zstd")
_EXPANDS_BY: Final = 200  # more than images of one color do
_EXPANDS_TO: Final = 64 * 2**20  # bytes that are always accepted
_PART: Final = re.compile(r"(.*?)_?(\d*)(\.[a-z0-9]+)(\.zstd)?")

ROS1_ADVICE: Final = (
    "convert it with rosbags-convert, which is installed with this package: "
    "rosbags-convert --src drive.bag --dst drive (a folder that every command here reads)"
)
_OTHER_FILES: Final = (
    (b"#ROSBAG V", f"a ROS 1 bag: {ROS1_ADVICE}"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the bag itself: fetch it with 'git lfs pull'"),
    (b"<!DOCTYPE", "a web page, not a bag: download the file itself"),
    (b"<html", "a web page, not a bag: download the file itself"),
    (b"PK\x03\x04", "a ZIP archive: unpack it, and give the bag in it"),
    (b"\x1f\x8b", "compressed with gzip: unpack it with 'gunzip', or 'tar xzf' for an archive"),
    (b"\x04\x22\x4d\x18", "compressed with lz4: unpack it with 'lz4 -d'"),
    (b"BZh", "compressed with bzip2: unpack it with 'bunzip2', or 'tar xjf' for an archive"),
)


@dataclass(frozen=True, slots=True)
class Part:
    """One storage file.

    Attributes:
        path: as the user knows it.
        readable: where its content is; another place if it had to be expanded.
        storage: by its first bytes.
    """

    path: Path
    readable: Path
    storage: Storage


class Located:
    """The storage files of a bag, ready to be read; expanded ones are removed by `close`.

    Attributes:
        parts: in the order of recording.
        metadata: of metadata.yaml; None without one.
        notes: what was guessed.
        left_out: parts that are missing or cannot be read, one sentence each; only if tolerant.

    Args:
        path: a bag folder, or a storage file.
        tolerant: leave out what is missing or damaged, and take the rest; for recovery.

    Raises:
        FileNotFoundError: there is nothing, or a part of the bag is missing.
        InputError: no bag; says what it is and what to do.
    """

    def __init__(self, path: Path, tolerant: bool = False) -> None:
        self._tolerant = tolerant
        self.metadata: Metadata | None = None
        self.notes: list[str] = []
        self.left_out: list[str] = []
        self._expanded: tempfile.TemporaryDirectory[str] | None = None
        try:
            self.parts = self._parts(self._files(path))
        except BaseException:
            self.close()
            raise

    def _parts(self, files: list[Path]) -> list[Part]:
        parts, problems = [], []
        for file in files:
            try:
                parts.append(self._part(file))
            except (InputError, OSError) as error:  # noqa: PERF203  each part by itself
                if not self._tolerant or len(files) == 1:
                    raise
                problems.append(str(error))
        if problems and not parts:
            raise InputError("; ".join(problems))
        self.left_out += problems
        return parts

    def _files(self, path: Path) -> list[Path]:
        if not path.exists() and not path.is_symlink():
            raise FileNotFoundError(f"no bag at {path}{_hint_of_unfinished(path)}")
        if not path.is_dir():
            return [path]
        if not (path / FILE_NAME).exists():
            return self._without_metadata(path)
        try:
            self.metadata = read_metadata(path)
        except InputError as error:
            if not self._tolerant:
                raise
            self.notes.append(f"not read: {error}")
            return self._without_metadata(path)
        if self.metadata.version > NEWEST_VERSION:
            self.notes.append(
                f"metadata.yaml has version {self.metadata.version}; the newest one known here is {NEWEST_VERSION}: "
                "what it adds is not read"
            )
        return self._announced(path, self.metadata)

    def _announced(self, folder: Path, metadata: Metadata) -> list[Path]:
        found, missing = [], []
        if twice := sorted({name for name in metadata.files if metadata.files.count(name) > 1}):
            listed = f"{folder / FILE_NAME} lists {', '.join(twice)} more than once"
            if not self._tolerant:
                raise InputError(f"{listed}: its messages would come twice. Name each part once, or open the parts")
            self.notes.append(listed)
        for name in dict.fromkeys(metadata.files):
            choices = (name, f"{name}.zstd", name.removesuffix(".zstd"))
            here = next((folder / choice for choice in choices if (folder / choice).exists()), None)
            if here is None:
                missing.append(name)
            else:
                found.append(here)
        if missing:
            others = [p.name for p in _storage_files(folder)]
            there = f"there: {', '.join(others)}" if others else "no storage file is there"
            verb = "is" if len(missing) == 1 else "are"
            missed = f"{folder}: {', '.join(missing)} {verb} missing, which metadata.yaml "
            if not self._tolerant or not (found or others):
                raise FileNotFoundError(
                    f"{missed}lists; {there}. Bring the missing part back, or open a storage file by itself"
                )
            self.left_out.append(f"{missed}lists")
        if unlisted := [file for file in _storage_files(folder) if file not in found] if found else []:
            names = ", ".join(file.name for file in unlisted)
            verbs = ("lies", "it") if len(unlisted) == 1 else ("lie", "them")
            what = f"{names} {verbs[0]} in {folder}, but {FILE_NAME} does not list {verbs[1]}"
            self.notes.append(f"{what}{'; read, too' if self._tolerant else ': not read'}")
            return found + unlisted * self._tolerant
        return found or _storage_files(folder)

    def _without_metadata(self, folder: Path) -> list[Path]:
        """The parts of one recording by their names: x_0.mcap, x_1.mcap and so on."""
        files = _storage_files(folder)
        if not files:
            raise InputError(f"{folder} is a folder, but not a bag: it has no metadata.yaml and no .mcap or .db3 file")
        matches = [m for m in (_PART.fullmatch(file.name) for file in files) if m]
        stems = {(m[1], m[3]) for m in matches}
        names = ", ".join(file.name for file in files) + _gaps(matches)
        if self._tolerant:
            self.notes.append(f"taken from {folder}: {names}")
            return files
        if len(files) > 1 and (len(stems) > 1 or len(matches) < len(files) or any(not m[2] for m in matches)):
            raise InputError(
                f"{folder} has no metadata.yaml, and files of several recordings: {names}; open one of them"
            )
        if len(files) > 1:
            files = [file for _, file in sorted((int(m[2]), file) for m, file in zip(matches, files))]
            numbers = sorted(int(m[2]) for m in matches)
            if numbers != list(range(numbers[0], numbers[0] + len(files))):
                raise InputError(
                    f"{folder} has no metadata.yaml, and a part between {files[0].name} and {files[-1].name} is "
                    f"missing or there twice ({names}); open the parts one by one"
                )
        self.notes.append(f"{folder} has no metadata.yaml (its recorder did not close the bag); read: {names}")
        return files

    def _part(self, path: Path) -> Part:
        with open_regular_file(path) as file:
            start = file.read(64)
        if storage := _storage_of(start):
            return Part(path, path, storage)
        if start.startswith(_ZSTD):
            return self._expand(path)
        if not start and (storage := Storage.of(path)):
            return Part(path, path, storage)  # its reader says that it is empty
        raise InputError(f"{path} is {_describe(path, start)}")

    def _expand(self, path: Path) -> Part:
        """A file that rosbag2 compressed as a whole, expanded into a temporary folder."""
        with open_regular_file(path) as file:
            size, claimed = file.seek(0, 2), _claimed_size(file)
            file.seek(0)
            reader = zstandard.ZstdDecompressor(max_window_size=2**27).stream_reader(file, read_across_frames=True)
            start, problem = _read(reader)
            storage = _storage_of(start)
            if storage is None:
                what = _describe(path, start) if start else f"nothing readable: {problem or 'it is cut off'}"
                raise InputError(f"{path} is compressed with zstd, and what is in it is {what}")
            self._expanded = self._expanded or tempfile.TemporaryDirectory(prefix="seg_perception_bag_")
            target = Path(self._expanded.name) / f"{len(list(Path(self._expanded.name).iterdir()))}{storage.suffix}"
            ratio_limit = max(_EXPANDS_BY * size, _EXPANDS_TO)
            disk_limit = shutil.disk_usage(self._expanded.name).free - 2**28
            with target.open("xb") as out:
                part = start
                while part:
                    out.write(part)
                    if out.tell() > min(ratio_limit, disk_limit):
                        why = f"{_EXPANDS_BY} times its size" if ratio_limit < disk_limit else "the disk has room for"
                        raise InputError(f"{path} expands to more than {why}; not read any further")
                    part, problem = _read(reader)
                if out.tell() < claimed:  # a frame that is cut off ends without an error
                    problem = problem or f"it expands to {out.tell()} bytes instead of {claimed}"
        if problem:
            damage = f"{path} is compressed with zstd, and damaged or cut off: {problem}"
            if not self._tolerant:
                raise InputError(damage)
            self.notes.append(damage)
        return Part(path, target, storage)

    def close(self) -> None:
        """Remove what was expanded; calling it twice is harmless."""
        if self._expanded is not None:
            self._expanded.cleanup()
            self._expanded = None


def _gaps(names: Sequence[re.Match[str]]) -> str:
    """Which numbers are missing of the parts of one recording, which counts from 0; "" for none."""
    numbers = {int(name[2]) for name in names if name[2]}
    missing = [str(number) for number in range(max(numbers, default=0)) if number not in numbers]
    if not missing or len({(name[1], name[3]) for name in names}) > 1:
        return ""
    return f"; number {', '.join(missing[:5])}{' ...' * (len(missing) > 5)} of its parts is not there"


def _read(reader: Any) -> tuple[bytes, str]:
    """The next megabyte, and what is wrong with what follows."""
    try:
        return reader.read(2**20), ""
    except zstandard.ZstdError as error:
        return b"", str(error)


def _claimed_size(file: BinaryIO) -> int:
    """What the first frame of a zstd file says of its size; -1 if it does not."""
    file.seek(0)
    try:
        return int(zstandard.frame_content_size(file.read(64)))
    except zstandard.ZstdError:
        return -1


def _storage_files(folder: Path) -> list[Path]:
    found = (p for p in folder.iterdir() if not p.name.startswith(".") and p.suffix in _SUFFIXES and not p.is_dir())
    return sorted(found, key=lambda p: p.name)


def _storage_of(start: bytes) -> Storage | None:
    if start.startswith(MAGIC):
        return Storage.MCAP
    return Storage.SQLITE3 if start.startswith(SIGNATURE) else None


def _describe(path: Path, start: bytes) -> str:
    """What a file that is no bag is, as the rest of a sentence."""
    for signature, text in _OTHER_FILES:
        if start[: len(signature)].lower() == signature.lower():
            return text
    if storage := Storage.of(path):
        what = "an MCAP file" if storage is Storage.MCAP else "a SQLite file"
        return f"not {what}, in spite of its name: it does not begin with {what.split()[1]}'s signature"
    if not start:
        return "empty"
    return "not a bag: accepted are a bag folder, an .mcap file or a .db3 file, also as .zstd"


def _hint_of_unfinished(path: Path) -> str:
    partial = partial_path(path)
    if not partial.exists():
        return ""
    if writer := writer_of(partial):
        return f"; {writer} is still writing it"
    return f"; a recording of that name was never finished: see {partial}"
