"""MCAP files record by record, and rosbag2 folders and SQLite files by hand: what no writer of ours would make."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path

from bag_helpers import START, STEP, picture

from seg_perception.bags import messages
from seg_perception.bags.messages import encode, standard_definition

MAGIC = b"\x89MCAP0\r\n"
RULE = "=" * 80 + "\n"
TALK = b"\0\1\0\0\2\0\0\0a\0"  # std_msgs/String "a", little-endian CDR
IMAGE_TYPE = standard_definition(messages.IMAGE)


def record(operation: int, content: bytes) -> bytes:
    return struct.pack("<BQ", operation, len(content)) + content


def text(value: str | bytes) -> bytes:
    data = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<I", len(data)) + data


def header(profile: str = "ros2") -> bytes:
    return record(1, text(profile) + text("by hand"))


def schema(
    number: int, name: str | bytes, definition: str | bytes = "string data\n", encoding: str = "ros2msg"
) -> bytes:
    return record(3, struct.pack("<H", number) + text(name) + text(encoding) + text(definition))


def channel(number: int, schema_number: int, topic: str | bytes, encoding: str = "cdr", qos: str | bytes = "") -> bytes:
    metadata = text("offered_qos_profiles") + text(qos) if qos else b""
    return record(4, struct.pack("<HH", number, schema_number) + text(topic) + text(encoding) + text(metadata))


def message(number: int, stamp: int, data: bytes = TALK) -> bytes:
    return record(5, struct.pack("<HIQQ", number, 0, stamp, stamp) + data)


def chunk(data: bytes, size: int, compression: str = "", first: int = 5, last: int = 5) -> bytes:
    head = struct.pack("<QQQI", first, last, size, 0) + text(compression) + struct.pack("<Q", len(data))
    return record(6, head + data)


def mcap(path: Path, *parts: bytes, profile: str = "ros2") -> Path:
    """A closed file without a summary."""
    end = record(15, bytes(4)) + record(2, bytes(20)) + MAGIC
    path.write_bytes(MAGIC + header(profile) + b"".join(parts) + end)
    return path


def talk_parts(number: int = 1, topic: str = "/talk", stamp: int = 5) -> tuple[bytes, ...]:
    return schema(number, "std_msgs/msg/String"), channel(number, number, topic), message(number, stamp)


def image_data(index: int, stamp: int | None = None) -> bytes:
    head = messages.header(START + index * STEP if stamp is None else stamp, "camera")
    return encode(messages.image(picture(index), head), IMAGE_TYPE)


def image_parts(count: int = 2) -> tuple[bytes, ...]:
    """Channel 9, /image."""
    sent = (message(9, START + i * STEP, image_data(i)) for i in range(count))
    return schema(9, messages.IMAGE, IMAGE_TYPE.text), channel(9, 9, "/image"), *sent


def sqlite_bag(path: Path, edit: Callable[[sqlite3.Connection], object] = lambda _: None) -> Path:
    """As Humble writes it: no definitions, one message on /talk."""
    database = sqlite3.connect(path)
    database.executescript(
        "CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT, type TEXT, serialization_format TEXT,"
        " offered_qos_profiles TEXT);"
        "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp, data);"
        "CREATE INDEX timestamp_idx ON messages (timestamp ASC);"
        "INSERT INTO topics VALUES (1, '/talk', 'std_msgs/msg/String', 'cdr', '');"
    )
    database.execute("INSERT INTO messages VALUES (1, 1, 5, ?)", (TALK,))
    edit(database)
    database.commit()
    database.close()
    return path


METADATA = """rosbag2_bagfile_information:
  version: 5
  storage_identifier: mcap
  duration: {nanoseconds: 0}
  starting_time: {nanoseconds_since_epoch: 5}
  message_count: 1
  topics_with_message_count:
    - topic_metadata: {name: /talk, type: std_msgs/msg/String, serialization_format: cdr, offered_qos_profiles: ''}
      message_count: 1
  compression_format: ''
  compression_mode: ''
  relative_file_paths: [x_0.mcap]
"""


def folder(path: Path, metadata: str | bytes = METADATA) -> Path:
    """A bag folder of one message."""
    path.mkdir()
    mcap(path / "x_0.mcap", *talk_parts())
    (path / "metadata.yaml").write_bytes(metadata if isinstance(metadata, bytes) else metadata.encode())
    return path
