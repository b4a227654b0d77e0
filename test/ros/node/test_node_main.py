"""The node as a process: no arguments, the shipped model, and a clean end on SIGINT and SIGTERM."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from node_harness import wait_until
from waiting import PATIENCE_S

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


NODE = [sys.executable, "-m", "seg_perception.ros.node.segmentation_node"]
_TGKILL = {"x86_64": 234, "aarch64": 131}  # the system call's number


@contextmanager
def started(environment: dict[str, str], log: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen([*NODE, *arguments], stderr=output, env=environment)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def assert_clean_end(process: subprocess.Popen[bytes], log: Path) -> str:
    assert process.wait(PATIENCE_S) == 0, log.read_text()
    text = log.read_text()
    assert "Traceback" not in text
    assert "terminate called" not in text
    return text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_starts_with_no_arguments_and_ends_cleanly(
    environment: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    log = tmp_path / "log.txt"
    with started(environment, log) as process:
        wait_until(lambda: "activate: now active" in log.read_text(), "the active state")
        process.send_signal(number)
        wait_until(lambda: "shut down: now finalized" in log.read_text(), "its end")
        while process.poll() is None:  # an impatient user, until it is gone: Python's own end included
            process.send_signal(number)
            time.sleep(0.001)
        assert_clean_end(process, log)


def has_sigterm(status: Path, mask: str) -> bool:
    """Whether a process or thread has it in its SigCgt (handled) or SigBlk (blocked)."""
    line = next(line for line in status.read_text().splitlines() if line.startswith(mask))
    return bool(int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_may_be_stopped_while_it_imports(
    environment: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    log = tmp_path / "log.txt"
    with started(environment, log) as process:
        wait_until(lambda: has_sigterm(Path(f"/proc/{process.pid}/status"), "SigCgt"), "its own code")
        process.send_signal(number)
        assert assert_clean_end(process, log) == ""


def test_it_may_be_stopped_while_the_engine_opens(environment: dict[str, str], tmp_path: Path) -> None:
    """The engine's thread cannot be interrupted; Python's own end would abort the process."""
    log, other = tmp_path / "log.txt", tmp_path / "other.yaml"
    other.write_text("segmentation_nod: {ros__parameters: {model: none.onnx}}\n")
    with started(environment, log, "--ros-args", "--params-file", str(other), "-r", "imgae:=/cam") as process:
        wait_until(lambda: "engine auto" in log.read_text(), "the engine's opening")
        process.send_signal(signal.SIGHUP)
        text = assert_clean_end(process, log)
    assert "shut down: now finalized" in text
    assert f"{other} sets nothing here: no section is for /segmentation_node or '/**'" in text
    assert "-r imgae:=/cam changes nothing: did you mean image?" in text


def test_a_signal_that_another_thread_receives_is_not_lost(environment: dict[str, str], tmp_path: Path) -> None:
    call = _TGKILL.get(os.uname().machine)
    if call is None:
        pytest.skip(f"the number of tgkill on {os.uname().machine} is not known here")
    log = tmp_path / "log.txt"
    with started(environment, log) as process:
        wait_until(lambda: "activate: now active" in log.read_text(), "the active state")
        tasks = Path(f"/proc/{process.pid}/task").iterdir()
        others = {int(task.name) for task in tasks if not has_sigterm(task / "status", "SigBlk")} - {process.pid}
        assert ctypes.CDLL(None).syscall(call, process.pid, max(others), int(signal.SIGTERM)) == 0
        assert "shut down: now finalized" in assert_clean_end(process, log)


def run_node(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*NODE, *arguments], env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


def test_help_is_printed(environment: dict[str, str]) -> None:
    result = run_node(environment, "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("usage: segmentation_node [--ros-args ")


@pytest.mark.parametrize(
    "arguments, named",
    [
        (["-p", "model:=my.onnx"], "'-p' 'model:=my.onnx' is not accepted: ROS arguments follow --ros-args"),
        (["model.onnx"], "'model.onnx' is not accepted"),
        (["--ros-args", "-p", "threads:=1", "--", "--threads", "2"], "'--threads' '2' is not accepted"),
    ],
)
def test_arguments_that_are_not_for_ros_are_refused(
    environment: dict[str, str], arguments: list[str], named: str
) -> None:
    result = run_node(environment, *arguments)
    assert result.returncode == 2
    assert result.stderr.startswith(f"segmentation_node: {named}")
    assert "usage: segmentation_node" in result.stderr


@pytest.mark.parametrize("missing", ["rclpy", "sensor_msgs"])
def test_without_ros_it_says_what_is_missing(environment: dict[str, str], missing: str) -> None:
    code = f"import sys; sys.modules['{missing}'] = None\nfrom seg_perception.ros.node.segmentation_node import main"
    result = subprocess.run(
        [sys.executable, "-c", f"{code}\nsys.exit(main([]))"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert result.returncode == 2
    assert f"segmentation_node: the Python package '{missing}" in result.stderr
    assert "source ROS 2" in result.stderr
    assert "Traceback" not in result.stderr


def test_it_runs_where_torch_cannot_be_imported(environment: dict[str, str]) -> None:
    code = "import sys; sys.modules['torch'] = None\nimport seg_perception.ros.node.lifecycle\nprint('ok')"
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert result.stdout.strip() == "ok", result.stderr


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--params-file", "{tmp}/tab.yaml"], "the arguments: .*parse params file: '--params-file {tmp}/tab.yaml'"),
        (["--params-file", "{tmp}/none.yaml"], "the arguments: .*parse params file: '--params-file {tmp}/none.yaml'"),
        (["--nope"], r"the arguments: \['--nope'\]"),
        (["-p", "model:=\udcfc.onnx"], "the arguments: .*surrogates not.*LC_ALL=C.UTF-8"),  # no UTF-8 in the C locale
        (["-p", "use_sim_time:=often"], "to make the node: .*'use_sim_time' to 'often'"),
    ],
)
def test_arguments_that_ros_refuses_are_one_line(
    environment: dict[str, str], tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "tab.yaml").write_text("/**:\n\tros__parameters: {}\n")
    given = [argument.format(tmp=tmp_path) for argument in arguments]
    result = run_node(environment, "--ros-args", *given)
    assert result.returncode == 2
    assert re.search(f"^segmentation_node: ROS refuses {message.format(tmp=tmp_path)}", result.stderr, re.MULTILINE)
    assert "Traceback" not in result.stderr


def test_where_no_log_can_be_written_it_says_what_to_set(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run_node(environment | {"ROS_LOG_DIR": str(tmp_path / "file")})
    assert result.returncode == 2
    assert result.stderr.rstrip().endswith("; set ROS_LOG_DIR to a folder that can be written")
