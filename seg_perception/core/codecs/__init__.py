"""The image file formats: what a header says, and how damage is said; each format has a module of this folder."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any, Final, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from seg_perception.core.errors import InputError
from seg_perception.core.resizing import check_aspect
from seg_perception.core.types import MAX_PIXELS, RgbImage, Size

log = logging.getLogger(__name__)

_LEAST_UPPER_BYTE: Final = 64  # 2^14 / 256: below it, the values fit a sensor of 14 bits that nobody shifted up


class Codec(Enum):
    """The file formats that are read."""

    JPEG = "JPEG"
    PNG = "PNG"
    WEBP = "WebP"
    BMP = "BMP"
    TIFF = "TIFF"


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """What the header of a whole image file says.

    Attributes:
        size: of the pixels as they are stored; an orientation of 5 to 8 exchanges width and height.
        channels: 1 gray, 2 gray + alpha, 3 color, 4 color + alpha; 1 for a palette, too.
        bit_depth: of one channel.
        orientation: 1 to 8, EXIF's or else XMP's: how the stored pixels must be turned to stand upright; 1 as they are.
        lossy: the pixels differ from those that were given to the encoder.
    """

    codec: Codec
    size: Size
    channels: int
    bit_depth: int
    has_palette: bool = False
    orientation: int = 1
    lossy: bool = False


class ImageFile(Protocol):
    """A file whose structure has been checked, ready to be decoded."""

    @property
    def header(self) -> EncodedImage: ...

    def rgb(self, source: str) -> RgbImage:
        """Decode to uint8 [H, W, 3] as stored: gray repeated, alpha dropped, of 16 bits the upper 8.

        Raises:
            InputError: the decoder fails or does not cover the picture.
        """

    def values(self, source: str) -> NDArray[np.generic]:
        """The stored numbers: uint8 or uint16 [H, W] (of a palette, its indices) or [H, W, 3] RGB.

        Raises:
            InputError: as `rgb`; or the format does not keep numbers exactly.
        """


def checked_size(width: int, height: int, source: str) -> Size:
    """A size that some camera makes: neither too large nor a sliver."""
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise InputError(f"{source}: a size of {width}x{height} is not accepted; 1 to {MAX_PIXELS} pixels are")
    size = Size(width, height)
    check_aspect(size, f"{source}: an image")
    return size


def truncated(codec: Codec, data: memoryview, source: str) -> InputError:
    return InputError(
        f"{source}: the {codec.value} ends early, after {len(data)} bytes; the file or message is truncated"
    )


def damaged(codec: Codec, why: str, source: str) -> InputError:
    return InputError(f"{source}: the {codec.value} is damaged: {why}")


def refused(codec: Codec, what: str, accepted: str, source: str) -> InputError:
    return InputError(f"{source}: a {codec.value} {what} is not accepted; {accepted}")


def opencv_pixels(data: Any, header: EncodedImage, flags: int, source: str) -> NDArray[np.generic]:
    """What OpenCV decodes, its orientation not applied.

    Raises:
        InputError: nothing, or another size than the header's.
    """
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise InputError(f"{source}: the {header.codec.value} cannot be decoded: {error}") from error
    if pixels is None or Size.of(pixels) != header.size:
        got = "nothing" if pixels is None else f"{Size.of(pixels)}"
        raise InputError(
            f"{source}: the {header.codec.value} of {header.size} cannot be decoded; the decoder gave {got}"
        )
    return np.asarray(pixels)


def opencv_rgb(data: Any, header: EncodedImage, source: str) -> RgbImage:
    """OpenCV's pixels as uint8 [H, W, 3] RGB."""
    if hasattr(cv2, "IMREAD_COLOR_RGB"):  # OpenCV 4.11 on: the decoder itself writes RGB
        return np.asarray(opencv_pixels(data, header, cv2.IMREAD_COLOR_RGB, source), np.uint8)
    pixels = np.asarray(opencv_pixels(data, header, cv2.IMREAD_COLOR, source), np.uint8)
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels), np.uint8)


def opencv_values(data: Any, header: EncodedImage, source: str) -> NDArray[np.generic]:
    """OpenCV's pixels as they are stored, [H, W] or [H, W, 3] RGB; alpha is dropped."""
    pixels = opencv_pixels(data, header, cv2.IMREAD_UNCHANGED, source)
    if pixels.ndim == 2:
        return pixels
    return np.ascontiguousarray(pixels[..., 0] if header.channels <= 2 else pixels[..., 2::-1])


def unpacked_rows(rows: NDArray[np.uint8], bits: int, width: int) -> NDArray[np.uint8]:
    """Numbers of 1, 2, 4 or 8 bits, packed from the highest bit down, as uint8 [H, width].

    Args:
        rows: uint8 [H, bytes of a row].
    """
    if bits == 8:
        return np.ascontiguousarray(rows[:, :width])
    single = np.unpackbits(rows, axis=1).reshape(len(rows), -1, bits)
    return np.ascontiguousarray((np.packbits(single, axis=2)[:, :, 0] >> (8 - bits))[:, :width])


def say_if_low(upper: NDArray[np.uint8], what: str) -> None:
    """Say once in the log that 16-bit numbers use their lower bits only.

    A sensor of 10, 12 or 14 bits that nobody shifted up cannot be told from a dark street, so the picture
    is taken as it is; a covered lens (all 0) is nothing to say.

    Args:
        upper: the upper bytes of the numbers.
        what: they are, for the text.
    """
    if 0 < int(upper.max()) < _LEAST_UPPER_BYTE:
        say_once(
            f"the values of a {what} are all below {256 * _LEAST_UPPER_BYTE} of 65535: the picture is nearly black "
            "and its labels are worth little; if the sensor has 10, 12 or 14 bits, let the driver shift them up "
            "(sensor_msgs: 16 bits, full range) or publish 8 bits (said once)"
        )


@cache
def say_once(text: str) -> None:
    log.warning(text)
