"""What a command's process needs around its work: signals, missing packages, safe text."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from unicodedata import category

EXTRA_OF = {
    "aiohttp": "view",
    "mcap": "bags",
    "zstandard": "bags",
    "lz4": "bags",
    "imageio_ffmpeg": "bags",
    "rosbags": "bags",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "jinja2": "train",
    "markupsafe": "train",
    "PIL": "convert",
    "pycocotools": "convert",
    "matplotlib": "train",
    "onnxscript": "train",
    "safetensors": "train",
    "tensorboard": "train",
    "torch": "train",
    "cuda": "tensorrt",
    "tensorrt_rtx_bindings": "tensorrt",
    "ament_index_python": "ros",
    "builtin_interfaces": "ros",
    "cv_bridge": "ros",
    "diagnostic_msgs": "ros",
    "lifecycle_msgs": "ros",
    "rcl_interfaces": "ros",
    "rclpy": "ros",
    "rosgraph_msgs": "ros",
    "sensor_msgs": "ros",
    "std_msgs": "ros",
    "vision_msgs": "ros",
}
"""Import name -> the extra of setup.py that brings it."""


def what_to_install(error: ModuleNotFoundError) -> str | None:
    """One line that names the missing package and the extra to install.

    None for a module that no extra brings: then our own installation is broken or incomplete, and
    the traceback says more than a sentence could.
    """
    package = (error.name or "").partition(".")[0]
    extra = EXTRA_OF.get(package)
    if extra is None:
        return None
    line = f"this needs the package {package!r}, which is not installed: pip install 'seg_perception[{extra}]'"
    return f"{line}, or source a ROS 2" if extra == "ros" else line


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """An event that the first SIGINT or SIGTERM sets; the second SIGINT interrupts as usual."""
    stop = threading.Event()

    def request(_number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def printable(text: str, keep: str = "\n\t") -> str:
    """A text from a file, its control characters as escapes: printed, they could rewrite what the terminal shows."""
    return "".join(ascii(c)[1:-1] if category(c) == "Cc" and c not in keep else c for c in text)
