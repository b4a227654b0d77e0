"""How long a camera has been silent, and why no frame comes: who publishes what, and what would help."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence

from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.topic_endpoint_info import TopicEndpointInfo
from rclpy.utilities import get_rmw_implementation_identifier

from seg_perception.ros import qos
from seg_perception.ros.log import Throttle
from seg_perception.ros.node.image_input import COMPRESSED, RAW, ImageInput, Listening
from seg_perception.ros.node.lost_frames import large_images_remedy

_INPUT_OF = {RAW: "raw", COMPRESSED: "compressed"}
_LISTED = 5
_SUFFIX = "/compressed"
_PLUGINS = ("theora", "ffmpeg", "zstd", "draco", "compressedDepth")
"""What image_transport's other plug-ins call their topics, below the image's."""

_NO_PICTURES = re.compile("depth|disparity|label|confidence|drivable|mask|segment|thermal|infra", re.IGNORECASE)
"""Names of image topics that are hardly meant: they are advised last."""


class SilenceWatch:
    """Notices that a camera sends nothing, and says why. Every method runs on the executor's thread.

    Args:
        label: the camera's, for the log.
        source: its subscription, silent or not.

    Attributes:
        last_received_at: when the last frame came, monotonic seconds; None: none since listening began.
    """

    def __init__(self, node: Node, label: str, listening: Listening, source: ImageInput) -> None:
        self._node, self._label = node, label
        self._listening, self._source = listening, source
        self._log = Throttle(10.0)
        self._began = time.monotonic()
        self.last_received_at: float | None = None

    def begin(self) -> None:
        """Listening begins now."""
        self._began, self.last_received_at = time.monotonic(), None

    def heard(self, now: float) -> None:
        """A frame came."""
        self.last_received_at = now

    def seconds(self, now: float) -> float:
        """Since the last frame, or since listening began."""
        return now - (self._began if self.last_received_at is None else self.last_received_at)

    def explain(self, now: float, timeout_s: float) -> str | None:
        """Why no frame comes, once the timeout has passed; also logged, at most every ten seconds."""
        silent = self.seconds(now)
        if not self._source.is_open or silent < timeout_s:
            return None
        why = explain_silence(
            self._listening,
            self._source.requested,
            self._source.publishers(),
            self._published_topics(),
            "fastrtps" in get_rmw_implementation_identifier(),
            os.environ,
        )
        if self._log.due():
            kind = "no frame yet" if self.last_received_at is None else "no frame any more"
            self._node.get_logger().warning(f"{self._label}: {kind}, for {silent:.1f} s: {why}")
        return why

    def _published_topics(self) -> list[tuple[str, list[str]]]:
        """Topics that somebody else publishes on; the graph also lists those that are only subscribed to."""
        own = f"{self._node.get_fully_qualified_name()}/"
        return [
            (name, types)
            for name, types in self._node.get_topic_names_and_types()
            if not name.startswith(own) and self._node.count_publishers(name)
        ]


def explain_silence(
    listening: Listening,
    requested: QoSProfile,
    publishers: Sequence[TopicEndpointInfo],
    topics: Iterable[tuple[str, Sequence[str]]],
    fast_dds: bool,
    environment: Mapping[str, str],
) -> str:
    """Why no frame comes, and what to do.

    Args:
        requested: of whoever publishes on the topic.
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
        elif faults := qos.incompatibilities(endpoint.qos_profile, requested):
            line += f", which does not fit this node's request ({'; '.join(faults)})"
        else:
            fitting = True
        lines.append(line)
    if len(publishers) > _LISTED:
        lines.append(f"and {len(publishers) - _LISTED} more")
    text = f"on {listening.topic}: " + "; ".join(lines)
    if fitting and fast_dds and requested.reliability != ReliabilityPolicy.RELIABLE:
        text += f". If it does send: {large_images_remedy(environment)}"
    return text


def _explain_nobody(listening: Listening, topics: Iterable[tuple[str, Sequence[str]]]) -> str:
    """Nobody publishes on the topic: the same camera in another form, or else where images are."""
    text = f"nobody publishes on {listening.topic}"
    types = {name: set(kinds) for name, kinds in topics}
    base = listening.image_topic.removesuffix(_SUFFIX)
    for other, kind in ((base, RAW), (base + _SUFFIX, COMPRESSED)):
        if other != listening.topic and kind in types.get(other, ()):
            return f"{text}, but {kind} is published on {other}: {_advice(listening, other, kind)}"
    for name, kinds in sorted(types.items()):
        folder, _, plugin = name.rpartition("/")
        if folder == base and plugin in _PLUGINS:
            return (
                f"{text}, but {'; '.join(sorted(kinds))} is published on {name}, which this node does not take: "
                f"let the publisher offer raw or compressed, or run image_transport's republish from {plugin} to raw"
            )
    for kind in sorted(_INPUT_OF, key=lambda kind: kind != listening.accepted_type):
        elsewhere = [name for name, kinds in types.items() if kind in kinds and not name.endswith("/compressedDepth")]
        if elsewhere:
            elsewhere.sort(key=lambda name: (_NO_PICTURES.search(name) is not None, name))
            more = f" and {len(elsewhere) - _LISTED} more" if len(elsewhere) > _LISTED else ""
            advice = _advice(listening, elsewhere[0], kind)
            return f"{text}; {kind} is published on {', '.join(elsewhere[:_LISTED])}{more}: {advice}"
    return text


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
