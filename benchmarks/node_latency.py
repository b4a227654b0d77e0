"""End-to-end latency of segmentation_node beside the bare engine and bare transport, in the same run.

Frames go one at a time from this process through DDS to the node's process and its labels come back.
Each frame is also given to the bare engine here, and to a process that answers at once with a mask of
the same size (an echo), so that all three see the same machine. Medians; overhead is what the node
adds to engine and transport: decoding, resizing, masking, publishing, threads.

    python benchmarks/node_latency.py --frames 60 --out out/node_latency.json
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
os.environ.setdefault("FASTRTPS_DEFAULT_PROFILES_FILE", str(REPOSITORY / "config" / "fastdds_large_images.xml"))

SETTLE_S = 0.1  # ONNX Runtime's threads spin on after a run and would slow the other process
SIZES = ((640, 480), (1280, 720), (1920, 1080))
ECHO_IN, ECHO_OUT = "/echo/image", "/echo/labels"
NODE_IN, NODE_OUT = "/image", "/segmentation_node/labels"


def run_echo() -> int:
    """Answers every image with a black mono8 image of its size."""
    import rclpy
    from sensor_msgs.msg import Image

    from seg_perception.ros.messages import encode_image
    from seg_perception.ros.qos import profile

    rclpy.init()
    node = rclpy.create_node("echo")
    publisher = node.create_publisher(Image, ECHO_OUT, profile("reliable", 5))

    def answer(message: Image) -> None:
        publisher.publish(encode_image(np.zeros((message.height, message.width), np.uint8), message.header))

    node.create_subscription(Image, ECHO_IN, answer, profile("best_effort", 1))
    rclpy.spin(node)
    return 0


class RoundTrip:
    """Publishes one image and waits for the answer with its stamp."""

    def __init__(self, node: Any, spin: Callable[[], None], topic_in: str, topic_out: str) -> None:
        from sensor_msgs.msg import Image

        from seg_perception.ros.qos import profile

        self._spin = spin
        self._answers: dict[int, float] = {}
        self._publisher = node.create_publisher(Image, topic_in, profile("reliable", 1))
        self._subscription = node.create_subscription(Image, topic_out, self._receive, profile("reliable", 5))

    def _receive(self, message: Any) -> None:
        self._answers[message.header.stamp.sec * 10**9 + message.header.stamp.nanosec] = time.perf_counter()

    def connect(self, timeout: float = 90.0) -> None:
        deadline = time.monotonic() + timeout
        while not (self._publisher.get_subscription_count() and self._subscription.get_publisher_count()):
            self._spin()
            if time.monotonic() > deadline:
                raise TimeoutError(f"nobody answers on {self._subscription.topic_name}")

    def seconds(self, message: Any, timeout: float = 20.0) -> float | None:
        """None when the frame or its answer was lost."""
        now = time.time_ns()
        message.header.stamp.sec, message.header.stamp.nanosec = now // 10**9, now % 10**9
        sent = time.perf_counter()
        self._publisher.publish(message)
        while now not in self._answers:
            self._spin()
            if time.perf_counter() - sent > timeout:
                return None
        return self._answers.pop(now) - sent


def measure(frames: int, model: Path | None, threads: int) -> dict[str, dict[str, float]]:
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from std_msgs.msg import Header

    from seg_perception.core.files import DEFAULT_MODEL
    from seg_perception.core.types import Size
    from seg_perception.engines.opening import open_engine
    from seg_perception.ros.messages import encode_image
    from seg_perception.scenes import Drive
    from seg_perception.segmenter import Segmenter

    rclpy.init()
    node = rclpy.create_node("latency")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    to_node = RoundTrip(node, lambda: executor.spin_once(timeout_sec=0.05), NODE_IN, NODE_OUT)
    to_echo = RoundTrip(node, lambda: executor.spin_once(timeout_sec=0.05), ECHO_IN, ECHO_OUT)
    to_node.connect()
    to_echo.connect()
    segmenter = Segmenter(open_engine(model or DEFAULT_MODEL, "onnxruntime", threads))
    report = {}
    for width, height in SIZES:
        image = Drive(seed=1, size=Size(width, height)).frame(0).image
        prepared = segmenter.prepare(image)
        message = encode_image(image, Header())
        rows = {"engine": [], "transport": [], "end_to_end": []}  # type: dict[str, list[float]]
        lost = 0
        for index in range(frames + 5):
            time.sleep(SETTLE_S)
            began = time.perf_counter()
            segmenter.infer([prepared])
            engine = time.perf_counter() - began
            time.sleep(SETTLE_S)
            transport = to_echo.seconds(message)
            total = to_node.seconds(message)
            if transport is None or total is None:
                lost += 1
            elif index >= 5:  # the first ones warm up
                for name, value in zip(rows, (engine, transport, total)):
                    rows[name].append(value * 1e3)
        median = {name: float(np.median(values)) for name, values in rows.items()}
        alone = median["engine"] + median["transport"]
        report[f"{width}x{height}"] = {f"{name}_ms": value for name, value in median.items()} | {
            "end_to_end_p95_ms": float(np.percentile(rows["end_to_end"], 95)),
            "engine_p95_ms": float(np.percentile(rows["engine"], 95)),
            "overhead_ms": median["end_to_end"] - alone,
            "ratio": median["end_to_end"] / alone,
            "lost": float(lost),
            "frames": float(frames),
        }
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown()
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--role", choices=("echo",))
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--model", type=Path, help="an ONNX file; left out: the shipped one")
    parser.add_argument("--threads", type=int, default=0, help="of one inference; 0: all cores")
    parser.add_argument("--out", type=Path, default=Path("out/node_latency.json"))
    arguments = parser.parse_args()
    if arguments.role == "echo":
        return run_echo()
    options = ["-p", "engine:=onnxruntime", "-p", f"threads:={arguments.threads}"]
    if arguments.model:
        options += ["-p", f"model:={arguments.model.resolve()}"]
    commands = (
        [sys.executable, "-m", "seg_perception.ros.node.segmentation_node", "--ros-args", *options],
        [sys.executable, __file__, "--role", "echo"],
    )
    processes = [subprocess.Popen(command, stderr=subprocess.DEVNULL) for command in commands]
    try:
        report = measure(arguments.frames, arguments.model, arguments.threads)
    finally:
        for process in processes:
            process.send_signal(signal.SIGINT)
            process.wait(20)
    print(f"medians of {arguments.frames} frames, ms; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(f"{'camera':>10} {'engine':>8} {'transport':>10} {'end to end':>11} {'p95':>8} {'overhead':>9} {'ratio':>6}")
    for size, row in report.items():
        print(
            f"{size:>10} {row['engine_ms']:>8.1f} {row['transport_ms']:>10.1f} {row['end_to_end_ms']:>11.1f} "
            f"{row['end_to_end_p95_ms']:>8.1f} {row['overhead_ms']:>9.1f} {row['ratio']:>6.2f}"
        )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
