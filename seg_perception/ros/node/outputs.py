"""Publishes the rows of `node_outputs.OUTPUTS`, each with the frame's own header."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo

from seg_perception import node_outputs
from seg_perception.node_outputs import CAMERA_INFO, IMAGE, Answer, Content, Facts, Output
from seg_perception.node_settings import OutputQos
from seg_perception.ros import qos
from seg_perception.ros.compat import PublisherEventCallbacks, all_confirmed
from seg_perception.ros.log import Throttle
from seg_perception.ros.messages import build_message, message_class, serialize_image, stamp_ns_of, why_not_installed
from seg_perception.ros.node.camera_geometry import KEPT_INFOS

PUBLISHING_TIMEOUT_S = 1.0  # how long deactivating waits for what is being published


def missing_outputs() -> dict[str, str]:
    """The outputs that cannot be published here, each with the reason: its message type is not installed."""
    reasons = {row.name: why_not_installed(row.type) for row in node_outputs.OUTPUTS}
    return {name: reason for name, reason in reasons.items() if reason}


class RowPublishers:
    """The publishers of those of some rows of the table that can be made here.

    Args:
        settings: None: what is published is kept for whoever subscribes later, and needs no subscriber now.
        camera: its name, '' for rows of the whole node or a camera without a name.
    """

    def __init__(
        self, node: LifecycleNode, rows: Sequence[Output], settings: OutputQos | None, camera: str = ""
    ) -> None:
        self._node = node
        self._settings = settings
        self._qos_log = Throttle(5.0)
        missing = missing_outputs()
        self._rows = [row for row in rows if row.name not in missing]
        self._makers: dict[str, Callable[[Any], Content]] = {
            row.name: getattr(row, "make", lambda _: None) for row in self._rows
        }
        self._publishers = {row.name: self._create(row, row.topic(camera)) for row in self._rows}
        self._unconfirmed: Mapping[str, float] = {}
        self._busy = threading.Lock()

    def _create(self, row: Output, topic: str) -> Any:
        if self._settings is None:
            return self._node.create_lifecycle_publisher(message_class(row.type), topic, qos.latched())
        # of its own: rclpy writes an output's overrides into the profile that it is given
        offered = qos.profile(self._settings.reliability, self._settings.depth)
        return self._node.create_lifecycle_publisher(
            message_class(row.type),
            topic,
            offered,
            event_callbacks=PublisherEventCallbacks(
                incompatible_qos=lambda event: self._incompatible(topic, offered, event)
            ),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )

    def _incompatible(self, topic: str, offered: QoSProfile, event: Any) -> None:
        if self._qos_log.due():
            full = self._node.resolve_topic_name(topic)
            self._node.get_logger().warning(qos.explain_incompatible_subscribers(self._node, full, offered, event))

    def watched(self) -> list[str]:
        """The topics that somebody subscribes to."""
        return [publisher.topic_name for publisher in self._watched()]

    def unconfirmed_since(self) -> Mapping[str, float]:
        """Topic -> since when a reliable subscriber has not confirmed all that it was sent, monotonic seconds.

        While something is published, as of before: a publisher that a stopped subscriber holds would hold who asks.
        """
        with self._looked():
            return self._unconfirmed

    @contextmanager
    def _looked(self) -> Iterator[None]:
        """Look who confirms, unless another thread publishes; before a publication, which nobody can have confirmed."""
        mine = self._busy.acquire(blocking=False)
        try:
            if mine:
                waiting = [p.topic_name for p in self._watched() if not all_confirmed(p)]
                now = time.monotonic()
                self._unconfirmed = {topic: self._unconfirmed.get(topic, now) for topic in waiting}
            yield
        finally:
            if mine:
                self._busy.release()

    def _watched(self) -> list[Any]:
        return [p for p in self._publishers.values() if p.get_subscription_count() > 0]

    def publish(self, answer: Any, header: Any = None) -> None:
        """Make and publish what somebody listens to, in the table's order; all of it where it is kept for later.

        Args:
            answer: what the rows' makers take.
            header: of the messages that bring none.
        """
        with self._looked():
            for row in self._rows:
                publisher = self._publishers[row.name]
                wanted = self._settings is None or publisher.get_subscription_count() > 0
                if wanted and (content := self._makers[row.name](answer)) is not None:
                    publisher.publish(_message(row.type, content, header))

    def send(self, name: str, message: Any) -> None:
        """Publish a message that the node did not make, on a row's topic."""
        with self._looked():
            self._publishers[name].publish(message)

    def destroy(self) -> None:
        """Give back every publisher."""
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers = {}


def _message(type_name: str, content: Content, header: Any) -> Any:
    """What a publisher takes: a message, or an image's bytes, which costs less."""
    if type_name == IMAGE and isinstance(content, np.ndarray):
        return serialize_image(content, header)
    return build_message(type_name, content, header)


class CameraOutputs:
    """The publishers of one camera's frames.

    An output that nobody subscribes to is neither computed nor sent; camera_info alone, which costs nothing to
    make, is always sent.

    Args:
        camera: its name, '' if it has none.
    """

    def __init__(self, node: LifecycleNode, camera: str, settings: OutputQos) -> None:
        self._infos = CameraInfoMatcher()
        self._rows = RowPublishers(node, node_outputs.frame_outputs(), settings, camera)
        self._info = RowPublishers(node, (CAMERA_INFO,), settings, camera)

    @property
    def publishers(self) -> tuple[RowPublishers, ...]:
        """All of them."""
        return self._rows, self._info

    def publish(self, answer: Answer) -> None:
        """Publish a frame's outputs, in the table's order, and its camera_info."""
        if (info := self._infos.match(stamp_ns_of(answer.header))) is not None:
            self._info.send(CAMERA_INFO.name, info)
        self._rows.publish(answer, answer.header)

    def add_camera_info(self, info: CameraInfo) -> None:
        """A calibration came; it goes out with the frame of its stamp, or now if that went out already."""
        if (late := self._infos.add(stamp_ns_of(info.header), info)) is not None:
            self._info.send(CAMERA_INFO.name, late)

    def destroy(self) -> None:
        """Give back every publisher."""
        for rows in self.publishers:
            rows.destroy()


class LatchedOutputs:
    """The publishers of what holds for every frame."""

    def __init__(self, node: LifecycleNode, cameras: tuple[str, ...]) -> None:
        rows = node_outputs.latched_outputs()
        of_camera, of_node = ([row for row in rows if row.per_camera is each] for each in (True, False))
        self._rows = [(name, RowPublishers(node, of_camera, None, name)) for name in cameras]
        self._rows.append((cameras[0], RowPublishers(node, of_node, None)))

    @property
    def publishers(self) -> tuple[RowPublishers, ...]:
        """All of them."""
        return tuple(rows for _, rows in self._rows)

    def publish(self, facts: dict[str, Facts]) -> None:
        """Publish all, by camera."""
        for camera, rows in self._rows:
            rows.publish(facts[camera])

    def destroy(self) -> None:
        """Give back every publisher."""
        for rows in self.publishers:
            rows.destroy()


class CameraInfoMatcher:
    """Pairs calibrations with published frames by stamp, whichever comes first; thread-safe, bounded.

    A frame without a calibration of its own stamp gets none: a calibration under a stamp that the
    driver did not give it would be an invention.
    """

    def __init__(self, limit: int = KEPT_INFOS) -> None:
        self._limit = limit
        self._infos: OrderedDict[int, CameraInfo] = OrderedDict()
        self._wanted: OrderedDict[int, None] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, stamp_ns: int, info: CameraInfo) -> CameraInfo | None:
        """A calibration came; returns it if its frame was published already."""
        with self._lock:
            if self._wanted.pop(stamp_ns, 0) is None:
                return info
            _remember(self._infos, stamp_ns, info, self._limit)
            return None

    def match(self, stamp_ns: int) -> CameraInfo | None:
        """A frame was published; returns its calibration if that came already."""
        with self._lock:
            info = self._infos.pop(stamp_ns, None)
            if info is None:
                _remember(self._wanted, stamp_ns, None, self._limit)
            return info


def _remember(table: OrderedDict, key: int, value: object, limit: int) -> None:  # type: ignore[type-arg]
    table[key] = value
    while len(table) > limit:
        table.popitem(last=False)
