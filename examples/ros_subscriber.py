"""A ROS 2 node that uses what segmentation_node publishes: labels, confidence and class names.

python examples/ros_subscriber.py        (while segmentation_node runs)

It stops trusting the road where the model is unsure: it prints the share of the lower half of the image that is
road with a confidence of at least 0.8.

Class names come from ~/label_info (vision_msgs/LabelInfo), and where vision_msgs is not installed from ~/palette
(std_msgs/String with JSON). Both are latched: a late subscriber gets them, too. Labels and confidence of one
frame have the same header; they are paired by its stamp.
"""

import json
import sys

import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import String

try:
    from vision_msgs.msg import LabelInfo
except ImportError:
    LabelInfo = None

NODE = "/segmentation_node"
SURE = round(0.8 * 255)


class RoadAhead(Node):
    def __init__(self) -> None:
        super().__init__("road_ahead")
        self.frames = 0
        self._names: dict[int, str] = {}
        self._labels: Image | None = None
        self._confidence: Image | None = None
        reliable = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
        latched = QoSProfile(
            depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
        )
        if LabelInfo is not None:
            self.create_subscription(LabelInfo, f"{NODE}/label_info", self._on_label_info, latched)
        self.create_subscription(String, f"{NODE}/palette", self._on_palette, latched)
        self.create_subscription(Image, f"{NODE}/labels", self._on_labels, reliable)
        self.create_subscription(Image, f"{NODE}/confidence", self._on_confidence, reliable)

    def _on_label_info(self, message) -> None:
        self._names = {one.class_id: one.class_name for one in message.class_map}

    def _on_palette(self, message: String) -> None:
        if not self._names:
            self._names = {one["id"]: one["name"] for one in json.loads(message.data)["classes"]}

    def _on_labels(self, message: Image) -> None:
        self._labels = message
        self._on_pair()

    def _on_confidence(self, message: Image) -> None:
        self._confidence = message
        self._on_pair()

    def _on_pair(self) -> None:
        labels, confidence = self._labels, self._confidence
        if labels is None or confidence is None or labels.header.stamp != confidence.header.stamp or not self._names:
            return  # the other half of this frame, or the names, are not here yet
        ids, sure = pixels(labels), pixels(confidence)
        road = next(class_id for class_id, name in self._names.items() if name == "road")
        lower = slice(ids.shape[0] // 2, None)
        share = ((ids[lower] == road) & (sure[lower] >= SURE)).mean()
        stamp = labels.header.stamp
        print(f"{stamp.sec}.{stamp.nanosec:09d}  {labels.header.frame_id}: {100 * share:5.1f} % sure road", flush=True)
        self.frames += 1


def pixels(message: Image) -> np.ndarray:
    """A mono8 image as uint8 [H, W]; its rows may be padded."""
    rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
    return rows[:, : message.width]


def main() -> None:
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else None  # stop after so many frames
    rclpy.init()
    node = RoadAhead()
    try:
        while wanted is None or node.frames < wanted:
            rclpy.spin_once(node, timeout_sec=1.0)
    except KeyboardInterrupt:
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
