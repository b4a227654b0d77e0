"""The demo's drive from above: the camera's image on the ground, and beside it the grid that the node published."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from seg_perception.bags.messages import INFO_TOPIC, output_topic, stamp_ns_of
from seg_perception.core.grid import GridSpec
from seg_perception.core.grid_table import GridTable
from seg_perception.core.ground import CameraPose
from seg_perception.core.optics import camera_model
from seg_perception.core.types import RgbImage, Size
from seg_perception.core.visual import GroundDrawing, beside

if TYPE_CHECKING:
    from seg_perception.bags.reader import BagReader
    from seg_perception.bags.types import BagMessage

GRID, OUTLINE, DISTANCE = (output_topic(name) for name in ("drivable_grid", "free_space", "free_distance"))


class FromAbove:
    """Pictures of the moments for which the node published a grid.

    Args:
        bag: that the demo recorded, with camera_info and grids.
        camera_height: meters over the ground, of a level camera.
    """

    def __init__(self, bag: BagReader, camera_height: float) -> None:
        self._bag, self._height = bag, camera_height
        self._outlines = {stamp_ns_of(bag.decode(message)): message for message in bag.messages((OUTLINE,))}
        grids = [(stamp_ns_of(bag.decode(message)), message) for message in bag.messages((GRID,))]
        self._grids: dict[int, BagMessage] = dict(grids)
        distances = [float(bag.decode(message).data) for message in bag.messages((DISTANCE,))]
        # they carry no stamp; where one is missing nobody knows which
        stamps = [stamp_ns for stamp_ns, _ in grids] if len(grids) == len(distances) else []
        self._distances = dict(zip(stamps, distances, strict=False))
        self._drawing: tuple[GridSpec, Size, GroundDrawing] | None = None
        self._panel: RgbImage | None = None  # the last one

    @property
    def stamps(self) -> tuple[int, ...]:
        """Of the frames that have a grid, nanoseconds."""
        return tuple(self._grids)

    def picture(self, stamp_ns: int, image: RgbImage) -> RgbImage | None:
        """A frame from above, uint8 [H, W, 3] RGB; None where the node published no grid of it.

        Args:
            image: what is laid on the ground, as large as the camera's.
        """
        if (message := self._grids.get(stamp_ns)) is None:
            return None
        grid = self._bag.decode(message)
        spec = GridSpec.of(grid.info)
        cells = np.asarray(grid.data, np.int8).reshape(spec.height, spec.width)
        outline = None
        if (found := self._outlines.get(stamp_ns)) is not None:
            corners = self._bag.decode(found).polygon.points
            outline = np.array([(corner.x, corner.y) for corner in corners], np.float64).reshape(-1, 2)
        return self._drawn(spec, image).draw(image, cells, outline, self._distances.get(stamp_ns))

    def attached(self, stamp_ns: int, image: RgbImage) -> RgbImage:
        """The image, and beside it the newest picture from above; at first a grid of which nothing is known."""
        if (picture := self.picture(stamp_ns, image)) is not None:
            self._panel = picture
        if self._panel is None and self._grids:
            spec = GridSpec.of(self._bag.decode(next(iter(self._grids.values()))).info)
            self._panel = self._drawn(spec, np.zeros_like(image)).draw(np.zeros_like(image), spec.unknown())
        return image if self._panel is None else beside(image, self._panel)

    def _drawn(self, spec: GridSpec, image: RgbImage) -> GroundDrawing:
        size = Size.of(image)
        if self._drawing is None or self._drawing[:2] != (spec, size):
            camera = camera_model(self._bag.decode(next(self._bag.messages((INFO_TOPIC,)))), size)
            table = GridTable(camera, CameraPose.mounted(self._height), spec)
            self._drawing = spec, size, GroundDrawing(table)
        return self._drawing[2]


def from_above(bag: BagReader, camera_height: float | None) -> FromAbove | None:
    """What draws a recorded drive from above; None where its camera is not known, or the node published no grid."""
    counts = {topic.name: topic.count for topic in bag.topics}
    if camera_height is None or not (counts.get(GRID) and counts.get(INFO_TOPIC)):
        return None
    return FromAbove(bag, camera_height)
