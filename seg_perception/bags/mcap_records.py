"""The records of an MCAP file, one by one, from bytes that nobody vouches for (specification: https://mcap.dev/spec).

Lengths are checked before they are believed: a record ends where its file or chunk ends, a text
where its record ends, and a chunk never expands to more than `MAX_BYTES`. Why not the `mcap`
package's reader: docs/adr/0013-bags.md.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final
from zlib import crc32

import lz4.frame
import zstandard

from seg_perception.core.errors import InputError

MAGIC: Final = b"\x89MCAP0\r\n"
MAX_BYTES: Final = 128 * 2**20
"""The most that one message, or the records of one chunk, may take."""
HEADER, FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK, MESSAGE_INDEX, CHUNK_INDEX = range(0x01, 0x09)
ATTACHMENT, STATISTICS, METADATA, SUMMARY_OFFSET, DATA_END = 0x09, 0x0B, 0x0C, 0x0E, 0x0F
RECORD: Final = struct.Struct("<BQ")  # operation, length of what follows
FOOTER_BYTES: Final = RECORD.size + 20
MESSAGE_HEAD: Final = struct.Struct("<HIQQ")  # channel, sequence number, log time, publish time
_ALWAYS_EXPANDED, _EXPANDS_BY = 32 * 2**20, 1000  # bytes; beyond these, a chunk may not expand by so many times
_TINY_RECORDS: Final = 1000  # of a chunk, with less than two bytes: no kind of record is so small
_CHUNK_HEAD: Final = struct.Struct("<QQQI")  # first and last time, uncompressed size, CRC-32


class BrokenRecordError(InputError):
    """Bytes that are not what they should be; the text says which record, without the file."""


@dataclass(frozen=True, slots=True)
class Schema:
    """A message type: its name, and its definition in some notation."""

    id: int
    name: str
    encoding: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Channel:
    """A topic of one type. Two channels may have one topic."""

    id: int
    schema_id: int
    topic: str
    encoding: str
    metadata: dict[str, str]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Head of a chunk record.

    Attributes:
        position: of the record in its file.
        length: of the record, without its head of 9 bytes.
        first_ns, last_ns: record times of its messages.
        size: of the records in it, uncompressed, in bytes.
        crc: CRC-32 of these; 0: not given.
        compression: "", "zstd" or "lz4".
        data_position, data_size: of the compressed records, in the file.
    """

    position: int
    length: int
    first_ns: int
    last_ns: int
    size: int
    crc: int
    compression: str
    data_position: int
    data_size: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the summary says of the file."""

    messages: int
    chunks: int
    by_channel: dict[int, int]


class Fields:
    """Takes values from the front of a record, never beyond its end."""

    def __init__(self, content: bytes | memoryview, what: str) -> None:
        self._content = memoryview(content)
        self._position = 0
        self._what = what

    def number(self, size: int) -> int:
        return int.from_bytes(self.bytes(size), "little")

    def bytes(self, size: int) -> bytes:
        end = self._position + size
        if end > len(self._content):
            raise BrokenRecordError(f"a {self._what} record ends in the middle")
        taken = bytes(self._content[self._position : end])
        self._position = end
        return taken

    def text(self) -> str:
        try:
            return self.bytes(self.number(4)).decode()
        except UnicodeDecodeError as error:
            raise BrokenRecordError(f"a {self._what} record has text that is not UTF-8") from error

    def table(self) -> Fields:
        """A block of entries with its length in front."""
        return Fields(self.bytes(self.number(4)), self._what)

    def __bool__(self) -> bool:
        return self._position < len(self._content)


def parse_schema(content: bytes | memoryview) -> Schema:
    """A schema record."""
    fields = Fields(content, "schema")
    return Schema(fields.number(2), fields.text(), fields.text(), fields.bytes(fields.number(4)))


def parse_channel(content: bytes | memoryview) -> Channel:
    """A channel record."""
    fields = Fields(content, "channel")
    number, schema, topic, encoding = fields.number(2), fields.number(2), fields.text(), fields.text()
    entries = fields.table()
    metadata = {}
    while entries:
        key = entries.text()
        metadata[key] = entries.text()
    return Channel(number, schema, topic, encoding, metadata)


def parse_statistics(content: bytes | memoryview) -> Statistics:
    """A statistics record."""
    fields = Fields(content, "statistics")
    messages = fields.number(8)
    fields.bytes(2 + 4 + 4 + 4)  # schemas, channels, attachments, metadata
    chunks = fields.number(4)
    fields.bytes(16)  # first and last time
    entries = fields.table()
    by_channel = {}
    while entries:
        channel = entries.number(2)
        by_channel[channel] = entries.number(8)
    return Statistics(messages, chunks, by_channel)


def extra_of(operation: int, content: bytes) -> str | None:
    """An attachment or metadata, in words; None for any other record, and for the metadata that rosbag2 writes.

    Args:
        content: at least the record's first 100 bytes, or all of it.
    """
    if operation not in (ATTACHMENT, METADATA):
        return None
    fields = Fields(content, "metadata")
    try:
        if operation == ATTACHMENT:
            fields.bytes(16)  # times of logging and of making
        name = fields.text()
    except BrokenRecordError:
        name = "of a long name"
    if (operation, name) == (METADATA, "rosbag2"):
        return None
    return f"{'attachment' if operation == ATTACHMENT else 'metadata'} {name}"


def note_of(extras: Sequence[str]) -> tuple[str, ...]:
    """What is said of these in a file: no message, so nobody gets them."""
    if not extras:
        return ()
    listed = ", ".join(extras[:5]) + ", ..." * (len(extras) > 5)
    return (f"{len(extras)} records of the file are no messages, and not read or copied: {listed}",)


def parse_chunk_index(content: bytes | memoryview) -> Chunk:
    """A chunk index record of the summary, as far as it repeats the chunk's head (no CRC, no data position)."""
    fields = Fields(content, "chunk index")
    first, last, position, length = (fields.number(8) for _ in range(4))
    fields.table()  # channel -> position of its message index
    fields.number(8)
    compression = fields.text()
    data_size, size = fields.number(8), fields.number(8)
    return Chunk(position, length - RECORD.size, first, last, size, 0, compression, 0, data_size)


def parse_chunk(content: bytes, position: int, length: int) -> Chunk:
    """The head of a chunk record.

    Args:
        content: at least the record's first 100 bytes, or all of it.
        position: of the record in its file.
        length: of the record, without its head of 9 bytes.
    """
    if length < _CHUNK_HEAD.size + 12 or len(content) < _CHUNK_HEAD.size + 12:
        raise BrokenRecordError(f"the chunk at byte {position} has {length} bytes, too few for its head")
    first, last, size, crc = _CHUNK_HEAD.unpack_from(content)
    fields = Fields(content[_CHUNK_HEAD.size :], "chunk")
    compression, data_size = fields.text(), fields.number(8)
    head = _CHUNK_HEAD.size + 4 + len(compression.encode()) + 8
    if head + data_size != length:
        raise BrokenRecordError(
            f"the chunk at byte {position} claims {data_size} bytes, its record has {length - head}"
        )
    return Chunk(position, length, first, last, size, crc, compression, position + RECORD.size + head, data_size)


def read_head(file: BinaryIO, position: int, end: int) -> tuple[int, int, bytes]:
    """Operation and length of the record at a position, and the first bytes of its content (up to 100).

    Raises:
        BrokenRecordError: it does not end before `end`.
    """
    file.seek(position)
    head = file.read(RECORD.size + 100)
    if len(head) < RECORD.size or position + RECORD.size > end:
        raise BrokenRecordError(f"the record at byte {position} ends in the middle")
    operation, length = RECORD.unpack_from(head)
    if position + RECORD.size + length > end:
        raise BrokenRecordError(
            f"the record at byte {position} (operation {operation}) claims {length} bytes; "
            f"{end - position - RECORD.size} are left"
        )
    return operation, length, head[RECORD.size : RECORD.size + length]


def read_content(file: BinaryIO, position: int, length: int) -> bytes:
    """The whole content of the record at a position, at most `MAX_BYTES`."""
    if length > MAX_BYTES:
        raise BrokenRecordError(f"the record at byte {position} has {length} bytes; at most {MAX_BYTES} are accepted")
    file.seek(position + RECORD.size)
    content = file.read(length)
    if len(content) != length:
        raise BrokenRecordError(f"the record at byte {position} ends in the middle")
    return content


def open_chunk(file: BinaryIO, chunk: Chunk, whole: bool = True) -> bytes:
    """The records in a chunk.

    Args:
        whole: false gives whatever can be expanded before an error, unchecked.

    Raises:
        BrokenRecordError: it claims or expands to more than `MAX_BYTES`, an unknown compression, or the
            bytes are not those that were written.
    """
    where = f"the chunk at byte {chunk.position}"
    if chunk.size > MAX_BYTES or chunk.data_size > MAX_BYTES:
        claimed = max(chunk.size, chunk.data_size)
        raise BrokenRecordError(f"{where} claims to hold {claimed} bytes; at most {MAX_BYTES} are accepted")
    if chunk.size > max(_ALWAYS_EXPANDED, _EXPANDS_BY * chunk.data_size):
        raise BrokenRecordError(f"{where} claims to expand {chunk.data_size} bytes to {chunk.size}; that is not done")
    file.seek(chunk.data_position)
    data = file.read(chunk.data_size)
    records = expand(data, chunk.compression, chunk.size, where, whole)
    if not whole:
        return records
    if len(records) != chunk.size:
        raise BrokenRecordError(f"{where} expands to {len(records)} bytes instead of {chunk.size}")
    if chunk.crc and crc32(records) != chunk.crc:
        raise BrokenRecordError(f"{where} fails its checksum")
    return records


def expand(data: bytes, compression: str, size: int, where: str, whole: bool = True) -> bytes:
    """Decompress, to `size` + 1 bytes at most, whatever the data claims.

    Raises:
        BrokenRecordError: an unknown compression, or damaged data (with `whole`).
    """
    if compression == "":
        return data
    if compression not in ("zstd", "lz4"):
        raise BrokenRecordError(f"{where} is compressed with {compression[:20]!r}; accepted are zstd and lz4")
    expanded = bytearray()
    try:
        if compression == "zstd":
            reader = zstandard.ZstdDecompressor(max_window_size=2**27).stream_reader(data)
            if whole:
                return reader.read(size + 1)
            while len(expanded) <= size and (part := reader.read(min(2**16, size + 1 - len(expanded)))):
                expanded += part
        else:
            expanded += lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=size + 1)
    except (zstandard.ZstdError, RuntimeError, MemoryError) as error:
        if whole:
            raise BrokenRecordError(f"{where} cannot be expanded: {error}") from error
    return bytes(expanded)


def expand_message(data: bytes) -> bytes:
    """A message that rosbag2 compressed by itself, expanded; any other as it is.

    No message in CDR begins like a zstd frame, so metadata.yaml need not say which it is.

    Raises:
        BrokenRecordError: it expands to more than it claims, or to more than `MAX_BYTES`.
    """
    if data[:4] != zstandard.FRAME_HEADER:
        return data
    try:
        size = zstandard.frame_content_size(data)
    except zstandard.ZstdError as error:
        raise BrokenRecordError(f"a compressed message is damaged: {error}") from error
    limit = MAX_BYTES if size < 0 else size
    if limit > MAX_BYTES:
        raise BrokenRecordError(f"a compressed message claims {size} bytes; at most {MAX_BYTES} are accepted")
    expanded = expand(data, "zstd", limit, "a compressed message")
    if len(expanded) > limit or (size >= 0 and len(expanded) < size):
        raise BrokenRecordError(f"a compressed message does not expand to {limit} bytes")
    return expanded


def records_in(records: bytes) -> Iterator[tuple[int, memoryview]]:
    """The records in a chunk: operation and content.

    Raises:
        BrokenRecordError: one does not end before the chunk ends.
    """
    view, position, end, tiny = memoryview(records), 0, len(records), 0
    while position < end:
        if position + RECORD.size > end:
            raise BrokenRecordError("a record in a chunk ends in the middle")
        operation, length = RECORD.unpack_from(records, position)
        position += RECORD.size
        if position + length > end:
            raise BrokenRecordError("a record in a chunk ends in the middle")
        if not operation or (length < 2 and (tiny := tiny + 1) > _TINY_RECORDS):
            raise BrokenRecordError("a chunk is full of empty records")
        yield operation, view[position : position + length]
        position += length
