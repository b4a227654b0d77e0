"""The drivable grid: free, occupied and unknown cells of the ground around the car, and where the free ones end.

How one camera fills its cells, frame by frame (`grid_table` does it):

1. A level view (`level_view`): the image as a level camera in the same place would see it, so that every column is one
   ray along the ground and every row one distance. Tables make it from any lens and any pose.
2. In each column the nearest pixel that is not ground ends the ray: its cell is occupied, what is behind is unknown.
3. A cell before that is free where enough of the pixels it covers are drivable and sure.

Cells are what nav_msgs/OccupancyGrid holds: -1 unknown, 0 free, 1 to 99 a cost, 100 occupied.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from seg_perception.core.errors import SettingsError
from seg_perception.core.label_set import LabelSet
from seg_perception.core.types import MaskImage, Segmentation

Cells: TypeAlias = NDArray[np.int8]
"""int8 [y cells, x cells]: -1 unknown, 0 free, 1 to 99 a cost, 100 occupied."""

UNKNOWN_CELL, FREE_CELL, OCCUPIED_CELL = -1, 0, 100
MAX_COST = 99

FLAT_CLASSES = frozenset({"road", "sidewalk", "terrain"})
"""Classes that lie on the ground whatever the settings say: they hide nothing behind them."""

WHEELED_CLASSES = frozenset({"car", "truck", "bus", "train", "caravan", "trailer", "van", "vehicle"})
"""Classes that stand on wheels, so that a camera sees road below their bodies."""
PASSABLE, BLOCKED, WHEELED, OBSTACLE = 1, 16, 64, 128
"""Flags of a pixel; those of 15 samples of the first two fit in one byte."""

_MAX_CELLS = 4_000_000


@dataclass(frozen=True, slots=True)
class GridSpec:
    """Size and place of the grid in the ground frame, in meters: x ahead, y left.

    It begins at x_min and y_min and has whole cells: its ends are where the last of them does.
    """

    resolution: float = 0.1
    x_min: float = 0.0
    x_max: float = 40.0
    y_min: float = -10.0
    y_max: float = 10.0

    def __post_init__(self) -> None:
        sides = {name: getattr(self, name) for name in ("resolution", "x_min", "x_max", "y_min", "y_max")}
        if infinite := [f"{name} {value:g}" for name, value in sides.items() if math.isinf(value)]:
            raise SettingsError(f"{', '.join(infinite)} is not accepted: the grid has an end")
        if not self.resolution > 0.0:
            raise SettingsError(f"resolution {self.resolution:g} is not accepted: it must be above 0 meters")
        faults = [
            f"{axis}_max {high:g} is not accepted: it must be above {axis}_min {low:g}"
            for axis, low, high in (("x", self.x_min, self.x_max), ("y", self.y_min, self.y_max))
            if not high - low > 0.0
        ]
        if not faults and self.width * self.height > _MAX_CELLS:
            faults.append(
                f"resolution {self.resolution:g} is not accepted: the grid would have {self.width} x {self.height} "
                f"cells; at most {_MAX_CELLS} are made"
            )
        if faults:
            raise SettingsError("\n".join(faults))
        ends = {"x_max": self.x_min + self.width * self.resolution, "y_max": self.y_min + self.height * self.resolution}
        for name, end in ends.items():
            object.__setattr__(self, name, round(end, 6))

    @classmethod
    def of(cls, info: Any) -> GridSpec:
        """Of a grid message's `info` (nav_msgs/MapMetaData).

        Raises:
            SettingsError: it is no grid's.
        """
        resolution = round(float(info.resolution), 6)  # it travels as float32
        x, y = info.origin.position.x, info.origin.position.y
        return cls(resolution, x, x + info.width * resolution, y, y + info.height * resolution)

    @property
    def width(self) -> int:
        """Cells along x."""
        return max(1, round((self.x_max - self.x_min) / self.resolution))

    @property
    def height(self) -> int:
        """Cells along y."""
        return max(1, round((self.y_max - self.y_min) / self.resolution))

    def unknown(self) -> Cells:
        """A grid without any knowledge."""
        return np.full((self.height, self.width), UNKNOWN_CELL, np.int8)

    def centers(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """X [width] and y [height] of the cells' centers."""
        x = self.x_min + (np.arange(self.width, dtype=np.float32) + np.float32(0.5)) * np.float32(self.resolution)
        y = self.y_min + (np.arange(self.height, dtype=np.float32) + np.float32(0.5)) * np.float32(self.resolution)
        return x, y


@dataclass(frozen=True, slots=True)
class GridSettings:
    """How the grid is judged.

    Attributes:
        min_share: 0 to 1; a cell is free where at least this share of the pixels it covers is drivable and sure.
        costs: classes that cost (1 to 99) instead of block.
        corridor_width: of the car, meters; for the free distance.
    """

    resolution: float = 0.1
    x_min: float = 0.0
    x_max: float = 40.0
    y_min: float = -10.0
    y_max: float = 10.0
    min_share: float = 0.9
    costs: Mapping[str, int] = field(default_factory=dict)
    corridor_width: float = 2.0

    def __post_init__(self) -> None:
        faults = []
        try:
            self.spec  # noqa: B018  it checks itself
        except SettingsError as error:
            faults += str(error).splitlines()
        if not 0.0 < self.min_share <= 1.0:
            faults.append(f"min_share {self.min_share:g} is not above 0 and up to 1")
        if not self.corridor_width > 0.0:
            faults.append(f"corridor_width {self.corridor_width:g} is not above 0 meters")
        faults += [
            f"costs {name}: {cost} is not in 1 to {MAX_COST}; leave a class out that shall block"
            for name, cost in self.costs.items()
            if not 1 <= cost <= MAX_COST
        ]
        if faults:
            raise SettingsError("\n".join(faults))

    @property
    def spec(self) -> GridSpec:
        return GridSpec(self.resolution, self.x_min, self.x_max, self.y_min, self.y_max)


class GridRules:
    """What each label means for the grid.

    Args:
        drivable: names of the drivable classes; None: those that the label set marks.

    Raises:
        SettingsError: a class with a cost that the label set does not have.
    """

    def __init__(
        self,
        settings: GridSettings,
        label_set: LabelSet,
        drivable: tuple[str, ...] | None = None,
        min_confidence: float = 0.5,
    ) -> None:
        if unknown := [name for name in settings.costs if name not in label_set.names]:
            raise SettingsError(
                f"grid.costs: label set {label_set.name!r} has no class {', '.join(map(repr, unknown))}; "
                f"known: {', '.join(label_set.names)}"
            )
        self.min_share = settings.min_share
        self._sure_from = math.ceil(round(min_confidence * 255, 6))
        drivable = tuple(label_set.names[i] for i in label_set.drivable_ids) if drivable is None else drivable
        self._flags = np.full(256, OBSTACLE, np.uint8)
        self.costs: NDArray[np.uint8] | None = np.zeros(256, np.uint8) if settings.costs else None
        for c in label_set.classes:
            if c.name in drivable:
                self._flags[c.id] = 0  # the mask says where it is sure
            elif c.name in settings.costs and self.costs is not None:
                self._flags[c.id], self.costs[c.id] = PASSABLE, settings.costs[c.name]
            elif c.name in FLAT_CLASSES:
                self._flags[c.id] = BLOCKED
            elif c.name in WHEELED_CLASSES:
                self._flags[c.id] |= WHEELED

    def blocks(self, labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Whether each label is of what ends a ray."""
        return np.asarray(self._flags[labels] >= OBSTACLE)

    def flags(
        self, answer: Segmentation, mask: MaskImage, ignored: MaskImage | None, top: int, flags: NDArray[np.uint8]
    ) -> NDArray[np.uint8]:
        """Fill in one byte of flags for each pixel, uint8 [H, W]; rows above `top` stay as they are."""
        labels, confidence = answer.labels[top:], answer.confidence[top:]
        below = flags[top:]
        cv2.LUT(labels, self._flags, below)
        if self.costs is not None:
            doubtful = (confidence < self._sure_from) & (below == PASSABLE)
            below[doubtful] = 0
        if ignored is not None:  # the bonnet: nothing is known of the ground behind it, and nothing ends there
            below[ignored[top:] != 0] = 0
        cv2.bitwise_or(below, mask[top:] & PASSABLE, below)
        return flags


def merge(grids: Iterable[Cells]) -> Cells:
    """One grid of several cameras: the stricter answer wins, and any answer wins over unknown."""
    first, *others = grids
    merged = first.copy()
    for other in others:
        np.maximum(merged, other, out=merged)
    return merged


MAX_CORNERS = 180
_SECTORS = MAX_CORNERS // 2 - 1  # each border between sectors has a corner near and one far
_RAGGED = 1.0  # meters within which the border of what cameras see counts as one line


class FreeSpace:
    """What a reactive stop needs of a grid: the outline of the free area ahead, and the distance to its end.

    Both are strict: only cells that are free (not those that cost) count, a cell that touches a sector or the corridor
    counts in it, and the ground just ahead that no camera sees is bridged, never called free. Made of tables of a grid
    whose cameras see the same cells in every frame; `see` tells when that changes a little.

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

        Unknown where no free ground is seen before it: what fills the image down to its edge may begin anywhere nearer.
        """
        if self._corridor is None:
            return math.nan
        corridor = cells[self._corridor]
        start = self._whole_from
        occupied = (corridor[:, : start + 1] == OCCUPIED_CELL).any(axis=0)
        offset = int(self._corridor[1].start)
        if occupied.any():
            first = int(occupied.argmax())
            return self._edge(offset + first) if (corridor[:, :first] == FREE_CELL).any() else math.nan
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
