"""Finds networks: every module of this folder that has a NETWORK is one."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import seg_perception.networks
from seg_perception.core.errors import SettingsError
from seg_perception.networks.base import NetworkInfo, SegmentationNetwork


def networks() -> Mapping[str, NetworkInfo]:
    """Every known network by name, read-only."""
    modules = (
        importlib.import_module(f"{seg_perception.networks.__name__}.{found.name}")
        for found in pkgutil.iter_modules(seg_perception.networks.__path__)
    )
    infos = [module.NETWORK for module in modules if hasattr(module, "NETWORK")]
    return MappingProxyType({info.name: info for info in infos})


def network_names() -> tuple[str, ...]:
    return tuple(networks())


def networks_table() -> str:
    """The known networks as a Markdown table, as docs/training.md shows it."""
    rows = (f"| `{i.name}` | {', '.join(('random', *i.start_weights))} | {i.summary} |" for i in networks().values())
    return "\n".join(("| network | starts from | what |", "|---|---|---|", *rows))


def build_network(name: str, num_classes: int, **options: Any) -> SegmentationNetwork:
    """Build a network with fresh weights.

    Raises:
        SettingsError: unknown name (the known ones are listed) or unknown option.
    """
    if name not in networks():
        raise SettingsError(f"no network {name!r}; known: {', '.join(network_names())}")
    try:
        return networks()[name].build(num_classes, **options)
    except TypeError as error:
        raise SettingsError(f"network {name!r} does not take the options {options}: {error}") from error
