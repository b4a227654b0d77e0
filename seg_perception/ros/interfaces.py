"""Message classes and definitions by their names, from whatever ROS is installed."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seg_perception.bags.types import TypeDefinition
from seg_perception.bags.typestore import definition_from_share
from seg_perception.core.errors import InputError


def message_class(type_name: str) -> Any:
    """The Python class of a message type such as "sensor_msgs/msg/Image".

    Raises:
        InputError: its package is not installed, or has no such message.
    """
    package, _, name = type_name.split("/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), name)
    except ModuleNotFoundError as error:
        raise InputError(f"message type {type_name!r} needs the ROS package {package!r}: install it") from error
    except AttributeError as error:
        raise InputError(f"the installed ROS package {package!r} has no message {name!r}") from error


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
