"""Fixtures of the page's tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves it out; view_helpers is there

from view_helpers import FakeControls

from seg_perception.view.board import Board, ViewSettings
from seg_perception.view.server import ViewServer


@pytest.fixture
def board() -> Board:
    board = Board("a test", FakeControls())
    board.set_cameras([""])
    return board


@pytest.fixture
def server(board: Board) -> Iterator[ViewServer]:
    with ViewServer(board, ViewSettings(rate=50, control=True)) as server:
        yield server
