"""Saves what is readable of an MCAP file whose writer was killed or lost power.

Such a file is a row of whole records (specification: https://mcap.dev/spec), then perhaps a part of
one, without the index at the end that readers look for. Here the records are read one by one.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from rosbags.rosbag2.storage_mcap import get_qos

from seg_perception.bags.mcap_records import (
    CHANNEL,
    CHUNK,
    FIRST_RECORD,
    MESSAGE,
    RECORD,
    SCHEMA,
    begins_as_mcap,
    chunk_records,
    file_records,
    text,
)
from seg_perception.bags.types import OfferedQos, TypeDefinition
from seg_perception.bags.writer import BagWriter
from seg_perception.core.errors import InputError

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
    if not begins_as_mcap(damaged):
        raise InputError(f"{damaged} is not an MCAP file: it does not begin with MCAP's signature")
    with BagWriter(out, overwrite=overwrite) as written:
        salvage = _Salvage(written)
        end = FIRST_RECORD
        for operation, content in file_records(damaged):
            salvage.take(operation, content)
            end += RECORD.size + len(content)
        if not sum(written.counts.values()):
            raise InputError(f"{damaged}: no whole message was written before it was cut off")
        counts = written.counts
    return Recovery(counts, salvage.damaged_chunks, damaged.stat().st_size - end)


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
        if operation == CHUNK:
            try:
                records = list(chunk_records(content))
            except Exception:  # noqa: BLE001  the decompressors raise their own classes
                self.damaged_chunks += 1
                return
            for inner, inner_content in records:
                self.take(inner, inner_content)
        elif operation == SCHEMA:
            (number,) = struct.unpack_from("<H", content)
            name, position = text(content, 2)
            encoding, position = text(content, position)
            self._schemas[number] = TypeDefinition(name, text(content, position)[0], idl=encoding != "ros2msg")
        elif operation == CHANNEL:
            number, schema = struct.unpack_from("<HH", content)
            topic, position = text(content, 4)
            _, position = text(content, position)
            qos = OfferedQos.from_rosbags(get_qos(content[position + 4 :]))
            self._channels[number] = _Channel(topic, self._schemas[schema], qos)
        elif operation == MESSAGE:
            number, _, stamp_ns, _ = _MESSAGE_HEAD.unpack_from(content)
            channel = self._channels[number]
            if channel.topic not in self._added:
                self._out.add_topic(channel.topic, channel.definition, channel.qos)
                self._added.add(channel.topic)
            self._out.write_raw(channel.topic, stamp_ns, content[_MESSAGE_HEAD.size :])
