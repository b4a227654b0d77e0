"""What the label values mean, as messages: vision_msgs/LabelInfo and its palette companion."""

from __future__ import annotations

import importlib
import json
from types import ModuleType
from typing import Any

from std_msgs.msg import Header

from seg_perception.core.model_card import ModelCard
from seg_perception.core.types import UNLABELED

MISSING_VISION_MSGS = (
    "vision_msgs is not installed, so label_info is not published (a costmap layer needs it). With ROS from apt: "
    "apt install ros-$ROS_DISTRO-vision-msgs; elsewhere build github.com/ros-perception/vision_msgs from source. "
    "The class names and colors are on ~/palette as JSON."
)


def find_vision_msgs() -> ModuleType | None:
    """The module vision_msgs.msg where it is installed and has LabelInfo, else None."""
    try:
        module = importlib.import_module("vision_msgs.msg")
    except ImportError:
        return None
    return module if hasattr(module, "LabelInfo") else None


def build_label_info(vision_msgs: ModuleType, card: ModelCard, header: Header, min_confidence: float) -> Any:
    """A vision_msgs/LabelInfo: every class id and name, and the confidence below which to doubt.

    Args:
        vision_msgs: the module `vision_msgs.msg`.
        min_confidence: 0 to 1, LabelInfo's threshold.
    """
    message = vision_msgs.LabelInfo()
    message.header = header
    message.threshold = min_confidence
    message.class_map = [vision_msgs.VisionClass(class_id=c.id, class_name=c.name) for c in card.label_set.classes]
    return message


def palette_json(card: ModelCard) -> str:
    """The palette companion, published latched as std_msgs/String.

    {"model": id, "label_set": name, "unlabeled": 255,
     "classes": [{"id": 0, "name": "road", "color": [r, g, b], "drivable": true}, ...]}
    """
    return json.dumps(
        {
            "model": card.id,
            "label_set": card.label_set.name,
            "unlabeled": UNLABELED,
            "classes": [
                {"id": c.id, "name": c.name, "color": list(c.color), "drivable": c.drivable}
                for c in card.label_set.classes
            ],
        }
    )
