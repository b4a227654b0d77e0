"""What the readers and writers of the two storage formats have in common."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Protocol

from seg_perception.bags.types import OfferedQos, Topic, TypeDefinition


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

    def close(self, metadata: str) -> None:
        """Finish the file; `metadata` is the text of metadata.yaml, which it carries inside."""
        ...

    def abort(self) -> None: ...
