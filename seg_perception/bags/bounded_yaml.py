"""YAML of bags that nobody vouches for: no aliases of aliases, no merges, no depth, a bounded size."""

from __future__ import annotations

from typing import Any, Final

import yaml

from seg_perception.core.documents import StrictLoader
from seg_perception.core.errors import InputError

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
