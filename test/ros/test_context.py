from __future__ import annotations

from pathlib import Path

import pytest
from waiting import wait_until

from seg_perception.core.errors import EngineError
from seg_perception.ros.context import NodeProcess


def test_a_program_that_ends_is_reported_with_its_status_and_log(tmp_path: Path) -> None:
    with NodeProcess(tmp_path / "log", ["--no-such-option"], module="json.tool") as node:
        ended = r"the node ended with status 2; its log .* ends:\n(.|\n)*--no-such-option"
        with pytest.raises(EngineError, match=ended):
            wait_until(node.check, "the end")  # it answers None as long as the node runs


def test_the_node_ends_when_its_block_does(tmp_path: Path) -> None:
    with NodeProcess(tmp_path / "log", ["--bind", "127.0.0.1", "0"], module="http.server") as node:
        node.check()
    with pytest.raises(EngineError, match="the node ended"):
        node.check()
