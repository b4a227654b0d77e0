"""A camera's driver with its calibration, for tests of meters."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from nav_msgs.msg import OccupancyGrid
from node_harness import Running, image_message, stamp, values
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from waiting import wait_until

from seg_perception.core.label_set import load_label_set

IDS = {name: i for i, name in enumerate(load_label_set("driving").names)}
FIXED = {"ground.source": "fixed", "ground.height": 1.5, "network_size": "640x480"}
START = 5_000_000_000
STEP = 100_000_000


def picture_of(labels: np.ndarray, confidence: int = 255) -> np.ndarray:
    """What the tiny model reads as these labels and this confidence."""
    image = np.zeros((*labels.shape, 3), np.uint8)
    image[..., 0], image[..., 1] = labels * 26 + 13, confidence
    return image


def road_below_300() -> np.ndarray:
    labels = np.full((480, 640), IDS["background"], np.uint8)
    labels[300:] = IDS["road"]
    return labels


def info_message(stamp_ns: int, **changes: Any) -> CameraInfo:
    info = CameraInfo(header=Header(stamp=stamp(stamp_ns), frame_id="camera_optical"), height=480, width=640)
    info.distortion_model = "plumb_bob"
    info.d = [0.0] * 5
    info.k = [500.0, 0.0, 320.0, 0.0, 500.0, 240.0, 0.0, 0.0, 1.0]
    for name, value in changes.items():
        setattr(info, name, value)
    return info


class Driver:
    """A camera's driver: images with their camera_info."""

    def __init__(self, run: Running, name: str = "", labels: np.ndarray | None = None) -> None:
        self._run, self._name = run, name
        prefix = f"{name}/" if name else ""
        self.images = run.peer.publisher(Image, f"/{prefix}image")
        self.infos = run.peer.publisher(CameraInfo, f"/{prefix}camera_info")
        self.labels = road_below_300() if labels is None else labels
        self.frame_id = f"{name}_optical" if name else "camera_optical"
        self.sent = 0

    def send(self, info: Callable[[int], CameraInfo] | None = info_message, confidence: int = 255) -> int:
        """One frame; answers its stamp."""
        stamp_ns = START + STEP * self.sent
        self.sent += 1
        if info is not None:
            self.infos.publish(info(stamp_ns))
        self.images.publish(image_message(picture_of(self.labels, confidence), stamp_ns, self.frame_id))
        return stamp_ns

    def statuses(self) -> list[DiagnosticStatus]:
        return self._run.peer.statuses(f": camera {self._name}".rstrip())

    def send_until(self, condition: Callable[[], Any], what: str, **arguments: Any) -> Any:
        """Frame after frame, ten a second, until something is so."""

        def sent() -> Any:
            if result := condition():
                return result
            self.send(**arguments)
            time.sleep(0.1)
            return None

        return wait_until(sent, what, lambda: [values(s) for s in self.statuses()[-1:]])


def handled(run: Running) -> int:
    """Frames of the only camera that have a grid, or for which it was counted that they have none."""
    assert run.node.meters is not None
    report = run.node.meters.report("")  # diagnostics say it, too, but once a second
    return report.placed + report.without


def cells_of(grid: OccupancyGrid) -> np.ndarray:
    return np.array(grid.data, np.int8).reshape(grid.info.height, grid.info.width)


def parameters(tiny_model: Path, **more: Any) -> dict[str, Any]:
    return {"model": str(tiny_model), "engine": "onnxruntime", **FIXED, **more}
