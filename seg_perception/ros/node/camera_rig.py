"""The cameras of a configured node with what is published for all of them: meters, and what holds for every frame."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from rclpy.lifecycle import LifecycleNode

from seg_perception.core.model_card import ModelCard
from seg_perception.node_outputs import Facts
from seg_perception.node_settings import NodeSettings
from seg_perception.ros.node.camera import Camera
from seg_perception.ros.node.camera_thread import FrameLanes
from seg_perception.ros.node.meters import MetersReport, MetersThread
from seg_perception.ros.node.outputs import LatchedOutputs, RowPublishers

if TYPE_CHECKING:
    from seg_perception.ros.node.page import NodePage


class CameraRig:
    """Made when the node is configured, destroyed when it is cleaned up; empty before and after.

    Every method runs on the executor's thread.

    Attributes:
        cameras: by name; '' for the one camera without a name.
        settings: of all of them; None while it is empty.
        meters: None while it is empty.
        left_behind: whether a thread could not be ended.
    """

    def __init__(self, node: LifecycleNode) -> None:
        self._node = node
        self._latched: LatchedOutputs | None = None
        self._card: ModelCard | None = None
        self.cameras: dict[str, Camera] = {}
        self.settings: NodeSettings | None = None
        self.meters: MetersThread | None = None
        self.left_behind = False

    def make(
        self, settings: NodeSettings, card: ModelCard, lanes: FrameLanes, page: NodePage | None, on_gpu: bool
    ) -> None:
        """Make the cameras' publishers and threads. Where that fails, `destroy` gives back what was made.

        Args:
            lanes: take the frames.
            page: shows them, where the node serves one.
            on_gpu: whether the engine takes images in a GPU's memory.

        Raises:
            SettingsError: the settings do not fit the model.
        """
        meters = self.meters = MetersThread(
            self._node, settings, card, lambda name: self.cameras[name].listening.info_topic, page
        )
        for name in settings.cameras:
            deliver = partial(lanes.put, name)
            self.cameras[name] = Camera(self._node, name, settings, card, deliver, meters, page, on_gpu)
        self._latched = LatchedOutputs(self._node, settings.cameras)
        self.settings, self._card = settings, card

    def publish_latched(self) -> None:
        """What holds for every frame, as the settings are now."""
        assert self.settings is not None
        assert self._card is not None
        assert self._latched is not None
        stamp = self._node.get_clock().now().to_msg()
        self._latched.publish(
            {name: Facts(self._card, camera, stamp) for name, camera in self.settings.camera_settings.items()}
        )

    def subscribe(self) -> None:
        """Take frames, and publish meters of them."""
        if self.meters is not None:
            self.meters.activate()
        for camera in self.cameras.values():
            camera.subscribe()

    def unsubscribe(self) -> None:
        """Take no frames any more; those under way go on."""
        for camera in self.cameras.values():
            camera.unsubscribe()

    def stop_meters(self) -> None:
        """No meters go out after this returns; to be called when no frame is under way any more."""
        if self.meters is not None:
            self.meters.deactivate()

    def apply(self, settings: NodeSettings) -> None:
        """Live parameters changed; they count from the next frame.

        Raises:
            SettingsError: they do not fit; nothing has changed for any camera.
        """
        commits = [camera.prepare_update(settings) for camera in self.cameras.values()]
        rules = {} if self.meters is None else self.meters.prepared(settings)
        for commit in commits:
            commit()
        if self.meters is not None:
            self.meters.apply(settings, rules)
        self.settings = settings

    def forget_the_past(self) -> None:
        """Time jumped: what earlier frames said does not count any more."""
        for camera in self.cameras.values():
            camera.forget_the_past()

    def publishers(self) -> Iterator[RowPublishers]:
        """Of all outputs."""
        for part in (*self.cameras.values(), self.meters, self._latched):
            if part is not None:
                yield from part.publishers

    def meters_reports(self) -> dict[str, MetersReport]:
        """For diagnostics, by camera."""
        return {} if self.meters is None else {name: self.meters.report(name) for name in self.cameras}

    def destroy(self) -> None:
        """Give back every publisher and thread; no frame may be under way any more."""
        for camera in self.cameras.values():
            camera.destroy()
        if self.meters is not None and not self.meters.destroy():
            self.left_behind = True
            self._node.get_logger().warning("the grid's publishing is blocked; its thread is left behind")
        if self._latched is not None:
            self._latched.destroy()
        self.cameras, self.settings, self.meters, self._latched, self._card = {}, None, None, None, None
