from __future__ import annotations

import time
from pathlib import Path

import pytest

from seg_perception.core.errors import EngineError
from seg_perception.ros.demo.node_process import NodeProcess


def test_a_program_that_ends_is_reported_with_its_status_and_log(tmp_path: Path) -> None:
    with NodeProcess(tmp_path / "log", ["--no-such-option"], module="json.tool") as node:
        deadline = time.monotonic() + 20
        with pytest.raises(
            EngineError, match=r"the node ended with status 2; its log .* ends:\n(.|\n)*--no-such-option"
        ):
            while time.monotonic() < deadline:
                node.check()
                time.sleep(0.01)


def test_the_node_ends_when_its_block_does(tmp_path: Path) -> None:
    with NodeProcess(tmp_path / "log", ["--bind", "127.0.0.1", "0"], module="http.server") as node:
        node.check()
    with pytest.raises(EngineError, match="the node ended"):
        node.check()
