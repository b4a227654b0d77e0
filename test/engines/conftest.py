"""Fixtures for the engines' tests; the fakes beside this file are importable by name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from seg_perception.core.errors import EngineError
from seg_perception.engines.tensorrt_versions import TensorRtLibrary, load_library

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def nvidia() -> TensorRtLibrary:
    """NVIDIA's real compiler. `make test` installs it where NVIDIA ships it: x86-64 Linux."""
    try:
        return load_library()
    except EngineError as error:
        pytest.skip(f"NVIDIA's compiler is not here: {error}")
