"""What the node publishes for one camera, each output with the frame's own header."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from builtin_interfaces.msg import Time
from rclpy.lifecycle import LifecycleNode
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Float64, Header

from seg_perception.core.label_set import LabelSet
from seg_perception.core.types import MaskImage, RgbImage, Segmentation
from seg_perception.core.visual import colorize, overlay
from seg_perception.node_settings import OutputQos
from seg_perception.ros import qos
from seg_perception.ros.messages import encode_image, encode_png
from seg_perception.ros.node.camera_info import CameraInfoMatcher
from seg_perception.ros.throttle import Throttle

try:  # Humble has the same class under its older name
    from rclpy.event_handler import PublisherEventCallbacks
except ImportError:
    from rclpy.qos_event import PublisherEventCallbacks

# What a car steers by comes first, pictures for people last.
MESSAGE_TYPES: dict[str, Any] = {
    "drivable": Image,
    "labels": Image,
    "confidence": Image,
    "camera_info": CameraInfo,
    "drivable_share": Float64,
    "latency_ms": Float64,
    "labels/compressed": CompressedImage,
    "color": Image,
    "overlay": Image,
}


class CameraOutputs:
    """The publishers of one camera.

    An output that nobody subscribes to is neither computed nor sent; camera_info alone, which costs nothing to
    make, is always sent.

    Args:
        prefix: of the topics, "~/front/" or "~/".
    """

    def __init__(self, node: LifecycleNode, prefix: str, settings: OutputQos, label_set: LabelSet) -> None:
        self._node = node
        self._prefix = prefix
        self._label_set = label_set
        self._offered = qos.profile(settings.reliability, settings.depth)
        self._qos_log = Throttle(5.0)
        self._infos = CameraInfoMatcher()
        self._publishers = {name: self._create(name, message_type) for name, message_type in MESSAGE_TYPES.items()}

    def _create(self, name: str, message_type: Any) -> Any:
        topic = self._prefix + name

        def incompatible(_event: object) -> None:
            if self._qos_log.due():
                full = self._node.resolve_topic_name(topic)
                self._node.get_logger().warning(qos.explain_incompatible_subscribers(self._node, full, self._offered))

        return self._node.create_lifecycle_publisher(
            message_type,
            topic,
            self._offered,
            event_callbacks=PublisherEventCallbacks(incompatible_qos=incompatible),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )

    def publish(self, header: Header, image: RgbImage, answer: Segmentation, mask: MaskImage, opacity: float) -> None:
        """Publish a frame's image outputs and its camera_info.

        Args:
            header: the input's; stamp and frame_id go out unchanged.
            image: uint8 [H, W, 3]; the overlay is drawn on it.
            mask: uint8 [H, W], 0 or 255.
            opacity: of the overlay's colors, 0 to 1.
        """
        self._offer("drivable", lambda: encode_image(mask, header))
        self._offer("labels", lambda: encode_image(answer.labels, header))
        self._offer("confidence", lambda: encode_image(answer.confidence, header))
        if (info := self._infos.match(nanoseconds(header.stamp))) is not None:
            self._publishers["camera_info"].publish(info)
        self._offer("labels/compressed", lambda: encode_png(answer.labels, header))
        self._offer("color", lambda: encode_image(colorize(answer.labels, self._label_set), header))
        self._offer("overlay", lambda: encode_image(overlay(image, answer.labels, self._label_set, opacity), header))

    def publish_numbers(self, drivable_share: float, latency_s: float) -> None:
        """Publish what PlotJuggler plots for every frame."""
        self._offer("drivable_share", lambda: Float64(data=drivable_share))
        self._offer("latency_ms", lambda: Float64(data=latency_s * 1e3))

    def add_camera_info(self, info: CameraInfo) -> None:
        """A calibration came; it goes out with the frame of its stamp, or now if that went out already."""
        if (late := self._infos.add(nanoseconds(info.header.stamp), info)) is not None:
            self._publishers["camera_info"].publish(late)

    def _offer(self, name: str, make: Callable[[], Any]) -> None:
        publisher = self._publishers[name]
        if publisher.get_subscription_count() > 0:
            publisher.publish(make())

    def destroy(self) -> None:
        """Give back every publisher."""
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers = {}


def nanoseconds(stamp: Time) -> int:
    """A message's stamp as one number."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)
