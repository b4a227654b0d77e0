"""What a reactive stop needs of a drivable grid: the outline of the free area ahead, and the distance to its end.

Both are strict: only cells that are free (not those that cost) count, a cell that touches a sector or the corridor
counts in it, and the ground just ahead that no camera sees is bridged, never called free.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from seg_perception.core.grid import FREE_CELL, OCCUPIED_CELL, Cells, GridSpec

MAX_CORNERS = 180
_SECTORS = MAX_CORNERS // 2 - 1  # each border between sectors has a corner near and one far
_RAGGED = 1.0  # meters within which the border of what cameras see counts as one line


class FreeSpace:
    """Tables of a grid whose cameras see the same cells in every frame; `see` tells when that changes a little.

    Args:
        visible: which cells the cameras can see at all [y cells, x cells].
        corridor_width: of the car, meters.
    """

    def __init__(self, spec: GridSpec, visible: NDArray[np.bool_], corridor_width: float) -> None:
        self._spec = spec
        xs, ys = spec.centers()
        half = spec.resolution / 2
        x, y = (a.reshape(-1) for a in np.meshgrid(xs, ys))
        ahead = np.flatnonzero(x - half > 0.0)
        corners = [(x[ahead] + i * half, y[ahead] + j * half) for i in (-1, 1) for j in (-1, 1)]
        angle = np.stack([np.arctan2(v, u) for u, v in corners])
        radius = np.stack([np.hypot(u, v) for u, v in corners])
        low, high, near, far = angle.min(0), angle.max(0), radius.min(0), radius.max(0)
        near = np.where((y[ahead] - half < 0.0) & (y[ahead] + half > 0.0), x[ahead] - half, near)
        sees = visible.reshape(-1)[ahead]
        first, last = (float(low[sees].min()), float(high[sees].max())) if sees.any() else (-0.1, 0.1)
        self._borders = np.linspace(first, last, _SECTORS + 1)
        width = (last - first) / _SECTORS
        begin = np.clip(np.floor((low - first) / width + 1e-6), 0, _SECTORS).astype(np.intp)
        end = np.clip(np.ceil((high - first) / width - 1e-6), begin, _SECTORS).astype(np.intp)  # one past
        counts = end - begin
        cell = np.repeat(np.arange(len(ahead)), counts)  # of each pair of a cell and a sector that it touches
        sector = np.arange(len(cell)) - np.repeat(np.cumsum(counts) - counts - begin, counts)
        order = np.lexsort((near[cell], sector))
        self._sector, pairs = sector[order], cell[order]
        self._cells = ahead[pairs]
        self._range_near, self._range_far = near[pairs].astype(np.float32), far[pairs].astype(np.float32)
        self._present, self._starts = np.unique(self._sector, return_index=True)
        self._corridor = self._corridor_cells(corridor_width)
        self.see(visible)

    def _corridor_cells(self, width: float) -> tuple[slice, slice] | None:
        spec = self._spec
        xs, ys = spec.centers()
        touched = np.flatnonzero(np.abs(ys) < (width + spec.resolution) / 2 - 1e-6)
        columns = np.flatnonzero(xs - spec.resolution / 2 >= -1e-6)
        if not (touched.size and columns.size):
            return None
        return slice(int(touched[0]), int(touched[-1]) + 1), slice(int(columns[0]), None)

    def see(self, visible: NDArray[np.bool_]) -> None:
        """The cameras see other cells now, as when the car pitches."""
        sees = visible.reshape(-1).take(self._cells)
        start = self._nearest(np.where(sees, self._range_near, np.inf))  # [sectors]
        ragged = start.take(self._sector) + _RAGGED
        blind = ~sees & (self._range_near < ragged)
        beyond = ~sees & (self._range_near >= ragged)
        self._near = np.maximum(start, -self._nearest(np.where(blind, -self._range_far, np.inf)))
        last = -self._nearest(np.where(sees, -self._range_far, np.inf))
        self._reach = np.minimum(last, self._nearest(np.where(beyond, self._range_near, np.inf)))
        counted = np.flatnonzero(sees & (self._range_far > self._near.take(self._sector)))  # nearest first
        self._counted, self._counted_near = self._cells[counted], self._range_near[counted]
        self._counted_borders = np.searchsorted(self._sector[counted], np.arange(_SECTORS + 1))
        # up to the first column that is seen from side to side, only what is occupied ends the corridor
        if self._corridor is not None:
            whole = np.flatnonzero(visible[self._corridor].all(axis=0))
            self._whole_from = int(whole[0]) if whole.size else visible[self._corridor].shape[1]

    def _nearest(self, ranges: NDArray[np.floating]) -> NDArray[np.float64]:
        """The least of each sector's ranges; infinite where it has none."""
        least = np.full(_SECTORS, np.inf)
        if len(ranges):
            least[self._present] = np.minimum.reduceat(ranges, self._starts)
        return least

    def distance(self, cells: Cells) -> float:
        """Meters from the ground frame's origin to the first cell of the corridor that is not free; NaN: unknown.

        Unknown where the first ground that is seen is neither free nor occupied.
        """
        if self._corridor is None:
            return math.nan
        corridor = cells[self._corridor]
        start = self._whole_from
        occupied = (corridor[:, : start + 1] == OCCUPIED_CELL).any(axis=0)
        offset = int(self._corridor[1].start)
        if occupied.any():
            return self._edge(offset + int(occupied.argmax()))
        if start >= corridor.shape[1]:
            return math.nan
        ended = (corridor[:, start:] != FREE_CELL).any(axis=0)
        if not ended.any():
            return self._edge(offset + corridor.shape[1])
        first = int(ended.argmax())
        return math.nan if first == 0 else self._edge(offset + start + first)

    def _edge(self, column: int) -> float:
        return round(max(0.0, float(self._spec.x_min + column * self._spec.resolution)), 6)

    def outline(self, cells: Cells) -> NDArray[np.float64]:
        """The corners x, y [N, 2] of the free area ahead that is connected to the car, N at most `MAX_CORNERS`.

        A star about the ground frame's origin: first its far side from right to left, then its near side back.
        Empty where nothing is known to be free.
        """
        nothing = np.zeros((0, 2))
        far = self._reach.copy()
        blocked = np.flatnonzero(cells.reshape(-1).take(self._counted, mode="wrap") != FREE_CELL)
        borders = np.searchsorted(blocked, self._counted_borders)
        sectors = np.flatnonzero(borders[1:] > borders[:-1])  # in which something is not free
        far[sectors] = np.minimum(far[sectors], self._counted_near[blocked[borders[sectors]]])
        far = np.where(np.isfinite(self._near), far, -np.inf)
        near = np.where(np.isfinite(self._near), self._near, np.inf)
        # corners lie on the borders between sectors, with the stricter of both sides
        near_at = np.concatenate([near[:1], np.maximum(near[:-1], near[1:]), near[-1:]])
        far_at = np.concatenate([far[:1], np.minimum(far[:-1], far[1:]), far[-1:]])
        enough = self._spec.resolution
        run = self._connected(far - near > enough, far_at - near_at > enough)
        if run is None:
            return nothing
        first, last = run
        own_near, own_far = near_at.copy(), far_at.copy()
        own_near[first], own_near[last + 1] = near[first], near[last]
        own_far[first], own_far[last + 1] = far[first], far[last]
        angles = self._borders[first : last + 2]
        directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        outer = directions * own_far[first : last + 2, None]
        inner = directions * own_near[first : last + 2, None]
        return np.concatenate([outer, inner[::-1]])

    def _connected(self, open_sector: NDArray[np.bool_], open_border: NDArray[np.bool_]) -> tuple[int, int] | None:
        """First and last sector of the run ahead of the car, or of the widest one."""
        runs: list[tuple[int, int]] = []
        for k in np.flatnonzero(open_sector).tolist():
            if runs and runs[-1][1] == k - 1 and open_border[k]:
                runs[-1] = (runs[-1][0], k)
            else:
                runs.append((k, k))
        if not runs:
            return None
        ahead = int(np.searchsorted(self._borders, 0.0) - 1)
        return next((run for run in runs if run[0] <= ahead <= run[1]), max(runs, key=lambda run: run[1] - run[0]))
