"""Fills the cells of the grid from the frames of one camera in one pose."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from seg_perception.core.grid import (
    FREE_CELL,
    OBSTACLE,
    OCCUPIED_CELL,
    UNKNOWN_CELL,
    WHEELED,
    Cells,
    GridRules,
    GridSpec,
)
from seg_perception.core.ground import CameraPose
from seg_perception.core.level_view import NO_END, LevelView, level_rotation
from seg_perception.core.optics import CameraModel, Distortion, widest_tangent
from seg_perception.core.types import MaskImage, Segmentation, Size

_FEWEST_SEEN = 0.5  # share of a cell that the camera must see
_SUMMED = 63  # what is left of a pixel's flags when they are added up
_BLOCK = 16  # rows
_EACH, _ROUNDED = 8, 0.02  # pixels of the view that steps are measured over; of a step, that no pixel falls through


def nearest_ends(ends: NDArray[np.float32]) -> NDArray[np.float32]:
    """Row k, flat: the nearest end of the 2^k columns from each column on [W]."""
    width = len(ends)
    octaves = np.empty((width.bit_length(), width), np.float32)
    octaves[0] = ends
    for k in range(1, len(octaves)):
        half = 1 << (k - 1)
        octaves[k] = octaves[k - 1]
        np.maximum(octaves[k - 1][:-half], octaves[k - 1][half:], out=octaves[k][:-half])
    return octaves.reshape(-1)


class GridTable:
    """One camera with one pose: which of its pixels each cell covers.

    `fill` uses buffers of the table: one thread at a time.

    Args:
        level: of the same camera, used when it fits the pose; it is the slower part to make.

    Attributes:
        source: for each pixel of the level view its flat index in the image, intp [rows that show something, W];
            the number of the image's pixels where it is not in the image.
        step: rows and columns of the image between neighbors of the level view, where most are; obstacles are grown to
            it, down and to the right, so that none falls through.
    """

    def __init__(self, camera: CameraModel, pose: CameraPose, spec: GridSpec, level: LevelView | None = None) -> None:
        self.camera, self.pose = camera, pose
        reusable = level is not None and level.spec == spec and level.fits(pose)
        self.level = level if level is not None and reusable else LevelView(camera, pose, spec)
        view, sampled = self.level, self.level.sampled
        pixels = camera.size.height * camera.size.width
        source = self._level_source()
        seen = np.flatnonzero((source < pixels).any(axis=1))  # rows of the view
        self.source = np.ascontiguousarray(source[: seen[-1] + 1 if seen.size else 0])
        self._top = int(source.min()) // camera.size.width  # topmost row of the image that is looked at
        flat = np.append(source.reshape(-1) < pixels, False).view(np.uint8)
        counts = np.concatenate([np.add.reduce(flat.take(s), axis=0, dtype=np.uint8) for s in sampled.samples])
        most = np.repeat([len(s) for s in sampled.samples], [s.shape[1] for s in sampled.samples])
        # where a cell that is not seen is always behind the end of its ray, and so unknown
        self._row_near = np.where(counts >= most * _FEWEST_SEEN, sampled.row_near, np.float32(2 * NO_END))
        self._partly = np.flatnonzero((counts >= most * _FEWEST_SEEN) & (counts < most))
        self._partly_counts = counts[self._partly].astype(np.intp)
        # buffers: what the image has at a pixel, with a pixel at the end for "nothing", and the same in the level view
        self._image = np.zeros(pixels + 1, np.uint8)
        self._flags = self._image[:-1].reshape(camera.size.height, camera.size.width)
        self._columns = np.arange(view.size.width, dtype=np.intp)
        self._blocks = max(1, -(-len(self.source) // _BLOCK))  # that show something
        self._level = np.zeros((view.size.height // _BLOCK + 1) * _BLOCK * view.size.width, np.uint8)
        self._shown = self._level[: self.source.size].reshape(self.source.shape)
        self._values = tuple(np.empty(s.shape, np.uint8) for s in sampled.samples)
        self._sums = np.empty((1, len(sampled.cells)), np.uint8)
        self._rules: GridRules
        if max(self.step) > 1:  # what the view shows and what lies between, but not what is beyond the lens
            shown = np.zeros(pixels + 1, np.uint8)
            shown[self.source.reshape(-1)] = OBSTACLE | WHEELED
            closed = cv2.morphologyEx(shown[:-1].reshape(self._flags.shape), cv2.MORPH_CLOSE, np.ones(self.step))
            self._growing = np.asarray(closed, np.uint8)
        self._end, self._other_end = (np.empty(len(sampled.cells), np.float32) for _ in range(2))
        self._obstacles: NDArray[np.intp] = np.zeros((2, 0), np.intp)  # column and row of what ends each ray

    @property
    def visible(self) -> NDArray[np.bool_]:
        """Cells [y cells, x cells] that this camera sees, near enough to be judged."""
        spec = self.level.spec
        visible = np.zeros(spec.height * spec.width, bool)
        visible[self.level.sampled.cells] = self._row_near > NO_END
        return visible.reshape(spec.height, spec.width)

    def _level_source(self) -> NDArray[np.intp]:
        """The image's pixel for each of the level view [rows, columns], flat; one past the end where it has none."""
        view, camera, pose = self.level, self.camera, self.pose
        turn = level_rotation(view.heading).T @ pose.matrix  # the optical frame's directions in the level view's
        matrix = view.matrix
        matrix[1, 1] *= view.height / pose.position[2]  # a lens that rose a little sees the same ground lower
        size = (view.size.width, view.size.height)
        coefficients = np.array(camera.coefficients or (0.0,) * 4)
        if camera.distortion is Distortion.EQUIDISTANT:
            made = cv2.fisheye.initUndistortRectifyMap(camera.matrix, coefficients, turn, matrix, size, cv2.CV_32FC1)
        else:
            made = cv2.initUndistortRectifyMap(camera.matrix, coefficients, turn, matrix, size, cv2.CV_32FC1)
        self.step = _largest_steps(made, camera.size)
        column, row = (np.rint(np.nan_to_num(values, nan=-9.0)) for values in made)
        nowhere = (column < 0) | (column >= camera.size.width) | (row < 0) | (row >= camera.size.height)
        back = np.linalg.inv(matrix @ turn).astype(np.float32)
        u = np.arange(view.size.width, dtype=np.float32)[None, :]
        v = np.arange(view.size.height, dtype=np.float32)[:, None]
        x, y, z = (back[i, 0] * u + (back[i, 1] * v + back[i, 2]) for i in range(3))
        nowhere |= z <= 1e-6
        widest = widest_tangent(camera)
        if math.isfinite(widest):
            nowhere |= x * x + y * y > np.float32(widest**2) * z * z
        column[nowhere], row[nowhere] = 0, camera.size.height  # so one past the end
        return np.asarray(row.astype(np.intp) * camera.size.width + column.astype(np.intp))

    def look(
        self, answer: Segmentation, mask: MaskImage, rules: GridRules, ignored: MaskImage | None = None
    ) -> NDArray[np.float32]:
        """Take in a frame: `cells` and `shown` are about the last one.

        Args:
            answer: at the camera's size.
            mask: the drivable mask of the same size: where the answer is drivable and sure.
            ignored: 255 where the image shows the car itself.

        Returns:
            the row of the level view where each column's ray ends, `NO_END` where nothing ends it [columns].
        """
        if self._top >= self.camera.size.height:  # it shows no ground
            self._obstacles = np.zeros((2, 0), np.intp)
            return np.full(self.level.size.width, NO_END)
        rules.flags(answer, mask, ignored, self._top, self._flags)
        self._rules = rules
        if max(self.step) > 1:
            below = self._flags[self._top :]
            grown = cv2.dilate(below & self._growing[self._top :], np.ones(self.step, np.uint8))
            np.bitwise_or(below, grown, out=below)
        self._show()
        return self._ends()

    def fill(self, answer: Segmentation, mask: MaskImage, rules: GridRules, ignored: MaskImage | None = None) -> Cells:
        """The grid of one frame, see `look`."""
        return self.cells(answer, rules, self.look(answer, mask, rules, ignored))

    def cells(self, answer: Segmentation, rules: GridRules, ends: NDArray[np.float32]) -> Cells:
        """The grid of the frame that `look` took in, with the ends that it returned."""
        spec, view, sampled = self.level.spec, self.level, self.level.sampled
        cells = np.full(spec.height * spec.width, UNKNOWN_CELL, np.int8)
        if self._top >= self.camera.size.height:
            return cells.reshape(spec.height, spec.width)
        states = self.states(rules.min_share)
        if rules.costs is not None:
            np.copyto(states, self._highest(answer, rules.costs), where=states == FREE_CELL)
        octaves = nearest_ends(ends)
        octaves.take(sampled.span[0], out=self._end, mode="wrap")  # no index is out of range; "wrap" is fastest
        octaves.take(sampled.span[1], out=self._other_end, mode="wrap")
        end = np.maximum(self._end, self._other_end, out=self._end)
        np.putmask(states, end > sampled.row_far, np.int8(OCCUPIED_CELL))
        states |= -(end >= self._row_near).view(np.int8)  # -1, unknown, has every bit
        cells[sampled.cells] = states
        columns = np.flatnonzero(ends > NO_END)
        contact = view.cell_at(columns.astype(np.float32), ends[columns] - np.float32(0.02))
        cells[contact[view.supported[contact]]] = OCCUPIED_CELL
        return cells.reshape(spec.height, spec.width)

    def places(self, ground: NDArray[np.float32]) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """The level view's column and row of each ground point [..., 3]; of points outside of it row NaN."""
        column, row = self.level.place(ground[..., 0], ground[..., 1])
        outside = ~((column > -0.5) & (column < self.level.size.width - 0.5) & np.isfinite(row))
        row[outside] = np.nan
        return np.where(outside, 0.0, np.rint(column)).astype(np.intp), row

    def _show(self) -> None:
        """Bring the image's buffer to the level view's."""
        self._image.take(self.source, out=self._shown, mode="wrap")

    def _ends(self) -> NDArray[np.float32]:
        """The row of the last pixel before each column's first obstacle [columns], from flags in the level view.

        Takes the obstacles' flags out. In blocks of rows, so that most pixels are looked at once and quickly.
        """
        width, count = self.level.size.width, self._blocks
        level = self._level[: count * _BLOCK * width]
        blocks = level.reshape(count, _BLOCK, width).max(axis=1) >> 7  # [blocks, columns]
        last = np.max(blocks * np.arange(1, count + 1, dtype=np.min_scalar_type(count))[:, None], axis=0)  # from 1 on
        found = last > 0
        first = (np.maximum(last, 1).astype(np.intp) - 1) * _BLOCK
        block = level.take(
            first * width + self._columns + np.arange(_BLOCK)[:, None] * width, mode="wrap"
        )  # [_BLOCK, columns]
        row = np.max((block >> 7) * np.arange(1, _BLOCK + 1, dtype=np.uint8)[:, None], axis=0).astype(np.intp)
        self._obstacles = np.stack([self._columns, first + row - 1])[:, found]
        wheeled = (block[np.maximum(row, 1) - 1, self._columns] & WHEELED != 0) & found
        level &= _SUMMED
        ends = np.where(found, first + row - np.float32(1e-3), NO_END).astype(np.float32)
        return self.level.below_bodies(ends, wheeled) if wheeled.any() else ends

    def contacts(self, answer: Segmentation, ends: NDArray[np.float32]) -> NDArray[np.intp]:
        """For each ray of the frame that `look` took in, which something ends: two of the image's pixels, flat [2, N].

        The pixel of what ends it, and the one that shows the ground where it stands, so far as the image does.

        Args:
            answer, ends: that `look` took in, and returned.
        """
        columns, rows = self._obstacles
        obstacle = self.source[rows, columns]
        labels, width, blocks = answer.labels.reshape(-1), self.camera.size.width, self._rules.blocks
        for down, right in np.argwhere(np.ones(self.step))[1:].tolist():  # it may be the growth of another pixel
            other = obstacle - down * width - right
            obstacle = np.where(blocks(labels[obstacle]) | ~blocks(labels[other]), obstacle, other)
        stands = self.source[np.minimum(ends[columns].astype(np.intp), len(self.source) - 1), columns]
        return np.stack([obstacle, np.where(stands < self._image.size - 1, stands, obstacle)])

    def states(self, min_share: float) -> NDArray[np.int8]:
        """What each sampled cell is by its samples alone, from flags in the level view, int8 [N]."""
        judged = _judgements(min_share)
        states = np.empty(self._sums.shape, np.uint8)
        begin = 0
        for pixels, values in zip(self.level.sampled.samples, self._values, strict=True):
            part = slice(begin, begin + pixels.shape[1])
            if pixels.size:
                self._level.take(pixels, out=values, mode="wrap")
                np.add.reduce(values, axis=0, dtype=np.uint8, out=self._sums[0, part])
                states[:, part] = cv2.LUT(self._sums[:, part], judged[len(pixels)].view(np.uint8))
            begin = part.stop
        found = states[0].view(np.int8)
        found[self._partly] = judged[self._partly_counts, self._sums[0, self._partly]]
        return np.asarray(found)

    def _highest(self, answer: Segmentation, costs: NDArray[np.uint8]) -> NDArray[np.int8]:
        """The highest cost among each cell's samples [N]; the flags in the level view are lost."""
        cv2.LUT(answer.labels, costs, self._flags)
        self._show()
        samples = (self._level.take(pixels, mode="wrap") for pixels in self.level.sampled.samples)
        return np.asarray(np.concatenate([np.max(values, axis=0) for values in samples]).view(np.int8))


def _largest_steps(made: Sequence[NDArray[np.float32]], image: Size) -> tuple[int, int]:
    """How many rows and columns of the image lie between neighbors of the level view, where most do.

    Args:
        made: the image's column and row for each pixel of the view [rows, columns].
    """
    column, row = (values[::_EACH, ::_EACH] for values in made)
    inside = (column > 0) & (column < image.width - 1) & (row > 0) & (row < image.height - 1)
    inside = inside[1:, 1:] & inside[1:, :-1] & inside[:-1, 1:]
    steps = []
    for values in (row, column):
        step = np.abs(np.diff(values, axis=1)[1:]) + np.abs(np.diff(values, axis=0)[:, 1:])
        steps.append(max(1, math.ceil(float(step[inside].max(initial=0.0)) / _EACH - _ROUNDED)))
    return steps[0], steps[1]


@lru_cache(maxsize=16)
def _judgements(min_share: float) -> NDArray[np.int8]:
    """What a cell is by the samples that are seen of it and the sum of their flags: int8 [16, 256]."""
    total, seen = np.arange(256), np.arange(16)[:, None]
    states = np.full((16, 256), UNKNOWN_CELL, np.int8)
    states[(total >> 4) * 2 >= np.maximum(seen, 1)] = OCCUPIED_CELL
    states[(total & 15) >= np.maximum(seen * min_share - 1e-6, 1)] = FREE_CELL
    return states
