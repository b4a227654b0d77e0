"""Every output of the node, one row each: name, message type, what makes it, who records and shows it.

The node publishes the rows, the demo records them, `bag process` writes them, docs/node.md lists them:
a new output is one row here. A maker returns what the message says and knows no ROS; `ros.messages`
turns it into a message (docs/adr/0010-node-tables.md).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

if TYPE_CHECKING:  # the makers import what they draw with: `seg-perception --help` reads this table, too
    import numpy as np
    from numpy.typing import NDArray

    from seg_perception.core.meters import GridAnswer, PointsAnswer
    from seg_perception.core.model_card import ModelCard
    from seg_perception.core.types import MaskImage, RgbImage, Segmentation
    from seg_perception.node_settings import CameraSettings, OverlaySettings

IMAGE: Final = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE: Final = "sensor_msgs/msg/CompressedImage"
FLOAT: Final = "std_msgs/msg/Float64"
STRING: Final = "std_msgs/msg/String"
GRID: Final = "nav_msgs/msg/OccupancyGrid"
POINTS: Final = "sensor_msgs/msg/PointCloud2"
POLYGON: Final = "geometry_msgs/msg/PolygonStamped"

Content: TypeAlias = "NDArray[np.uint8] | float | str | Mapping[str, Any] | None"
"""What a message says: pixels, uint8 [H, W] or RGB [H, W, 3], of an Image or (as PNG) CompressedImage; the `data` of
a number or text; the fields of any other message by name, nested, of which absent ones keep their default and a
header is the frame's own. None: nothing to publish this time."""


class Header(Protocol):
    """The fields of std_msgs/Header that are read here, of whatever library."""

    @property
    def stamp(self) -> Any: ...
    @property
    def frame_id(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """All that is known of one frame when its outputs are made.

    Attributes:
        header: the input message's.
        decode: gives the image, uint8 [H, W, 3] RGB: an engine that takes a camera's bytes needs none, so it is decoded
            only for outputs that show it.
        segmentation: labels and confidence, each uint8 [H, W].
        mask: drivable, uint8 [H, W], 0 or 255.
        card: of the model.
        overlay: how pictures for people are drawn.
        received_at: when the message came, monotonic seconds.
    """

    header: Header
    decode: Callable[[], RgbImage]
    segmentation: Segmentation
    mask: MaskImage
    card: ModelCard
    overlay: OverlaySettings
    received_at: float


@dataclass(frozen=True, slots=True)
class Facts:
    """What holds for every frame of a camera until the node is configured anew or a live parameter changes.

    Attributes:
        camera: its settings.
        stamp: of now, builtin_interfaces/Time.
    """

    card: ModelCard
    camera: CameraSettings
    stamp: Any


@dataclass(frozen=True, slots=True)
class Output:
    """What the rows have in common. This class itself is an output that the node makes in its own way.

    Attributes:
        name: of the topic: ~/NAME, and ~/CAMERA/NAME where cameras have names; as it is if it begins with a slash.
        type: of the message.
        description: for docs/node.md, a line of Markdown.
        recorded: the demo records it.
        shown: the layouts in config/ show it.
    """

    name: str
    type: str
    description: str
    recorded: bool = False
    shown: bool = False

    def topic(self, camera: str = "", node: str = "~") -> str:
        """The topic of one camera ('' is the one without a name); `node` stands before it."""
        return self.name if self.name.startswith("/") else "/".join(filter(None, (node, camera, self.name)))

    @property
    def stamped(self) -> bool:
        """Whether a message says by itself which frame it belongs to."""
        return not self.type.startswith("std_msgs/")


@dataclass(frozen=True, slots=True)
class FrameOutput(Output):
    """Made of each frame for which somebody listens.

    Attributes:
        processed: `bag process` writes it unless told otherwise.
    """

    make: Callable[[Answer], Content] = lambda _: None
    processed: bool = False


@dataclass(frozen=True, slots=True)
class GridOutput(Output):
    """Made of the grid of all cameras; one for the node, stamped as the newest frame in it."""

    make: Callable[[GridAnswer], Content] = lambda _: None


@dataclass(frozen=True, slots=True)
class PointsOutput(Output):
    """Made of one camera's frame at the costmap's size, with the frame's stamp."""

    make: Callable[[PointsAnswer], Content] = lambda _: None


@dataclass(frozen=True, slots=True)
class LatchedOutput(Output):
    """Published when the node is activated and when a live parameter changes, and kept for whoever subscribes later.

    Attributes:
        per_camera: each camera has its own.
    """

    make: Callable[[Facts], Content] = lambda _: None
    per_camera: bool = True


def _color(answer: Answer) -> Content:
    from seg_perception.core.visual import colorize

    return colorize(answer.segmentation.labels, answer.card.label_set)


def _overlay(answer: Answer) -> Content:
    from seg_perception.core.visual import overlay

    return overlay(answer.decode(), answer.segmentation.labels, answer.card.label_set, answer.overlay.opacity)


def _drivable_share(answer: Answer) -> Content:
    from seg_perception.core.drivable import drivable_share

    return drivable_share(answer.mask)


def _label_info(facts: Facts) -> Content:
    return {
        "header": {"stamp": {"sec": facts.stamp.sec, "nanosec": facts.stamp.nanosec}},
        "class_map": [{"class_id": c.id, "class_name": c.name} for c in facts.card.label_set.classes],
        "threshold": facts.camera.drivable.min_confidence,
    }


def _palette(facts: Facts) -> Content:
    from seg_perception.core.types import UNLABELED

    label_set = facts.card.label_set
    return json.dumps(
        {
            "model": facts.card.id,
            "label_set": label_set.name,
            "unlabeled": UNLABELED,
            "classes": [
                {"id": c.id, "name": c.name, "color": list(c.color), "drivable": c.drivable} for c in label_set.classes
            ],
        }
    )


def _grid(grid: GridAnswer) -> Content:
    spec = grid.spec
    return {
        "header": {"frame_id": grid.frame},
        "info": {
            "resolution": spec.resolution,
            "width": spec.width,
            "height": spec.height,
            "origin": {"position": {"x": spec.x_min, "y": spec.y_min}, "orientation": {"w": 1.0}},
        },
        "data": grid.cells.reshape(-1),
    }


def _points(points: PointsAnswer) -> Content:
    packed = points.cloud.packed
    height, width, _ = packed.shape
    fields = (("x", 0, 7), ("y", 4, 7), ("z", 8, 7), ("label", 12, 2), ("confidence", 13, 2))  # 7: FLOAT32, 2: UINT8
    return {
        "header": {"frame_id": points.frame},
        "height": height,
        "width": width,
        "fields": [{"name": n, "offset": at, "datatype": kind, "count": 1} for n, at, kind in fields],
        "is_bigendian": False,
        "point_step": 16,
        "row_step": 16 * width,
        "data": packed.reshape(-1),
        "is_dense": False,
    }


def _free_space(grid: GridAnswer) -> Content:
    corners = [{"x": x, "y": y} for x, y in grid.outline.tolist()]
    return {"header": {"frame_id": grid.frame}, "polygon": {"points": corners}}


CAMERA_INFO: Final = Output(
    "camera_info", "sensor_msgs/msg/CameraInfo", "the input's of exactly the same stamp; none without one"
)
DIAGNOSTICS: Final = Output(
    "/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", "once a second, in every state", recorded=True
)

# What a car steers by comes first, pictures for people last, and then what looks back on the frame.
OUTPUTS: tuple[Output, ...] = (
    FrameOutput(
        "drivable",
        IMAGE,
        "mono8: 255 where the car may drive, else 0",
        recorded=True,
        shown=True,
        make=lambda answer: answer.mask,
        processed=True,
    ),
    FrameOutput(
        "labels",
        IMAGE,
        "mono8: class ids, 0 to 9 with the shipped model",
        recorded=True,
        shown=True,
        make=lambda answer: answer.segmentation.labels,
        processed=True,
    ),
    FrameOutput(
        "confidence",
        IMAGE,
        "mono8: the winning class's probability x 255",
        recorded=True,
        shown=True,
        make=lambda answer: answer.segmentation.confidence,
        processed=True,
    ),
    CAMERA_INFO,
    FrameOutput(
        "labels/compressed",
        COMPRESSED_IMAGE,
        "lossless PNG of the labels",
        make=lambda answer: answer.segmentation.labels,
    ),
    FrameOutput(
        "color",
        IMAGE,
        "rgb8: the labels in their classes' colors, for people",
        recorded=True,
        shown=True,
        make=_color,
    ),
    FrameOutput(
        "overlay",
        IMAGE,
        "rgb8: the same over the camera's image, for people",
        recorded=True,
        shown=True,
        make=_overlay,
        processed=True,
    ),
    FrameOutput(
        "drivable_share",
        FLOAT,
        "share of the image that is drivable, 0 to 1",
        recorded=True,
        make=_drivable_share,
    ),
    FrameOutput(
        "latency_ms",
        FLOAT,
        "from the image's callback to its outputs handed over",
        recorded=True,
        make=lambda answer: (time.monotonic() - answer.received_at) * 1e3,
    ),
    GridOutput(
        "free_distance",
        FLOAT,
        "meters ahead, in a corridor of the car's width, to the first cell that is not free; NaN: unknown",
        recorded=True,
        make=lambda grid: grid.distance,
    ),
    GridOutput(
        "free_space",
        POLYGON,
        "outline of the free area ahead that is connected to the car, in `ground.frame`; no corners: unknown",
        recorded=True,
        shown=True,
        make=_free_space,
    ),
    GridOutput(
        "drivable_grid",
        GRID,
        "of all cameras, in `ground.frame`: 0 free, 1 to 99 a cost, 100 occupied, -1 unknown (docs/meters.md)",
        recorded=True,
        shown=True,
        make=_grid,
    ),
    PointsOutput(
        "costmap/labels",
        IMAGE,
        "mono8: the labels at `costmap.size`, beside ~/ground_points",
        make=lambda points: points.labels,
    ),
    PointsOutput(
        "costmap/confidence",
        IMAGE,
        "mono8: the confidence at `costmap.size`",
        make=lambda points: points.confidence,
    ),
    PointsOutput(
        "ground_points",
        POINTS,
        "in `ground.frame`, organized as ~/costmap/labels: x, y, z, label, confidence; NaN where there is no ground",
        make=_points,
    ),
    LatchedOutput(
        "label_info",
        "vision_msgs/msg/LabelInfo",
        "latched: class ids and names; only where vision_msgs is installed",
        make=_label_info,
    ),
    LatchedOutput(
        "palette", STRING, "latched: see below; one for the node", recorded=True, make=_palette, per_camera=False
    ),
    DIAGNOSTICS,
)


def output(name: str) -> Output:
    """The row of that name.

    Raises:
        KeyError: there is none.
    """
    return {row.name: row for row in OUTPUTS}[name]


def frame_outputs() -> tuple[FrameOutput, ...]:
    """The rows that are made of frames."""
    return tuple(row for row in OUTPUTS if isinstance(row, FrameOutput))


def image_outputs() -> dict[str, FrameOutput]:
    """The rows that are pictures, by name: those that `bag process` can write."""
    return {row.name: row for row in frame_outputs() if row.type == IMAGE}


def grid_outputs() -> tuple[GridOutput, ...]:
    """The rows that are made of the grid."""
    return tuple(row for row in OUTPUTS if isinstance(row, GridOutput))


def points_outputs() -> tuple[PointsOutput, ...]:
    """The rows that are made of a frame at the costmap's size."""
    return tuple(row for row in OUTPUTS if isinstance(row, PointsOutput))


def latched_outputs() -> tuple[LatchedOutput, ...]:
    """The rows that are published once and kept."""
    return tuple(row for row in OUTPUTS if isinstance(row, LatchedOutput))


def outputs_table() -> str:
    """The rows as the Markdown table of docs/node.md."""
    lines = ["| published | type | |", "|---|---|---|"]
    lines += [f"| `{row.topic()}` | {row.type.replace('/msg/', '/')} | {row.description} |" for row in OUTPUTS]
    return "\n".join(lines)
