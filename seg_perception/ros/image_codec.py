"""Image messages to RGB arrays and back.

Why not cv_bridge: docs/adr/0003-own-image-decoding.md.
"""

from __future__ import annotations

from array import array
from typing import Any, Protocol

import numpy as np
from builtin_interfaces.msg import Time
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from seg_perception.core.encoded import decode_rgb, encode_png_bytes
from seg_perception.core.errors import InputError
from seg_perception.core.raw_image import RawImage, decode_raw
from seg_perception.core.types import LabelImage, RgbImage, Size

PNG_FORMAT = "mono8; png compressed"
"""What image_transport's compressed subscriber reads as: a mono8 image in a PNG."""


class TimeLike(Protocol):
    """The fields of builtin_interfaces/Time."""

    sec: int
    nanosec: int


class HeaderLike(Protocol):
    """The fields of std_msgs/Header."""

    @property
    def stamp(self) -> TimeLike: ...
    @property
    def frame_id(self) -> str: ...


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
    size = Size(int(msg.width), int(msg.height))
    return decode_raw(RawImage(size, msg.encoding, int(msg.step), bool(msg.is_bigendian), msg.data))


def decode_compressed(msg: CompressedImageLike) -> RgbImage:
    """The RGB pixels of a CompressedImage message, uint8 [H, W, 3].

    JPEG and PNG with 8 bits a channel. `format` is read as image_transport's compressed plugin
    writes it: "jpeg", "png", "jpg", "rgb8; jpeg compressed bgr8", or empty. As in that plugin, the
    last word tells in which order the channels were given to the encoder: after "compressed rgb8"
    the file's red is blue.

    Raises:
        InputError: another format, or data that `core.encoded.decode_rgb` refuses.
    """
    pixel_format, _, codec = msg.format.lower().partition(";")
    if not codec:
        pixel_format, codec = "", pixel_format
    words = codec.split()
    if words and words[0] not in ("jpeg", "jpg", "png"):
        raise InputError(
            f"compressed image format {msg.format!r} is not accepted; accepted: jpeg and png, "
            "for example 'jpeg' or 'rgb8; jpeg compressed bgr8'"
        )
    pixels = decode_rgb(msg.data, f"compressed image with format {msg.format!r}")
    if words[1:] == ["compressed", "rgb8"] and pixel_format.strip() not in ("mono8", "mono16"):
        return np.ascontiguousarray(pixels[:, :, ::-1])
    return pixels


def encode_image(pixels: NDArray[np.uint8], header: HeaderLike) -> Image:
    """An Image message: uint8 [H, W] becomes mono8, uint8 [H, W, 3] (RGB) becomes rgb8.

    Raises:
        InputError: another shape or type.
    """
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,)) or not pixels.size:
        raise InputError(
            f"an image to publish must be uint8 [H, W] (mono8) or [H, W, 3] (rgb8), "
            f"got {pixels.dtype} {list(pixels.shape)}"
        )
    msg = Image()
    msg.header = copy_header(header)
    msg.height, msg.width = pixels.shape[:2]
    msg.encoding = "mono8" if pixels.ndim == 2 else "rgb8"
    msg.is_bigendian = 0
    msg.step = pixels[0].size
    msg.data = _bytes_array(pixels)
    return msg


def encode_png(labels: LabelImage, header: HeaderLike) -> CompressedImage:
    """A CompressedImage message with uint8 [H, W] as PNG: lossless, small for labels and masks.

    Raises:
        InputError: another shape or type.
    """
    msg = CompressedImage()
    msg.header = copy_header(header)
    msg.format = PNG_FORMAT
    msg.data = _bytes_array(encode_png_bytes(labels))
    return msg


def copy_header(header: HeaderLike) -> Header:
    """A header of its own with the same stamp, to the nanosecond, and frame_id."""
    return Header(stamp=Time(sec=header.stamp.sec, nanosec=header.stamp.nanosec), frame_id=header.frame_id)


def _bytes_array(values: NDArray[np.uint8]) -> array[int]:
    """array.array('B'): the one type that rclpy takes over without looking at every byte."""
    data = array("B")
    data.frombytes(np.ascontiguousarray(values).data)
    return data
