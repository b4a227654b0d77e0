"""Writes rosbag2 bags that `ros2 bag` of Humble and later, Foxglove and rosbags read.

MCAP is written by the `mcap` package, SQLite by Python's own module.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from mcap.writer import CompressionType
from mcap.writer import Writer as _McapPackageWriter

from seg_perception.bags.locating import OWNER_FILE, OutputLock, partial_path
from seg_perception.bags.messages import encode, standard_definition, with_digest
from seg_perception.bags.types import (
    CDR,
    FILE_NAME,
    WRITTEN_VERSION,
    OfferedQos,
    Storage,
    StorageWriter,
    Topic,
    TypeDefinition,
    Written,
    to_file,
    to_yaml,
)
from seg_perception.core.errors import InputError
from seg_perception.core.files import check_place, real_path


def open_writer(path: Path, storage: Storage, compress: bool) -> StorageWriter:
    """A new storage file; `compress` has no effect on SQLite."""
    return McapWriter(path, compress) if storage is Storage.MCAP else SqliteWriter(path)


class McapWriter:
    """An MCAP file of the profile "ros2", in chunks of up to a megabyte, every part with its checksum."""

    def __init__(self, path: Path, compress: bool) -> None:
        self.path = path
        self._file = path.open("xb")
        self._writer = _McapPackageWriter(
            self._file,
            compression=CompressionType.ZSTD if compress else CompressionType.NONE,
            enable_crcs=True,
            enable_data_crcs=True,
        )
        self._writer.start(profile="ros2", library="seg_perception")
        self._schemas: dict[tuple[str, str, bytes], int] = {}

    def add_topic(self, name: str, definition: TypeDefinition, qos: OfferedQos, serialization: str) -> int:
        """See `StorageWriter`."""
        if definition.foreign:
            notation, data = definition.foreign, definition.foreign_data
        else:
            notation = ("ros2idl" if definition.idl else "ros2msg") if definition.text else ""
            data = definition.text.encode(errors="replace")
        key = (definition.name, notation, data)
        if key not in self._schemas:
            named = bool(definition.name or notation)
            self._schemas[key] = self._writer.register_schema(*key) if named else 0
        metadata = {"offered_qos_profiles": qos.to_text(), "topic_type_hash": definition.digest}
        return self._writer.register_channel(name, serialization, self._schemas[key], metadata)

    def write(self, number: int, stamp_ns: int, data: bytes) -> None:
        """See `StorageWriter`."""
        if not 0 <= stamp_ns < 2**64:
            raise InputError(
                f"a message was recorded at {stamp_ns} ns, before 1970: MCAP has no such time; write a .db3 file"
            )
        self._writer.add_message(number, stamp_ns, data, stamp_ns)

    def flush(self) -> None:
        """See `StorageWriter`."""
        self._writer.flush()  # type: ignore[no-untyped-call]

    def close(self, metadata: str) -> None:
        """See `StorageWriter`."""
        self._writer.add_metadata("rosbag2", {"serialized_metadata": metadata})
        self._writer.finish()  # type: ignore[no-untyped-call]
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def abort(self) -> None:
        """Close the file as it is."""
        self._file.close()


_TABLES = """
CREATE TABLE schema(schema_version INTEGER PRIMARY KEY, ros_distro TEXT NOT NULL);
CREATE TABLE metadata(id INTEGER PRIMARY KEY, metadata_version INTEGER NOT NULL, metadata TEXT NOT NULL);
CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT NULL,
  serialization_format TEXT NOT NULL, offered_qos_profiles TEXT NOT NULL, type_description_hash TEXT NOT NULL);
CREATE TABLE message_definitions(id INTEGER PRIMARY KEY, topic_type TEXT NOT NULL, encoding TEXT NOT NULL,
  encoded_message_definition TEXT NOT NULL, type_description_hash TEXT NOT NULL);
CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL, timestamp INTEGER NOT NULL,
  data BLOB NOT NULL);
CREATE INDEX timestamp_idx ON messages (timestamp ASC);
"""
"""rosbag2's own schema 4 (Iron and later); Humble reads it, too."""


class SqliteWriter:
    """A SQLite file as rosbag2 writes it. Uncompressed; what is neither flushed nor closed is not there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # as bytes and absolute: a name may hold anything and is no URI
        with self._errors():
            self._database = sqlite3.connect(os.fsencode(path.absolute()), uri=False, isolation_level=None)
            self._database.executescript(_TABLES)
            self._database.execute("INSERT INTO schema VALUES (4, '')")
            self._database.execute("BEGIN")
        self._types: set[str] = set()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """SQLite's errors (a full disk, a path of more than 512 bytes) as what they are, with the file's name."""
        try:
            yield
        except sqlite3.Error as error:
            raise OSError(f"{self.path} cannot be written: SQLite says: {' '.join(str(error).split())}") from error

    def add_topic(self, name: str, definition: TypeDefinition, qos: OfferedQos, serialization: str) -> int:
        """See `StorageWriter`."""
        if definition.foreign or not definition.name:
            raise InputError(
                f"topic {name} ({definition.name or 'no schema'}, {serialization}) has no place in a SQLite bag: "
                "write an .mcap file, which takes any"
            )
        if definition.text and definition.name not in self._types:
            self._types.add(definition.name)
            row = (definition.name, "ros2idl" if definition.idl else "ros2msg", definition.text, definition.digest)
            columns = "topic_type, encoding, encoded_message_definition, type_description_hash"
            self._database.execute(f"INSERT INTO message_definitions ({columns}) VALUES (?, ?, ?, ?)", row)  # noqa: S608
        columns = "name, type, serialization_format, offered_qos_profiles, type_description_hash"
        return int(
            self._database.execute(
                f"INSERT INTO topics ({columns}) VALUES (?, ?, ?, ?, ?)",  # noqa: S608
                (name, definition.name, serialization or CDR, qos.to_text(), definition.digest),
            ).lastrowid
            or 0
        )

    def write(self, number: int, stamp_ns: int, data: bytes) -> None:
        """See `StorageWriter`."""
        with self._errors():
            self._database.execute(
                "INSERT INTO messages (topic_id, timestamp, data) VALUES (?, ?, ?)", (number, stamp_ns, data)
            )

    def flush(self) -> None:
        """See `StorageWriter`."""
        with self._errors():
            self._database.execute("COMMIT")
            self._database.execute("BEGIN")

    def close(self, metadata: str) -> None:
        """See `StorageWriter`."""
        row = (WRITTEN_VERSION, metadata)
        with self._errors():
            self._database.execute("INSERT INTO metadata (metadata_version, metadata) VALUES (?, ?)", row)
            self._database.execute("COMMIT")
            self._database.close()

    def abort(self) -> None:
        """Close the file as it is."""
        self._database.close()


_BAG_SUFFIXES = (".mcap", ".db3", ".db3-wal", ".db3-shm", ".db3-journal", ".zstd")


def check_bag_folder(folder: Path) -> None:
    """Make sure that a folder may be replaced: it holds bag files only.

    Raises:
        InputError: something in it is no part of a bag.
    """
    for inside in sorted(folder.rglob("*")):
        known = inside.is_dir() or inside.name in (FILE_NAME, OWNER_FILE) or inside.suffix in _BAG_SUFFIXES
        if inside.is_symlink() or not known:
            raise InputError(
                f"{folder} is not replaced: {inside.relative_to(folder)} in it is no part of a bag; "
                "move it away, or choose another name"
            )


def remove_bag_folder(folder: Path) -> None:
    """Remove a folder that holds bag files only.

    Raises:
        InputError: something in it is no part of a bag; then everything stays.
    """
    check_bag_folder(folder)
    shutil.rmtree(folder)


def check_apart(source: Path, out: Path) -> None:
    """The result must never replace what it is made of.

    Raises:
        InputError: it would; or `out` is no file's name, or that of a pipe or device.
    """
    check_place(out)
    read, written = real_path(source), real_path(out)
    same = out.exists() and source.exists() and out.samefile(source)  # hard links and letter case, too
    removed = {written, partial_path(written)}  # when `out` is written
    if same or read in removed or read in written.parents or removed & set(read.parents):
        raise InputError(f"{out} would overwrite the bag it is made from, {source}: choose another name")


class BagWriter:
    """A bag being written. The bag appears under its name only when it is complete.

    Until `close` it lies in the folder `<name>.partial` beside its final place, which no second
    writer can take meanwhile. Leaving a `with` block by an exception drops it.

    Args:
        path: `x.mcap` or `x.db3` for a bag of one file; any other name makes a bag folder with
            metadata.yaml and an MCAP file.
        compress: zstd for the chunks of an MCAP file; SQLite bags are never compressed.
        overwrite: replace a bag of this name, and what an unfinished writer left; never a folder
            that holds anything but bag files.

    Raises:
        FileExistsError: the bag exists, or an unfinished one does, and `overwrite` is false; or another
            process is writing it.
        InputError: a folder of this name is not a bag.
    """

    def __init__(self, path: Path, compress: bool = True, overwrite: bool = False) -> None:
        self.path = path
        self._open = False
        if (path.exists() or path.is_symlink()) and not overwrite:
            raise FileExistsError(f"{path} exists already: move or remove it first")
        if path.is_dir():
            check_bag_folder(path)
        self._lock = OutputLock(path)
        try:
            self._take_place(overwrite)
            self._storage = Storage.of(path) or Storage.MCAP
            self._single = Storage.of(path) is not None
            # A name that is no UTF-8 cannot stand in metadata.yaml, so the file in a folder gets another one.
            # SQLite opens paths of 512 bytes, so a single .db3 file gets a short one while it is written.
            short = self._storage is Storage.SQLITE3
            self._folder = self._lock.folder / ("bag" if short else path.stem if self._single else path.name)
            inner = self._folder.name.encode(errors="replace").decode()
            self._folder.mkdir()
            self._file = self._folder / f"{inner}{self._storage.suffix}"
            self._writer = open_writer(self._file, self._storage, compress)
        except BaseException as error:
            self._lock.release(remove=not isinstance(error, FileExistsError | InputError))
            raise
        self._topics: dict[str, Topic] = {}
        self._numbers: dict[str, int] = {}
        self._counts: dict[str, int] = {}
        self._first_ns, self._last_ns = 2**63 - 1, -(2**63)
        self._open = True

    def _take_place(self, overwrite: bool) -> None:
        """Empty the folder that is now ours of what a killed writer left in it."""
        if self._lock.was_there and not overwrite:
            left = "left by a run that did not finish"
            raise FileExistsError(f"{self._lock.folder} exists already ({left}): move or remove it first")
        check_bag_folder(self._lock.folder)
        self._lock.empty()

    @property
    def counts(self) -> dict[str, int]:
        """Messages written so far, by topic."""
        return dict(self._counts)

    def add_topic(
        self,
        name: str,
        type_or_definition: str | TypeDefinition,
        qos: OfferedQos | None = None,
        serialization: str = CDR,
    ) -> None:
        """Declare a topic, once, before its first message.

        Args:
            name: absolute, such as "/image".
            type_or_definition: a standard type's name, or a definition, which may be without text or
                in any notation: it is written as it is, with ROS's type hash where that can be had.
            qos: what its publisher offered; reliable and volatile unless given.
            serialization: of its messages.

        Raises:
            InputError: the topic exists already, its type is not known, or the storage has no place for it.
        """
        if name in self._topics:
            raise InputError(f"{self.path}: topic {name} was added twice")
        if isinstance(type_or_definition, str):
            definition = standard_definition(type_or_definition)
        else:
            definition = with_digest(type_or_definition)
        qos = qos or OfferedQos()
        self._numbers[name] = self._writer.add_topic(name, definition, qos, serialization)
        self._topics[name] = Topic(name, definition, 0, qos, serialization)
        self._counts[name] = 0

    def write(self, topic: str, stamp_ns: int, message: Any) -> None:
        """Serialize and append one message.

        Args:
            topic: one that was added.
            stamp_ns: record time in nanoseconds since 1970.
            message: an object with the type's fields, such as those of `bags.messages`.
        """
        self.write_raw(topic, stamp_ns, encode(message, self._topics[topic].definition))

    def write_raw(self, topic: str, stamp_ns: int, data: bytes) -> None:
        """Append one message that is serialized already.

        Raises:
            InputError: MCAP cannot hold a time before 1970.
        """
        try:
            self._writer.write(self._numbers[topic], stamp_ns, data)
        except OSError as error:
            raise self._named(error) from error
        self._counts[topic] += 1
        self._first_ns, self._last_ns = min(self._first_ns, stamp_ns), max(self._last_ns, stamp_ns)

    def flush(self) -> None:
        """Make what was written so far recoverable, should the process be killed."""
        try:
            self._writer.flush()
        except OSError as error:
            raise self._named(error) from error

    def close(self) -> None:
        """Finish the bag and move it to its name, in one step. Calling it twice is harmless."""
        if not self._open:
            return
        self._open = False
        topics = tuple(replace(topic, count=self._counts[name]) for name, topic in self._topics.items())
        name = self.path.name if self._single else self._file.name
        written = Written(self._storage, name, self._first_ns, self._last_ns, topics).information()
        try:
            self._writer.close(to_yaml(written))
            if not self._single:
                (self._folder / FILE_NAME).write_bytes(to_file(written))
            if self.path.is_dir():
                remove_bag_folder(self.path)
            (self._file if self._single else self._folder).replace(self.path)
        except OSError as error:
            self._lock.release(remove=False)
            if error.errno is None:  # it has its own words
                raise
            kept = f"{error.strerror}; what was written before it is kept: bag recover {self._file}"
            raise OSError(error.errno, kept, str(self.path)) from error
        except BaseException:
            self._lock.release(remove=False)  # what was written is kept
            raise
        self._lock.release(remove=True)

    def _named(self, error: OSError) -> OSError:
        """The system's error, with the bag's name where it names no file."""
        return (
            error
            if error.filename or error.errno is None
            else OSError(error.errno, f"cannot write: {error.strerror}", str(self.path))
        )

    def abort(self) -> None:
        """Drop the bag. Calling it twice is harmless."""
        if not self._open:
            return
        self._open = False
        self._writer.abort()
        self._lock.release(remove=True)

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()
