"""Image and CompressedImage messages to RGB, whoever deserialized them (rclpy or rosbags). Knows no ROS."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from seg_perception.core.encoded import decode_rgb
from seg_perception.core.errors import InputError
from seg_perception.core.raw_image import RawImage, decode_raw
from seg_perception.core.types import RgbImage, Size


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
