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
from seg_perception.core.grid_table import GridTable
from seg_perception.core.ground import CameraPose
from seg_perception.core.label_set import LabelSet
from seg_perception.core.meters import CameraMeters, MountSettings, SharedGrid
from seg_perception.core.optics import Calibration, CameraModel, camera_model
from seg_perception.core.types import MaskImage, RgbImage, Segmentation, Size

PIXELS_A_CELL = 2
"""Of the pictures."""

_FREE, _OCCUPIED, _UNKNOWN, _UNSEEN = (52, 158, 75), (200, 48, 40), (96, 96, 104), (28, 28, 32)
_COST = (214, 164, 40)
_LINE, _SCALE = (70, 130, 255), (150, 150, 160)


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
        self._meters, self._shared = CameraMeters(settings, None), SharedGrid(settings)
        self._drawing: GroundDrawing | None = None

    def picture(self, image: RgbImage, answer: Segmentation, mask: MaskImage) -> RgbImage:
        """A frame from above, uint8 [H, W, 3] RGB; its free distance stands in it.

        Raises:
            InputError: the calibration is of another size.
        """
        camera = camera_model(self._calibration, Size.of(answer.labels), self._mount.rectified)
        anew = self._meters.place(camera, self._mount.pose())
        table = self._meters.table
        assert table is not None
        if anew or self._drawing is None:
            self._drawing = GroundDrawing(table)
        self._meters.look(answer, mask, self._rules)
        grid = self._shared.merged("", {"": (self._meters.cells(answer, self._rules), table)})
        return self._drawing.draw(image, grid.cells, grid.outline, grid.distance)


class GroundDrawing:
    """Draws the ground from above as one camera in one pose sees it, and beside it a grid, with a scale in meters.

    Args:
        table: of the camera and its pose.
    """

    def __init__(self, table: GridTable) -> None:
        self._spec = table.level.spec
        self._visible = table.visible
        self._maps = _maps(table.camera, table.pose, self._spec)

    def draw(
        self, image: RgbImage, cells: Cells, outline: NDArray[np.float64] | None = None, distance: float | None = None
    ) -> RgbImage:
        """One frame, uint8 [H, W, 3] RGB: the image on the ground at the left, the grid at the right.

        Args:
            image: of the camera.
            cells: the grid, of the table's place and size.
            outline: of the free area, corners x, y [N, 2] in meters.
            distance: to the end of the free corridor, meters; NaN: unknown; None: not told.
        """
        ground = np.asarray(cv2.remap(image, self._maps, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT))
        _draw_scale(ground, self._spec)
        grid = draw_grid(self._spec, cells, self._visible, outline, distance)
        return beside(ground, np.full((ground.shape[0], 8, 3), 255, np.uint8), grid)


def draw_grid(
    spec: GridSpec,
    cells: Cells,
    visible: NDArray[np.bool_] | None = None,
    outline: NDArray[np.float64] | None = None,
    distance: float | None = None,
    note: str = "",
) -> RgbImage:
    """A grid from above with a scale in meters and a key, uint8 [H, W, 3] RGB; ahead is up.

    Args:
        spec: place and size of the grid.
        cells: int8 [y cells, x cells].
        visible: what no camera sees is darker.
        outline: of the free area, corners x, y [N, 2] in meters.
        distance: to the end of the free corridor, meters; NaN: unknown; None: not told.
        note: a line below it.
    """
    corners = None if outline is None else (outline - (spec.x_min, spec.y_min)) / spec.resolution
    picture = draw_cells(cells, visible, corners)
    _draw_scale(picture, spec)
    key = [("free", _FREE), ("occupied", _OCCUPIED), ("unknown", _UNKNOWN)]
    if ((cells > FREE_CELL) & (cells < OCCUPIED_CELL)).any():
        key.insert(1, ("costs", _COST))
    key += [] if visible is None else [("not seen", _UNSEEN)]
    for k, (name, color) in enumerate(key):
        top = 10 + 30 * k
        cv2.rectangle(picture, (10, top), (32, top + 22), color, -1)
        cv2.rectangle(picture, (10, top), (32, top + 22), (255, 255, 255), 1)
        _text(picture, name, (42, top + 19))
    told = (
        [] if distance is None else ["free ahead: unknown" if math.isnan(distance) else f"free ahead: {distance:.1f} m"]
    )
    for k, line in enumerate([*told, *filter(None, [note])]):
        _text(picture, line, (10, 34 + 30 * (len(key) + k)))
    return picture


def _draw_scale(picture: RgbImage, spec: GridSpec) -> None:
    """Lines every ten meters, and the car."""
    a_meter = PIXELS_A_CELL / spec.resolution
    for x in range(math.ceil(spec.x_min / 10) * 10, math.ceil(spec.x_max), 10):
        row = round((spec.x_max - x) * a_meter)
        if x != 0 and 0 < row < picture.shape[0]:
            cv2.line(picture, (0, row), (picture.shape[1], row), _SCALE, 1)
            _text(picture, f"{x} m", (8, row - 8))
    origin = np.array([spec.y_max, spec.x_max]) * a_meter  # of the ground frame: column, row
    car = np.array([[-0.9, 0.0], [0.0, -2.0], [0.9, 0.0]]) * a_meter + origin
    cv2.fillPoly(picture, [np.rint(car).astype(np.int32)], (255, 255, 255), cv2.LINE_AA)


def _text(picture: RgbImage, text: str, at: tuple[int, int]) -> None:
    """White on anything."""
    for color, width in (((0, 0, 0), 5), ((255, 255, 255), 2)):
        cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.75, color, width, cv2.LINE_AA)


def _maps(camera: CameraModel, pose: CameraPose, spec: GridSpec) -> NDArray[np.float32]:
    """The image's place (column, row) for each pixel of a picture from above [H, W, 2]; outside where it has none.

    What stands on the ground is smeared over it, away from the camera.
    """
    step = spec.resolution / PIXELS_A_CELL
    x = np.arange(spec.x_max - step / 2, spec.x_min, -step)
    y = np.arange(spec.y_max - step / 2, spec.y_min, -step)
    ahead, left = np.meshgrid(x, y, indexing="ij")
    ground = np.stack([ahead.reshape(-1), left.reshape(-1), np.zeros(ahead.size)], axis=1)
    pixels, seen = camera.project((ground - pose.position) @ pose.matrix)
    pixels[~seen] = -10.0
    return pixels.astype(np.float32).reshape(len(x), len(y), 2)


def draw_cells(
    cells: Cells, visible: NDArray[np.bool_] | None = None, outline: NDArray[np.float64] | None = None
) -> RgbImage:
    """A grid as a picture from above, uint8 [H, W, 3] RGB.

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
