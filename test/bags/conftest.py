"""Fixtures of the bag tests."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves it out; bag_helpers is there

import pytest
from bag_helpers import write_tiny_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX graph with labels = red // 26 and confidence = green."""
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.onnx")
