"""Nothing here phones home: node, demo and commands, with every library they bring, in a namespace where it shows."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
TRACE = [sys.executable, str(Path(__file__).with_name("trace.py")), "--"]
UNSHARE = ["unshare", "--net", "--mount"]


def why_no_namespace() -> str | None:
    try:
        made = subprocess.run([*UNSHARE, "ip", "link"], capture_output=True, text=True, timeout=20, check=False)
    except FileNotFoundError as error:
        return f"{error.filename} is not installed"
    return None if made.returncode == 0 else f"network namespaces cannot be made here: {made.stderr.strip()}"


@dataclass(frozen=True)
class Trace:
    status: int
    names: dict[str, int]
    packets: dict[str, int]
    output: str
    files: set[str]


@pytest.fixture
def trace(tmp_path: Path) -> Any:
    if (reason := why_no_namespace()) is not None:
        pytest.skip(reason)

    def run(script: str, seconds: float = 0, after: str = "", **variables: str) -> Trace:
        """Run a shell script; `seconds` after it has said `after` it gets SIGINT."""
        path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
        environment = os.environ | {
            "PYTHONPATH": path,
            "PYTHON": sys.executable,
            "HOME": str(tmp_path),  # ONNX Runtime's telemetry writes a device id and a database there
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
            "TRACE_FOLDER": str(tmp_path),
            "TRACE_SECONDS": str(seconds),
            "TRACE_AFTER": after,
        }
        environment.pop("ORT_DISABLE_TELEMETRY", None)
        command = [*UNSHARE, *TRACE, "sh", "-ec", script]
        result = subprocess.run(
            command,
            env=environment | variables,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=500,  # demo, training and export on a busy machine
            check=False,
        )
        assert result.returncode == 0, result.stderr
        found = json.loads(result.stdout.splitlines()[-1])
        written = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if "Microsoft" in file.parts}
        output = (tmp_path / "output.txt").read_text(encoding="utf-8", errors="replace")
        return Trace(found["status"], found["names"], found["packets"], output, written)

    return run


def assert_silent(found: Trace) -> None:
    assert found.status == 0, found.output
    assert found.names == {}, found.output
    assert found.packets == {}, found.output
    assert found.files == set()


def test_the_trace_sees_a_look_up_and_a_connection(trace: Any) -> None:
    code = """
import socket
for target in (("telemetry.example.com", 443), ("8.8.8.8", 80)):
    try:
        socket.create_connection(target, timeout=0.3)
    except OSError:
        pass
"""
    found = trace(f"$PYTHON -c '{code}'")
    assert found.status == 0
    assert found.names == {"telemetry.example.com": found.names["telemetry.example.com"]}
    assert {"tcp to 127.0.0.2:443", "tcp to 8.8.8.8:80"} <= found.packets.keys()


def test_node_and_demo(trace: Any) -> None:
    pytest.importorskip("rclpy", reason="ROS is not installed")
    assert_silent(
        trace(
            """
            $PYTHON -m seg_perception.cli.main demo --frames 8 --size 320x240 --out out
            $PYTHON -m seg_perception.cli.main bag process out/demo.mcap processed.mcap
            """
        )
    )
    found = trace("exec $PYTHON -m seg_perception.ros.node.segmentation_node", seconds=5, after="activate: now active")
    assert_silent(found)
    assert "activate: now active" in found.output  # and the first report goes out 4 s after that


TRAINING = """
name: tiny
train: [{kind: folder, root: data, mapping: identity}]
validation: [{kind: folder, root: data, mapping: identity}]
network: {name: reference, options: {width: 0.125, convolutions: [1, 1, 1, 1]}}
augmentation: {crop: 96x64}
deployed_size: 96x64
steps: 2
batch_size: 2
validate_every: 2
data_notes: [noise]
license: ours
limits: [noise]
"""


def test_commands(trace: Any, tmp_path: Path) -> None:
    for package in ("torch", "matplotlib", "tensorboard"):
        pytest.importorskip(package)
    numbers = np.random.default_rng(0)
    for folder, shape in (("images", (64, 96, 3)), ("labels", (64, 96))):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for index in range(4):
            picture = numbers.integers(0, 10, shape, np.uint8)
            assert cv2.imwrite(str(tmp_path / "data" / folder / f"{index}.png"), picture)
    (tmp_path / "train.yaml").write_text(TRAINING)
    engines = ["onnxruntime", *(["openvino"] if importlib.util.find_spec("openvino") else [])]
    predict = "\n".join(f"$SEG predict data/images --out out/{engine} --engine {engine}" for engine in engines)
    found = trace(
        f"""
        SEG="$PYTHON -m seg_perception.cli.main"
        $SEG train --config train.yaml --data-root . --output runs
        $SEG export --checkpoint runs/tiny/best.safetensors --out tiny.onnx --images data/images
        {predict}
        $SEG evaluate --dataset folder --root data --mapping identity --report report
        """,
    )
    assert_silent(found)
