"""The level view of a camera: its image as a level camera in the same place would see the ground.

In it every column is one ray along the ground and every row one distance, whatever lens and pose the image has. What
depends on the place of the camera alone (which pixels of the view a cell covers) is made once; pitch and roll only
change how the view is made from the image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from seg_perception.core.grid import GridSpec
from seg_perception.core.ground import CameraPose
from seg_perception.core.optics import CameraModel
from seg_perception.core.types import Size

CELLS_A_PIXEL = 5
"""What a pixel may cover along the ground, in cells; where it covers more, the grid stays unknown."""

NO_END = np.float32(-1e9)
"""Row where a ray ends that nothing ends."""

_BETWEEN_WHEELS, _OVERHANG = 2.8, 0.6  # meters: at most between two wheels; of a bumper before its wheels
_NEAREST, _STEEPEST = 0.5, math.tan(math.radians(75.0))  # meters ahead, tangent to the side
_MAX_PIXELS = 1_500_000


@dataclass(frozen=True, slots=True)
class SampledCells:
    """The cells that are judged by samples of the level view; those with equally many samples follow each other.

    Attributes:
        cells: which cells, as flat indices into the grid [N].
        samples: for each number of samples, flat indices into the level view [samples, n]; the n add up to N.
        span: where `nearest_ends` finds the columns that a cell spans [2, N].
        row_near, row_far: the rows of its nearest and farthest corner [N].
    """

    cells: NDArray[np.intp]
    samples: tuple[NDArray[np.intp], ...]
    span: NDArray[np.intp]
    row_near: NDArray[np.float32]
    row_far: NDArray[np.float32]


class LevelView:
    """The level view of one camera's place: tables that hold for every small turn of it.

    Column c and row r of the view show the ground point that is fy h / (r - cy) ahead of the lens, along its heading,
    and (c - cx) / fx of that to its right.

    Args:
        pose: where the camera is; the view has room for turns of `SLACK` degrees about it.

    Attributes:
        fx, fy, cx, cy: of the view, in its pixels.
    """

    SLACK = 1.5
    MOVED = 0.02  # meters

    def __init__(self, camera: CameraModel, pose: CameraPose, spec: GridSpec) -> None:
        self.spec, self.pose = spec, pose
        self.heading = _heading(pose)
        self.height = pose.position[2]
        self.fx, self.fy, cx, cy = camera.fx, camera.fy, camera.cx, camera.cy
        left, top, right, bottom = self._bounds(camera)  # tangents to the right and downwards
        pixels = (right - left) * self.fx * (bottom - top) * self.fy
        if pixels > _MAX_PIXELS:  # a wide lens: fewer pixels than it has in its middle
            coarser = math.sqrt(_MAX_PIXELS / pixels)
            self.fx, self.fy, cx, cy = (v * coarser for v in (self.fx, self.fy, cx, cy))
        # whole pixels, so that the view of a level camera without distortion is its image
        first_column, first_row = math.floor(cx + self.fx * left), math.floor(cy + self.fy * top)
        self.size = Size(
            max(1, math.ceil(cx + self.fx * right) - first_column + 1),
            max(1, math.ceil(cy + self.fy * bottom) - first_row + 1),
        )
        self.cx, self.cy = cx - first_column, cy - first_row
        self.sampled = self._sampled()
        self.supported = np.zeros(spec.height * spec.width, bool)
        self.supported[self.sampled.cells] = True
        self._gaps = self._wheel_gaps()

    def fits(self, pose: CameraPose) -> bool:
        """Whether the tables hold for another pose of the camera."""
        return self.pose.near(pose, self.SLACK, self.MOVED)

    @property
    def matrix(self) -> NDArray[np.float64]:
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    def _ahead_left(self, x: NDArray[np.float32], y: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        """Ground coordinates as meters ahead of and left of the lens, along its heading."""
        c, s = np.float32(math.cos(self.heading)), np.float32(math.sin(self.heading))
        dx, dy = x - np.float32(self.pose.position[0]), y - np.float32(self.pose.position[1])
        return c * dx + s * dy, c * dy - s * dx

    def _farthest(self) -> float:
        """Meters ahead where a pixel covers `CELLS_A_PIXEL` cells."""
        return math.sqrt(CELLS_A_PIXEL * self.spec.resolution * self.fy * self.height)

    def _bounds(self, camera: CameraModel) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the ground to look at, as tangents to the right of and below the heading."""
        width, height = camera.size.width, camera.size.height
        u, v = np.meshgrid(np.linspace(-0.5, width - 0.5, 65), np.linspace(-0.5, height - 0.5, 65))
        rays = camera.rays(np.stack([u.reshape(-1), v.reshape(-1)], axis=1))
        level, straight = level_rotation(self.heading).T @ self.pose.matrix, CameraPose.mounted(1.0).matrix
        sides, lows = [], []
        for pitch in (-self.SLACK, 0.0, self.SLACK):
            for roll in (-self.SLACK, self.SLACK):
                turn = straight.T @ CameraPose.mounted(1.0, pitch, roll).matrix
                turned = rays @ (level @ turn).T.astype(np.float32)
                ground = turned[(turned[:, 2] > 0.02) & (turned[:, 1] > 0.0)]
                sides.append(ground[:, 0] / ground[:, 2])
                lows.append(ground[:, 1] / ground[:, 2])
        right, down = np.concatenate(sides), np.concatenate(lows)
        top = self.height / max(min(self._farthest(), self._grid_ahead()), _NEAREST)
        if not len(down) or down.max() <= top:
            return 0.0, top, 0.0, top
        bottom = min(float(down.max()), self.height / _NEAREST)
        return max(float(right.min()), -_STEEPEST), top, min(float(right.max()), _STEEPEST), max(bottom, top)

    def _grid_ahead(self) -> float:
        """Meters ahead of the lens to the grid's farthest corner."""
        spec = self.spec
        x = np.array([spec.x_min, spec.x_min, spec.x_max, spec.x_max], np.float32)
        y = np.array([spec.y_min, spec.y_max, spec.y_min, spec.y_max], np.float32)
        return float(self._ahead_left(x, y)[0].max())

    def place(self, x: NDArray[np.float32], y: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        """Column and row of the level view for ground points; points not ahead have row NaN."""
        ahead, left = self._ahead_left(x, y)
        ahead = np.where(ahead >= np.float32(_NEAREST), ahead, np.float32(np.nan))
        column = np.float32(self.cx) - np.float32(self.fx) * left / ahead
        return column, np.float32(self.cy) + np.float32(self.fy * self.height) / ahead

    def _sampled(self) -> SampledCells:
        spec = self.spec
        xs, ys = spec.centers()
        x, y = (a.reshape(-1) for a in np.meshgrid(xs, ys))
        half = np.float32(spec.resolution / 2)
        corners = [self.place(x + i * half, y + j * half) for i in (-1, 1) for j in (-1, 1)]
        column, row = np.stack([c for c, _ in corners]), np.stack([r for _, r in corners])  # [4, N]
        row_far, row_near = row.min(axis=0), row.max(axis=0)  # NaN stays NaN
        left, right = column.min(axis=0), column.max(axis=0)
        farthest = np.float32(self.cy + self.fy * self.height / self._farthest())
        within = (row_near >= 0) & (row_far <= self.size.height - 0.5) & (right >= 0) & (left <= self.size.width - 1)
        usable = within & (row_far >= farthest - np.float32(1e-3))
        area = (right - left) * (row_near - row_far)
        parts = [np.flatnonzero(usable & (area > 4.0)), np.flatnonzero(usable & ~(area > 4.0))]
        samples = tuple(
            np.stack([self._sample(x[part] + dx, y[part] + dy) for dx, dy in _places(spec, count, stride)])
            for part, (count, stride) in zip(parts, ((15, 7), (4, 2)), strict=True)
        )
        cells = np.concatenate(parts)
        span = _span(left[cells], right[cells], self.size.width)
        return SampledCells(cells, samples, span, row_near[cells], row_far[cells])

    def _sample(self, x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.intp]:
        """Flat index of the view's pixel that shows a ground point; one past the end where it has none."""
        column, row = self.place(x, y)
        column, row = np.rint(column), np.rint(row)
        inside = (column >= 0) & (column < self.size.width) & (row >= 0) & (row < self.size.height)
        flat = row * self.size.width + column
        return np.where(inside, flat, self.size.width * self.size.height).astype(np.intp)

    def _wheel_gaps(self) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """Columns of gaps between wheels, each twice the one before, and the row below the horizon from which on such a
        gap is at most `_BETWEEN_WHEELS` wide. A gap tells of rows from half to twice that; in others, larger gaps do.
        """
        octaves = (max(self.size.width // 2 - 1, 0) // 14).bit_length()
        columns = np.array([14 << octave for octave in range(octaves)], np.intp)
        return columns, np.asarray(self.fy * self.height * columns / (self.fx * _BETWEEN_WHEELS), np.float64)

    def below_bodies(self, ends: NDArray[np.float32], wheeled: NDArray[np.bool_]) -> NDArray[np.float32]:
        """The ends of rays that pass below a vehicle's body, moved to where its body begins.

        Between two wheels the camera sees road, and below the bumper, too, so the rays end too far away there. Where
        wheels are told from a body so, the body is taken to begin `_OVERHANG` before them.

        Args:
            ends: rows [columns].
            wheeled: whether the ray ends at something on wheels [columns].
        """
        first, last = (int(wheeled.argmax()), len(wheeled) - int(wheeled[::-1].argmax()))
        mine = wheeled[first:last]
        rows = np.where(mine, ends[first:last] - np.float32(self.cy), np.float32(0.0))  # below the horizon
        below = np.rint(rows).astype(np.uint16)[None]
        closed, bodies = rows.copy(), np.zeros(below.shape, np.uint8)
        columns, nearest = self._gaps
        ordered = np.sort(below[0])
        near_enough = np.searchsorted(ordered, 0.5 * nearest) < np.searchsorted(ordered, 2.0 * nearest)
        for k in np.flatnonzero(near_enough).tolist():
            wide = int(columns[k])
            filled = cv2.morphologyEx(below, cv2.MORPH_CLOSE, np.ones((1, wide + 1), np.uint8))
            gap = (mine & (filled >= nearest[k]) & (2 * below >= filled) & (filled > below))[0]
            if gap.any():
                np.maximum(closed, filled[0], out=closed, where=gap)
                bodies |= cv2.dilate(gap.view(np.uint8)[None], np.ones((1, wide // 2 + 1), np.uint8))
        body = (bodies[0] != 0) & mine
        ahead = np.float32(self.fy * self.height) / np.maximum(closed, np.float32(1e-3))
        moved = np.float32(self.fy * self.height) / np.maximum(ahead - np.float32(_OVERHANG), np.float32(_NEAREST))
        closed = np.where(body, moved, closed) + np.float32(self.cy)
        moved_ends = ends.copy()
        np.maximum(ends[first:last], closed, out=moved_ends[first:last], where=mine)
        return moved_ends

    def cell_at(self, columns: NDArray[np.float32], rows: NDArray[np.float32]) -> NDArray[np.intp]:
        """The cells, flat, at places of the view; those outside of the grid are left out."""
        ahead = np.float32(self.fy * self.height) / np.maximum(rows - np.float32(self.cy), np.float32(1e-6))
        left = (np.float32(self.cx) - columns) / np.float32(self.fx) * ahead
        c, s = np.float32(math.cos(self.heading)), np.float32(math.sin(self.heading))
        spec = self.spec
        x = np.float32(self.pose.position[0]) + c * ahead - s * left
        y = np.float32(self.pose.position[1]) + s * ahead + c * left
        i = np.floor((x - np.float32(spec.x_min)) / np.float32(spec.resolution)).astype(np.intp)
        j = np.floor((y - np.float32(spec.y_min)) / np.float32(spec.resolution)).astype(np.intp)
        inside = (i >= 0) & (i < spec.width) & (j >= 0) & (j < spec.height)
        return np.asarray((j * spec.width + i)[inside])


def _heading(pose: CameraPose) -> float:
    """Where the camera looks, radians to the left of x; of a camera that looks down, where its image's top is."""
    matrix = pose.matrix
    ahead = matrix[:2, 2]
    if math.hypot(*ahead) < 0.3:
        ahead = ahead - matrix[:2, 1]
    return math.atan2(ahead[1], ahead[0])


def level_rotation(heading: float) -> NDArray[np.float64]:
    return CameraPose.mounted(1.0, yaw=math.degrees(heading)).matrix


def _places(spec: GridSpec, count: int, stride: int) -> list[tuple[np.float32, np.float32]]:
    """Places of samples within a cell, from its center: a lattice in which no two share a row or a column."""
    k = np.arange(count)
    along_x = ((k + 0.5) / count - 0.5) * spec.resolution
    along_y = (((k + 1) * stride % (count + 1) - 0.5) / count - 0.5) * spec.resolution
    return [(np.float32(dx), np.float32(dy)) for dx, dy in zip(along_x, along_y, strict=True)]


def _span(left: NDArray[np.float32], right: NDArray[np.float32], width: int) -> NDArray[np.intp]:
    """Where `nearest_ends` has the nearest end of all columns that touch left to right [N]: two places [2, N]."""
    first = np.clip(np.floor(left + 0.5), 0, width - 1).astype(np.intp)
    last = np.clip(np.ceil(right - 0.5), first, width - 1).astype(np.intp)
    octave = np.floor(np.log2(last - first + 1)).astype(np.intp)
    return np.stack([octave * width + first, octave * width + last + 1 - (1 << octave)])
