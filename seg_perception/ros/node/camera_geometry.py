"""Where each camera was over the ground, and through which lens it looked, at a frame's stamp; or why nobody knows.

It takes the camera_info of the very stamp and, with ground.source 'tf', the camera's pose at it. Both may come a
little later than the image.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import CameraInfo

from seg_perception.core.errors import InputError
from seg_perception.core.ground import CameraPose, TransformBuffer, TransformNotYetError
from seg_perception.core.optics import CameraModel, camera_model
from seg_perception.core.types import Size
from seg_perception.node_settings import NodeSettings
from seg_perception.ros.messages import stamp_ns_of
from seg_perception.ros.node.transforms import TransformListener

KEPT_INFOS = 600
"""Of each camera: those of ten seconds at 60 Hz, as long as transforms are kept. An answer may take seconds."""


class NotYetError(InputError):
    """What a frame needs may still come."""


@dataclass(frozen=True, slots=True)
class Shot:
    """Which frame it is: its camera's name, frame_id and stamp of its header, and the image's size."""

    camera: str
    frame_id: str
    stamp_ns: int
    size: Size


@dataclass(slots=True)
class _Camera:
    infos: OrderedDict[int, CameraInfo] = field(default_factory=OrderedDict)  # by stamp; touched under the lock
    model: tuple[Any, CameraModel] | None = None  # for which camera_info


class CameraGeometry:
    """Keeps what camera_info and /tf say, and answers for a frame.

    The executor's thread calls `listen`, `stop_listening` and `add_camera_info`, and is told of transforms; the meters'
    thread alone calls `of`; `why_not` and `time_went_back` are for any thread. Its lock is held while nothing else is
    called, so whoever asks may hold one.

    Args:
        cameras: of which camera_info is kept.
        info_topic: where a camera's camera_info is expected, for messages.
        on_transforms: called on the executor's thread after each message of /tf and /tf_static.
    """

    def __init__(
        self,
        node: Node,
        cameras: Iterable[str],
        info_topic: Callable[[str], str],
        on_transforms: Callable[[], None],
    ) -> None:
        self._node = node
        self._info_topic = info_topic
        self._cameras = {name: _Camera() for name in cameras}
        self._lock = threading.Lock()
        self._transforms = TransformBuffer()
        self._listener = TransformListener(node, self._transforms, on_transforms)
        self.unheard = ""
        """Why transforms that a camera needs cannot be heard; '': they can, or none does."""

    def listen(self, settings: NodeSettings) -> None:
        """Hear transforms, if any camera's place comes from there."""
        if any(settings.camera_settings[name].ground.source == "tf" for name in self._cameras):
            self.unheard = self._listener.open() or ""
            if self.unheard:
                self._node.get_logger().error(f"no grid of cameras with ground.source 'tf': {self.unheard}")

    def stop_listening(self) -> None:
        """Hear no transforms any more, and forget every camera_info and moving transform."""
        self._listener.close()
        self._transforms.clear()
        with self._lock:
            for camera in self._cameras.values():
                camera.infos.clear()

    def add_camera_info(self, camera: str, info: CameraInfo) -> None:
        """A calibration of one of the cameras came."""
        infos = self._cameras[camera].infos
        with self._lock:
            infos[stamp_ns_of(info.header)] = info
            while len(infos) > KEPT_INFOS:
                infos.popitem(last=False)

    def time_went_back(self) -> None:
        """Forget moving transforms: those that come now are of a time before them."""
        self._transforms.clear()

    def of(self, shot: Shot, settings: NodeSettings) -> tuple[CameraModel, CameraPose]:
        """The frame's lens and place.

        Raises:
            NotYetError: its camera_info or its transform has not come.
            InputError: what came cannot be used; says what and why.
        """
        camera = self._cameras[shot.camera]
        with self._lock:
            info, stamps = camera.infos.get(shot.stamp_ns), list(camera.infos)
        if info is None:
            raise NotYetError(self._why_no_info(shot, stamps))
        mount = settings.camera_settings[shot.camera].ground
        roi = info.roi
        key = (
            shot.size,
            mount.rectified,
            (info.width, info.height, info.distortion_model, tuple(info.d), tuple(info.k), tuple(info.p)),
            (info.binning_x, info.binning_y, roi.x_offset, roi.y_offset, roi.width, roi.height),
        )
        if camera.model is None or camera.model[0] != key:
            camera.model = key, camera_model(info, shot.size, mount.rectified)
        if mount.source == "fixed":
            return camera.model[1], mount.pose()
        try:
            return camera.model[1], self._transforms.pose(settings.ground.frame, shot.frame_id, shot.stamp_ns)
        except TransformNotYetError as error:
            raise NotYetError(str(error)) from error

    def why_not(self, shot: Shot, settings: NodeSettings) -> str:
        """What has not come for a frame, or cannot be used; '': nothing is missing."""
        with self._lock:
            stamps = list(self._cameras[shot.camera].infos)
        if shot.stamp_ns not in stamps:
            return self._why_no_info(shot, stamps)
        if settings.camera_settings[shot.camera].ground.source == "tf":
            try:
                self._transforms.pose(settings.ground.frame, shot.frame_id, shot.stamp_ns)
            except InputError as error:
                return str(error)
        return ""

    def _why_no_info(self, shot: Shot, stamps: Sequence[int]) -> str:
        topic = self._info_topic(shot.camera)
        if not stamps:
            return f"no camera_info has come on {topic}"
        apart = min(abs(stamp - shot.stamp_ns) for stamp in stamps) * 1e-9
        return (
            f"no camera_info on {topic} has the image's stamp, the nearest is {apart:.3f} s apart: "
            "the driver must stamp both alike"
        )
