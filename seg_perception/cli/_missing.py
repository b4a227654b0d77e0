"""Says what to install when an optional package is missing."""

from __future__ import annotations

EXTRA_OF = {
    "mcap": "bags",
    "zstandard": "bags",
    "lz4": "bags",
    "imageio_ffmpeg": "bags",
    "rosbags": "bags",
    "onnx": "onnx",
    "onnxruntime": "onnx",
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
