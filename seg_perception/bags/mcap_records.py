"""The records of an MCAP file, one by one, without the index at its end (specification: https://mcap.dev/spec)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from rosbags.rosbag2.storage_mcap import decompress

_MAGIC: Final = b"\x89MCAP0\r\n"
FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK, DATA_END = 0x02, 0x03, 0x04, 0x05, 0x06, 0x0F
FIRST_RECORD: Final = len(_MAGIC)
"""Where the first record begins."""
RECORD: Final = struct.Struct("<BQ")  # operation, length of what follows
_CHUNK_HEAD: Final = struct.Struct("<QQQI")  # first and last time, uncompressed size, CRC-32


def begins_as_mcap(path: Path) -> bool:
    """Whether the file begins with MCAP's signature."""
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def has_whole_message(path: Path) -> bool:
    """Whether a message in an MCAP file can be read, be the rest damaged or cut off."""
    for operation, content in file_records(path):
        if operation == MESSAGE:
            return True
        if operation == CHUNK:
            try:
                if any(inner == MESSAGE for inner, _ in chunk_records(content)):
                    return True
            except Exception:  # noqa: BLE001, S112  a damaged chunk: perhaps the next one is whole
                continue
    return False


def file_records(path: Path) -> Iterator[tuple[int, bytes]]:
    """The whole records of the data section, up to the cut or the section's end."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(FIRST_RECORD)
        while len(head := file.read(RECORD.size)) == RECORD.size:
            operation, length = RECORD.unpack(head)
            if operation in (0, DATA_END, FOOTER) or file.tell() + length > size:
                return
            yield operation, file.read(length)


def chunk_records(content: bytes) -> Iterator[tuple[int, bytes]]:
    """The records in a chunk.

    Raises:
        Exception: whatever the decompressor makes of damaged bytes.
    """
    _, _, uncompressed_size, crc = _CHUNK_HEAD.unpack_from(content)
    compression, position = text(content, _CHUNK_HEAD.size)
    (compressed_size,) = struct.unpack_from("<Q", content, position)
    position += 8
    records = decompress(content[position : position + compressed_size], compression, uncompressed_size, crc)
    position = 0
    while position < len(records):
        operation, length = RECORD.unpack_from(records, position)
        position += RECORD.size
        yield operation, records[position : position + length]
        position += length


def text(content: bytes, position: int) -> tuple[str, int]:
    """A string with its 32-bit length in front, and where it ends."""
    (length,) = struct.unpack_from("<I", content, position)
    end = position + 4 + length
    return content[position + 4 : end].decode(), end
