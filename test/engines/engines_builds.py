"""What the tests note of every build; test/conftest.py prints it at their end."""

from __future__ import annotations

from typing import NamedTuple


class Build(NamedTuple):
    """One line of the table that ends the tests: what NVIDIA's compiler made of a graph."""

    network: str
    precision: str
    batch: str
    built: bool = False
    engine_bytes: int = 0
    seconds: float = 0.0
