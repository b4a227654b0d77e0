"""The topics of a driving bag, by the names that the node gives them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from seg_perception.node_settings import NODE_NAME

IMAGE: Final = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE: Final = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO: Final = "sensor_msgs/msg/CameraInfo"

IMAGE_TOPIC: Final = "/image"
TRUTH_TOPIC: Final = "/truth"
INFO_TOPIC: Final = "/camera_info"

INPUT_TOPICS: Final[Mapping[str, str]] = MappingProxyType({IMAGE: IMAGE_TOPIC, COMPRESSED_IMAGE: "/image/compressed"})
"""Where the node takes an image message, by its type."""


def output_topic(name: str) -> str:
    """The node's topic of one output, such as /segmentation_node/labels."""
    return f"/{NODE_NAME}/{name}"
