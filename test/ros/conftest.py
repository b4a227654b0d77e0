"""Fixtures of the ROS tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves it out; node_harness is there

import pytest
from node_harness import write_tiny_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX graph with labels = red // 26 and confidence = green, in microseconds."""
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.onnx")
