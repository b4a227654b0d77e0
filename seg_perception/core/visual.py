"""Pictures for people: colored labels, overlays, a legend, contact sheets, the ground from above. All RGB."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from seg_perception.core.drivable import DrivableMasker, DrivableSettings
from seg_perception.core.errors import InputError
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
from seg_perception.core.label_set import LabelClass, LabelSet
from seg_perception.core.meters import CameraMeters, MountSettings, SharedGrid
from seg_perception.core.optics import Calibration, CameraModel, camera_model
from seg_perception.core.resizing import resize_image
from seg_perception.core.types import LabelImage, MaskImage, RgbImage, Segmentation, Size, check_rgb

DEFAULT_OPACITY = 0.5
"""Of the colors over an image."""

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_INK, _PAPER = (30, 30, 30), (245, 245, 245)


def colorize(labels: LabelImage, label_set: LabelSet) -> RgbImage:
    """Each label, uint8 [H, W], in its class's color; black where there is no class.

    Returns:
        uint8 [H, W, 3], RGB.
    """
    _check_labels(labels)
    # applyColorMap is a table look-up: the colors come out in the order they went in, RGB
    return np.asarray(cv2.applyColorMap(labels, label_set.palette.reshape(256, 1, 3)), np.uint8)


def overlay(image: RgbImage, labels: LabelImage, label_set: LabelSet, opacity: float = DEFAULT_OPACITY) -> RgbImage:
    """The image with the labels' colors laid over it; pixels without a class stay as they are.

    Args:
        image: uint8 [H, W, 3], RGB.
        labels: uint8 [H, W].
        opacity: 0 shows the image only, 1 the colors only.

    Raises:
        InputError: sizes differ, or opacity is outside 0 to 1.
    """
    if check_rgb(image).shape[:2] != labels.shape:
        raise InputError(f"the image {list(image.shape)} and its labels {list(labels.shape)} differ in size")
    if not 0.0 <= opacity <= 1.0:
        raise InputError(f"opacity {opacity} is not accepted: 0 (image only) to 1 (colors only) is")
    blended = cv2.addWeighted(image, 1.0 - opacity, colorize(labels, label_set), opacity, 0.0)
    classless = labels >= len(label_set)
    if classless.any():
        cv2.copyTo(image, classless.view(np.uint8), blended)
    return np.asarray(blended, np.uint8)


def outline(image: RgbImage, mask: MaskImage, color: tuple[int, int, int] = (0, 255, 0), width: int = 2) -> RgbImage:
    """A copy of the image, uint8 [H, W, 3], with the border of the mask, uint8 [H, W], drawn on it."""
    if check_rgb(image).shape[:2] != mask.shape:
        raise InputError(f"the image {list(image.shape)} and its mask {list(mask.shape)} differ in size")
    contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    return np.asarray(cv2.drawContours(image.copy(), contours, -1, color, width), np.uint8)


def legend(label_set: LabelSet, height: int = 24, drivable_mark: str = "*") -> RgbImage:
    """One row for each class: its color and name; drivable classes are marked.

    Args:
        height: of one row, in pixels.
        drivable_mark: put behind the names of drivable classes.

    Returns:
        uint8 [rows x height, W, 3], RGB.
    """
    texts = [_written(c) + (f" {drivable_mark}" if c.drivable and drivable_mark else "") for c in label_set.classes]
    width = 2 * height + max(_text_width(text, height) for text in texts) + height // 2
    picture = _blank(Size(width, height * len(texts)))
    for row, (c, text) in enumerate(zip(label_set.classes, texts, strict=True)):
        top = row * height
        picture[top + 3 : top + height - 3, height // 4 : height // 4 + round(1.25 * height)] = c.color
        _write(picture, text, (2 * height - height // 4, top), height)
    return picture


def with_legend(picture: RgbImage, label_set: LabelSet, shares: Mapping[str, float] | None = None) -> RgbImage:
    """The picture, uint8 [H, W, 3] RGB, with a strip of class colors and names below it.

    Args:
        picture: as wide as the strip; a very narrow one is widened with a margin to hold the longest name.
        label_set: the classes; names of drivable ones carry a star.
        shares: class name -> share of the image, 0 to 1: names only the classes that are there, with percents.
    """
    named = [c for c in label_set.classes if shares is None or shares.get(c.name, 0) > 0]
    texts = [
        _written(c) + (" *" if c.drivable else "") + ("" if shares is None else f" {100 * shares[c.name]:.1f} %")
        for c in named
    ]
    height = min(28, max(16, round(check_rgb(picture).shape[1] / 40)))
    widths = [round(1.5 * height) + _text_width(text, height) + height // 2 for text in texts]
    width = max([picture.shape[1], *widths])
    places: list[tuple[int, int]] = []
    left = top = 0
    for room in widths:
        if left and left + room > width:
            left, top = 0, top + height
        places.append((left, top))
        left += room
    strip = _blank(Size(width, top + height))
    for c, text, (left, top) in zip(named, texts, places, strict=True):
        strip[top + 3 : top + height - 3, left + 3 : left + round(1.25 * height)] = c.color
        _write(strip, text, (left + round(1.5 * height), top), height)
    margin = np.full((picture.shape[0], width - picture.shape[1], 3), _PAPER, np.uint8)
    return np.ascontiguousarray(np.vstack([np.hstack([picture, margin]), strip]), np.uint8)


def contact_sheet(
    rows: Sequence[Sequence[RgbImage]],
    captions: Sequence[Sequence[str]] | None = None,
    tile_width: int = 480,
    gap: int = 6,
) -> RgbImage:
    """Images side by side in rows, scaled to one width, each with its caption above it.

    Args:
        rows: uint8 [H, W, 3] images; a row may be shorter than the others.
        captions: the same shape as rows; None for no captions.
        tile_width: width of one image, in pixels; heights follow each image's shape.
        gap: pixels between images.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        InputError: no images, or captions that do not match them.
    """
    if not rows or not all(rows):
        raise InputError("a contact sheet needs at least one row, and at least one image in each row")
    if captions is not None and [len(row) for row in captions] != [len(row) for row in rows]:
        raise InputError("a contact sheet needs exactly one caption for each image")
    caption_height = 22 if captions is not None else 0
    columns = max(len(row) for row in rows)
    tiles = [[_scaled(check_rgb(image), tile_width) for image in row] for row in rows]
    heights = [max(tile.shape[0] for tile in row) for row in tiles]
    sheet = _blank(Size(columns * (tile_width + gap) + gap, sum(h + caption_height + gap for h in heights) + gap))
    top = gap
    for row_index, (row, height) in enumerate(zip(tiles, heights, strict=True)):
        for column, tile in enumerate(row):
            left = gap + column * (tile_width + gap)
            if captions is not None:
                _write(sheet, captions[row_index][column], (left, top), caption_height, tile_width)
            below = top + caption_height
            sheet[below : below + tile.shape[0], left : left + tile_width] = tile
        top += caption_height + height + gap
    return sheet


def _written(c: LabelClass) -> str:
    """A class's name in the letters that there are; with its id where some are missing, for two could look alike."""
    plain = _ascii(c.name)
    return f"{c.id}: {plain}" if "?" in plain else plain


def _ascii(text: str) -> str:
    """The built-in font has no other letters: of those with an accent it has the letter."""
    parts = unicodedata.normalize("NFKD", text.replace("ß", "ss"))
    return "".join(part for part in parts if not unicodedata.combining(part)).encode("ascii", "replace").decode("ascii")


def _check_labels(labels: LabelImage) -> None:
    if labels.dtype != np.uint8 or labels.ndim != 2 or not labels.size:
        raise InputError(f"labels must be uint8 [H, W], got {labels.dtype} {list(labels.shape)}")


def _blank(size: Size) -> RgbImage:
    return np.full((size.height, size.width, 3), _PAPER, np.uint8)


def _scaled(image: RgbImage, width: int) -> RgbImage:
    if image.shape[1] == width:
        return image
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    return resize_image(image, Size(width, height))


@lru_cache(maxsize=8)
def _font_scale(height: int) -> float:
    """The scale at which capitals are 45 % of a row's height."""
    return float(cv2.getFontScaleFromHeight(_FONT, max(1, round(height * 0.45)), 1))


def _text_width(text: str, height: int) -> int:
    return int(cv2.getTextSize(text, _FONT, _font_scale(height), 1)[0][0])


def _write(
    picture: NDArray[np.uint8], text: str, corner: tuple[int, int], height: int, room: int | None = None
) -> None:
    """Write one line into a row whose top left corner is given; shorten it to the room there is."""
    plain = _ascii(text)
    while room is not None and len(plain) > 1 and _text_width(plain, height) > room:
        plain = plain[:-4] + "..." if len(plain) > 4 else plain[:-1]
    baseline = (corner[0], corner[1] + round(height * 0.72))
    cv2.putText(picture, plain, baseline, _FONT, _font_scale(height), _INK, 1, cv2.LINE_AA)


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
        self._ignored = DrivableMasker(drivable, label_set).ignored_in(Size(calibration.width, calibration.height))
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
        self._meters.look(answer, mask, self._rules, self._ignored)
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
    values = cells.view(np.uint8)
    if visible is not None:
        values = np.where(visible | (cells != UNKNOWN_CELL), values, np.uint8(_NOT_SEEN))
    # rows are y, columns x: turn ahead to the top and left to the left
    picture = _cell_colors().take(values.T[::-1, ::-1], axis=0)
    size = (cells.shape[0] * PIXELS_A_CELL, cells.shape[1] * PIXELS_A_CELL)
    picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_NEAREST), np.uint8)
    if outline is not None and len(outline):
        corners = np.rint((cells.shape - outline[:, ::-1]) * PIXELS_A_CELL).astype(np.int32) - 1
        cv2.polylines(picture, [corners], isClosed=True, color=_LINE, thickness=2)
    return picture


_NOT_SEEN = 200  # beside a cell's values, as bytes


@lru_cache(maxsize=1)
def _cell_colors() -> NDArray[np.uint8]:
    """The color of each value of a cell as a byte, uint8 [256, 3]."""
    colors = np.full((256, 3), _COST, np.uint8)
    for value, color in (
        (UNKNOWN_CELL, _UNKNOWN),
        (FREE_CELL, _FREE),
        (OCCUPIED_CELL, _OCCUPIED),
        (_NOT_SEEN, _UNSEEN),
    ):
        colors[value] = color  # -1 is the last
    return colors


def beside(*pictures: RgbImage) -> RgbImage:
    """Pictures side by side, brought to the first one's height."""
    height = max(pictures[0].shape[0], 360)
    scaled = [
        cv2.resize(p, (max(1, round(p.shape[1] * height / p.shape[0])), height), interpolation=cv2.INTER_AREA)
        for p in pictures
    ]
    return np.asarray(np.concatenate(scaled, axis=1), np.uint8)
