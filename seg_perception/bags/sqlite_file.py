"""Reads rosbag2's SQLite files, schema 1 (Dashing) to 4 (Iron and later), with the journal of a killed recorder.

Nothing is written beside the file: where SQLite would have to (a journal in a folder of others), a
copy in a temporary folder is read instead. SQLite stops without a word at the first frame of the journal (the
file -wal) whose checksum is wrong, and before the first that no commit follows, and it undoes what a journal of the
older kind (-journal) has begun. A bag that loses messages by that is damaged as any other: only salvaging reads it.
Source: "WAL-mode File Format" and "Database File Format" in SQLite's documentation.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import struct
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from seg_perception.bags.mcap_records import MAX_BYTES, BrokenRecordError
from seg_perception.bags.types import Connection, OfferedQos, Topic, TypeDefinition
from seg_perception.core.errors import InputError
from seg_perception.core.files import open_regular_file

_HEAD: Final = struct.Struct(">IIII8sII")  # magic, version, page size, checkpoint, salt, checksum
_FRAME_HEAD: Final = struct.Struct(">II8sII")  # page number, size of the database after a commit, salt, checksum
_MAGIC: Final = (0x377F0682, 0x377F0683)  # checksums over little-endian, over big-endian words


@dataclass(frozen=True, slots=True)
class Lost:
    """What SQLite will not read.

    Attributes:
        count: of bytes.
        reason: which, in words.
    """

    count: int
    reason: str


def what_is_lost_of(path: Path) -> Lost | None:
    """What SQLite will not read of a log; None: nothing, or only what an earlier run left."""
    with open_regular_file(path) as file:
        size = file.seek(0, 2)
        file.seek(0)
        head = file.read(_HEAD.size)
        magic, _, page_size, _, salt, first, second = _HEAD.unpack(head) if len(head) == _HEAD.size else (0,) * 7
        words = np.dtype(">u4" if magic == _MAGIC[1] else "<u4")
        if magic not in _MAGIC or not 512 <= page_size <= 65536 or _sum(head[:24], words, (0, 0)) != (first, second):
            return Lost(size, f"{path} is damaged: the messages recorded last, in its {size} bytes, cannot be read")
        sums, valid, committed, end = (first, second), True, _HEAD.size, size
        while len(head := file.read(_FRAME_HEAD.size)) == _FRAME_HEAD.size:
            _, commit, frame_salt, first, second = _FRAME_HEAD.unpack(head)
            page = file.read(page_size)
            if not _is_of_run(frame_salt, salt):  # an earlier one's, unless one of this run follows
                valid, end = False, min(end, file.tell() - len(page) - len(head))
                continue
            valid, end = valid and frame_salt == salt and len(page) == page_size, size
            if valid:
                sums = _sum(page, words, _sum(head[:8], words, sums))
                valid = sums == (first, second)
            if valid and commit:
                committed = file.tell()
    if end <= committed:
        return None
    where = f"the messages in its last {end - committed} bytes cannot be read"
    return Lost(end - committed, f"{path} ends in the middle of a transaction, or is damaged: {where}")


def _is_of_run(frame_salt: bytes, salt: bytes) -> bool:
    """Whether a frame was to be of this run of the log, though it may be damaged: each run has both halves anew."""
    return frame_salt[:4] == salt[:4] or frame_salt[4:] == salt[4:] or frame_salt == bytes(8)


def what_is_undone_by(path: Path) -> Lost | None:
    """What SQLite will undo by a rollback journal; None: nothing, its transaction was ended."""
    with open_regular_file(path) as file:
        size = file.seek(0, 2)
        file.seek(0)
        if file.read(1) in (b"", b"\0"):
            return None
    return Lost(size, f"{path} is that of a transaction that was not ended: the messages in it cannot be read")


def _sum(data: bytes, words: np.dtype[np.uint32], start: tuple[int, int]) -> tuple[int, int]:
    """SQLite's checksum: each word is added to the sum of the two sums before it, so it counts by Fibonacci numbers."""
    values = np.frombuffer(data, words).astype(np.uint32)
    count, weights = len(values), _fibonacci(len(values) + 2)
    ends = []
    for last in (count - 1, count):  # number of words that each of the two sums has seen
        total = int(np.dot(values[:last], weights[:last][::-1]))
        ends.append((total + start[0] * int(weights[last - 1]) + start[1] * int(weights[last])) % 2**32)
    return ends[0], ends[1]


@cache
def _fibonacci(count: int) -> NDArray[np.uint32]:
    """1, 1, 2, 3, 5 ... modulo 2**32."""
    numbers = [1, 1]
    while len(numbers) < count:
        numbers.append((numbers[-1] + numbers[-2]) % 2**32)
    return np.array(numbers[:count], np.uint32)


SIGNATURE: Final = b"SQLite format 3\0"


class _Database:
    """A SQLite file opened for reading, with its journals; `close` removes what that needed.

    Args:
        lost: None where nothing may be lost; else it is given what is, and a file that was cut off is opened, too.

    Raises:
        BrokenRecordError: it is no SQLite file, or something is lost.
        sqlite3.Error: it cannot be opened.
    """

    def __init__(self, path: Path, lost: list[Lost] | None = None) -> None:
        self._path = path
        self._copies: tempfile.TemporaryDirectory[str] | None = None
        self._created: Path | None = None
        try:
            self.connection = self._connect(lost)
        except BaseException:
            self.close()
            raise
        self.connection.text_factory = lambda value: value.decode(errors="replace")

    def _connect(self, lost: list[Lost] | None) -> sqlite3.Connection:
        with open_regular_file(self._path) as file:
            if (start := file.read(16)) != SIGNATURE and start:
                raise BrokenRecordError("it does not begin with SQLite's signature")
        journals = {suffix: _beside(self._path, suffix) for suffix in ("-wal", "-journal")}
        left = {suffix: path for suffix, path in journals.items() if _size(path)}
        missing = self._missing_bytes() if lost is not None else 0
        problems = [
            what_is_lost_of(left["-wal"]) if "-wal" in left else None,
            what_is_undone_by(left["-journal"]) if "-journal" in left else None,
            Lost(missing, f"{self._path} was cut off: its last {missing} bytes are not there") if missing else None,
        ]
        for problem in filter(None, problems):
            if lost is None:
                raise BrokenRecordError(problem.reason)
            lost.append(problem)
        if not left and not missing:
            return self._open("immutable=1")
        if "-journal" not in left and not missing and (database := self._open_with_wal()):
            return database
        self._copies = tempfile.TemporaryDirectory(prefix="seg_perception_bag_")
        copy = Path(self._copies.name) / "bag.db3"
        shutil.copyfile(self._path, copy)
        for suffix, path in left.items():
            shutil.copyfile(path, _beside(copy, suffix))
        if missing:
            os.truncate(copy, copy.stat().st_size + missing)  # as zeros, so that SQLite opens it at all
        return _tried(sqlite3.connect(copy))

    def _missing_bytes(self) -> int:
        """By how much the file is shorter than its header says; 0 if by more than it could ever be."""
        with open_regular_file(self._path) as file:
            head, size = file.read(32), file.seek(0, 2)
        page = int.from_bytes(head[16:18], "big")
        claimed = (65536 if page == 1 else page) * int.from_bytes(head[28:32], "big")
        return claimed - size if size < claimed < size + 2**40 else 0

    def _open(self, mode: str) -> sqlite3.Connection:
        uri = f"file:{quote(os.fsencode(self._path.absolute()))}?{mode}"
        return _tried(sqlite3.connect(uri, uri=True))

    def _open_with_wal(self) -> sqlite3.Connection | None:
        """In place; None where SQLite cannot (it needs a -shm file beside the bag while reading)."""
        shared = _beside(self._path, "-shm")
        before = shared.exists()
        try:
            database = self._open("mode=ro")
        except sqlite3.OperationalError:
            return None
        self._created = None if before else shared
        return database

    def close(self) -> None:
        """Release the file."""
        if hasattr(self, "connection"):
            self.connection.close()
        if self._created is not None:
            with suppress(OSError):
                self._created.unlink()
            self._created = None
        if self._copies is not None:
            self._copies.cleanup()
            self._copies = None


@contextmanager
def connect_to(path: Path, lost: list[Lost]) -> Iterator[sqlite3.Connection]:
    """A connection for salvaging, also of a file that was cut off; `lost` is given what is not there any more.

    Raises:
        BrokenRecordError: no SQLite file.
        sqlite3.Error: it cannot be opened.
    """
    database = _Database(path, lost)
    try:
        yield database.connection
    finally:
        database.close()


class SqliteFile:
    """An opened SQLite file of rosbag2.

    Raises:
        BrokenRecordError: it is damaged, or has not rosbag2's tables.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        notes: list[str] = []
        try:
            self._open_database = _Database(path)
            self._database = self._open_database.connection
            self._read_topics(notes)
        except sqlite3.Error as error:
            self.close()
            raise BrokenRecordError(f"SQLite says: {' '.join(str(error).split())}") from error
        except BaseException:
            self.close()
            raise
        self.notes = tuple(notes)

    def _read_topics(self, notes: list[str]) -> None:
        check_tables(self._database)
        counts = self._counts()
        columns = {row[1] for row in self._database.execute("PRAGMA table_xinfo(topics)")}
        definitions = self._definitions()
        optional = [c if c in columns else "''" for c in ("offered_qos_profiles", "type_description_hash")]
        query = f"SELECT id, name, type, serialization_format, {', '.join(optional)} FROM topics ORDER BY id"  # noqa: S608
        connections = []
        for number, *texts in self._database.execute(query):
            if not isinstance(number, int) or not all(isinstance(value, str) for value in texts):
                raise BrokenRecordError(f"row {number!r} of its topics holds something else than text")
            name, type_name, serialization, recorded_qos, digest = texts
            try:
                qos = OfferedQos.from_recorded(recorded_qos)
            except InputError:
                qos = OfferedQos()
                notes.append(f"the quality of service of {name} cannot be read; taken as reliable and volatile")
            definition = definitions.get(type_name, TypeDefinition(type_name))
            if digest.startswith("RIHS01_"):
                definition = TypeDefinition(type_name, definition.text, definition.idl, digest)
            topic = Topic(name, definition, counts.pop(number, 0), qos, serialization)
            connections.append(Connection(number, topic))
        if counts:
            raise BrokenRecordError(f"{sum(counts.values())} messages belong to topics that it does not list")
        self.connections = tuple(connections)

    def _counts(self) -> dict[Any, int]:
        """Messages by topic id; their types and sizes are checked, and their time span is kept."""
        query = (  # with LIMIT, the inner query stays one of its own: else SQLite sorts rows with all of their data
            "SELECT topic_id, count(*), min(timestamp), max(timestamp), max(bytes), sum(wrong) FROM (SELECT topic_id, "
            "timestamp, length(data) AS bytes, typeof(timestamp) != 'integer' OR typeof(data) != 'blob' AS wrong "
            "FROM messages LIMIT -1) GROUP BY topic_id"
        )
        counts, spans = {}, []
        for topic, count, first, last, longest, wrong in self._database.execute(query):
            if wrong:
                raise BrokenRecordError(f"{wrong} messages of topic {topic} hold no bytes, or have no time")
            if longest > MAX_BYTES:
                raise BrokenRecordError(f"a message has {longest} bytes; at most {MAX_BYTES} are accepted")
            counts[topic] = count
            spans.append((first, last))
        self.first_ns = min((first for first, _ in spans), default=0)
        self.last_ns = max((last for _, last in spans), default=0)
        return counts

    def _definitions(self) -> Mapping[str, TypeDefinition]:
        try:
            rows = self._database.execute(
                "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions ORDER BY id"
            ).fetchall()
        except sqlite3.OperationalError:
            return {}  # Humble and older have no such table
        return {
            name: TypeDefinition(name, text, encoding == "ros2idl")
            for name, encoding, text in reversed(rows)  # of two, the first counts
            if encoding in ("ros2msg", "ros2idl") and isinstance(text, str) and isinstance(name, str)
        }

    def messages(
        self, ids: Collection[int], start_ns: int | None, stop_ns: int | None
    ) -> Iterator[tuple[int, int, bytes]]:
        """See `StorageReader`."""
        wanted = set(ids)
        query = "SELECT topic_id, timestamp, data FROM messages WHERE timestamp >= ? AND timestamp < ?"
        bounds = (_in_64_bits(start_ns, -(2**63)), _in_64_bits(stop_ns, 2**63 - 1))
        if stop_ns is None:
            query = query.replace("< ?", "<= ?")
        if len(wanted) < len(self.connections):
            query += f" AND topic_id IN ({', '.join(str(int(number)) for number in sorted(wanted))})"
        try:
            yield from self._database.execute(f"{query} ORDER BY timestamp", bounds)
        except sqlite3.Error as error:
            raise BrokenRecordError(f"SQLite says: {' '.join(str(error).split())}") from error

    def close(self) -> None:
        """Release the file, and remove what reading needed beside it."""
        if hasattr(self, "_open_database"):
            self._open_database.close()


def check_tables(database: sqlite3.Connection) -> None:
    """Plain tables only: a view or a computed column could stand for any amount of data.

    Raises:
        BrokenRecordError: the tables are missing, or not rosbag2's.
    """
    kinds = dict(database.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'"))
    for name, needed in (("topics", {"id", "name", "type"}), ("messages", {"id", "topic_id", "timestamp", "data"})):
        if name not in kinds:
            raise BrokenRecordError(f"it has no table {name!r}: it is not a bag of rosbag2")
        columns = {row[1]: row[6] for row in database.execute(f"PRAGMA table_xinfo({name})")}
        if "VIRTUAL" in str(kinds[name])[:30].upper() or any(columns.values()) or not needed <= columns.keys():
            raise BrokenRecordError(f"its table {name!r} is not rosbag2's: it has the columns {', '.join(columns)}")


def _tried(database: sqlite3.Connection) -> sqlite3.Connection:
    """The same, if its first page can be read."""
    try:
        database.execute("PRAGMA trusted_schema = OFF")
        database.execute("PRAGMA cell_size_check = ON")
        database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error:
        database.close()
        raise
    return database


def _in_64_bits(value: int | None, default: int) -> int:
    return default if value is None else max(-(2**63), min(value, 2**63 - 1))


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _size(path: Path) -> int:
    try:
        with open_regular_file(path) as file:
            return file.seek(0, 2)
    except FileNotFoundError:
        return 0
