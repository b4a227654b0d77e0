"""Fixtures of the ROS tests."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves it out; node_harness is there

import interface_builder
import pytest
from node_harness import write_tiny_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX graph with labels = red // 26 and confidence = green, in microseconds."""
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.onnx")


@pytest.fixture(scope="session")
def built_interfaces(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tf2_msgs, bond and vision_msgs, built once and kept in pytest's cache, where there is one."""
    if reason := interface_builder.why_not():
        pytest.skip(reason)
    source = Path(interface_builder.__file__).read_bytes() + sys.version.encode()
    cache = getattr(pytestconfig, "cache", None)  # none with -p no:cacheprovider
    kept = tmp_path_factory.mktemp("ros_interfaces") if cache is None else cache.mkdir("ros_interfaces")
    place = kept / hashlib.sha256(source).hexdigest()[:16]
    if not (place / "complete").exists():
        shutil.rmtree(place, ignore_errors=True)
        interface_builder.build(tuple(interface_builder.PACKAGES), place)
        (place / "complete").touch()
    interface_builder.load(place)
    return place


_IMPORTED: dict[str, ModuleType] = {}


@pytest.fixture
def ros_interfaces(built_interfaces: Path) -> Iterator[None]:
    """Real message packages that no wheel carries, importable for one test; those of a ROS install come first."""
    if all(importlib.util.find_spec(name) for name in interface_builder.PACKAGES):
        yield
        return
    sys.path.append(str(built_interfaces))
    sys.modules.update(_IMPORTED)
    importlib.invalidate_caches()
    yield
    for name in [n for n in sys.modules if n.partition(".")[0] in interface_builder.PACKAGES]:
        _IMPORTED[name] = sys.modules.pop(name)  # their libraries must not be loaded twice
    sys.path.remove(str(built_interfaces))
