"""What a bag holds: topics, their types, messages."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime


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
        name: such as "sensor_msgs/msg/Image".
        text: its definition with those of its parts, in ROS's .msg or IDL notation; "" if the bag
            has none (SQLite bags of Humble and older).
        idl: whether `text` is IDL.
        digest: ROS's type hash, "RIHS01_..."; "" where the bag does not say.
    """

    name: str
    text: str = ""
    idl: bool = False
    digest: str = ""


_FOREVER = QosTime(2147483647, 4294967295)


@dataclass(frozen=True, slots=True)
class OfferedQos:
    """The part of a publisher's quality of service that a replay must repeat."""

    reliable: bool = True
    latched: bool = False  # transient local: late subscribers get the last `depth` messages
    depth: int = 10

    def to_rosbags(self) -> Qos:
        return Qos(
            history=QosHistory.KEEP_LAST,
            depth=self.depth,
            reliability=QosReliability.RELIABLE if self.reliable else QosReliability.BEST_EFFORT,
            durability=QosDurability.TRANSIENT_LOCAL if self.latched else QosDurability.VOLATILE,
            deadline=_FOREVER,
            lifespan=_FOREVER,
            liveliness=QosLiveliness.AUTOMATIC,
            liveliness_lease_duration=_FOREVER,
            avoid_ros_namespace_conventions=False,
        )

    @classmethod
    def from_rosbags(cls, profiles: list[Qos]) -> OfferedQos:
        """What suits all publishers recorded on one topic: latched only if all were."""
        if not profiles:
            return cls()
        return cls(
            reliable=all(p.reliability is not QosReliability.BEST_EFFORT for p in profiles),
            latched=all(p.durability is QosDurability.TRANSIENT_LOCAL for p in profiles),
            depth=max(1, *(p.depth for p in profiles)),
        )


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic of a bag."""

    name: str
    definition: TypeDefinition
    count: int
    qos: OfferedQos

    @property
    def type(self) -> str:
        return self.definition.name


@dataclass(frozen=True, slots=True)
class BagMessage:
    """One message as recorded.

    Attributes:
        topic: where it was published.
        stamp_ns: when it was recorded, in nanoseconds since 1970 (the header's stamp is inside).
        data: serialized in CDR, with its four-byte encapsulation header.
    """

    topic: Topic
    stamp_ns: int
    data: bytes
