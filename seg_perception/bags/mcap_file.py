"""Reads and writes MCAP files.

The reader walks the whole data section once, by the heads of its records, and compares what it finds
with what the summary at the end announces: a damaged index cannot hide messages.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from heapq import merge
from itertools import zip_longest
from operator import itemgetter
from pathlib import Path
from zlib import crc32

from seg_perception.bags import mcap_records as records
from seg_perception.bags.mcap_records import BrokenRecordError, Channel, Chunk, Schema, Statistics
from seg_perception.bags.types import Connection, OfferedQos, Topic, TypeDefinition
from seg_perception.core.errors import InputError, first_of
from seg_perception.core.files import open_regular_file

_SCANNED_BYTES, _SCANNED_RATIO = 256 * 2**20, 1000  # what a file without an index may expand to while it is opened
_BLOCK = 2**20
_ROS2_NOTATIONS = {"ros2msg": False, "ros2idl": True, "omgidl": True}  # encoding of a schema -> whether it is IDL


class McapFile:
    """An opened MCAP file that was closed properly.

    Raises:
        BrokenRecordError: it is damaged or was cut off.
    """

    def __init__(self, path: Path) -> None:
        self.notes: tuple[str, ...] = ()
        self._schemas: dict[int, Schema] = {}
        self._channels: dict[int, Channel] = {}
        self._chunks: list[Chunk] = []
        self._indexed: list[Counter[int] | None] = []  # messages of each chunk by channel; None: no index of it
        self._loose = _LooseMessages()
        self._extras: list[str] = []
        self._file = open_regular_file(path)
        try:
            self._open()
        except BaseException:
            self._file.close()
            raise

    def _open(self) -> None:
        size = self._file.seek(0, 2)
        self._file.seek(0)
        if (start := self._file.read(len(records.MAGIC))) != records.MAGIC:
            raise BrokenRecordError("it is empty" if not start else "it does not begin with MCAP's signature")
        data_end, statistics, indexes = self._read_summary(size)
        self._walk(len(records.MAGIC), data_end)
        if indexes is not None:
            self._compare_indexes(indexes)
        if self._needs_scan(statistics):
            self._scan()
        counts = self._counts(statistics)
        self.connections = self._make_connections(counts)
        times = [(c.first_ns, c.last_ns) for c, n in zip(self._chunks, self._indexed) if n is None or n]
        times += self._loose.span()
        self.first_ns = min((first for first, _ in times), default=0)
        self.last_ns = max((last for _, last in times), default=0)

    def _read_summary(self, size: int) -> tuple[int, Statistics | None, list[Chunk] | None]:
        """End of the data section, and what the summary says; its schemas and channels are kept."""
        footer_at = size - len(records.MAGIC) - records.FOOTER_BYTES
        self._file.seek(max(footer_at, 0))
        tail = self._file.read()
        if footer_at < len(records.MAGIC) or tail[-len(records.MAGIC) :] != records.MAGIC:
            raise BrokenRecordError("it does not end with MCAP's signature")
        operation, length = records.RECORD.unpack_from(tail)
        if operation != records.FOOTER or length != records.FOOTER_BYTES - records.RECORD.size:
            raise BrokenRecordError("it does not end with a footer")
        footer = records.Fields(tail[records.RECORD.size :], "footer")
        summary_at, _, crc = footer.number(8), footer.number(8), footer.number(4)
        if summary_at and not len(records.MAGIC) <= summary_at <= footer_at:
            raise BrokenRecordError("its footer points to a summary outside of the file")
        summary_size = footer_at - (summary_at or footer_at)
        if summary_size > records.MAX_BYTES:
            raise BrokenRecordError(f"its summary has {summary_size} bytes; at most {records.MAX_BYTES} are accepted")
        self._file.seek(summary_at or footer_at)
        summary = self._file.read(summary_size)
        if crc and crc32(tail[: records.FOOTER_BYTES - 4], crc32(summary)) != crc:
            raise BrokenRecordError("its summary fails its checksum")
        if not summary_at:
            return footer_at, None, None
        return summary_at, *self._parse_summary(summary)

    def _parse_summary(self, summary: bytes) -> tuple[Statistics | None, list[Chunk] | None]:
        statistics, indexes = None, []
        for operation, content in records.records_in(summary):
            if operation == records.STATISTICS:
                statistics = records.parse_statistics(content)
            elif operation == records.CHUNK_INDEX:
                indexes.append(records.parse_chunk_index(content))
            else:
                self._take_definition(operation, content)
        return statistics, indexes or None

    def _take_definition(self, operation: int, content: bytes | memoryview) -> None:
        if operation == records.SCHEMA:
            schema = records.parse_schema(content)
            if self._schemas.setdefault(schema.id, schema) != schema:
                raise BrokenRecordError(f"schema {schema.id} ({schema.name}) is written twice, each time differently")
        elif operation == records.CHANNEL:
            channel = records.parse_channel(content)
            if self._channels.setdefault(channel.id, channel) != channel:
                raise BrokenRecordError(f"channel {channel.id} ({channel.topic}) is written twice, differently")

    def _walk(self, position: int, end: int) -> None:
        """Find all chunks, their message indexes, and messages outside of chunks."""
        while position < end:
            operation, length, content = records.read_head(self._file, position, end)
            if operation == records.CHUNK:
                self._chunks.append(records.parse_chunk(content, position, length))
                self._indexed.append(None)
            elif operation == records.MESSAGE_INDEX:
                self._take_message_index(content, position, length)
            elif operation == records.MESSAGE:
                self._loose.add(content, position, length)
            elif operation in (records.SCHEMA, records.CHANNEL):
                self._take_definition(operation, records.read_content(self._file, position, length))
            elif operation == records.DATA_END:
                if position + records.RECORD.size + length != end:
                    raise BrokenRecordError(f"its data ends at byte {position}, before the summary begins")
                self._check_data(position, records.Fields(content, "data end").number(4))
            elif extra := records.extra_of(operation, content):
                self._extras.append(extra)
            elif operation == 0 or operation in (records.FOOTER, records.STATISTICS, records.CHUNK_INDEX):
                raise BrokenRecordError(f"there is a record of the wrong kind ({operation}) at byte {position}")
            position += records.RECORD.size + length

    def _check_data(self, end: int, announced: int) -> None:
        """Messages outside of chunks have no other checksum than that of all the data, if there is one."""
        if not announced or not self._loose.counts:
            return
        self._file.seek(0)
        found, left = 0, end
        while left and (block := self._file.read(min(left, _BLOCK))):
            found, left = crc32(block, found), left - len(block)
        if found != announced:
            raise BrokenRecordError("its data fails its checksum")

    def _take_message_index(self, content: bytes, position: int, length: int) -> None:
        fields = records.Fields(content, "message index")
        channel, size = fields.number(2), fields.number(4)
        if not self._chunks or size % 16 or size + 6 != length:
            raise BrokenRecordError(f"the message index at byte {position} has a wrong length")
        counts = self._indexed[-1] or Counter()
        counts[channel] += size // 16
        self._indexed[-1] = counts

    def _compare_indexes(self, indexes: list[Chunk]) -> None:
        """Whether the summary lists exactly the chunks that are there."""
        listed = sorted(indexes, key=lambda chunk: chunk.position)
        for one, other in zip_longest(self._chunks, listed):
            if one is None or other is None or one != replace(other, crc=one.crc, data_position=one.data_position):
                at = min(chunk.position for chunk in (one, other) if chunk)
                raise BrokenRecordError(
                    f"its summary lists {len(listed)} chunks, it has {len(self._chunks)}; they differ at byte {at}"
                )

    def _needs_scan(self, statistics: Statistics | None) -> bool:
        """Whether topics or counts are only known from the chunks' contents."""
        if not self._chunks:
            return False
        used = set(self._loose.counts).union(*(counts or () for counts in self._indexed))
        used |= {channel for channel, count in statistics.by_channel.items() if count} if statistics else set()
        undefined = used - set(self._channels) or any(
            channel.schema_id and channel.schema_id not in self._schemas for channel in self._channels.values()
        )
        uncounted = None in self._indexed and (
            statistics is None or sum(statistics.by_channel.values()) != statistics.messages
        )
        return bool(undefined) or uncounted or not self._channels

    def _scan(self) -> None:
        """Take schemas, channels and counts from the chunks themselves."""
        size, claimed = self._file.seek(0, 2), sum(chunk.size for chunk in self._chunks)
        if claimed > max(_SCANNED_BYTES, _SCANNED_RATIO * size):
            raise BrokenRecordError(
                f"it has no index, and {size} bytes that claim to hold {claimed}; that is not expanded"
            )
        for number, chunk in enumerate(self._chunks):
            counts: Counter[int] = Counter()
            for operation, content in records.records_in(records.open_chunk(self._file, chunk)):
                if operation == records.MESSAGE:
                    counts[_message_head(content)[0]] += 1
                else:
                    self._take_definition(operation, content)
            if self._indexed[number] is None:
                self._indexed[number] = counts

    def _counts(self, statistics: Statistics | None) -> dict[int, int]:
        """Messages by channel, as the index and the statistics agree."""
        known = [counts for counts in self._indexed if counts is not None]
        counts = sum(known, Counter(self._loose.counts))
        if statistics is None:
            return counts
        if statistics.chunks != len(self._chunks):
            raise BrokenRecordError(f"its statistics announce {statistics.chunks} chunks, it has {len(self._chunks)}")
        if len(known) < len(self._indexed):  # chunks without an index, or empty: the statistics are all there is
            if sum(counts.values()) > statistics.messages:
                raise BrokenRecordError(f"its statistics announce {statistics.messages} messages, its index more")
            return statistics.by_channel
        if sum(counts.values()) != statistics.messages:
            raise BrokenRecordError(
                f"its statistics announce {statistics.messages} messages, its index {sum(counts.values())}"
            )
        announced = {channel: count for channel, count in statistics.by_channel.items() if count}
        if announced and announced != {channel: count for channel, count in counts.items() if count}:
            raise BrokenRecordError("its statistics and its index announce different numbers of messages by topic")
        return counts

    def _make_connections(self, counts: dict[int, int]) -> tuple[Connection, ...]:
        if unknown := [channel for channel, count in counts.items() if count and channel not in self._channels]:
            lost = sum(counts[channel] for channel in unknown)
            raise BrokenRecordError(f"{lost} messages belong to channels that it does not define: {first_of(unknown)}")
        notes: list[str] = []
        made = tuple(
            Connection(channel.id, topic_of(channel, self._schemas, counts.get(channel.id, 0), notes.append))
            for channel in self._channels.values()
        )
        self.notes = (*notes, *records.note_of(self._extras))
        return made

    def messages(
        self, ids: Collection[int], start_ns: int | None, stop_ns: int | None
    ) -> Iterator[tuple[int, int, bytes]]:
        """See `StorageReader`."""
        start, stop = (0 if start_ns is None else start_ns), (2**64 if stop_ns is None else stop_ns)
        wanted = set(ids)
        sources = [
            self._chunk_messages(chunk, counts, wanted, start, stop)
            for chunk, counts in zip(self._chunks, self._indexed)
            if chunk.last_ns >= start and chunk.first_ns < stop and (counts is None or wanted & counts.keys())
        ]
        sources.append(self._loose_messages(wanted, start, stop))
        for stamp_ns, channel, data in merge(*sources, key=itemgetter(0)):
            if data is not None:
                yield channel, stamp_ns, data

    def _chunk_messages(
        self, chunk: Chunk, announced: Counter[int] | None, wanted: set[int], start: int, stop: int
    ) -> Iterator[tuple[int, int, bytes | None]]:
        yield chunk.first_ns, 0, None  # so that merging opens a chunk no earlier than it is needed
        found: list[tuple[int, int, bytes]] = []
        counts: Counter[int] = Counter()
        for operation, content in records.records_in(records.open_chunk(self._file, chunk)):
            if operation != records.MESSAGE:
                continue
            channel, stamp_ns = _message_head(content)
            counts[channel] += 1
            if channel not in self._channels or not chunk.first_ns <= stamp_ns <= chunk.last_ns:
                raise BrokenRecordError(f"the chunk at byte {chunk.position} has a message that does not belong there")
            if channel in wanted and start <= stamp_ns < stop:
                found.append((stamp_ns, channel, bytes(content[records.MESSAGE_HEAD.size :])))
        if announced is not None and counts != announced:
            raise BrokenRecordError(
                f"the chunk at byte {chunk.position} holds {counts.total()} messages; "
                f"its index announces {announced.total()}"
            )
        found.sort(key=itemgetter(0))
        yield from found

    def _loose_messages(self, wanted: set[int], start: int, stop: int) -> Iterator[tuple[int, int, bytes | None]]:
        for position, length in self._loose.in_order():
            content = memoryview(records.read_content(self._file, position, length))
            channel, stamp_ns = _message_head(content)
            if channel in wanted and start <= stamp_ns < stop:
                yield stamp_ns, channel, bytes(content[records.MESSAGE_HEAD.size :])

    def close(self) -> None:
        self._file.close()


class _LooseMessages:
    """Where the messages outside of chunks are: 24 bytes a message."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()
        self._stamps, self._positions, self._lengths = array("Q"), array("Q"), array("Q")

    def add(self, content: bytes, position: int, length: int) -> None:
        channel, stamp_ns = _message_head(content)
        self.counts[channel] += 1
        self._stamps.append(stamp_ns)
        self._positions.append(position)
        self._lengths.append(length)

    def span(self) -> list[tuple[int, int]]:
        return [(min(self._stamps), max(self._stamps))] if self._stamps else []

    def in_order(self) -> Iterator[tuple[int, int]]:
        """Position and length by record time; of equal times, in the order of the file."""
        order = sorted(range(len(self._stamps)), key=self._stamps.__getitem__)
        return ((self._positions[i], self._lengths[i]) for i in order)


def _message_head(content: bytes | memoryview) -> tuple[int, int]:
    """Channel and record time of a message record."""
    if len(content) < records.MESSAGE_HEAD.size:
        raise BrokenRecordError("a message record is too short for its head")
    channel, _, stamp_ns, _ = records.MESSAGE_HEAD.unpack_from(content)
    return channel, stamp_ns


def topic_of(
    channel: Channel, schemas: dict[int, Schema], count: int, note: Callable[[str], object] = lambda _: None
) -> Topic:
    """The topic that a channel stands for.

    Args:
        note: told what had to be guessed.

    Raises:
        BrokenRecordError: its schema is not there.
    """
    schema = schemas.get(channel.schema_id, Schema(0, "", "", b""))
    if channel.schema_id and channel.schema_id not in schemas:
        raise BrokenRecordError(f"topic {channel.topic} has schema {channel.schema_id}, which is not in the file")
    try:
        qos = OfferedQos.from_recorded(channel.metadata.get("offered_qos_profiles", ""))
    except InputError:
        qos = OfferedQos()
        note(f"the quality of service of {channel.topic} cannot be read; taken as reliable and volatile")
    digest = channel.metadata.get("topic_type_hash", "")
    idl = _ROS2_NOTATIONS.get(schema.encoding)
    try:
        text = schema.data.decode() if idl is not None else ""
    except UnicodeDecodeError:
        idl, text = None, ""
        note(f"the definition of {schema.name} is not UTF-8 text; it is copied as it is")
    if idl is not None or not schema.encoding:
        definition = TypeDefinition(schema.name, text, bool(idl), digest if digest.startswith("RIHS01_") else "")
    else:
        definition = TypeDefinition(schema.name, foreign=schema.encoding, foreign_data=schema.data)
    return Topic(channel.topic, definition, count, qos, channel.encoding)
