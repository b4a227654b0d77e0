"""The regions of a label image as shapes that an annotator drags or paints: polygons, or masks of every pixel.

Polygons have no holes. They are given from the largest to the smallest, so that what lies in a hole covers it; a
region around pixels that nothing is known of is cut, so that they stay uncovered.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import cv2
import numpy as np
from numpy.typing import NDArray

from seg_perception.core.errors import SettingsError
from seg_perception.core.label_set import LabelSet
from seg_perception.core.types import UNLABELED, LabelImage


class ShapeKind(Enum):
    """How a region is written: corners to drag, or every pixel."""

    POLYGON = "polygon"
    MASK = "mask"


@dataclass(frozen=True, slots=True)
class ExportSettings:
    """What becomes a shape.

    Attributes:
        kind: polygons or masks.
        tolerance: how far a polygon's side may lie from the region's edge, in pixels; 0 keeps every corner.
        least_pixels: smaller regions are left out (and counted).
    """

    kind: ShapeKind = ShapeKind.POLYGON
    tolerance: float = 1.0
    least_pixels: int = 20

    def __post_init__(self) -> None:
        faults = []
        if not 0 <= self.tolerance <= 100:
            faults.append(f"tolerance: {self.tolerance} is not in 0 to 100")
        if self.least_pixels < 0:
            faults.append(f"least_pixels: {self.least_pixels} is below 0")
        if faults:
            raise SettingsError("\n".join(faults))


@dataclass(frozen=True, slots=True)
class Region:
    """One connected region of a class: its pixels in their bounding box, 1 inside, uint8 [h, w]."""

    name: str
    mask: NDArray[np.uint8]
    left: int
    top: int

    @property
    def pixels(self) -> int:
        return int(np.count_nonzero(self.mask))

    def corners(self, tolerance: float, on_edges: bool) -> NDArray[np.float64]:
        """The outline, [N, 2] of x and y: through the centers of its outer pixels, or along their edges."""
        mask = cv2.resize(self.mask, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST) if on_edges else self.mask
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        outline = max(contours, key=len)
        if tolerance:
            simpler = cv2.approxPolyDP(outline, tolerance * (2 if on_edges else 1), closed=True)
            outline = simpler if len(simpler) >= 3 else outline
        points = outline.reshape(-1, 2).astype(np.float64)
        points = (points + 0.5) / 2 if on_edges else points
        if len(points) < 3:  # a dot or a line: give it the three corners that a polygon needs
            points = np.concatenate([points, points[:1], points[-1:]])[:3]
        return np.asarray(points + np.array([self.left, self.top]), np.float64)


@dataclass(frozen=True, slots=True)
class Regions:
    """What a label image becomes.

    Attributes:
        shapes: from the largest to the smallest.
        left_out: regions that were too small, and their pixels.
    """

    shapes: list[Region]
    left_out: int
    left_out_pixels: int


def regions_of(labels: LabelImage, label_set: LabelSet, settings: ExportSettings) -> Regions:
    """The regions of every class; neighbors by their sides only.

    Then no region reaches through a corner into the hole of another.
    """
    shapes: list[Region] = []
    small = small_pixels = 0
    for c in label_set.classes:
        count, numbers, stats, _ = cv2.connectedComponentsWithStats((labels == c.id).astype(np.uint8), connectivity=4)
        for index in range(1, count):
            left, top, width, height, pixels = (int(value) for value in stats[index])
            if pixels < settings.least_pixels:
                small, small_pixels = small + 1, small_pixels + pixels
                continue
            box = np.s_[top : top + height, left : left + width]
            region = Region(c.name, (numbers[box] == index).astype(np.uint8), left, top)
            if settings.kind is ShapeKind.POLYGON:
                shapes += _cut_open(region, labels[box] == UNLABELED)
            else:
                shapes.append(region)
    shapes.sort(key=lambda region: -region.mask.size)  # what lies in a hole has the smaller box
    return Regions(shapes, small, small_pixels)


def _cut_open(region: Region, unknown: NDArray[np.bool_]) -> Iterator[Region]:
    """The region, cut from top to bottom until no part encloses unknown pixels."""
    waiting = [(region, unknown)]
    while waiting:
        part, open_ = waiting.pop()
        columns = np.flatnonzero((_holes(part.mask) & open_).any(axis=0)) if open_.any() else open_[:0, 0]
        if not columns.size:
            yield part
            continue
        cut = int(columns[len(columns) // 2]) + 1
        for begin, end in ((0, cut), (cut, part.mask.shape[1])):
            piece = np.ascontiguousarray(part.mask[:, begin:end])
            count, numbers, stats, _ = cv2.connectedComponentsWithStats(piece, connectivity=4)
            for index in range(1, count):
                left, top, width, height = (int(value) for value in stats[index][:4])
                box = np.s_[top : top + height, left : left + width]
                mask = (numbers[box] == index).astype(np.uint8)
                inner = Region(part.name, mask, part.left + begin + left, part.top + top)
                waiting.append((inner, open_[:, begin:end][box]))


def _holes(mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where a region's outline encloses what is not of it, [h, w]: outlines pass from corner to corner."""
    around = np.pad(1 - mask, 1, constant_values=1)
    _, numbers = cv2.connectedComponents(around, connectivity=4)
    return np.asarray((numbers[1:-1, 1:-1] != numbers[0, 0]) & (mask == 0))
