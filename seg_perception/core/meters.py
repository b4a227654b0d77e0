"""Meters from a camera's answers: grid cells, ground points, outline and distance, with the tables they need.

The node, `bag process` and `predict` use it alike; it knows no ROS.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from seg_perception.core.errors import SettingsError
from seg_perception.core.grid import Cells, FreeSpace, GridRules, GridSettings, GridSpec, merge
from seg_perception.core.grid_table import GridTable
from seg_perception.core.ground import LOWEST_LENS, CameraPose, PixelRays
from seg_perception.core.optics import CameraModel
from seg_perception.core.types import ConfidenceImage, LabelImage, MaskImage, Segmentation, Size

STILL_DEGREES, STILL_METERS = 0.01, 0.002
"""A pose that differs by less is the same: 5 cm at 20 m for a camera 1.5 m above the ground."""

COSTMAP_WIDTH = 400
"""Columns of the costmap's images where their size is not set: what its layer is made for."""


@dataclass(frozen=True, slots=True)
class MountSettings:
    """Where a camera is over the ground.

    Attributes:
        source: "off": no meters; "tf": the transforms tell; "fixed": the other values tell.
        height: meters. pitch, roll, yaw: degrees; pitch positive looks down, roll positive lowers the right side, yaw
            positive looks to the left. x, y: meters ahead of and left of the ground frame's origin.
        rectified: the image is rectified, so P of its camera_info holds and no distortion.
    """

    source: Literal["off", "tf", "fixed"] = "off"
    height: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    x: float = 0.0
    y: float = 0.0
    yaw: float = 0.0
    rectified: bool = False

    def __post_init__(self) -> None:
        numbers = {name: getattr(self, name) for name in ("height", "pitch", "roll", "x", "y", "yaw")}
        if wrong := [f"{name} {value:g}" for name, value in numbers.items() if not math.isfinite(value)]:
            raise SettingsError(f"{', '.join(wrong)} is not accepted: a finite number is")
        if self.source == "fixed" and self.height < LOWEST_LENS:
            raise SettingsError(
                f"height {self.height:g} is not accepted with source 'fixed': "
                f"set it to the meters of the lens above the ground, {LOWEST_LENS:g} or more"
            )

    def pose(self) -> CameraPose:
        """The pose of source "fixed"."""
        return CameraPose.mounted(self.height, self.pitch, self.roll, self.x, self.y, self.yaw)


@dataclass(frozen=True, slots=True)
class MetersSettings:
    """All that offline meters need.

    Attributes:
        frame: the ground frame.
        mount: of every camera that has no settings of its own.
        camera_mounts: of single cameras, by name.
        grid: its extent and cells.
        points_size: see `costmap_size`.
        part_max_age_s: how old another camera's part of a grid may be, as the node's `diagnostics.frame_timeout_s`.
    """

    frame: str = "base_footprint"
    mount: MountSettings = field(default_factory=MountSettings)
    camera_mounts: Mapping[str, MountSettings] = field(default_factory=dict)
    grid: GridSettings = field(default_factory=GridSettings)
    points_size: Size | None = None
    part_max_age_s: float = 1.0

    def mount_of(self, camera: str) -> MountSettings:
        """Where a camera is."""
        return self.camera_mounts.get(camera, self.mount)


@dataclass(frozen=True, slots=True, eq=False)
class GroundPoints:
    """An organized cloud beside a small label image.

    Attributes:
        packed: uint8 [h, w, 16], as a PointCloud2 holds it: x, y, z (float32), label, confidence, two zeros.
        labels, confidence: uint8 [h, w].
    """

    packed: NDArray[np.uint8]
    labels: LabelImage
    confidence: ConfidenceImage

    @property
    def points(self) -> NDArray[np.float32]:
        """Meters in the ground frame, float32 [h, w, 3]; NaN where a pixel shows no ground, or what hides it."""
        return self.packed.view(np.float32)[..., :3]


@dataclass(frozen=True, slots=True, eq=False)
class _PointsTable:
    """The points of one pose.

    Attributes:
        ground: float32 [h, w, 4], `GroundPoints.packed` without labels.
        known: which of them have a point, flat [N].
        column, row: their places in the level view [N].
    """

    ground: NDArray[np.float32]
    known: NDArray[np.intp]
    column: NDArray[np.intp]
    row: NDArray[np.float32]

    @classmethod
    def of(cls, rays: PixelRays, table: GridTable) -> _PointsTable:
        points = rays.ground_points(table.pose)
        column, row = table.places(points)
        known = np.flatnonzero(np.isfinite(row))
        points[np.isnan(row)] = np.nan
        ground = np.zeros((*row.shape, 4), np.float32)
        ground[..., :3] = points
        return cls(ground, known, column.reshape(-1)[known], row.reshape(-1)[known])


_NO_POINT = np.array([np.nan, np.nan, np.nan, 0.0], np.float32).view(np.complex128)  # 16 bytes as one value


def costmap_size(image: Size, wanted: Size | None) -> Size:
    """The wanted size; by default the image's shape, `COSTMAP_WIDTH` wide, and never larger than the image."""
    if wanted is None:
        wanted = Size(COSTMAP_WIDTH, max(1, round(image.height * COSTMAP_WIDTH / image.width)))
    return Size(min(wanted.width, image.width), min(wanted.height, image.height))


class CameraMeters:
    """What one camera's frames say in meters.

    Args:
        points_size: of `ground_points`; None: see `costmap_size`.
    """

    def __init__(self, settings: GridSettings, points_size: Size | None) -> None:
        self._spec = settings.spec
        self._points_size = points_size
        self.table: GridTable | None = None
        self._rays: PixelRays | None = None
        self._points: _PointsTable | None = None
        self._ends: NDArray[np.float32] | None = None

    def place(self, camera: CameraModel, pose: CameraPose) -> bool:
        """The camera and its pose from now on; answers whether the tables were made anew."""
        table = self.table
        if table is not None and table.camera == camera and table.pose.near(pose, STILL_DEGREES, STILL_METERS):
            return False
        if table is None or table.camera != camera:
            self._rays = None
        level = table.level if table is not None and table.camera == camera else None
        self.table = GridTable(camera, pose, self._spec, level)
        self._points = None
        return True

    def look(self, answer: Segmentation, mask: MaskImage, rules: GridRules, ignored: MaskImage | None = None) -> None:
        """Take in a frame, as `GridTable.look` does; `place` must have been called."""
        assert self.table is not None
        self._ends = self.table.look(answer, mask, rules, ignored)

    def cells(self, answer: Segmentation, rules: GridRules) -> Cells:
        """The grid of the frame that `look` took in."""
        assert self.table is not None
        assert self._ends is not None
        return self.table.cells(answer, rules, self._ends)

    def ground_points(self, answer: Segmentation) -> GroundPoints:
        """The points of the frame that `look` took in.

        What is behind the end of a ray has no point: only the nearest row of an obstacle, where it stands, has. It has
        the obstacle's label and confidence, however thin that is; the others have those of the pixel in their middle.
        """
        assert self.table is not None
        assert self._ends is not None
        rays = self._rays_of_points()
        if self._points is None:
            self._points = _PointsTable.of(rays, self.table)
        table = self._points
        coarser = self.table.camera.size.height / rays.size.height  # rows of the image for one of the points
        hidden = table.row < (self._ends - np.float32(coarser)).take(table.column, mode="wrap")  # all are in range
        points = table.ground.copy()
        np.put(points.view(np.complex128), table.known[hidden], _NO_POINT)
        packed = points.view(np.uint8)
        labels, confidence = rays.sampled.take(answer.labels), rays.sampled.take(answer.confidence)
        obstacle, stands = self.table.contacts(answer, self._ends)
        place = rays.sampled.place(stands)
        labels.reshape(-1)[place] = answer.labels.reshape(-1)[obstacle]
        confidence.reshape(-1)[place] = answer.confidence.reshape(-1)[obstacle]
        packed[..., 12], packed[..., 13] = labels, confidence
        return GroundPoints(packed, labels, confidence)

    def _rays_of_points(self) -> PixelRays:
        assert self.table is not None
        if self._rays is None:
            camera = self.table.camera
            self._rays = PixelRays(camera, costmap_size(camera.size, self._points_size))
        return self._rays


@dataclass(frozen=True)
class GridAnswer:
    """The grid of all cameras at one moment; what is read from it is made when it is asked for.

    Attributes:
        frame: the ground frame.
        spec: size and place.
        cells: int8 [y cells, x cells].
    """

    frame: str
    spec: GridSpec
    cells: Cells
    free_space: FreeSpace | None

    @cached_property
    def outline(self) -> NDArray[np.float64]:
        """Corners x, y [N, 2] of the free area ahead; none where nothing is known."""
        return np.zeros((0, 2)) if self.free_space is None else self.free_space.outline(self.cells)

    @cached_property
    def distance(self) -> float:
        """Meters to the end of the free corridor ahead; NaN where that is unknown."""
        return math.nan if self.free_space is None else self.free_space.distance(self.cells)


@dataclass(frozen=True)
class PointsAnswer:
    """One camera's frame at the costmap's size; what is asked for is made.

    Attributes:
        frame: the ground frame.
    """

    frame: str
    camera: CameraMeters
    answer: Segmentation

    @cached_property
    def cloud(self) -> GroundPoints:
        """The points, with labels and confidence."""
        return self.camera.ground_points(self.answer)

    @property
    def labels(self) -> LabelImage:
        """Class ids at the size of the points, uint8 [h, w]."""
        return self.cloud.labels

    @property
    def confidence(self) -> ConfidenceImage:
        """The winning class's probability x 255 at the size of the points, uint8 [h, w]."""
        return self.cloud.confidence


class SharedGrid:
    """One grid of several cameras, and what is read from it."""

    def __init__(self, settings: GridSettings) -> None:
        self._settings = settings
        self._free_space: FreeSpace | None = None
        self._seen: tuple[object, ...] = ()
        self._views: tuple[object, ...] = ()
        self._kept: list[GridTable] = []

    def merged(self, frame: str, parts: Mapping[str, tuple[Cells, GridTable]]) -> GridAnswer:
        """All parts in one; without any part, all is unknown.

        Args:
            frame: the ground frame.
            parts: of the cameras by name: the cells and the table that made them.
        """
        self._follow([table for _, table in parts.values()])
        spec = self._settings.spec
        cells = merge(cells for cells, _ in parts.values()) if parts else spec.unknown()
        return GridAnswer(frame, spec, cells, self._free_space)

    def _follow(self, tables: list[GridTable]) -> None:
        views, seen = tuple(id(table.level) for table in tables), tuple(id(table) for table in tables)
        if seen == self._seen and tables:
            return
        self._seen = seen
        self._kept = tables  # while they are kept no other object has their ids
        if not tables:
            self._free_space, self._views = None, ()
            return
        visible = np.logical_or.reduce([table.visible for table in tables])
        if self._free_space is not None and views == self._views:
            self._free_space.see(visible)
        else:
            self._free_space, self._views = (
                FreeSpace(self._settings.spec, visible, self._settings.corridor_width),
                views,
            )
