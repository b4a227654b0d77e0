"""CPU time per frame of segmentation_node without inference, at 30 frames a second of 1280x720.

Three processes over real DDS: a camera, the node with an engine that answers at once, and a
subscriber of labels, confidence and drivable. The node's CPU time is read from the kernel.

    python benchmarks/node_overhead.py --seconds 10 --out out/node_overhead.json
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

PROFILE = Path(__file__).resolve().parents[1] / "config" / "fastdds_large_images.xml"
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
os.environ.setdefault("FASTRTPS_DEFAULT_PROFILES_FILE", str(PROFILE))

OUTPUTS = {"nobody": (), "drivable": ("drivable",), "all three": ("drivable", "labels", "confidence")}


class InstantEngine:
    """The answer without the work: zeros of the right shape."""

    def __init__(self) -> None:
        from seg_perception.core.files import DEFAULT_MODEL
        from seg_perception.engines.base import EngineInfo
        from seg_perception.engines.opening import open_engine

        engine = open_engine(DEFAULT_MODEL, "onnxruntime")
        self.card = engine.card
        engine.close()
        self.info = EngineInfo("instant", "0", "none", "none", None, None)

    def infer(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(images.shape[:3], np.uint8), np.zeros(images.shape[:3], np.uint8)

    def close(self) -> None:
        pass


def run_node() -> int:
    import rclpy
    from rclpy.signals import SignalHandlerOptions

    from seg_perception.ros.node.lifecycle import SegmentationNode
    from seg_perception.ros.node.spinning import spin_until

    stop = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = SegmentationNode(lambda _settings, _opening: InstantEngine())
    status = spin_until(node, stop, alone=True)
    node.destroy_node()
    rclpy.shutdown()
    return status


def run_camera(width: int, height: int, fps: float) -> int:
    import rclpy
    from builtin_interfaces.msg import Time
    from sensor_msgs.msg import Image
    from std_msgs.msg import Header

    from seg_perception.ros.messages import encode_image

    rclpy.init()
    node = rclpy.create_node("camera")
    publisher = node.create_publisher(Image, "/image", 1)
    message = encode_image(np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8), Header())
    due = time.monotonic()
    while rclpy.ok():
        now = time.time_ns()
        message.header.stamp = Time(sec=now // 10**9, nanosec=now % 10**9)
        publisher.publish(message)
        due += 1 / fps
        time.sleep(max(0.0, due - time.monotonic()))
    return 0


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def start(role: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, __file__, "--role", role, *arguments], stderr=subprocess.DEVNULL)


def measure(watched: tuple[str, ...], seconds: float, size: tuple[int, int], fps: float) -> dict[str, float]:
    import rclpy
    from diagnostic_msgs.msg import DiagnosticArray
    from rclpy.executors import SingleThreadedExecutor
    from sensor_msgs.msg import Image

    node_process = start("node")
    camera = start("camera", *map(str, size), str(fps))
    rclpy.init()
    node = rclpy.create_node("watcher")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    arrived = dict.fromkeys(watched, 0)
    last: dict[str, str] = {}

    def count(name: str) -> None:
        arrived[name] += 1

    for name in watched:
        node.create_subscription(Image, f"/segmentation_node/{name}", lambda _m, name=name: count(name), 5)

    def diagnostics(message: DiagnosticArray) -> None:
        for status in message.status:
            if "camera" in status.name:
                last.update({v.key: v.value for v in status.values})

    node.create_subscription(DiagnosticArray, "/diagnostics", diagnostics, 10)
    try:
        deadline = time.monotonic() + 60
        while int(last.get("published", 0)) < 30 or (arrived and min(arrived.values()) < 10):
            executor.spin_once(timeout_sec=0.1)
            assert time.monotonic() < deadline, f"no frames came: {last} {arrived}"
        published, cpu, began = int(last["published"]), cpu_seconds(node_process.pid), time.monotonic()
        # the window ends with a diagnostics message, so that count and CPU time belong together
        while time.monotonic() - began < seconds:
            executor.spin_once(timeout_sec=0.1)
        before = last["published"]
        while last["published"] == before:
            executor.spin_once(timeout_sec=0.1)
        frames = int(last["published"]) - published
        spent = cpu_seconds(node_process.pid) - cpu
        return {
            "frames": frames,
            "fps": frames / (time.monotonic() - began),
            "cpu_ms_per_frame": spent / frames * 1e3,
            "cpu_share_of_one_core": spent / (time.monotonic() - began),
        }
    finally:
        executor.shutdown()
        for process in (camera, node_process):
            process.send_signal(signal.SIGINT)
            process.wait(20)
        node.destroy_node()
        rclpy.shutdown()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--role", choices=("node", "camera"))
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--size", type=int, nargs=2, default=(1280, 720), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--fps", type=float, default=30.0)
    parser.add_argument("--out", type=Path, default=Path("out/node_overhead.json"))
    parser.add_argument("rest", nargs="*")
    arguments = parser.parse_args()
    if arguments.role == "node":
        return run_node()
    if arguments.role == "camera":
        width, height, fps = arguments.rest
        return run_camera(int(width), int(height), float(fps))
    report = {}
    print(f"{arguments.size[0]}x{arguments.size[1]} at {arguments.fps:g} frames/s, no inference")
    print(f"{'subscribed':>12} {'frames':>7} {'fps':>6} {'CPU ms/frame':>13} {'of one core':>12}")
    for name, watched in OUTPUTS.items():
        row = measure(watched, arguments.seconds, tuple(arguments.size), arguments.fps)
        report[name] = row
        print(
            f"{name:>12} {row['frames']:>7} {row['fps']:>6.1f} {row['cpu_ms_per_frame']:>13.2f} "
            f"{row['cpu_share_of_one_core']:>11.1%}"
        )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
