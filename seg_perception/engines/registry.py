"""Finds engines: every module or package of this folder that has ENGINES holds some.

Imports nothing heavy, so that `seg-perception --help` stays instant: engines are looked for when
their names are first asked for.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING

import seg_perception.engines

if TYPE_CHECKING:
    from seg_perception.engines.base import EngineSpec

AUTO = "auto"
"""Takes the first engine, by the order that the engines themselves declare, that can run on this machine."""


@cache
def engines() -> Mapping[str, EngineSpec]:
    """Every known engine by name, CPU before GPU and then alphabetically; read-only."""
    modules = (
        importlib.import_module(f"{seg_perception.engines.__name__}.{found.name}")
        for found in pkgutil.iter_modules(seg_perception.engines.__path__)
    )
    specs = [spec for module in modules for spec in getattr(module, "ENGINES", ())]
    ordered = sorted(specs, key=lambda spec: (spec.device.value, spec.name))
    return MappingProxyType({spec.name: spec for spec in ordered})


def engine_choices() -> tuple[str, ...]:
    """What `open_engine` accepts: "auto" and every engine's name."""
    return (AUTO, *engines())


def compiling_engines() -> tuple[str, ...]:
    """The engines that `compile` makes files for: those that open one."""
    return tuple(spec.name for spec in engines().values() if ".engine" in spec.suffixes)


def preferred() -> tuple[EngineSpec, ...]:
    """The engines that "auto" may take, most wanted first."""
    chosen = [spec for spec in engines().values() if spec.auto is not None]
    return tuple(sorted(chosen, key=lambda spec: spec.auto or 0))


def choices_text() -> str:
    """One sentence for `--help` and the node's parameter: what "auto" does, and which engines it leaves alone."""
    by_name = ", ".join(spec.name for spec in engines().values() if spec.auto is None)
    order = ", ".join(spec.name for spec in preferred())
    return f"auto takes the first of {order} that can run here{f'; by name only: {by_name}' if by_name else ''}"


def engine_table() -> str:
    """The documentation's table of engines, in Markdown."""
    lines = ["| engine | computes on | install | `auto` | what it is |", "|---|---|---|---|---|"]
    order = [spec.name for spec in preferred()]
    for spec in engines().values():
        place = f"{order.index(spec.name) + 1}." if spec.name in order else "by name only"
        install = f"`pip install 'seg_perception[{spec.extra}]'`" if spec.extra else "nothing"
        lines.append(f"| `{spec.name}` | {spec.device.value} | {install} | {place} | {spec.summary} |")
    return "\n".join(lines)


def write_table(page: str) -> str:
    """The page with its table of engines as it is now, in place of the one it has.

    Raises:
        ValueError: the page has no such table.
    """
    head = engine_table().splitlines()[0]
    before, found, after = page.partition(head)
    if not found:
        raise ValueError(f"the page has no table that begins with {head!r}")
    rest = after.splitlines(keepends=True)[1:]
    while rest and rest[0].startswith("|"):
        rest.pop(0)
    return before + engine_table() + "\n" + "".join(rest)


if __name__ == "__main__":
    from pathlib import Path

    target = Path(sys.argv[1])
    target.write_text(write_table(target.read_text(encoding="utf-8")), encoding="utf-8")
