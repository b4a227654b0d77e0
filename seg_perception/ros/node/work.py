"""A frame on its way through the node, after each step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from seg_perception.core.types import RgbImage, Segmentation
from seg_perception.ros.node.accounting import Ticket
from seg_perception.ros.node.camera import CameraFrame
from seg_perception.ros.node.lanes import Lanes
from seg_perception.ros.node.latency import Stage
from seg_perception.segmenter import PreparedImage, PreparedOnGpu, RawSegmentation, Segmenter


@dataclass(frozen=True, slots=True)
class Work:
    """A frame that is ready for the engine.

    Attributes:
        decode: gives the image, uint8 [H, W, 3] RGB.
        epoch: of the lanes when it was taken.
        times: seconds of its stages so far.
        at: when it was prepared, monotonic seconds.
    """

    frame: CameraFrame
    decode: Callable[[], RgbImage]
    prepared: PreparedImage | PreparedOnGpu
    epoch: int
    times: dict[Stage, float]
    at: float

    @property
    def ticket(self) -> Ticket:
        return self.frame.ticket


@dataclass(frozen=True, slots=True)
class Answered:
    """The engine's answer to it, at the network's size.

    Attributes:
        at: when it came, monotonic seconds.
    """

    work: Work
    raw: RawSegmentation
    segmenter: Segmenter
    at: float

    @property
    def ticket(self) -> Ticket:
        return self.work.frame.ticket

    def finish(self) -> Segmentation:
        """Labels and confidence at the camera's size."""
        return self.segmenter.finish(self.raw)


FrameLanes: TypeAlias = Lanes[CameraFrame, Work, Answered]
"""The lanes as the node uses them."""
