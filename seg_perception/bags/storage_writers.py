"""Writes storage files: MCAP by the `mcap` package, SQLite by Python's own module."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mcap.writer import CompressionType
from mcap.writer import Writer as _McapPackageWriter

from seg_perception.bags.metadata import WRITTEN_VERSION
from seg_perception.bags.storage import StorageWriter
from seg_perception.bags.types import CDR, OfferedQos, Storage, TypeDefinition
from seg_perception.core.errors import InputError


def open_writer(path: Path, storage: Storage, compress: bool) -> StorageWriter:
    """A new storage file; `compress` has no effect on SQLite."""
    return McapWriter(path, compress) if storage is Storage.MCAP else SqliteWriter(path)


class McapWriter:
    """An MCAP file of the profile "ros2", in chunks of a megabyte, every part with its checksum."""

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
    """A SQLite file as rosbag2 writes it. Uncompressed; what is not closed is not there."""

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
