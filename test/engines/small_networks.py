"""The networks that the engines' tests build. A module of its own: several rooms have a conftest."""

from __future__ import annotations


def small_networks() -> dict[str, dict[str, object]]:
    """Every registered network, with the options that make it small enough for a quick test."""
    from seg_perception.networks import network_names

    return {name: {"width": 0.25} if name == "reference" else {} for name in network_names()}
