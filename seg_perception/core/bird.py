"""Bird's-eye pictures for people: the camera's image, and the grid, as seen from above."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from seg_perception.core.drivable import DrivableSettings
from seg_perception.core.grid import (
    FREE_CELL,
    OCCUPIED_CELL,
    UNKNOWN_CELL,
    Cells,
    GridRules,
    GridSettings,
    GridSpec,
)
from seg_perception.core.ground import CameraPose
from seg_perception.core.label_set import LabelSet
from seg_perception.core.metres import CameraMetres, MountSettings, SharedGrid
from seg_perception.core.optics import Calibration, CameraModel, camera_model
from seg_perception.core.types import MaskImage, RgbImage, Segmentation, Size

PIXELS_A_CELL = 2
"""Of the pictures."""

_FREE, _OCCUPIED, _UNKNOWN, _UNSEEN = (52, 158, 75), (200, 48, 40), (96, 96, 104), (28, 28, 32)
_COST = (214, 164, 40)
_LINE = (70, 130, 255)


class BirdsEye:
    """Draws one camera's frames from above: the image on the ground, and beside it the grid with the outline.

    Args:
        calibration: what a camera_info says.
        mount: of source "fixed".
        drivable: how the masks were judged.
    """

    def __init__(
        self,
        calibration: Calibration,
        mount: MountSettings,
        settings: GridSettings,
        label_set: LabelSet,
        drivable: DrivableSettings,
    ) -> None:
        self._calibration, self._mount, self._settings = calibration, mount, settings
        self._rules = GridRules(settings, label_set, drivable.classes, drivable.min_confidence)
        self._metres, self._shared = CameraMetres(settings, None), SharedGrid(settings)

    def picture(self, image: RgbImage, answer: Segmentation, mask: MaskImage) -> RgbImage:
        """A frame from above, uint8 [H, W, 3] RGB; its free distance stands in it.

        Raises:
            InputError: the calibration is of another size.
        """
        camera = camera_model(self._calibration, Size.of(answer.labels), self._mount.rectified)
        pose, spec = self._mount.pose(), self._settings.spec
        self._metres.place(camera, pose)
        table = self._metres.table
        assert table is not None
        self._metres.look(answer, mask, self._rules)
        grid = self._shared.merged("", {"": (self._metres.cells(answer, self._rules), table)})
        corners = (grid.outline - (spec.x_min, spec.y_min)) / spec.resolution
        pair = beside(bird_view(image, camera, pose, spec), draw_cells(grid.cells, table.visible, corners))
        text = "free: unknown" if math.isnan(grid.distance) else f"free: {grid.distance:.1f} m"
        cv2.putText(pair, text, (12, pair.shape[0] - 14), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (255, 255, 255), 2)
        return pair


def bird_view(image: RgbImage, camera: CameraModel, pose: CameraPose, spec: GridSpec) -> RgbImage:
    """The image's pixels on the ground, uint8 [H, W, 3] RGB; ahead is up, left is left, black is not seen.

    What stands on the ground is smeared over it, away from the camera.
    """
    step = spec.resolution / PIXELS_A_CELL
    x = np.arange(spec.x_max - step / 2, spec.x_min, -step)
    y = np.arange(spec.y_max - step / 2, spec.y_min, -step)
    ahead, left = np.meshgrid(x, y, indexing="ij")
    ground = np.stack([ahead.reshape(-1), left.reshape(-1), np.zeros(ahead.size)], axis=1)
    pixels, seen = camera.project((ground - pose.position) @ pose.matrix)
    pixels[~seen] = -10.0
    maps = pixels.astype(np.float32).reshape(len(x), len(y), 2)
    return np.asarray(cv2.remap(image, maps, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT), np.uint8)


def draw_cells(
    cells: Cells, visible: NDArray[np.bool_] | None = None, outline: NDArray[np.float64] | None = None
) -> RgbImage:
    """A grid as a picture like `bird_view`'s, uint8 [H, W, 3] RGB.

    Args:
        cells: int8 [y cells, x cells]: green is free, red occupied, yellow costs, gray unknown.
        visible: what no camera sees is darker.
        outline: corners in cells (column x, row y) [N, 2], drawn as a line.
    """
    picture = np.empty((*cells.shape, 3), np.uint8)
    picture[:] = _COST
    for value, color in ((UNKNOWN_CELL, _UNKNOWN), (FREE_CELL, _FREE), (OCCUPIED_CELL, _OCCUPIED)):
        picture[cells == value] = color
    if visible is not None:
        picture[~visible & (cells == UNKNOWN_CELL)] = _UNSEEN
    size = (cells.shape[1] * PIXELS_A_CELL, cells.shape[0] * PIXELS_A_CELL)
    picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_NEAREST), np.uint8)
    if outline is not None and len(outline):
        corners = np.rint(outline * PIXELS_A_CELL).astype(np.int32)
        cv2.polylines(picture, [corners], isClosed=True, color=_LINE, thickness=2)
    # rows are y, columns x: turn ahead to the top and left to the left
    return np.ascontiguousarray(picture.transpose(1, 0, 2)[::-1, ::-1])


def beside(*pictures: RgbImage) -> RgbImage:
    """Pictures side by side, brought to the first one's height."""
    height = max(pictures[0].shape[0], 360)
    scaled = [
        cv2.resize(p, (max(1, round(p.shape[1] * height / p.shape[0])), height), interpolation=cv2.INTER_AREA)
        for p in pictures
    ]
    return np.asarray(np.concatenate(scaled, axis=1), np.uint8)
