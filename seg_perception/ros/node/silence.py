"""Why no frame comes: who publishes where, with which type and QoS, and what would help."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.topic_endpoint_info import TopicEndpointInfo

from seg_perception.ros import qos
from seg_perception.ros.node.lost_frames import large_images_remedy

RAW, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
_INPUT_OF = {RAW: "raw", COMPRESSED: "compressed"}
_LISTED = 5
_SUFFIX = "/compressed"


@dataclass(frozen=True, slots=True)
class Listening:
    """What a camera listens to.

    Attributes:
        parameter: the name of the camera's `input` parameter: "input" or "front.input".
        remapped: the relative topic to remap: "image" or "front/image".
        image_topic: the resolved topic of the raw image.
        topic: the resolved topic that is subscribed to, of type `accepted_type`.
    """

    parameter: str
    remapped: str
    image_topic: str
    topic: str
    accepted_type: str
    requested: QoSProfile


def explain_silence(
    listening: Listening,
    publishers: Sequence[TopicEndpointInfo],
    topics: Iterable[tuple[str, Sequence[str]]],
    fast_dds: bool,
    environment: Mapping[str, str],
) -> str:
    """Why no frame comes, and what to do.

    Args:
        publishers: on the topic that is listened to.
        topics: every topic that others publish on, with its types.
        fast_dds: whether that is the middleware.
        environment: of this process; tells whether a Fast DDS profile is in use.
    """
    if not publishers:
        return _explain_nobody(listening, topics)
    lines, fitting = [], False
    for endpoint in publishers[:_LISTED]:
        line = f"{qos.full_name(endpoint)} publishes {endpoint.topic_type} ({qos.describe(endpoint.qos_profile)})"
        if endpoint.topic_type != listening.accepted_type:
            line += f", but this node takes {listening.accepted_type} there"
            if endpoint.topic_type in _INPUT_OF:
                line += f": {_advice(listening, listening.topic, endpoint.topic_type)}"
        elif faults := qos.incompatibilities(endpoint.qos_profile, listening.requested):
            line += f", which does not fit this node's request ({'; '.join(faults)})"
        else:
            fitting = True
        lines.append(line)
    if len(publishers) > _LISTED:
        lines.append(f"and {len(publishers) - _LISTED} more")
    text = f"on {listening.topic}: " + "; ".join(lines)
    if fitting and fast_dds and listening.requested.reliability != ReliabilityPolicy.RELIABLE:
        text += f". If it does send: {large_images_remedy(environment)}"
    return text


def _explain_nobody(listening: Listening, topics: Iterable[tuple[str, Sequence[str]]]) -> str:
    """Nobody publishes on the topic: the same camera in the other form, or else where images are."""
    text = f"nobody publishes on {listening.topic}"
    images = {name: kind for name, kinds in topics for kind in (RAW, COMPRESSED) if kind in kinds}
    base = listening.image_topic.removesuffix(_SUFFIX)
    for other, kind in ((base, RAW), (base + _SUFFIX, COMPRESSED)):
        if other != listening.topic and images.get(other) == kind:
            return f"{text}, but {kind} is published on {other}: {_advice(listening, other, kind)}"
    elsewhere = sorted(name for name, kind in images.items() if kind == listening.accepted_type)
    if not elsewhere:
        return text
    more = f" and {len(elsewhere) - _LISTED} more" if len(elsewhere) > _LISTED else ""
    return (
        f"{text}; {listening.accepted_type} is published on {', '.join(elsewhere[:_LISTED])}{more}: "
        f"{_advice(listening, elsewhere[0], listening.accepted_type)}"
    )


def _advice(listening: Listening, topic: str, kind: str) -> str:
    """How to take images of a kind from a topic."""
    steps = []
    if kind != listening.accepted_type:
        steps.append(f"set {listening.parameter} to {_INPUT_OF[kind]}")
    if kind == COMPRESSED and not topic.endswith(_SUFFIX):
        steps.append(f"remap {listening.image_topic}{_SUFFIX}:={topic}")
    elif (base := topic.removesuffix(_SUFFIX) if kind == COMPRESSED else topic) != listening.image_topic:
        steps.append(f"remap {listening.remapped}:={base}")  # the compressed topic and camera_info follow it
    return " and ".join(steps)
