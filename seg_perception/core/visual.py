"""Pictures for people: colored labels, overlays, a legend, contact sheets. Colors are RGB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from seg_perception.core.errors import InputError
from seg_perception.core.label_set import LabelSet
from seg_perception.core.resizing import resize_image
from seg_perception.core.types import LabelImage, MaskImage, RgbImage, Size, check_rgb

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
    texts = [c.name + (f" {drivable_mark}" if c.drivable and drivable_mark else "") for c in label_set.classes]
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
        c.name + (" *" if c.drivable else "") + ("" if shares is None else f" {100 * shares[c.name]:.1f} %")
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
    plain = text.encode("ascii", "replace").decode("ascii")  # the built-in font has no other letters
    while room is not None and len(plain) > 1 and _text_width(plain, height) > room:
        plain = plain[:-4] + "..." if len(plain) > 4 else plain[:-1]
    baseline = (corner[0], corner[1] + round(height * 0.72))
    cv2.putText(picture, plain, baseline, _FONT, _font_scale(height), _INK, 1, cv2.LINE_AA)
