"""The drivable grid: free, occupied and unknown cells of the ground around the car, and what makes a cell which.

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
    """Size and place of the grid in the ground frame, in meters: x ahead, y left."""

    resolution: float = 0.1
    x_min: float = 0.0
    x_max: float = 40.0
    y_min: float = -10.0
    y_max: float = 10.0

    def __post_init__(self) -> None:
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

    @classmethod
    def of(cls, info: Any) -> GridSpec:
        """Of a grid message's `info` (nav_msgs/MapMetaData).

        Raises:
            SettingsError: it is no grid's.
        """
        resolution = round(float(info.resolution), 6)  # it travels as float32
        x, y = info.origin.position.x, info.origin.position.y
        return cls(resolution, x, round(x + info.width * resolution, 6), y, round(y + info.height * resolution, 6))

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
