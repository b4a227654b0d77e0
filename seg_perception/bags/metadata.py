"""metadata.yaml: what a bag's recorder announced about it. Source: rosbag2_storage of ROS 2 Foxy to Kilted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, TypeVar

import yaml

from seg_perception.bags.bounded_yaml import load_yaml
from seg_perception.bags.types import OfferedQos, Storage, Topic
from seg_perception.core.errors import InputError
from seg_perception.core.files import read_regular_file

FILE_NAME: Final = "metadata.yaml"
WRITTEN_VERSION: Final = 8
"""The newest version whose quality of service Humble reads, too: policies as numbers, a list as text."""
NEWEST_VERSION: Final = 9
_ROOT: Final = "rosbag2_bagfile_information"
_LARGEST: Final = 32 * 2**20  # bytes

_KINDS: Final = {int: "a whole number, not negative,", str: "text", list: "a list", dict: "a table"}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class AnnouncedTopic:
    """A topic as metadata.yaml has it; its counts and profiles may have been edited."""

    name: str
    type: str
    count: int
    qos: OfferedQos | None  # None: cannot be read


@dataclass(frozen=True, slots=True)
class Metadata:
    """What metadata.yaml says.

    Attributes:
        version: of the format, 1 to 9 so far.
        files: names of the storage files, in the order of recording.
        message_count: of the whole bag.
        topics: by topic and type.
    """

    version: int
    files: tuple[str, ...]
    message_count: int
    topics: tuple[AnnouncedTopic, ...]


def read_metadata(folder: Path) -> Metadata:
    """Parse a bag folder's metadata.yaml.

    Raises:
        InputError: not rosbag2's metadata; names the key.
        OSError: it cannot be read.
    """
    path = folder / FILE_NAME
    try:
        text = read_regular_file(path, _LARGEST).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {error}") from error
    loaded = load_yaml(text, str(path))
    found = loaded.get(_ROOT) if isinstance(loaded, dict) else None
    if not isinstance(found, dict):
        raise InputError(f"{path} is not rosbag2's: it has no table {_ROOT!r}")
    values = _Values(str(path), found)
    version = values.get("version", int)
    files = tuple(_file_name(path, name) for name in values.get("relative_file_paths", list))
    if not files:
        raise InputError(f"{path}: relative_file_paths is empty, so the bag has no storage file")
    compression, mode = values.get("compression_format", str, ""), values.get("compression_mode", str, "").lower()
    if mode not in ("", "none", "file", "message") or (mode not in ("", "none") and compression != "zstd"):
        came = f"compression {compression!r} in mode {mode!r}"
        raise InputError(f"{path}: {came} is not accepted: zstd by file or message")
    topics = tuple(_topic(str(path), entry) for entry in values.get("topics_with_message_count", list, []) or [])
    return Metadata(version, files, values.get("message_count", int), topics)


def _file_name(path: Path, name: Any) -> str:
    """Only the name: version 3 and older put the bag's folder in front, and nothing else may."""
    plain = PurePosixPath(str(name).replace("\\", "/")).name if isinstance(name, str) else ""
    if plain in ("", ".", ".."):
        raise InputError(f"{path}: {str(name)[:60]!r} in relative_file_paths is not the name of a file")
    return plain


def _topic(path: str, entry: Any) -> AnnouncedTopic:
    values = _Values(f"{path}: topics_with_message_count", entry)
    inner = _Values(f"{path}: topic_metadata", values.get("topic_metadata", dict))
    try:
        qos = OfferedQos.from_recorded(inner.values.get("offered_qos_profiles") or [])
    except InputError:
        qos = None
    return AnnouncedTopic(inner.get("name", str), inner.get("type", str), values.get("message_count", int), qos)


@dataclass(frozen=True, slots=True)
class _Values:
    """A table whose values are checked as they are taken."""

    where: str
    values: Mapping[Any, Any]

    def __post_init__(self) -> None:
        if not isinstance(self.values, dict):
            raise InputError(f"{self.where} is not a table: {str(self.values)[:60]!r}")

    def get(self, name: str, kind: type[T], missing: T | None = None) -> T:
        value = self.values.get(name)
        if value is None and missing is not None:
            return missing
        good = isinstance(value, kind) and not isinstance(value, bool)
        if not good or (isinstance(value, int) and not 0 <= value < 2**64):
            came = "is missing" if name not in self.values else f"is {str(value)[:60]!r}"
            raise InputError(f"{self.where}: {name} {came}; {_KINDS[kind]} is needed")
        return value  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class Written:
    """What a writer knows of its bag when it closes it."""

    storage: Storage
    file_name: str
    first_ns: int
    last_ns: int
    topics: tuple[Topic, ...]  # with their counts

    def information(self) -> dict[str, Any]:
        """The table as rosbag2 writes it, version 8."""
        count = sum(topic.count for topic in self.topics)
        starting = {"nanoseconds_since_epoch": self.first_ns if count else 0}
        duration = {"nanoseconds": self.last_ns - self.first_ns if count else 0}
        name = self.file_name.encode(errors="replace").decode()  # a name that is no UTF-8 cannot stand here
        return {
            "version": WRITTEN_VERSION,
            "storage_identifier": self.storage.value,
            "duration": duration,
            "starting_time": starting,
            "message_count": count,
            "topics_with_message_count": [_entry(topic) for topic in self.topics],
            "compression_format": "",
            "compression_mode": "",
            "relative_file_paths": [name],
            "files": [{"path": name, "starting_time": starting, "duration": duration, "message_count": count}],
            "custom_data": None,
            "ros_distro": "",
        }


def _entry(topic: Topic) -> dict[str, Any]:
    return {
        "topic_metadata": {
            "name": topic.name,
            "type": topic.type,
            "serialization_format": topic.serialization,
            "offered_qos_profiles": topic.qos.to_text(),
            "type_description_hash": topic.definition.digest,
        },
        "message_count": topic.count,
    }


def to_yaml(information: Mapping[str, Any]) -> str:
    """The text of metadata.yaml without its root, as it also stands inside a storage file."""
    return yaml.dump(dict(information), Dumper=_NoAliases, sort_keys=False, default_flow_style=False, width=1000)


def to_file(information: Mapping[str, Any]) -> bytes:
    """The content of metadata.yaml."""
    return to_yaml({_ROOT: dict(information)}).encode()


def announced_counts(topics: Iterable[AnnouncedTopic]) -> dict[tuple[str, str], int]:
    """(topic, type) -> messages."""
    counts: dict[tuple[str, str], int] = {}
    for topic in topics:
        counts[topic.name, topic.type] = counts.get((topic.name, topic.type), 0) + topic.count
    return counts


class _NoAliases(yaml.SafeDumper):
    """yaml-cpp reads aliases, but nobody else who looks at a bag should have to."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True
