"""Does the first image arrive? Single images to a fresh node, each sent once, without a Fast DDS profile.

A reliable publisher with the middleware as it comes sends one image after the other, each only when the
answer to the one before has come or was given up. Prints how many were answered, by size.

    python benchmarks/first_contact.py --frames 100 --out out/first_contact.json
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
for variable in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"):
    os.environ.pop(variable, None)

SIZES = ((640, 480), (1280, 720), (1920, 1080))
NODE = ("-m", "seg_perception.ros.node.segmentation_node")


def measure(size: tuple[int, int], frames: int, timeout: float, reliability: str) -> dict[str, float]:
    """A node of its own for each size, so that each first image is a first contact."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from sensor_msgs.msg import Image
    from std_msgs.msg import Header

    from seg_perception.ros.messages import encode_image
    from seg_perception.ros.qos import profile

    process = subprocess.Popen([sys.executable, *NODE], stderr=subprocess.DEVNULL)
    rclpy.init()
    node = rclpy.create_node("first_contact")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    answered: dict[int, float] = {}

    def receive(message: Any) -> None:
        answered[message.header.stamp.sec] = time.perf_counter()

    publisher = node.create_publisher(Image, "/image", profile(reliability, 1))
    labels = node.create_subscription(Image, "/segmentation_node/labels", receive, profile("reliable", 5))
    numbers = np.random.default_rng(0)
    waited = []
    try:
        deadline = time.monotonic() + 60
        while not (publisher.get_subscription_count() and labels.get_publisher_count()):
            executor.spin_once(timeout_sec=0.05)
            if time.monotonic() > deadline:
                raise TimeoutError("the node does not listen")
        if reliability == "best_effort":  # it subscribes anew for such a publisher
            time.sleep(2.0)
        for index in range(frames):
            message = encode_image(numbers.integers(0, 255, (size[1], size[0], 3), np.uint8), Header())
            message.header.stamp.sec = index
            sent = time.perf_counter()
            publisher.publish(message)
            while index not in answered and time.perf_counter() - sent < timeout:
                executor.spin_once(timeout_sec=0.05)
            if index in answered:
                waited.append((answered[index] - sent) * 1e3)
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown()
        process.send_signal(signal.SIGINT)
        process.wait(20)
    return {
        "sent": frames,
        "answered": len(waited),
        "p50_ms": float(np.median(waited)) if waited else float("nan"),
        "max_ms": max(waited, default=float("nan")),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds until an answer is given up")
    parser.add_argument("--reliability", choices=("reliable", "best_effort"), default="reliable")
    parser.add_argument("--out", type=Path, default=Path("out/first_contact.json"))
    arguments = parser.parse_args()
    report = {}
    print(f"{arguments.reliability} publisher, no Fast DDS profile; each image is sent once")
    print(f"{'size':>10} {'sent':>5} {'answered':>9} {'p50 ms':>7} {'max ms':>7}")
    for size in SIZES:
        row = measure(size, arguments.frames, arguments.timeout, arguments.reliability)
        report[f"{size[0]}x{size[1]}"] = row
        print(
            f"{f'{size[0]}x{size[1]}':>10} {row['sent']:>5} {row['answered']:>9} "
            f"{row['p50_ms']:>7.0f} {row['max_ms']:>7.0f}",
            flush=True,
        )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=2))
    return 0 if all(row["answered"] == row["sent"] for row in report.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
