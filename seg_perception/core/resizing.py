"""From one size to another: the network's size, the sizes it takes, and the one way to resize pixels."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from seg_perception.core.errors import InputError, SegPerceptionError
from seg_perception.core.types import LabelImage, RgbImage, Size

MAX_ASPECT: Final = 64
"""Images whose longer side is more than this many times the shorter are refused: no camera makes them."""

MOST_PIXELS: Final = 2**24
"""No network runs on more: at 4096x4096 the shipped one takes 4 GB, at 8192x8192 15 GB and minutes on a CPU."""

MOST_BILINEAR: Final = 1.5
"""Up to this factor of shrinking, bilinear interpolation still reads every pixel with some weight."""


def network_size(camera: Size, budget: Size, multiple: int) -> Size:
    """The network input size for a camera: its shape, the budget's number of pixels.

    Width and height are scaled by one factor so that their product matches the budget's, then each
    is rounded to the nearest multiple. A camera at the budget's size keeps it (up to rounding). Where
    the shorter side would be less than one multiple it gets one, and the longer side what the budget leaves.

    Args:
        camera: the image's size.
        budget: a size whose pixel count the network should spend (the model card's input size).
        multiple: the divisor that the network demands of width and height.

    Raises:
        InputError: see `check_aspect`.
    """
    check_aspect(camera)
    pixels = budget.width * budget.height
    scale = math.sqrt(pixels / (camera.width * camera.height))
    short, long = (round(length * scale / multiple) for length in sorted((camera.width, camera.height)))
    if short < 1:
        short, long = 1, pixels // multiple // multiple
    short, long = short * multiple, max(1, long) * multiple
    return Size(long, short) if camera.width > camera.height else Size(short, long)


def check_aspect(image: Size, what: str = "an image") -> None:
    """Refuse slivers: 1x3000000 pixels are no picture, and no shape that a network was trained on.

    Args:
        image: its size.
        what: it is, for the text.

    Raises:
        InputError: one side is more than `MAX_ASPECT` times the other.
    """
    if max(image.width, image.height) > MAX_ASPECT * min(image.width, image.height):
        raise InputError(
            f"{what} of {image} is not accepted: one side is more than {MAX_ASPECT} times the other; "
            "crop it or cut it into parts"
        )


def check_multiple(
    size: tuple[int, int] | Size,
    multiple: int,
    owner: str,
    what: str = "network size",
    error: type[SegPerceptionError] = InputError,
) -> None:
    """Refuse a size that a network would have to pad or crop, or that no memory holds.

    Args:
        size: or width and height.
        multiple: what the network demands of both.
        owner: the model or network, for the text.
        what: what the size is, for the text.
        error: the class to raise.

    Raises:
        error: names the size that came and the next larger one that fits; or the most pixels.
    """
    width, height = (size.width, size.height) if isinstance(size, Size) else size
    if width * height > MOST_PIXELS:
        raise error(f"{what} {width}x{height} is not accepted: it has more than {MOST_PIXELS} pixels")
    if width % multiple or height % multiple:
        fitting = f"{-(-width // multiple) * multiple}x{-(-height // multiple) * multiple}"
        raise error(
            f"{what} {width}x{height} does not fit {owner}: width and height must be multiples of {multiple}; "
            f"resize or pad to {fitting}"
        )


def resize_image(image: RgbImage, size: Size) -> RgbImage:
    """Resize RGB or gray pixels, uint8 [H, W, ...]: for the network, and for people.

    Where both sides shrink: first the mean of whole blocks of k x k pixels (of the largest k that divides both
    sides), then the rest, bilinear up to a factor of `MOST_BILINEAR` and else the mean of the covered area. So
    nothing aliases, and it takes a tenth of the time of OpenCV's INTER_AREA alone, whose way for factors that are
    not whole was three quarters of the node's own work at 1280x720. Elsewhere: bilinear. What the network is
    trained on, calibrated with and given on the car goes through here. An image that has the size already is
    passed through.
    """
    if Size.of(image) == size:
        return image
    if size.width >= image.shape[1] or size.height >= image.shape[0]:
        return _resize(image, size, cv2.INTER_LINEAR)
    block = min(image.shape[1] // size.width, image.shape[0] // size.height)
    while image.shape[1] % block or image.shape[0] % block:
        block -= 1
    if block > 1:
        image = _resize(image, Size(image.shape[1] // block, image.shape[0] // block), cv2.INTER_AREA)
        if Size.of(image) == size:
            return image
    factor = max(image.shape[1] / size.width, image.shape[0] / size.height)
    return _resize(image, size, cv2.INTER_LINEAR if factor <= MOST_BILINEAR else cv2.INTER_AREA)


def _resize(image: RgbImage, size: Size, interpolation: int) -> RgbImage:
    return np.asarray(cv2.resize(image, (size.width, size.height), interpolation=interpolation), np.uint8)


def resize_labels(labels: LabelImage, size: Size) -> LabelImage:
    """Resize class ids, a mask or confidence, uint8 [H, W], to the nearest pixels' values: none is invented."""
    if Size.of(labels) == size:
        return labels
    height = labels.shape[0]
    if size.height <= height:
        return _nearest(labels, size)
    # widened first, then whole rows repeated: half the time of OpenCV's one step, and the same pixels
    return _nearest(labels, Size(size.width, height)).take(_nearest_rows(height, size.height), axis=0)


def _nearest(labels: NDArray[Any], size: Size) -> NDArray[Any]:
    resized: NDArray[Any] = cv2.resize(labels, (size.width, size.height), interpolation=cv2.INTER_NEAREST_EXACT)
    return resized


@lru_cache(maxsize=64)
def _nearest_rows(height: int, new_height: int) -> NDArray[Any]:
    """For each row of the new height the old one that OpenCV takes."""
    rows = np.arange(height, dtype=np.float32)[:, np.newaxis]
    return _nearest(rows, Size(1, new_height)).ravel().astype(np.intp)
