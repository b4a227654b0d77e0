"""The node as a process: no arguments, the shipped model, and a clean end on SIGINT and SIGTERM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from node_harness import wait_until

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_starts_with_no_arguments_and_ends_cleanly(
    environment: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    log = tmp_path / "log.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "seg_perception.ros.node.segmentation_node"], stderr=output, env=environment
        )
    try:
        wait_until(lambda: "activate: now active" in log.read_text(), "the active state", timeout=90)
        process.send_signal(number)
        assert process.wait(30) == 0, log.read_text()
        text = log.read_text()
        assert "shut down: now finalized" in text
        assert "Traceback" not in text
        assert "terminate called" not in text
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_it_runs_where_torch_cannot_be_imported(environment: dict[str, str]) -> None:
    code = "import sys; sys.modules['torch'] = None\nimport seg_perception.ros.node.segmentation_node\nprint('ok')"
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.stdout.strip() == "ok", result.stderr


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--params-file", "{tmp}/tab.yaml"], "Couldn't parse params file: '--params-file {tmp}/tab.yaml'"),
        (["--params-file", "{tmp}/none.yaml"], "Couldn't parse params file: '--params-file {tmp}/none.yaml'"),
        (["--nope"], "['--nope']"),
    ],
)
def test_arguments_that_ros_refuses_are_one_line(
    environment: dict[str, str], tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "tab.yaml").write_text("/**:\n\tros__parameters: {}\n")
    given = [argument.format(tmp=tmp_path) for argument in arguments]
    command = [sys.executable, "-m", "seg_perception.ros.node.segmentation_node", "--ros-args", *given]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 2
    assert "segmentation_node: ROS refuses the arguments: " in result.stderr
    assert message.format(tmp=tmp_path) in result.stderr
    assert "Traceback" not in result.stderr
