"""A stand-in for Nav2's semantic segmentation layer (kiwicampus), which is C++: it demands what its source demands.

Read in src/semantic_segmentation_layer.cpp and src/segmentation_buffer.cpp of that repository, commit a70cf6e:
quality of service, exact time synchronization of three topics through a transform filter, sizes, LabelInfo first, every
class of LabelInfo in the parameters, float32 x, y, z through a point cloud iterator, one observation a tile and frame.
What the layer would only warn of, or drop, is a `fault` here.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image, PointCloud2

SENSOR_DATA_50 = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=50,
    reliability=ReliabilityPolicy.BEST_EFFORT,
    durability=DurabilityPolicy.VOLATILE,
)
LATCHED_5 = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=5,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
FLOAT32 = 7


@dataclass
class StandInSemanticLayer:
    """One observation source of the layer.

    Args:
        parameters: the source's own part of the costmap's YAML.
        known_frames: what TF could transform to the global frame; here they all coincide with it.
    """

    node: Node
    parameters: dict[str, Any]
    resolution: float
    label_info_type: Any
    known_frames: set[str]
    faults: list[str] = field(default_factory=list)
    tiles: dict[tuple[int, int], int] = field(default_factory=dict)  # tile -> cost
    frames: int = 0

    def __post_init__(self) -> None:
        p = self.parameters
        self._costs: dict[str, int] = {}
        for kind in p["class_types"]:
            if not p[kind]["classes"]:
                self.faults.append(f"no classes defined on type {kind}")
            self._costs |= dict.fromkeys(p[kind]["classes"], int(p[kind]["max_cost"]))
        self._cost_of_id: dict[int, int] = {}
        self._queues: tuple[OrderedDict[int, Any], ...] = (OrderedDict(), OrderedDict(), OrderedDict())
        labels, confidence, cloud = self._queues
        subscribe = self.node.create_subscription
        self.subscriptions = [
            subscribe(Image, p["segmentation_topic"], lambda m: self._add(labels, m), SENSOR_DATA_50),
            subscribe(Image, p["confidence_topic"], lambda m: self._add(confidence, m), SENSOR_DATA_50),
            subscribe(PointCloud2, p["pointcloud_topic"], lambda m: self._filter(cloud, m), SENSOR_DATA_50),
            subscribe(self.label_info_type, p["labels_topic"], self._on_label_info, LATCHED_5),
        ]

    @property
    def knows_classes(self) -> bool:
        """Whether the latched LabelInfo has come."""
        return bool(self._cost_of_id)

    def _on_label_info(self, message: Any) -> None:
        self._cost_of_id = {}
        for entry in message.class_map:
            if entry.class_name not in self._costs:
                self.faults.append(f"Class '{entry.class_name}' from label_info is not defined in the parameters")
                continue
            self._cost_of_id[entry.class_id & 0xFF] = self._costs[entry.class_name]

    def _filter(self, queue: OrderedDict[int, Any], cloud: PointCloud2) -> None:
        """tf2_ros::MessageFilter: a cloud whose frame cannot be transformed never comes through."""
        if cloud.header.frame_id not in self.known_frames:
            self.faults.append(f"cloud in frame {cloud.header.frame_id!r}, which TF does not know")
            return
        self._add(queue, cloud)

    def _add(self, queue: OrderedDict[int, Any], message: Any) -> None:
        """message_filters' ExactTime, depth 1000."""
        stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        queue[stamp] = message
        while len(queue) > 1000:
            queue.popitem(last=False)
        if all(stamp in q for q in self._queues):
            self._buffer(*(q.pop(stamp) for q in self._queues))

    def _buffer(self, labels: Image, confidence: Image, cloud: PointCloud2) -> None:
        if labels.width * labels.height != cloud.width * cloud.height:
            self.faults.append("Pointcloud and segmentation sizes are different")
            return
        if len(labels.data) < labels.width * labels.height or len(confidence.data) < labels.width * labels.height:
            self.faults.append("segmentation arrays have wrong sizes")
            return
        if not self._cost_of_id:
            self.faults.append("Class map is empty because a labelinfo message has not been received")
            return
        # PointCloud2ConstIterator<float>: the named field, read every point_step bytes from the start of the data
        fields = {f.name: f for f in cloud.fields}
        axes = []
        for name in ("x", "y", "z"):
            if name not in fields or fields[name].datatype != FLOAT32 or cloud.is_bigendian:
                self.faults.append(f"no float32 field {name}")
                return
            raw = np.frombuffer(bytes(cloud.data), np.uint8)
            raw = raw[: cloud.width * cloud.height * cloud.point_step].reshape(-1, cloud.point_step)
            at = fields[name].offset
            axes.append(raw[:, at : at + 4].copy().view("<f4")[:, 0])
        x, y, z = axes
        best: dict[tuple[int, int], int] = {}
        low, high = self.parameters["min_obstacle_distance"] ** 2, self.parameters["max_obstacle_distance"] ** 2
        for k in np.flatnonzero(np.isfinite(z)).tolist():  # only z is looked at
            square = float(x[k]) ** 2 + float(y[k]) ** 2 + float(z[k]) ** 2
            if not low < square < high:
                continue
            tile = math.floor(float(x[k]) / self.resolution), math.floor(float(y[k]) / self.resolution)
            if tile not in best or self._prefers(labels, confidence, k, best[tile]):
                best[tile] = k
        for tile, k in best.items():
            if labels.data[k] in self._cost_of_id:
                self.tiles[tile] = self._cost_of_id[labels.data[k]]
        self.frames += 1

    def _prefers(self, labels: Image, confidence: Image, k: int, other: int) -> bool:
        if self.parameters["use_cost_selection"]:
            return self._cost_of_id.get(labels.data[k], 0) > self._cost_of_id.get(labels.data[other], 0)
        return bool(confidence.data[k] > confidence.data[other])

    def cost(self, x: float, y: float) -> int | None:
        """Of the tile at a place; None: never observed."""
        return self.tiles.get((math.floor(x / self.resolution), math.floor(y / self.resolution)))
