"""What a bag consists of, whichever format stores it: topics, types, quality of service, messages, metadata.yaml.

Source: rosbag2_storage of ROS 2 Foxy to Kilted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path, PurePosixPath
from typing import Any, Final, Protocol, TypeVar

import yaml

from seg_perception.core.errors import InputError
from seg_perception.core.files import read_regular_file
from seg_perception.core.settings import StrictLoader

CDR: Final = "cdr"
"""The serialization of ROS 2 messages, by the name that bags use."""


class Storage(Enum):
    """rosbag2's two storage formats, by the name that metadata.yaml uses."""

    MCAP = "mcap"
    SQLITE3 = "sqlite3"

    @property
    def suffix(self) -> str:
        return ".mcap" if self is Storage.MCAP else ".db3"

    @classmethod
    def of(cls, path: Path) -> Storage | None:
        """By the suffix of a file; None for anything else, such as a bag folder."""
        return {".mcap": cls.MCAP, ".db3": cls.SQLITE3}.get(path.suffix)


@dataclass(frozen=True, slots=True)
class TypeDefinition:
    """A message type as a bag carries it.

    Attributes:
        name: such as "sensor_msgs/msg/Image"; "" on a channel without a schema.
        text: its definition with those of its parts, in ROS's .msg or IDL notation; "" if the bag
            has none (SQLite bags of Humble and older).
        idl: whether `text` is IDL.
        digest: ROS's type hash, "RIHS01_..."; "" where the bag does not say.
        foreign: name of the schema's notation if it is none of ROS 2's ("protobuf", "jsonschema").
        foreign_data: that schema, as it came.
    """

    name: str
    text: str = ""
    idl: bool = False
    digest: str = ""
    foreign: str = ""
    foreign_data: bytes = b""


_FOREVER: Final = {"sec": 2147483647, "nsec": 4294967295}  # what every rosbag2 reads as infinite
_POLICIES: Final = {  # rosbag2's numbers (metadata up to version 8) and names (from 9 on)
    "reliability": {1: True, "reliable": True, 2: False, "best_effort": False},
    "durability": {1: True, "transient_local": True, 2: False, "volatile": False},
}


@dataclass(frozen=True, slots=True)
class OfferedQos:
    """The part of a publisher's quality of service that a replay must repeat."""

    reliable: bool = True
    latched: bool = False  # transient local: late subscribers get the last `depth` messages
    depth: int = 10

    def to_text(self) -> str:
        """One profile as YAML with numbers for the policies, as every rosbag2 from Foxy on reads it."""
        profile = {
            "history": 1,  # keep last
            "depth": self.depth,
            "reliability": 1 if self.reliable else 2,
            "durability": 1 if self.latched else 2,
            "deadline": dict(_FOREVER),
            "lifespan": dict(_FOREVER),
            "liveliness": 1,  # automatic
            "liveliness_lease_duration": dict(_FOREVER),
            "avoid_ros_namespace_conventions": False,
        }
        return yaml.safe_dump([profile], sort_keys=False, default_flow_style=False).strip()

    @classmethod
    def from_recorded(cls, recorded: Any) -> OfferedQos:
        """What suits all publishers recorded on one topic: latched only if all were.

        Args:
            recorded: rosbag2's list of profiles, or that list as YAML text; empty means nothing is known.

        Raises:
            InputError: it is neither.
        """
        profiles = load_yaml(recorded, "offered_qos_profiles") if isinstance(recorded, str) else recorded
        if not profiles:
            return cls()
        if not isinstance(profiles, list) or not all(isinstance(profile, dict) for profile in profiles):
            raise InputError(f"offered_qos_profiles is no list of profiles: {str(profiles)[:60]!r}")
        reliable = [_policy(profile, "reliability", True) for profile in profiles]
        latched = [_policy(profile, "durability", False) for profile in profiles]
        depths = [d for d in (profile.get("depth") for profile in profiles) if isinstance(d, int)]
        return cls(all(reliable), all(latched), min(max([1, *depths]), 1000))


def _policy(profile: dict[str, Any], name: str, unknown: bool) -> bool:
    value = profile.get(name)
    if not isinstance(value, str | int):
        return unknown
    return _POLICIES[name].get(value.lower() if isinstance(value, str) else value, unknown)


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic of a bag.

    Attributes:
        name: absolute, as recorded.
        definition: its message type.
        count: messages that the bag holds.
        qos: what its publishers offered.
        serialization: of its messages: "cdr" for ROS 2; "protobuf", "json", "ros1" or another.
    """

    name: str
    definition: TypeDefinition
    count: int
    qos: OfferedQos
    serialization: str = CDR

    @property
    def type(self) -> str:
        return self.definition.name


@dataclass(frozen=True, slots=True)
class BagMessage:
    """One message as recorded.

    Attributes:
        topic: where it was published.
        stamp_ns: when it was recorded, in nanoseconds since 1970 (the header's stamp is inside).
        data: serialized; ROS 2's in CDR, with its four-byte encapsulation header.
    """

    topic: Topic
    stamp_ns: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Connection:
    """One row of a storage file's topics.

    Attributes:
        id: by which the file's messages refer to it.
        topic: name, type, quality of service, and how many messages the file announces.
    """

    id: int
    topic: Topic


class StorageReader(Protocol):
    """An opened storage file. `path` is the one that the user knows."""

    connections: tuple[Connection, ...]
    first_ns: int
    last_ns: int
    notes: tuple[str, ...]

    def messages(
        self, ids: Collection[int], start_ns: int | None, stop_ns: int | None
    ) -> Iterator[tuple[int, int, bytes]]:
        """(connection, record time, data) of these connections in the order of record time.

        Raises:
            BrokenRecordError: the file is damaged.
        """
        ...

    def close(self) -> None: ...


class StorageWriter(Protocol):
    """A storage file being written."""

    def add_topic(self, name: str, definition: TypeDefinition, qos: OfferedQos, serialization: str) -> int:
        """Its number, for `write`."""
        ...

    def write(self, number: int, stamp_ns: int, data: bytes) -> None: ...

    def flush(self) -> None:
        """Make what was written so far recoverable, should the process be killed."""
        ...

    def close(self, metadata: str) -> None:
        """Finish the file; `metadata` is the text of metadata.yaml, which it carries inside."""
        ...

    def abort(self) -> None: ...


_LONGEST: Final = 16 * 2**20  # characters; 1,000 topics need half a megabyte
_DEEPEST: Final = 32
_ALIASES: Final = 1000


def load_yaml(text: str, source: str) -> Any:
    """Parse YAML into lists, dicts and plain values.

    A few lines of aliases or merge keys can stand for billions of values, so an alias may only
    point to something without aliases in it, and merge keys are refused. rosbag2 writes neither.

    Raises:
        InputError: not YAML, a key twice, or more than that; names `source`.
    """
    if len(text) > _LONGEST:
        raise InputError(f"{source} has {len(text)} characters; at most {_LONGEST} are accepted")
    try:
        _check_events(text, source)
        return yaml.load(text, Loader=StrictLoader)  # noqa: S506  a safe loader
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:
        raise InputError(f"{source} is not valid YAML: {' '.join(str(error).split())}") from error


def _check_events(text: str, source: str) -> None:
    depth = aliases = 0
    anchored: list[int] = []  # depths of the open collections that have an anchor
    for event in yaml.parse(text, Loader=StrictLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if event.anchor:
                anchored.append(depth)
            if depth > _DEEPEST:
                raise InputError(f"{source} is nested deeper than {_DEEPEST} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            if anchored and anchored[-1] == depth:
                anchored.pop()
            depth -= 1
        elif isinstance(event, yaml.AliasEvent):
            aliases += 1
            if anchored or aliases > _ALIASES:
                raise InputError(f"{source} has YAML aliases of aliases or more than {_ALIASES}: it is not rosbag2's")
        elif isinstance(event, yaml.ScalarEvent) and event.value == "<<" and event.implicit[0]:
            raise InputError(f"{source} has a YAML merge key '<<': it is not rosbag2's")


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
