"""YAML and JSON from anywhere, bounded: no input makes reading them hang, fill the memory or overflow the stack.

A YAML file of a few hundred bytes can stand for gigabytes: an alias repeats what its anchor names, a merge key
copies it. So the document is walked as a stream of events first, and what it would grow to is counted before
anything is built.
"""

from __future__ import annotations

import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any, Final

import yaml
from yaml.constructor import ConstructorError
from yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, NodeEvent

from seg_perception.core.errors import InputError, SettingsError
from seg_perception.core.files import read_regular_file

MAX_BYTES: Final = 2 * 1024 * 1024
"""Of a YAML file."""

_MAX_NODES: Final = 50_000  # values after aliases are written out
_MAX_DEPTH: Final = 50

_FastLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster where PyYAML has libyaml


class StrictLoader(_FastLoader):  # type: ignore[misc]
    """A safe loader that refuses a key given twice, of which YAML would keep the last without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue  # an own key is meant to override a merged one
            if (key.tag, key.value) in seen:
                raise ConstructorError(None, None, f"the key {key.value!r} is given twice", key.start_mark)
            seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)  # type: ignore[no-any-return]


def read_yaml(path: Path) -> Any:
    """What a YAML file holds, in plain Python values.

    Raises:
        OSError: it cannot be read.
        SettingsError: no regular file, not YAML, not UTF-8, a key twice, or larger than is accepted.
    """
    try:
        content = read_regular_file(path, MAX_BYTES)
    except InputError as error:
        raise SettingsError(str(error)) from error
    return parse_yaml(content, str(path))


def parse_yaml(content: bytes | str, source: str) -> Any:
    """What YAML text holds, in plain Python values.

    Raises:
        SettingsError: not YAML, not UTF-8, a key twice, nested deeper than 50 levels, or more than
            50,000 values with its aliases written out.
    """
    try:
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
        _demand_bounded(text, source)
        return yaml.load(text, StrictLoader)  # noqa: S506  a safe loader
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # 2026-13-01 is a ValueError, and so is not UTF-8
        raise SettingsError(f"{source}: not valid YAML: {error}") from error


def _demand_bounded(text: str, source: str) -> None:
    """Walk the events and count what would be built; an alias counts as all that its anchor names."""
    total = 0
    open_nodes: list[tuple[str | None, int]] = []  # anchor, and the count where it began
    sizes: dict[str, int] = {}
    for event in yaml.parse(text, Loader=_FastLoader):
        if isinstance(event, AliasEvent):
            name = str(event.anchor)
            if name in {anchor for anchor, _ in open_nodes}:
                raise SettingsError(f"{source}: the YAML alias *{name} lies inside what it names")
            total += sizes.get(name, 1)
        elif isinstance(event, CollectionStartEvent):
            open_nodes.append((event.anchor, total))
            total += 1
            if len(open_nodes) > _MAX_DEPTH:
                raise SettingsError(f"{source}: not valid YAML for settings: nested deeper than {_MAX_DEPTH} levels")
        elif isinstance(event, CollectionEndEvent):
            anchor, began = open_nodes.pop()
            if anchor is not None:
                sizes[anchor] = total - began
        elif isinstance(event, NodeEvent):
            total += 1
        if total > _MAX_NODES:
            raise SettingsError(
                f"{source}: more than {_MAX_NODES} values, with its aliases (*name) and merges (<<) written out; "
                "that is no file of settings"
            )


def parse_json(content: bytes | str, source: str) -> Any:
    """What JSON text holds.

    Raises:
        InputError: not JSON, not UTF-8, nested too deep, or a number of thousands of digits.
    """
    try:
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
        return json.loads(text)
    except RecursionError as error:
        raise InputError(f"{source}: the JSON is nested too deep") from error
    except ValueError as error:
        raise InputError(f"{source}: not valid JSON: {error}") from error
