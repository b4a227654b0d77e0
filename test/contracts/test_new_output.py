"""A new output of the node is one row of one file: published, recorded, offered and documented by that alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "bags"))  # pytest's importlib mode leaves it out

from bag_helpers import picture, write_bag, write_tiny_model

from seg_perception.bags.messages import labels_of
from seg_perception.bags.reader import BagReader

pytest.importorskip("rclpy", reason="neither a sourced ROS 2 nor the rclpy wheels")

ROW = """
    FrameOutput(
        "forbidden",
        IMAGE,
        "mono8: where the car must not drive",
        recorded=True,
        processed=True,
        make=lambda answer: 255 - answer.mask,
    ),
"""


@pytest.fixture(scope="module")
def copy(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package in which that row, and nothing else, was added."""
    root = tmp_path_factory.mktemp("copy")
    ignored = shutil.ignore_patterns("weights", "__pycache__")
    shutil.copytree(repository / "seg_perception", root / "seg_perception", ignore=ignored)
    (root / "seg_perception" / "weights").symlink_to(repository / "seg_perception" / "weights")
    (root / "config").symlink_to(repository / "config")
    table = root / "seg_perception" / "node_outputs.py"
    text = table.read_text(encoding="utf-8")
    assert text.count("\n    DIAGNOSTICS,\n)") == 1
    table.write_text(text.replace("\n    DIAGNOSTICS,\n)", f"{ROW}    DIAGNOSTICS,\n)"), encoding="utf-8")
    return root


def run(copy: Path, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(copy)},
        cwd=copy,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_documented_and_offered(copy: Path) -> None:
    printed = run(copy, "-c", "from seg_perception.node_outputs import outputs_table; print(outputs_table())")
    assert "| `~/forbidden` | sensor_msgs/Image | mono8: where the car must not drive |" in printed
    assert "forbidden" in run(copy, "-m", "seg_perception.cli.main", "bag", "process", "--help")


def test_bag_process_writes_it(copy: Path, tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "tiny.onnx")
    source, out = write_bag(tmp_path / "in.mcap", [picture(0)]), tmp_path / "out.mcap"
    run(copy, "-m", "seg_perception.cli.main", "bag", "process", source, out, "--model", model)
    check(out)


def test_the_node_publishes_it_and_the_demo_records_it(copy: Path, tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "tiny.onnx")
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "0.png"), picture(0)[:, :, ::-1])
    out = tmp_path / "out"
    run(copy, "-m", "seg_perception.cli.main", "demo", "--images", tmp_path / "images", "--model", model, "--out", out)
    assert json.loads((out / "summary.json").read_text(encoding="utf-8"))["messages_out"]["forbidden"] == 1
    check(out / "demo.mcap")


def check(path: Path) -> None:
    with BagReader(path) as bag:
        images = {}
        for name in ("forbidden", "drivable"):
            (message,) = bag.messages([f"/segmentation_node/{name}"])
            images[name] = labels_of(bag.decode(message), message.topic.type)
    assert (images["forbidden"] == 255 - images["drivable"]).all()
    assert images["forbidden"].any()
