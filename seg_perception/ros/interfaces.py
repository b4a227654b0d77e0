"""Message classes and definitions by their names, from whatever ROS is installed."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rclpy.exceptions import InvalidTopicNameException
from rclpy.validate_full_topic_name import validate_full_topic_name

from seg_perception.bags.messages import definition_from_share
from seg_perception.bags.types import TypeDefinition
from seg_perception.core.errors import InputError


def message_class(type_name: str) -> Any:
    """The Python class of a message type such as "sensor_msgs/msg/Image".

    Raises:
        InputError: not a ROS 2 message type, its package is not installed, or has no such message.
    """
    package, _, name = type_name.partition("/msg/")
    if not package.isidentifier() or not name.isidentifier():
        raise InputError(f"{type_name!r} is no message type of ROS 2, such as 'sensor_msgs/msg/Image'")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), name)
    except ModuleNotFoundError as error:
        raise InputError(f"message type {type_name!r} needs the ROS package {package!r}: install it") from error
    except AttributeError as error:
        raise InputError(f"the installed ROS package {package!r} has no message {name!r}") from error


def why_not_installed(type_name: str) -> str:
    """Why there is no class of a message type; empty if there is one."""
    try:
        message_class(type_name)
    except InputError as error:
        return str(error)
    return ""


def message_definition(type_name: str) -> TypeDefinition:
    """The definition of an installed message type, for the bag that shall hold it.

    Raises:
        InputError: neither installed nor one of ROS 2 Jazzy's standard types.
    """
    return definition_from_share(type_name, _ShareFolders())


class _ShareFolders(Mapping[str, Path]):
    """Package name -> share directory, over AMENT_PREFIX_PATH and this Python's own prefix (wheels)."""

    def _roots(self) -> list[Path]:
        prefixes = [prefix for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
        return [Path(prefix) / "share" for prefix in (*prefixes, sys.prefix)]

    def __getitem__(self, package: str) -> Path:
        for root in self._roots():
            if (root / package / "package.xml").is_file():
                return root / package
        raise KeyError(package)

    def __iter__(self) -> Any:
        return iter({path.parent.name for root in self._roots() for path in root.glob("*/package.xml")})

    def __len__(self) -> int:
        return len(list(iter(self)))


def check_topic_name(name: str) -> None:
    """Refuse what cannot be the absolute name of a ROS topic.

    Raises:
        InputError: says what is wrong with it.
    """
    try:
        validate_full_topic_name(name)
    except InvalidTopicNameException as error:
        raise InputError(f"{name!r} is not accepted as the name of a topic: {' '.join(str(error).split())}") from error
