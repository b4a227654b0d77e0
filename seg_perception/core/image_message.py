"""Image and CompressedImage messages to RGB, whoever deserialized them (rclpy or rosbags). Knows no ROS."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from seg_perception.core.encoded import Codec, ImageFile, parse_encoded
from seg_perception.core.errors import InputError
from seg_perception.core.raw_image import RawImage, checked_rows, decode_raw
from seg_perception.core.types import RgbImage, Size

_NO_PICTURES: Final = ("16uc", "16sc", "32fc", "32sc", "64fc", "8sc")
"""Formats of depth and other measurements, in lower case: sensor_msgs gives their numbers no colors."""

_COLOR = 3
_SHOWN = 80


class ImageLike(Protocol):
    """The fields of sensor_msgs/Image that describe the pixels."""

    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def encoding(self) -> str: ...
    @property
    def is_bigendian(self) -> int: ...
    @property
    def step(self) -> int: ...
    @property
    def data(self) -> Any: ...


class CompressedImageLike(Protocol):
    """The fields of sensor_msgs/CompressedImage that describe the pixels."""

    @property
    def format(self) -> str: ...
    @property
    def data(self) -> Any: ...


def decode_image(msg: ImageLike) -> RgbImage:
    """The RGB pixels of an Image message, uint8 [H, W, 3], C-contiguous.

    Encodings and their conversion: `core.raw_image.decode_raw`. A tightly packed rgb8 message is not
    copied: the answer is a read-only view of its data.

    Raises:
        InputError: the message cannot be decoded; the text says what came and what is accepted.
    """
    return decode_raw(raw_of(msg))


def decode_mono8(msg: ImageLike) -> NDArray[np.uint8]:
    """The numbers of a mono8 or 8UC1 Image message, uint8 [H, W], exactly; may be a read-only view.

    Raises:
        InputError: another encoding, or as `decode_image`.
    """
    if msg.encoding not in ("mono8", "8UC1"):
        raise InputError(f"an image with encoding {msg.encoding!r} is not accepted here; mono8 is")
    return np.ascontiguousarray(checked_rows(replace(raw_of(msg), encoding="mono8"))[:, : int(msg.width)])


def raw_of(msg: ImageLike) -> RawImage:
    """The fields of an Image message that describe its pixels; nothing is decoded or copied.

    Raises:
        InputError: a width or height of zero.
    """
    size = Size(int(msg.width), int(msg.height))
    return RawImage(size, msg.encoding, int(msg.step), bool(msg.is_bigendian), msg.data)


def decode_compressed(msg: CompressedImageLike) -> RgbImage:
    """The RGB pixels of a CompressedImage message, uint8 [H, W, 3].

    JPEG and PNG, the upper 8 bits of a channel. `format` is read as image_transport's compressed
    plugin writes it: "jpeg", "png", "jpg", "rgb8; jpeg compressed bgr8", or empty. As in that plugin,
    the last word tells in which order the channels were given to the encoder: after "compressed rgb8"
    the file's red is blue. Of a Bayer camera ("bayer_rggb8; jpeg compressed") the plugin stores the
    mosaic as gray: it is demosaiced.

    Raises:
        InputError: another format; a file with an EXIF orientation (docs/adr/0012-images-in.md); or
            data that `core.encoded.parse_encoded` refuses.
    """
    pixel_format, _, codec = msg.format.lower().partition(";")
    if not codec:
        pixel_format, codec = "", pixel_format
    pixel_format, words = pixel_format.strip(), codec.split()
    if (words and words[0] not in ("jpeg", "jpg", "png")) or pixel_format.startswith(_NO_PICTURES):
        raise InputError(
            f"compressed image format {_shown(msg.format)} is not accepted; accepted: jpeg and png, "
            "for example 'jpeg' or 'rgb8; jpeg compressed bgr8'"
        )
    source = f"compressed image with format {_shown(msg.format)}"
    file = parse_encoded(msg.data, source)
    header = file.header
    if header.codec not in (Codec.JPEG, Codec.PNG):
        raise InputError(f"{source}: its data is a {header.codec.value}, neither JPEG nor PNG")
    if header.orientation != 1:
        raise InputError(
            f"{source}: its EXIF orientation is {header.orientation}: the pixels are stored turned or mirrored; "
            "let the driver store them upright, or leave the orientation out (CameraInfo describes pixels as stored)"
        )
    if pixel_format.startswith("bayer_") and header.channels == 1:
        return _demosaiced(file, pixel_format, source)
    pixels = file.rgb(source)
    if words[1:2] == ["compressed"] and words[2:] in (["rgb8"], ["rgb16"]) and header.channels >= _COLOR:
        return np.ascontiguousarray(pixels[:, :, ::-1])
    return pixels


def _demosaiced(file: ImageFile, pixel_format: str, source: str) -> RgbImage:
    """A mosaic that was stored as gray; its depth is the file's, whatever the camera's was."""
    mosaic = file.values(source)
    encoding = pixel_format.rstrip("0123456789") + str(8 * mosaic.itemsize)
    rows = np.ascontiguousarray(mosaic).view(np.uint8)  # [H, W x bytes]
    return decode_raw(RawImage(file.header.size, encoding, rows.shape[1], sys.byteorder == "big", rows.reshape(-1)))


def _shown(text: str) -> str:
    """A text of a message for an error, cut: nobody says how long it is."""
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")
