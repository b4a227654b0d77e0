"""Saves what is readable of an MCAP file whose writer was killed or lost power.

Such a file is a row of whole records (specification: https://mcap.dev/spec), then perhaps a part of
one, without the index at the end that readers look for. Here the records are read one by one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rosbags.rosbag2.storage_mcap import decompress, get_qos

from seg_perception.bags.types import OfferedQos, TypeDefinition
from seg_perception.bags.writer import BagWriter
from seg_perception.core.errors import InputError

_MAGIC: Final = b"\x89MCAP0\r\n"
_FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _DATA_END = 0x02, 0x03, 0x04, 0x05, 0x06, 0x0F
_RECORD = struct.Struct("<BQ")  # operation, length of what follows
_CHUNK_HEAD = struct.Struct("<QQQI")  # first and last time, uncompressed size, CRC-32
_MESSAGE_HEAD = struct.Struct("<HIQQ")  # channel, sequence number, log time, publish time


@dataclass(frozen=True, slots=True)
class Recovery:
    """What was saved.

    Attributes:
        recovered: messages by topic.
        damaged_chunks: whole chunks whose content is not what was written; left out.
        lost_bytes: at the end of the file, cut off in the middle of a record.
    """

    recovered: dict[str, int]
    damaged_chunks: int
    lost_bytes: int


def recover(damaged: Path, out: Path, overwrite: bool = False) -> Recovery:
    """Copy every readable message of a damaged MCAP file to a new bag.

    Raises:
        FileNotFoundError: no such file.
        FileExistsError: `out` exists and `overwrite` is false.
        InputError: not an MCAP file, or no message in it can be read.
    """
    with damaged.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise InputError(f"{damaged} is not an MCAP file: it does not begin with MCAP's signature")
    with BagWriter(out, overwrite=overwrite) as written:
        salvage = _Salvage(written)
        end = len(_MAGIC)
        for operation, content in _file_records(damaged):
            salvage.take(operation, content)
            end += _RECORD.size + len(content)
        if not sum(written.counts.values()):
            raise InputError(f"{damaged}: no whole message was written before it was cut off")
        counts = written.counts
    return Recovery(counts, salvage.damaged_chunks, damaged.stat().st_size - end)


def _file_records(path: Path) -> Iterator[tuple[int, bytes]]:
    """The whole records of the data section, up to the cut or the section's end."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(len(_MAGIC))
        while len(head := file.read(_RECORD.size)) == _RECORD.size:
            operation, length = _RECORD.unpack(head)
            if operation in (0, _DATA_END, _FOOTER) or file.tell() + length > size:
                return
            yield operation, file.read(length)


def _chunk_records(content: bytes) -> Iterator[tuple[int, bytes]]:
    """The records in a chunk.

    Raises:
        Exception: whatever the decompressor makes of damaged bytes.
    """
    _, _, uncompressed_size, crc = _CHUNK_HEAD.unpack_from(content)
    compression, position = _text(content, _CHUNK_HEAD.size)
    (compressed_size,) = struct.unpack_from("<Q", content, position)
    position += 8
    records = decompress(content[position : position + compressed_size], compression, uncompressed_size, crc)
    position = 0
    while position < len(records):
        operation, length = _RECORD.unpack_from(records, position)
        position += _RECORD.size
        yield operation, records[position : position + length]
        position += length


def _text(content: bytes, position: int) -> tuple[str, int]:
    """A string with its 32-bit length in front, and where it ends."""
    (length,) = struct.unpack_from("<I", content, position)
    end = position + 4 + length
    return content[position + 4 : end].decode(), end


@dataclass(frozen=True, slots=True)
class _Channel:
    topic: str
    definition: TypeDefinition
    qos: OfferedQos


class _Salvage:
    """Follows the file's schemas and channels and writes its messages."""

    def __init__(self, out: BagWriter) -> None:
        self._out = out
        self._schemas: dict[int, TypeDefinition] = {}
        self._channels: dict[int, _Channel] = {}
        self._added: set[str] = set()
        self.damaged_chunks = 0

    def take(self, operation: int, content: bytes) -> None:
        if operation == _CHUNK:
            try:
                records = list(_chunk_records(content))
            except Exception:  # noqa: BLE001  the decompressors raise their own classes
                self.damaged_chunks += 1
                return
            for inner, inner_content in records:
                self.take(inner, inner_content)
        elif operation == _SCHEMA:
            (number,) = struct.unpack_from("<H", content)
            name, position = _text(content, 2)
            encoding, position = _text(content, position)
            self._schemas[number] = TypeDefinition(name, _text(content, position)[0], idl=encoding != "ros2msg")
        elif operation == _CHANNEL:
            number, schema = struct.unpack_from("<HH", content)
            topic, position = _text(content, 4)
            _, position = _text(content, position)
            qos = OfferedQos.from_rosbags(get_qos(content[position + 4 :]))
            self._channels[number] = _Channel(topic, self._schemas[schema], qos)
        elif operation == _MESSAGE:
            number, _, stamp_ns, _ = _MESSAGE_HEAD.unpack_from(content)
            channel = self._channels[number]
            if channel.topic not in self._added:
                self._out.add_topic(channel.topic, channel.definition, channel.qos)
                self._added.add(channel.topic)
            self._out.write_raw(channel.topic, stamp_ns, content[_MESSAGE_HEAD.size :])
