"""Each step of a frame on the host beside a copy of the bytes it has to move, in turns: how far it is from the memory.

    python benchmarks/host_steps.py [--rounds 200] [--json out/host_steps.json]

One camera, rgb8, the default model's size, three outputs. Milliseconds of the process's CPU time, medians of the
rounds. The limit of a step is `ndarray.copy` of the larger of what it reads and what it writes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from seg_perception.core.drivable import DrivableMasker, DrivableSettings
from seg_perception.core.files import DEFAULT_MODEL
from seg_perception.core.resizing import network_size, resize_image, resize_labels
from seg_perception.core.types import Segmentation, Size
from seg_perception.engines.opening import open_engine
from seg_perception.ros.messages import decode_image, encode_image, serialize_image

SIZES = (Size(640, 480), Size(1280, 720), Size(1920, 1080))


@dataclass(frozen=True, slots=True)
class Row:
    """CPU milliseconds of one step at one size."""

    size: str
    step: str
    ms: float
    copy_ms: float


def cpu_ms(action: Callable[[], object]) -> float:
    began = time.process_time_ns()
    action()
    return (time.process_time_ns() - began) / 1e6


def measure(camera: Size, rounds: int) -> list[Row]:
    with open_engine(DEFAULT_MODEL, "onnxruntime", threads=1) as engine:
        card = engine.card
        small = network_size(camera, card.input_size, card.size_multiple)
        random = np.random.default_rng(0)
        image = random.integers(0, 256, (camera.height, camera.width, 3), np.uint8)
        labels, confidence = (plane[0] for plane in engine.infer(resize_image(image, small)[None]))
    message = encode_image(image, Header())
    serialized = serialize_message(message)
    masker, stamps = DrivableMasker(DrivableSettings(), card.label_set), count(0, 10**8)
    segmentation = Segmentation(resize_labels(labels, camera), resize_labels(confidence, camera))
    steps: dict[str, tuple[Callable[[], object], NDArray[np.uint8]]] = {
        "message out of its bytes (rclpy)": (lambda: deserialize_message(serialized, Image), image),
        "pixels of the message": (lambda: decode_image(message), image),
        "shrink to the network's size": (lambda: resize_image(image, small), image),
        "labels to the camera's size": (lambda: resize_labels(labels, camera), segmentation.labels),
        "confidence to the camera's size": (lambda: resize_labels(confidence, camera), segmentation.labels),
        "drivable mask": (lambda: masker.mask(segmentation, next(stamps)), segmentation.labels),
        "message of one output": (lambda: serialize_image(segmentation.labels, Header()), segmentation.labels),
    }
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, (action, moved) in steps.items():
            took[name].append((cpu_ms(action), cpu_ms(moved.copy)))
    return [Row(str(camera), name, *(statistics.median(column) for column in zip(*took[name]))) for name in steps]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--json", type=Path, default=Path("out/host_steps.json"))
    arguments = parser.parse_args()
    cv2.setNumThreads(1)  # as in the node's process
    rows = [row for size in SIZES for row in measure(size, arguments.rounds)]
    print("| size | step | ms | copy, ms |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row.size} | {row.step} | {row.ms:.2f} | {row.copy_ms:.2f} |")
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
