"""Reads rosbag2 bags: a folder of storage files, with metadata.yaml or without, or one .mcap or .db3 file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from heapq import merge
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Any

from seg_perception.bags.locating import ROS1_ADVICE, Located, Part
from seg_perception.bags.mcap_file import McapFile
from seg_perception.bags.mcap_records import BrokenRecordError, expand_message
from seg_perception.bags.messages import decode
from seg_perception.bags.sqlite_file import SqliteFile
from seg_perception.bags.types import CDR, BagMessage, Storage, StorageReader, Topic, announced_counts
from seg_perception.core.errors import InputError, first_of, printable

_SAVES = "'seg-perception bag recover' saves what is readable"


class BagReader:
    """An opened bag.

    Every message that metadata.yaml, an index or a journal announces is there, or reading fails.

    Args:
        path: a bag folder, or a storage file (MCAP or SQLite, also as .zstd), told by its first bytes.

    Attributes:
        notes: what had to be guessed, one sentence each.

    Raises:
        FileNotFoundError: no such bag, or a part of it is missing.
        InputError: no bag, one without messages of ROS 2, or one that is damaged or was cut off.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = path = Path(path)
        self._stack = ExitStack()
        self._parts: list[tuple[Part, StorageReader, dict[int, Topic]]] = []
        self._topics: dict[str, Topic] = {}
        try:
            located = Located(path)
            self._stack.callback(located.close)
            self._notes = list(located.notes)
            for part in located.parts:
                self._add(part)
            if located.metadata is not None:
                self._compare({key: count for key, count in announced_counts(located.metadata.topics).items() if count})
                self._compare_total(located.metadata.message_count)
            self._refuse_foreign()
        except BaseException:
            self._stack.close()
            raise

    def _add(self, part: Part) -> None:
        kind = McapFile if part.storage is Storage.MCAP else SqliteFile
        try:
            storage: StorageReader = kind(part.readable)
        except BrokenRecordError as error:
            raise InputError(_damaged(part, error)) from error
        self._stack.callback(storage.close)
        self._notes += [note.replace(str(part.readable), str(part.path)) for note in storage.notes]
        topics = {}
        for connection in storage.connections:
            topic = connection.topic
            known = self._topics.get(topic.name, replace(topic, count=0))
            if known.type != topic.type or known.serialization != topic.serialization:
                raise InputError(
                    f"{self.path}: topic {topic.name} has two types, {known.type} ({known.serialization}) and "
                    f"{topic.type} ({topic.serialization}); record them apart"
                )
            definition = known.definition if known.definition.text or known.definition.foreign else topic.definition
            self._topics[topic.name] = replace(known, definition=definition, count=known.count + topic.count)
            topics[connection.id] = topic
        self._parts.append((part, storage, topics))

    def _compare(self, announced: dict[tuple[str, str], int]) -> None:
        """What the files hold with what metadata.yaml announces; more is said, less is an error."""
        held = {(topic.name, topic.type): topic.count for topic in self._topics.values() if topic.count}
        for (name, type_name), count in announced.items():
            found = held.get((name, type_name), 0)
            if found < count:
                files = ", ".join(part.path.name for part, _, _ in self._parts)
                raise InputError(
                    f"{self.path}: metadata.yaml announces {count} messages on {name} ({type_name}), {files} "
                    f"{'holds' if len(self._parts) == 1 else 'hold'} {found}: {count - found} are missing. "
                    "To read what is there, open the storage file itself"
                )
        more = {key: count for key, count in held.items() if count > announced.get(key, 0)}
        if more:
            listed = first_of(f"{name} ({count} messages)" for (name, _), count in sorted(more.items()))
            self._notes.append(f"the files of {self.path} hold more than its metadata.yaml announces: {listed}")

    def _compare_total(self, announced: int) -> None:
        if announced > self.message_count:
            raise InputError(
                f"{self.path}: metadata.yaml announces {announced} messages in all, its files hold "
                f"{self.message_count}: {announced - self.message_count} are missing. To read what is there, open "
                "the storage file itself"
            )

    def _refuse_foreign(self) -> None:
        kinds = {topic.serialization for topic in self._topics.values()}
        if not kinds or CDR in kinds:
            return
        if "ros1" in kinds:
            advice = f"these are messages of ROS 1. Take the ROS 1 bag it was made from, and {ROS1_ADVICE}"
        elif kinds & {"protobuf", "json", "flatbuffer"}:
            advice = (
                "this is a recording for Foxglove without ROS. Its images can be saved with the Python package "
                "'mcap' (for protobuf with 'mcap-protobuf-support') and made a bag by 'seg-perception bag make'"
            )
        else:
            advice = "they need the middleware that recorded them: 'ros2 bag convert' there writes cdr"
        listed = first_of(f"{t.name} ({t.type or 'no schema'}, {t.serialization})" for t in self.topics)
        raise InputError(f"{self.path} holds no messages of ROS 2, which are serialized in cdr: {listed}; {advice}")

    @property
    def topics(self) -> tuple[Topic, ...]:
        """All topics, in the order of the bag."""
        return tuple(self._topics.values())

    @property
    def notes(self) -> tuple[str, ...]:
        """What had to be guessed, one sentence each."""
        return tuple(self._notes)

    @property
    def message_count(self) -> int:
        return sum(topic.count for topic in self._topics.values())

    @property
    def start_ns(self) -> int:
        """Record time of the first message; 0 in an empty bag."""
        return min((storage.first_ns for _, storage, topics in self._parts if _count(topics)), default=0)

    @property
    def end_ns(self) -> int:
        """Record time of the last message; 0 in an empty bag."""
        return max((storage.last_ns for _, storage, topics in self._parts if _count(topics)), default=0)

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
        found = [topic for topic in self.topics if topic.type in types and topic.count and topic.serialization == CDR]
        named = [topic for topic in found if topic.name == preferred]
        if len(named or found) == 1:
            return (named or found)[0]
        of_type = f"of type {' or '.join(types)}"
        if found:
            listed = ", ".join(topic.name for topic in found)
            raise InputError(f"{self.path} has several topics {of_type}; name the {purpose}: {listed}")
        if empty := [topic.name for topic in self.topics if topic.type in types and topic.serialization == CDR]:
            raise InputError(f"{self.path} has no message {of_type}: nothing was recorded on {', '.join(empty)}")
        known = ", ".join(f"{topic.name} ({topic.type or 'no schema'})" for topic in self.topics) or "none"
        raise InputError(f"{self.path} has no topic {of_type}; its topics: {known}")

    def messages(
        self, topics: Collection[str] | None = None, start_ns: int | None = None, stop_ns: int | None = None
    ) -> Iterator[BagMessage]:
        """Messages in the order of their record time.

        Args:
            topics: only these; None means all.
            start_ns: only messages recorded at or after this.
            stop_ns: only messages recorded before this.

        Raises:
            InputError: an unknown topic, a damaged bag, or fewer messages than the bag announces.
        """
        names = set(self._topics if topics is None else (self.topic(name).name for name in topics))
        delivered: Counter[str] = Counter()
        parts = [self._part_messages(number, names, start_ns, stop_ns) for number in range(len(self._parts))]
        for stamp_ns, topic, data in merge(*parts, key=itemgetter(0)):
            delivered[topic.name] += 1
            yield BagMessage(topic, stamp_ns, data)
        if start_ns is not None or stop_ns is not None:
            return
        for name in names:
            if delivered[name] != (announced := self._topics[name].count):
                raise InputError(
                    f"{self.path} is damaged: it announces {announced} messages on {name}, and holds {delivered[name]}"
                )

    def _part_messages(
        self, number: int, names: set[str], start_ns: int | None, stop_ns: int | None
    ) -> Iterator[tuple[int, Topic, bytes]]:
        part, storage, topics = self._parts[number]
        ids = [connection for connection, topic in topics.items() if topic.name in names]
        if not ids:
            return
        shared = {connection: self._shared(topics[connection]) for connection in ids}
        try:
            for connection, stamp_ns, data in storage.messages(ids, start_ns, stop_ns):
                topic = shared[connection]
                yield stamp_ns, topic, expand_message(data) if topic.serialization == CDR else data
        except BrokenRecordError as error:
            raise InputError(_damaged(part, error)) from error

    def _shared(self, topic: Topic) -> Topic:
        """The bag's topic; with this connection's own definition if it has another version of the type."""
        whole = self._topics[topic.name]
        own, first = topic.definition, whole.definition
        differs = own.digest != first.digest if own.digest and first.digest else own.text not in ("", first.text)
        return replace(whole, definition=own) if differs else whole

    def decode(self, message: BagMessage) -> Any:
        """The message as an object with ROS's field names; arrays are numpy arrays.

        Raises:
            InputError: unknown type, malformed bytes, or no message of ROS 2.
        """
        topic = message.topic
        if topic.serialization != CDR:
            raise InputError(f"messages on {topic.name} are serialized as {topic.serialization!r}; ROS 2's are in cdr")
        return decode(message.data, topic.definition)

    def close(self) -> None:
        """Release the files; calling it twice is harmless."""
        self._stack.close()

    def __enter__(self) -> BagReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class BagInfo:
    """What a bag holds.

    Attributes:
        path: as it was given.
        topics: in the order of the bag, with type, quality of service and number of messages.
        messages: how many, of all topics.
        start_ns, end_ns: record time of the first and the last message, since 1970; 0 in an empty bag.
        notes: what had to be guessed, one sentence each.
    """

    path: Path
    topics: tuple[Topic, ...]
    messages: int
    start_ns: int
    end_ns: int
    notes: tuple[str, ...]

    def text(self) -> str:
        """For people: the whole, then a line for each topic."""
        lines = [
            f"{self.path}: {self.messages} messages, {(self.end_ns - self.start_ns) / 1e9:.3f} s",
            f"begins {_time(self.start_ns)} ({self.start_ns} ns)",
        ]
        width = max((len(topic_text(topic.name)) for topic in self.topics), default=0)
        for topic in self.topics:
            qos = f"{'reliable' if topic.qos.reliable else 'best effort'}{', latched' if topic.qos.latched else ''}"
            foreign = "" if topic.serialization == CDR else f", serialized as {topic_text(topic.serialization)}"
            type_name = topic_text(topic.type) if topic.type else "no schema"
            lines.append(f"  {topic_text(topic.name):<{width}}  {topic.count:>7}  {type_name}  ({qos}{foreign})")
        return "\n".join(lines)


def bag_info(bag: str | Path) -> BagInfo:
    """What a bag holds: topics, types, counts, times.

    Args:
        bag: bag folder, .mcap or .db3 file.

    Raises:
        FileNotFoundError, InputError: see `BagReader`.
    """
    with BagReader(Path(bag)) as opened:
        return BagInfo(opened.path, opened.topics, opened.message_count, opened.start_ns, opened.end_ns, opened.notes)


def topic_text(name: str) -> str:
    """A name from a file, on one line."""
    return printable(name, keep="") or "a topic without a name"


def _time(ns: int) -> str:
    try:
        moment = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=(ns + 500) // 1000)
    except OverflowError:
        return "at a time beyond the calendar"
    return f"{moment:%Y-%m-%d %H:%M:%S.%f} UTC"


def _count(topics: dict[int, Topic]) -> int:
    return sum(topic.count for topic in topics.values())


def _damaged(part: Part, error: Exception) -> str:
    """What is wrong with a storage file, and whether something can be saved."""
    from seg_perception.bags.salvage import has_whole_message

    text = f"{part.path} is damaged or was cut off before it was closed: {error}"
    if not has_whole_message(part.readable, part.storage):
        return f"{text}; there is no whole message in it"
    return f"{text}; {_SAVES}"
