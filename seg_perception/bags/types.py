"""What a bag holds: topics, their types and quality of service, messages."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final

import yaml

from seg_perception.bags.bounded_yaml import load_yaml
from seg_perception.core.errors import InputError

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
