"""Reads rosbag2 bags: a folder with metadata.yaml, or one .mcap or .db3 file."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from rosbags.interfaces import Connection, ConnectionExtRosbag2, MessageDefinitionFormat
from rosbags.rosbag2 import Reader

from seg_perception.bags import mcap_records
from seg_perception.bags.types import BagMessage, OfferedQos, Storage, Topic, TypeDefinition
from seg_perception.bags.typestore import decode
from seg_perception.core.errors import InputError


class BagReader:
    """An opened bag.

    Args:
        path: a bag folder, or a .mcap or .db3 file.

    Raises:
        FileNotFoundError: no such bag.
        InputError: not a bag, its metadata is missing, or it was cut off.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        _check_path(path)
        try:
            self._reader = Reader(path)
            self._reader.open()
        except (FileNotFoundError, PermissionError):
            raise
        except Exception as error:  # a damaged file makes the library raise anything
            raise InputError(_damaged(path, error)) from error
        self._topics: dict[str, Topic] = {}
        self._connections: dict[str, list[Connection]] = {}
        for connection in self._reader.connections:
            self._add(connection)

    def _add(self, connection: Connection) -> None:
        topic = _topic_of(connection)
        known = self._topics.get(topic.name)
        if known is not None and known.type != topic.type:
            self._reader.close()
            raise InputError(
                f"{self.path}: topic {topic.name} has two types, {known.type} and {topic.type}; record them apart"
            )
        count = topic.count + (known.count if known else 0)
        self._topics[topic.name] = Topic(topic.name, topic.definition, count, topic.qos)
        self._connections.setdefault(topic.name, []).append(connection)

    @property
    def topics(self) -> tuple[Topic, ...]:
        """All topics, in the order of the bag."""
        return tuple(self._topics.values())

    @property
    def message_count(self) -> int:
        return int(self._reader.message_count)

    @property
    def start_ns(self) -> int:
        """Record time of the first message; 0 in an empty bag."""
        return int(self._reader.start_time) if self.message_count else 0

    @property
    def end_ns(self) -> int:
        """Record time of the last message; 0 in an empty bag."""
        return int(self._reader.end_time) - 1 if self.message_count else 0

    def topic(self, name: str) -> Topic:
        """One topic by name.

        Raises:
            InputError: the bag does not have it; lists those it has.
        """
        if name not in self._topics:
            known = ", ".join(f"{t.name} ({t.type})" for t in self.topics) or "none"
            raise InputError(f"{self.path} has no topic {name!r}; it has: {known}")
        return self._topics[name]

    def topic_of_type(self, types: Collection[str], purpose: str, preferred: str) -> Topic:
        """The topic called `preferred`, or else the only topic, of one of these types.

        Raises:
            InputError: there is none, or several to choose from.
        """
        found = [topic for topic in self.topics if topic.type in types and topic.count]
        named = [topic for topic in found if topic.name == preferred]
        if len(named or found) == 1:
            return (named or found)[0]
        listed = ", ".join(topic.name for topic in (found or self.topics)) or "none"
        problem = "several topics" if found else "no topic"
        raise InputError(f"{self.path} has {problem} of type {' or '.join(types)}; name the {purpose}: {listed}")

    def messages(
        self, topics: Collection[str] | None = None, start_ns: int | None = None, stop_ns: int | None = None
    ) -> Iterator[BagMessage]:
        """Messages in the order of their record time.

        Args:
            topics: only these; None means all.
            start_ns, stop_ns: only messages recorded at or after start and before stop.

        Raises:
            InputError: an unknown topic, or a damaged bag.
        """
        names = list(self._topics) if topics is None else [self.topic(name).name for name in topics]
        connections = [connection for name in names for connection in self._connections[name]]
        if not connections:
            return
        found = self._reader.messages(connections, start_ns, stop_ns)
        while True:
            try:
                connection, stamp_ns, data = next(found)
            except StopIteration:
                return
            except Exception as error:  # a damaged file makes the library raise anything
                raise InputError(_damaged(self.path, error)) from error
            yield BagMessage(self._topics[connection.topic], stamp_ns, bytes(data))

    def decode(self, message: BagMessage) -> Any:
        """The message as an object with ROS's field names; arrays are numpy arrays.

        Raises:
            InputError: unknown type or malformed bytes.
        """
        return decode(message.data, message.topic.definition)

    def close(self) -> None:
        """Release the files; calling it twice is harmless."""
        if self._reader.is_open:
            self._reader.close()

    def __enter__(self) -> BagReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _topic_of(connection: Connection) -> Topic:
    assert isinstance(connection.ext, ConnectionExtRosbag2)
    definition = TypeDefinition(
        connection.msgtype,
        connection.msgdef.data,
        connection.msgdef.format is MessageDefinitionFormat.IDL,
        connection.digest,
    )
    qos = OfferedQos.from_rosbags(connection.ext.offered_qos_profiles)
    return Topic(connection.topic, definition, connection.msgcount, qos)


def _check_path(path: Path) -> None:
    if not path.exists():
        partial = partial_path(path)
        hint = f"; a recording of that name was never finished: see {partial}" if partial.exists() else ""
        raise FileNotFoundError(f"no bag at {path}{hint}")
    if path.is_dir() and not (path / "metadata.yaml").is_file():
        inside = sorted(p.name for p in path.iterdir() if Storage.of(p))
        if not inside:
            raise InputError(f"{path} is a folder, but not a bag: it has no metadata.yaml and no .mcap or .db3 file")
        raise InputError(
            f"{path} has no metadata.yaml, so its recorder was stopped before it could close the bag; "
            f"open its storage file itself: {path / inside[0]}"
        )
    if path.is_file() and Storage.of(path) is None:
        raise InputError(f"{path} is not a bag: accepted are a bag folder, a .mcap file or a .db3 file")


def _damaged(path: Path, error: Exception) -> str:
    reason = str(error) or type(error).__name__
    text = f"{path} is damaged or was cut off before it was closed: {reason}"
    if Storage.of(path) is not Storage.MCAP:
        return text
    if path.stat().st_size and not mcap_records.begins_as_mcap(path):
        return f"{path} is not an MCAP file, in spite of its name: it does not begin with MCAP's signature"
    if not mcap_records.has_whole_message(path):
        return f"{text}; there is no whole message in it"
    return f"{text}; 'seg-perception bag recover' saves what is readable"


def partial_path(path: Path) -> Path:
    """Where a bag is while it is written: a folder beside it."""
    return path.with_name(path.name + ".partial")
