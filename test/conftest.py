"""Fixtures for all rooms."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seg_perception.core.files import DEFAULT_MODEL

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(Path(__file__).parent / "helpers"))  # pytest's importlib mode leaves it out


def pytest_configure(config: pytest.Config) -> None:
    if config.pluginmanager.hasplugin("xdist"):
        config.pluginmanager.register(BuildsOfWorkers())
    # The machine is shared and the images are small: more threads only wait for each other, and wait busily.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")  # "gw0", "gw1": see `make test`
    if worker:  # robots of two processes must not meet
        domain = int(os.environ.get("ROS_DOMAIN_ID", "0")) + 1 + int(worker.removeprefix("gw"))
        os.environ["ROS_DOMAIN_ID"] = str(domain % 101)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the source tree."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of third-party datasets; it never ships, so a test that asks for it may be skipped."""
    named = os.environ.get("SEG_PERCEPTION_DATA")
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "data"
    if not (folder / "camvid11").is_dir():
        pytest.skip(f"no datasets under {folder}; name their folder in SEG_PERCEPTION_DATA")
    return folder


@pytest.fixture(scope="session")
def driving_model() -> Path:
    """The shipped model."""
    assert DEFAULT_MODEL.is_file(), f"{DEFAULT_MODEL} is missing: the package ships it"
    return DEFAULT_MODEL


@pytest.fixture(scope="session")
def quick_exports() -> Iterator[None]:
    """torch reads the table of its exporter anew for every graph, which is half of a small one's time: read it once."""
    registry = pytest.importorskip("torch.onnx._internal.exporter._registration").ONNXRegistry
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "from_torchlib", staticmethod(functools.cache(registry.from_torchlib)))
        yield


_BUILDS = pytest.StashKey[list[tuple[Any, ...]]]()  # each an engines_builds.Build


@pytest.fixture(scope="session")
def builds(pytestconfig: pytest.Config) -> list[tuple[Any, ...]]:
    """Every build that the tests have tried; printed at the end, whether the tests pass or not."""
    return pytestconfig.stash.setdefault(_BUILDS, [])


class BuildsOfWorkers:
    """Hooks of pytest-xdist: what the processes that run the tests noted goes to the one that prints."""

    @staticmethod
    def pytest_testnodedown(node: Any) -> None:
        node.config.stash.setdefault(_BUILDS, []).extend(getattr(node, "workeroutput", {}).get("builds", []))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["builds"] = [tuple(row) for row in session.config.stash.get(_BUILDS, [])]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = config.stash.get(_BUILDS, [])
    if not rows:
        return
    terminalreporter.section("engines compiled by NVIDIA's builder")
    terminalreporter.write_line(f"{'network':<36}{'precision':>10}{'batch':>8}{'built':>7}{'MB':>8}{'seconds':>9}")
    for network, precision, batch, built, size, seconds in rows:
        terminalreporter.write_line(
            f"{network:<36}{precision:>10}{batch:>8}{'yes' if built else 'NO':>7}{size / 1e6:>8.1f}{seconds:>9.1f}"
        )
    terminalreporter.write_line(f"{sum(built for _, _, _, built, _, _ in rows)} of {len(rows)} built")
