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
_RAGGED = 1.0  # metres within which the border of what cameras see counts as one line


class FreeSpace:
    """Tables of a grid whose cameras see the same cells in every frame.

    Args:
        visible: which cells the cameras can see at all [y cells, x cells].
        corridor_width: of the car, metres.
    """

    def __init__(self, spec: GridSpec, visible: NDArray[np.bool_], corridor_width: float) -> None:
        self._spec = spec
        self._set_up_outline(visible)
        self._set_up_corridor(visible, corridor_width)

    def _set_up_outline(self, visible: NDArray[np.bool_]) -> None:
        spec = self._spec
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
        self.sectors = 0
        if not sees.any():
            return
        first, last = float(low[sees].min()), float(high[sees].max())
        self._borders = np.linspace(first, last, _SECTORS + 1)
        width = (last - first) / _SECTORS
        begin = np.clip(np.floor((low - first) / width + 1e-6), 0, None).astype(np.intp)
        end = np.clip(np.ceil((high - first) / width - 1e-6), None, _SECTORS).astype(np.intp)  # one past
        counts = np.maximum(end - begin, 0)
        pair = np.repeat(np.arange(len(ahead)), counts)  # the cell of each (cell, sector) pair
        sector = begin[pair] + np.arange(len(pair)) - np.repeat(np.cumsum(counts) - counts, counts)
        self._near, reach = np.full(_SECTORS, np.inf), np.zeros(_SECTORS)
        for k in range(_SECTORS):
            cells = pair[sector == k]
            shown, hidden = cells[sees[cells]], cells[~sees[cells]]
            if not len(shown):
                continue
            start = float(near[shown].min())
            blind = hidden[near[hidden] < start + _RAGGED]
            self._near[k] = max(start, float(far[blind].max())) if len(blind) else start
            beyond = hidden[near[hidden] >= start + _RAGGED]
            reach[k] = min(float(far[shown].max()), float(near[beyond].min()) if len(beyond) else np.inf)
        keep = sees[pair] & (far[pair] > self._near[sector])
        pair, sector = pair[keep], sector[keep]
        order = np.argsort(sector, kind="stable")
        self._cells, self._ranges = ahead[pair[order]], near[pair[order]].astype(np.float32)
        self._present, self._starts = np.unique(sector[order], return_index=True)
        self._reach = reach
        self.sectors = len(self._present)

    def _set_up_corridor(self, visible: NDArray[np.bool_], width: float) -> None:
        spec = self._spec
        xs, ys = spec.centers()
        touched = np.flatnonzero(np.abs(ys) < (width + spec.resolution) / 2 - 1e-6)
        columns = np.flatnonzero(xs - spec.resolution / 2 >= -1e-6)
        self._corridor = (
            (slice(touched[0], touched[-1] + 1), slice(columns[0], None)) if touched.size and columns.size else None
        )
        if self._corridor is None:
            return
        sees = visible[self._corridor]
        whole = np.flatnonzero(sees.all(axis=0))
        # up to the first column that is seen from side to side, only what is occupied ends the corridor
        self._whole_from = int(whole[0]) if whole.size else sees.shape[1]

    def distance(self, cells: Cells) -> float:
        """Metres from the ground frame's origin to the first cell of the corridor that is not free; NaN: unknown.

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
        if not self.sectors:
            return nothing
        blocked = cells.reshape(-1).take(self._cells) != FREE_CELL
        ranges = np.where(blocked, self._ranges, np.float32(np.inf))
        far = self._reach.copy()
        far[self._present] = np.minimum(far[self._present], np.minimum.reduceat(ranges, self._starts))
        # corners lie on the borders between sectors, with the stricter of both sides
        near_at = np.concatenate([self._near[:1], np.maximum(self._near[:-1], self._near[1:]), self._near[-1:]])
        far_at = np.concatenate([far[:1], np.minimum(far[:-1], far[1:]), far[-1:]])
        enough = self._spec.resolution
        run = self._connected(far - self._near > enough, far_at - near_at > enough)
        if run is None:
            return nothing
        first, last = run
        own_near, own_far = near_at.copy(), far_at.copy()
        own_near[first], own_near[last + 1] = self._near[first], self._near[last]
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
