"""Saves what is readable of a bag whose recorder was killed, or whose file was damaged, into a new bag.

Storage files are read record by record, row by row, whatever their index says.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from seg_perception.bags import mcap_records as records
from seg_perception.bags.locating import Located
from seg_perception.bags.mcap_file import topic_of
from seg_perception.bags.mcap_records import BrokenRecordError, Channel, Chunk, Schema, expand_message
from seg_perception.bags.sqlite_file import Lost, check_tables, connect_to
from seg_perception.bags.types import CDR, OfferedQos, Storage, Topic, TypeDefinition, announced_counts
from seg_perception.bags.writer import BagWriter, check_apart
from seg_perception.core.errors import InputError
from seg_perception.core.files import open_regular_file

_BLOCK: Final = 2**20
_ZEROS: Final = bytes(_BLOCK + 128)
_CANDIDATES: Final = re.compile(rb"[\x03-\x06]", re.DOTALL)  # schema, channel, message, chunk
_GAP: Final = 100_000  # rows of a table that are tried one by one where it is damaged
_LOOK_S: Final = 0.4


@dataclass(slots=True)
class Losses:
    """What could not be saved.

    Attributes:
        damaged_chunks: chunks of an MCAP file whose content is not what was written.
        lost_bytes: of the data section of an MCAP file, in which nothing was recognized, at its end or in between; of
            a SQLite file and its journals, that are cut off or belong to a transaction that is damaged or not whole.
        left_out: messages or records by reason.
        notes: what was guessed.
    """

    damaged_chunks: int = 0
    lost_bytes: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)


Saved = tuple[Topic, int, bytes]
"""Topic, record time, data."""


def salvage(path: Path, storage: Storage, losses: Losses) -> Iterator[Saved]:
    """Every readable message of a storage file; `losses` is complete when the iterator is exhausted."""
    return _McapSalvage(path, losses).messages() if storage is Storage.MCAP else readable_rows(path, losses)


def has_whole_message(path: Path, storage: Storage) -> bool:
    """Whether there is something to save; looks for half a second, then believes so."""
    deadline = time.monotonic() + _LOOK_S
    try:
        if storage is Storage.SQLITE3:
            return next(readable_rows(path, Losses(), gap=100), None) is not None
        return next(_McapSalvage(path, Losses(), deadline).messages(), None) is not None
    except TimeoutError:
        return True
    except (InputError, OSError):
        return False


class _McapSalvage:
    def __init__(self, path: Path, losses: Losses, deadline: float = float("inf")) -> None:
        self._path, self._losses, self._deadline = path, losses, deadline
        self._schemas: dict[int, Schema] = {}
        self._channels: dict[int, Channel] = {}
        self._topics: dict[int, Topic] = {}
        self._extras: list[str] = []

    def messages(self) -> Iterator[Saved]:
        with open_regular_file(self._path) as file:
            self._file = file
            self._size = file.seek(0, 2)
            found = list(self._walk())  # first all of it: the summary at the end may define what a broken chunk did
            self._losses.notes += records.note_of(self._extras)
            for kind, chunk, position, length in found:
                if kind == records.CHUNK and chunk is not None:
                    yield from self._in_chunk(chunk)
                else:
                    yield from self._message(memoryview(records.read_content(file, position, length)))

    def _walk(self) -> Iterator[tuple[int, Chunk | None, int, int]]:
        """Chunks and loose messages: operation, chunk, position, length. Definitions are kept on the way."""
        position = previous = len(records.MAGIC)
        ended = False  # behind the data is only the index, which is not missed
        while position + records.RECORD.size <= self._size:
            if time.monotonic() > self._deadline:
                raise TimeoutError
            try:
                operation, length, content = records.read_head(self._file, position, self._size)
                chunk = self._look(operation, position, length, content)
            except BrokenRecordError:
                position, lost = self._resume(max(previous + 1, len(records.MAGIC)), position)
                self._losses.lost_bytes += 0 if ended else lost
                previous = position
                continue
            if operation in (records.CHUNK, records.MESSAGE):
                yield operation, chunk, position, length
            ended = ended or operation == records.DATA_END
            previous, position = position, position + records.RECORD.size + length
        self._losses.lost_bytes += 0 if ended else max(0, self._size - position)

    def _is_plausible(self, operation: int, length: int) -> bool:
        return 0 < operation <= records.DATA_END and length <= max(records.MAX_BYTES, self._size)

    def _is_unknown(self, operation: int, position: int, length: int) -> bool:
        """Whether this is a record of a later MCAP or of somebody's own: another one follows it."""
        if operation <= records.DATA_END:
            return False
        following, _, _ = records.read_head(self._file, position + records.RECORD.size + length, self._size)
        return following != 0

    def _look(self, operation: int, position: int, length: int, content: bytes) -> Chunk | None:
        """Check a record as far as its head goes, and keep what it defines."""
        if not self._is_plausible(operation, length) and not self._is_unknown(operation, position, length):
            raise BrokenRecordError("no record")
        if extra := records.extra_of(operation, content):
            self._extras.append(extra)
        if operation == records.CHUNK:
            return records.parse_chunk(content, position, length)
        if operation in (records.SCHEMA, records.CHANNEL):
            self._define(operation, records.read_content(self._file, position, length), override=False)
        elif operation == records.MESSAGE and not records.MESSAGE_HEAD.size <= length <= records.MAX_BYTES:
            raise BrokenRecordError("a message of impossible length")
        elif operation == records.MESSAGE_INDEX:
            fields = records.Fields(content, "message index")
            fields.number(2)
            if fields.number(4) + 6 != length:
                raise BrokenRecordError("a message index of impossible length")
        return None

    def _resume(self, start: int, broken_at: int) -> tuple[int, int]:
        """Where records go on after a broken one, and how many bytes are skipped.

        A record before it may have had a wrong length, so the search begins behind that one's start.
        """
        position = start
        while position < self._size:
            if time.monotonic() > self._deadline:
                raise TimeoutError
            self._file.seek(position)
            block = self._file.read(_BLOCK + 128)
            if block == _ZEROS:  # what a power cut leaves of a file that was made long beforehand
                position += _BLOCK
                continue
            for match in _CANDIDATES.finditer(block, 0, min(_BLOCK, len(block))):
                candidate = position + match.start()
                if self._begins_record(block[match.start() : match.start() + 120], candidate):
                    return candidate, max(0, candidate - min(broken_at, candidate))
            position += _BLOCK
        return self._size, self._size - broken_at

    def _begins_record(self, head: bytes, position: int) -> bool:
        """Whether a chunk begins here, or another record that a plausible one follows."""
        if len(head) < records.RECORD.size:
            return False
        operation, length = records.RECORD.unpack_from(head)
        end = position + records.RECORD.size + length
        if end > self._size or length > records.MAX_BYTES:
            return False
        content = head[records.RECORD.size :]
        try:
            if operation == records.CHUNK:
                chunk = records.parse_chunk(content, position, length)
                return chunk.compression in ("", "zstd", "lz4") and chunk.first_ns <= chunk.last_ns
            if operation == records.MESSAGE:
                short = length < records.MESSAGE_HEAD.size or len(content) < records.MESSAGE_HEAD.size
                if short or records.MESSAGE_HEAD.unpack_from(content)[0] not in self._channels:
                    return False
            elif operation == records.CHANNEL:
                records.parse_channel(records.read_content(self._file, position, length))
            else:
                records.parse_schema(records.read_content(self._file, position, length))
            following, next_length, _ = records.read_head(self._file, end, self._size)
            return self._is_plausible(following, next_length)
        except (BrokenRecordError, ValueError):
            return False

    def _define(self, operation: int, content: bytes | memoryview, override: bool) -> None:
        """Take a schema or a channel; those of a chunk with a good checksum override others."""
        if operation == records.SCHEMA:
            schema = records.parse_schema(content)
            if override or schema.id not in self._schemas:
                self._schemas[schema.id] = schema
                self._topics.clear()
        else:
            channel = records.parse_channel(content)
            if override or channel.id not in self._channels:
                self._channels[channel.id] = channel
                self._topics.pop(channel.id, None)

    def _in_chunk(self, chunk: Chunk) -> Iterator[Saved]:
        try:
            whole = records.open_chunk(self._file, chunk)
        except BrokenRecordError:
            self._losses.damaged_chunks += 1
            self._definitions_of_damaged(chunk)
            return
        try:
            for operation, content in records.records_in(whole):
                if operation == records.MESSAGE:
                    yield from self._message(content)
                elif operation in (records.SCHEMA, records.CHANNEL):
                    try:
                        self._define(operation, content, override=True)
                    except BrokenRecordError as error:
                        self._losses.left_out[f"{error}"] += 1
        except BrokenRecordError:
            self._losses.damaged_chunks += 1

    def _definitions_of_damaged(self, chunk: Chunk) -> None:
        """Schemas and channels at the front of a damaged chunk, where nothing better defines them."""
        try:
            for operation, content in records.records_in(records.open_chunk(self._file, chunk, whole=False)):
                if operation in (records.SCHEMA, records.CHANNEL):
                    self._define(operation, content, override=False)
        except BrokenRecordError:
            return

    def _message(self, content: memoryview) -> Iterator[Saved]:
        if len(content) < records.MESSAGE_HEAD.size:
            self._losses.left_out["message too short for its head"] += 1
            return
        number, _, stamp_ns, _ = records.MESSAGE_HEAD.unpack_from(content)
        if number not in self._topics:
            if number not in self._channels:
                self._losses.left_out[f"message of channel {number}, whose topic is written nowhere readable"] += 1
                return
            channel = self._channels[number]
            try:
                self._topics[number] = topic_of(channel, self._schemas, 0, self._losses.notes.append)
            except BrokenRecordError:  # without its schema: the bytes are worth keeping, and say so
                nameless = Channel(channel.id, 0, channel.topic, channel.encoding, channel.metadata)
                self._topics[number] = topic_of(nameless, {}, 0)
                self._losses.notes.append(f"the type of {channel.topic} is written nowhere readable; saved without")
        yield self._topics[number], stamp_ns, bytes(content[records.MESSAGE_HEAD.size :])


def readable_rows(path: Path, losses: Losses, gap: int = _GAP) -> Iterator[Saved]:
    """The rows of a SQLite file in the order in which they were written."""
    lost: list[Lost] = []
    try:
        with connect_to(path, lost) as database:
            losses.lost_bytes += sum(part.count for part in lost)
            losses.notes += [part.reason for part in lost]
            check_tables(database)
            topics = _topics_of(database, losses)
            last, failures, skipped = -(2**63), 0, Counter[str]()
            query = (
                f"SELECT id, topic_id, timestamp, CASE WHEN length(data) > {records.MAX_BYTES} THEN NULL ELSE data END "  # noqa: S608
                "FROM messages WHERE id > ? ORDER BY id"
            )
            while True:
                try:
                    for number, topic, stamp_ns, data in database.execute(query, (last,)):
                        losses.left_out.update(skipped)
                        skipped.clear()
                        last, failures = number, 0
                        if topic not in topics:
                            losses.left_out[f"message of topic {topic}, which is not listed"] += 1
                        elif data is None:
                            losses.left_out[f"message of nothing, or of more than {records.MAX_BYTES} bytes"] += 1
                        elif not isinstance(stamp_ns, int) or not isinstance(data, bytes):
                            losses.left_out["message that holds no bytes, or has no time"] += 1
                        else:
                            yield topics[topic], stamp_ns, data
                    losses.left_out.update(skipped)
                    return
                except sqlite3.Error as error:  # noqa: PERF203  a damaged page: perhaps the next one is whole
                    last, failures = max(last, 0) + 1, failures + 1
                    reason = " ".join(str(error).split())
                    skipped[f"row of the table of messages ({reason})"] += 1
                    if failures > gap:  # how many there were is written nowhere
                        losses.left_out[
                            f"end of the table of messages, all behind row {last - failures} ({reason})"
                        ] += 1
                        return
    except BrokenRecordError as error:
        raise InputError(f"{path}: {error}") from error
    except sqlite3.Error as error:
        raise InputError(f"{path}: SQLite says: {' '.join(str(error).split())}") from error


def _topics_of(database: sqlite3.Connection, losses: Losses) -> dict[int, Topic]:
    columns = {row[1] for row in database.execute("PRAGMA table_info(topics)")}
    qos_column = "offered_qos_profiles" if "offered_qos_profiles" in columns else "''"
    definitions: dict[str, TypeDefinition] = {}
    try:
        columns_needed = "topic_type, encoding, encoded_message_definition, type_description_hash"
        for name, encoding, text, digest in database.execute(f"SELECT {columns_needed} FROM message_definitions"):  # noqa: S608
            if encoding in ("ros2msg", "ros2idl"):
                definitions.setdefault(name, TypeDefinition(name, str(text), encoding == "ros2idl", str(digest)))
    except sqlite3.Error:
        pass  # Humble and older have none
    topics = {}
    query = f"SELECT id, name, type, serialization_format, {qos_column} FROM topics"  # noqa: S608
    for number, name, type_name, serialization, recorded in database.execute(query):
        if not isinstance(name, str) or not isinstance(type_name, str):
            losses.notes.append(f"topic {number} has no name and type that are text")
            continue
        try:
            qos = OfferedQos.from_recorded(recorded)
        except InputError:
            qos = OfferedQos()
            losses.notes.append(f"the quality of service of {name} cannot be read; taken as reliable and volatile")
        definition = definitions.get(type_name, TypeDefinition(str(type_name)))
        topics[number] = Topic(str(name), definition, 0, qos, str(serialization or CDR))
    return topics


@dataclass(frozen=True, slots=True)
class Recovery:
    """What was saved.

    Attributes:
        recovered: messages by topic.
        damaged_chunks: whole chunks whose content is not what was written; left out.
        lost_bytes: in which no record was recognized, at the end or in between.
        left_out: single messages and records that could not be saved, by reason.
        notes: what was guessed.
    """

    recovered: dict[str, int]
    damaged_chunks: int
    lost_bytes: int
    left_out: Counter[str]
    notes: tuple[str, ...]


def recover(damaged: str | Path, out: str | Path, overwrite: bool = False) -> Recovery:
    """Copy every readable message of a damaged bag to a new one, whatever its index or metadata say.

    Args:
        damaged: an MCAP or SQLite file, or a folder of them.
        out: the new bag: x.mcap, x.db3, or a folder's name.
        overwrite: replace `out`.

    Raises:
        FileNotFoundError: no such bag.
        FileExistsError: `out` exists and `overwrite` is false.
        InputError: no bag, one without messages of ROS 2, or no message in it can be read.
    """
    damaged, out = Path(damaged), Path(out)
    check_apart(damaged, out)
    located = Located(damaged, tolerant=True)
    try:
        with BagWriter(out, overwrite=overwrite) as written:
            losses = Losses(left_out=Counter(located.left_out))
            saved = _Saved(written, losses)
            for part in located.parts:
                for topic, stamp_ns, data in salvage(part.readable, part.storage, losses):
                    saved.take(topic, stamp_ns, data)
            if located.metadata is not None:
                saved.compare(announced_counts(located.metadata.topics), located.metadata.message_count)
            if not saved.serializations:
                raise InputError(f"{damaged}: there is no whole message in it")
            if CDR not in saved.serializations:
                kinds = ", ".join(sorted(saved.serializations))
                raise InputError(
                    f"{damaged} holds no messages of ROS 2, only such as are serialized in {kinds}; "
                    "the tool 'mcap recover' of mcap.dev saves those"
                )
            counts = written.counts
    finally:
        located.close()
    notes = tuple(dict.fromkeys([*located.notes, *losses.notes]))
    return Recovery(counts, losses.damaged_chunks, losses.lost_bytes, losses.left_out, notes)


class _Saved:
    """Adds topics to the new bag as their first messages come."""

    def __init__(self, out: BagWriter, losses: Losses) -> None:
        self._out = out
        self._losses = losses
        self._types: dict[str, tuple[str, str]] = {}
        self.serializations: set[str] = set()

    def take(self, topic: Topic, stamp_ns: int, data: bytes) -> None:
        kind = (topic.type, topic.serialization)
        if topic.name not in self._types:
            try:
                self._out.add_topic(topic.name, topic.definition, topic.qos, topic.serialization)
            except InputError as error:
                self._losses.left_out[str(error)] += 1
                return
            self._types[topic.name] = kind
            self.serializations.add(topic.serialization)
        if self._types[topic.name] != kind:
            first = self._types[topic.name][0]
            self._losses.left_out[f"message on {topic.name} of type {topic.type}; its others are {first}"] += 1
            return
        try:
            self._out.write_raw(topic.name, stamp_ns, expand_message(data) if topic.serialization == CDR else data)
        except InputError as error:
            self._losses.left_out[str(error)] += 1

    def compare(self, announced: Mapping[tuple[str, str], int], total: int) -> None:
        """Count what metadata.yaml announces, by topic and in all, and the files do not hold."""
        counts = self._out.counts
        for (name, _), count in announced.items():
            if (missing := count - counts.get(name, 0)) > 0:
                self._losses.left_out[f"message on {name} that metadata.yaml announces; it is not there"] += missing
        if (missing := total - max(sum(counts.values()), sum(announced.values()))) > 0:
            self._losses.left_out["message of a topic that metadata.yaml does not name; it is not there"] += missing
