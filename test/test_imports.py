"""Each room imports without the packages that it must not need.

import-linter reads the import statements; this test runs them, in a process where the forbidden
packages cannot be found, as on a robot without torch or a training machine without ROS.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "seg_perception"

TORCH = {"torch", "torchvision", "torchgen"}
ROS = {
    *("ament_index_python", "builtin_interfaces", "cv_bridge", "diagnostic_msgs", "launch", "launch_ros"),
    *("lifecycle_msgs", "rcl_interfaces", "rclpy", "rosgraph_msgs", "sensor_msgs", "std_msgs", "vision_msgs"),
}
RUNTIMES = {"cuda", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx_bindings"}
FILES = {"onnx", "rosbags", "safetensors", "tensorboard", "matplotlib", "imageio_ffmpeg"}

FORBIDDEN = {
    "core": TORCH | ROS | RUNTIMES | FILES | {"tqdm"},
    "scenes": TORCH | ROS | RUNTIMES | FILES,
    "video": TORCH | ROS | RUNTIMES | FILES,
    "node_outputs": TORCH | ROS | RUNTIMES | FILES,
    "sources": TORCH | ROS | RUNTIMES | FILES,
    "model": TORCH | ROS | RUNTIMES | FILES | {"PIL"},
    "prediction": TORCH | ROS | RUNTIMES | FILES | {"PIL"},
    "view": TORCH | ROS | RUNTIMES,
    "commands": TORCH | ROS | RUNTIMES | FILES,  # importing it; what a function needs comes when it is called
    "node_parameters": TORCH | ROS | RUNTIMES | FILES,
    "node_settings": TORCH | ROS | RUNTIMES | FILES,
    "engines": TORCH | ROS | RUNTIMES,
    "segmenter": TORCH | ROS | RUNTIMES,
    "datasets": TORCH | ROS | RUNTIMES,
    "evaluation": TORCH | ROS | RUNTIMES,
    "bags": TORCH | ROS | RUNTIMES,
    "cli": TORCH | ROS | RUNTIMES | FILES,  # `seg-perception --help` works on every machine
    "ros": TORCH | RUNTIMES,
    "networks": ROS | RUNTIMES,
    "training": ROS | RUNTIMES,
    "export": ROS | RUNTIMES - {"onnxruntime"},  # an imported model is compared with the original
}
NEEDED = {"ros": "rclpy", "view": "aiohttp", "networks": "torch", "training": "torch", "export": "torch"}

IMPORT_ALL = """
import importlib, importlib.abc, sys

forbidden = set(sys.argv[1].split(","))

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in forbidden:
            raise ModuleNotFoundError(f"{name} is not installed on this machine", name=name)
        return None

sys.meta_path.insert(0, Blocked())
for name in sys.argv[2:]:
    importlib.import_module(name)
print(len(sys.argv[2:]))
"""


def modules_of(room: str) -> list[str]:
    single = PACKAGE / f"{room}.py"
    files = [single] if single.is_file() else sorted((PACKAGE / room).rglob("*.py"))
    parts = (file.relative_to(PACKAGE.parent).with_suffix("").parts for file in files)
    return [".".join(part[:-1] if part[-1] == "__init__" else part) for part in parts]


def import_without(forbidden: set[str], modules: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, ",".join(sorted(forbidden)), *modules],
        capture_output=True,
        text=True,
        timeout=110,
        cwd=PACKAGE.parent,
        check=False,
    )


@pytest.mark.parametrize("room", FORBIDDEN)
def test_room_imports_without_what_it_must_not_need(room: str) -> None:
    needed = NEEDED.get(room)
    if needed is not None and importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    modules = modules_of(room)
    assert modules, f"no module found for {room}"
    result = import_without(FORBIDDEN[room], modules)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split()[-1] == str(len(modules))


def test_every_room_is_checked() -> None:
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert rooms - {"__init__", "__main__", "weights"} == set(FORBIDDEN)


def test_the_block_blocks() -> None:
    result = import_without({"yaml"}, ["seg_perception.core.label_set"])
    assert result.returncode != 0
    assert "yaml is not installed on this machine" in result.stderr
