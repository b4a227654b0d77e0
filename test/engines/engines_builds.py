"""What the tests note of every build. A module of its own: several rooms have a conftest."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Build:
    """One line of the table that ends the tests: what NVIDIA's compiler made of a graph."""

    network: str
    precision: str
    batch: str
    built: bool = False
    engine_bytes: int = 0
    seconds: float = 0.0
