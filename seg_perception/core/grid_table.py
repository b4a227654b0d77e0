"""Fills the cells of the grid from the frames of one camera in one pose."""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from seg_perception.core.grid import (
    FREE_CELL,
    OCCUPIED_CELL,
    UNKNOWN_CELL,
    WHEELED,
    Cells,
    GridRules,
    GridSpec,
)
from seg_perception.core.ground import CameraPose
from seg_perception.core.level_view import NO_END, LevelView, SampledCells, level_rotation
from seg_perception.core.optics import CameraModel, Distortion, widest_tangent
from seg_perception.core.types import MaskImage, Segmentation

_FEWEST_SEEN = 0.5  # share of a cell that the camera must see
_SUMMED = 63  # what is left of a pixel's flags when they are added up
_BLOCK = 16  # rows


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
    """

    def __init__(self, camera: CameraModel, pose: CameraPose, spec: GridSpec, level: LevelView | None = None) -> None:
        self.camera, self.pose = camera, pose
        reusable = level is not None and level.spec == spec and level.fits(pose)
        self.level = level if level is not None and reusable else LevelView(camera, pose, spec)
        view = self.level
        self._maps, self._top = self._level_maps()
        columns, rows = self._maps[..., 0], self._maps[..., 1]
        inside = (columns >= 0) & (columns < camera.size.width) & (rows >= 0) & (rows < camera.size.height)
        flat = np.append(inside.reshape(-1), False).view(np.uint8)
        self._counts = [  # seen samples of each cell
            np.add.reduce(flat.take(group.pixels), axis=0, dtype=np.uint8) for group in view.groups
        ]
        # where a cell that is not seen is always behind the end of its ray, and so unknown
        self._row_near = [
            np.where(counts >= len(group.pixels) * _FEWEST_SEEN, group.row_near, 2 * NO_END)
            for group, counts in zip(view.groups, self._counts, strict=True)
        ]
        self._flags = np.zeros((camera.size.height, camera.size.width), np.uint8)
        self._columns = np.arange(view.size.width, dtype=np.intp)
        self._blocks = view.size.height // _BLOCK + 1
        self._level = np.zeros(self._blocks * _BLOCK * view.size.width, np.uint8)  # beyond the view: nothing is seen
        self._judgement_rows = [counts.astype(np.intp) * 256 for counts in self._counts]

    @property
    def visible(self) -> NDArray[np.bool_]:
        """Cells [y cells, x cells] that this camera sees, near enough to be judged."""
        spec = self.level.spec
        visible = np.zeros(spec.height * spec.width, bool)
        for group, row_near in zip(self.level.groups, self._row_near, strict=True):
            visible[group.cells] = row_near > NO_END
        return visible.reshape(spec.height, spec.width)

    def _level_maps(self) -> tuple[NDArray[np.int16], int]:
        """For each pixel of the level view the image's (column, row), -1 where it has none; and the topmost row."""
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
        maps = np.empty((view.size.height, view.size.width, 2), np.int16)
        for channel, values in enumerate(made):
            maps[..., channel] = np.rint(np.clip(np.nan_to_num(values, nan=-9.0), -9.0, 32000.0))
        back = np.linalg.inv(matrix @ turn).astype(np.float32)
        u = np.arange(view.size.width, dtype=np.float32)[None, :]
        v = np.arange(view.size.height, dtype=np.float32)[:, None]
        x, y, z = (back[i, 0] * u + (back[i, 1] * v + back[i, 2]) for i in range(3))
        hidden = z <= 1e-6
        widest = widest_tangent(camera)
        if math.isfinite(widest):
            hidden |= x * x + y * y > np.float32(widest**2) * z * z
        maps[hidden] = -9
        rows = maps[..., 1]
        rows = rows[(rows >= 0) & (rows < camera.size.height)]
        return maps, int(rows.min()) if rows.size else camera.size.height

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
            return np.full(self.level.size.width, NO_END)
        self._seen_level(rules.flags(answer, mask, ignored, self._top, self._flags))
        return self._ends()

    def fill(self, answer: Segmentation, mask: MaskImage, rules: GridRules, ignored: MaskImage | None = None) -> Cells:
        """The grid of one frame, see `look`."""
        return self.cells(answer, rules, self.look(answer, mask, rules, ignored))

    def cells(self, answer: Segmentation, rules: GridRules, ends: NDArray[np.float32]) -> Cells:
        """The grid of the frame that `look` took in, with the ends that it returned."""
        spec, view = self.level.spec, self.level
        cells = np.full(spec.height * spec.width, UNKNOWN_CELL, np.int8)
        if self._top >= self.camera.size.height:
            return cells.reshape(spec.height, spec.width)
        sums = [self._sum(group) for group in view.groups]
        costs = None if rules.costs is None else cv2.LUT(answer.labels, rules.costs)
        highest = [None] * len(sums) if costs is None else self._highest(costs)
        octaves = nearest_ends(ends)
        judged = _judgements(rules.min_share)
        for k, (group, cost) in enumerate(zip(view.groups, highest, strict=True)):
            state = judged.take(self._judgement_rows[k] + sums[k])
            if cost is not None:
                np.copyto(state, cost, where=state == FREE_CELL)
            end = np.maximum(octaves.take(group.span[0]), octaves.take(group.span[1]))
            np.putmask(state, end > group.row_far, np.int8(OCCUPIED_CELL))
            np.putmask(state, end >= self._row_near[k], np.int8(UNKNOWN_CELL))
            cells[group.cells] = state
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

    def _seen_level(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """An image's values in the level view, uint8 [rows, columns]; 0 where the image shows nothing."""
        size = self.level.size
        level = self._level[: size.height * size.width].reshape(size.height, size.width)
        cv2.remap(image, self._maps, None, cv2.INTER_NEAREST, level, cv2.BORDER_CONSTANT, 0)
        return level

    def _ends(self) -> NDArray[np.float32]:
        """The row of the last pixel before each column's first obstacle [columns], from flags in the level view.

        Takes the obstacles' flags out. In blocks of rows, so that most pixels are looked at once and quickly.
        """
        width = self.level.size.width
        level = self._level.reshape(self._blocks, _BLOCK, width)
        blocks = level.max(axis=1) >> 7  # [blocks, columns]
        last = np.max(blocks * np.arange(1, self._blocks + 1, dtype=np.uint16)[:, None], axis=0).astype(np.intp) - 1
        block = level[np.maximum(last, 0), :, self._columns]  # [columns, _BLOCK]
        row = np.max((block >> 7) * np.arange(1, _BLOCK + 1, dtype=np.uint8), axis=1).astype(np.intp)
        wheeled = (block[self._columns, np.maximum(row, 1) - 1] & WHEELED != 0) & (last >= 0)
        self._level &= _SUMMED
        ends = np.where(last >= 0, last * _BLOCK + row - np.float32(1e-3), NO_END).astype(np.float32)
        return self.level.below_bodies(ends, wheeled) if wheeled.any() else ends

    def _sum(self, group: SampledCells) -> NDArray[np.uint8]:
        """The flags of each cell's samples, added."""
        return np.asarray(np.add.reduce(self._level.take(group.pixels, mode="clip"), axis=0, dtype=np.uint8))

    def _highest(self, costs: NDArray[np.uint8]) -> list[NDArray[np.int8] | None]:
        """The highest cost among each cell's samples."""
        self._seen_level(costs)
        samples = (self._level.take(group.pixels, mode="clip") for group in self.level.groups)
        return [np.max(values, axis=0).view(np.int8) for values in samples]


@lru_cache(maxsize=16)
def _judgements(min_share: float) -> NDArray[np.int8]:
    """What a cell is by the samples that are seen of it and the sum of their flags: int8 [16 * 256]."""
    total, seen = np.arange(256), np.arange(16)[:, None]
    states = np.full((16, 256), UNKNOWN_CELL, np.int8)
    states[(total >> 4) * 2 >= np.maximum(seen, 1)] = OCCUPIED_CELL
    states[(total & 15) >= np.maximum(seen * min_share - 1e-6, 1)] = FREE_CELL
    return states.reshape(-1)
