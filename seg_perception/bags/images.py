"""Pixels of the image messages in a bag."""

from __future__ import annotations

from typing import Any

from seg_perception.bags.messages import COMPRESSED_IMAGE, IMAGE
from seg_perception.core.encoded import decode_labels
from seg_perception.core.errors import InputError
from seg_perception.core.image_message import decode_compressed, decode_image, decode_mono8
from seg_perception.core.types import LabelImage, RgbImage

IMAGE_TYPES = (IMAGE, COMPRESSED_IMAGE)


def rgb_of(message: Any, type_name: str) -> RgbImage:
    """The pixels of an Image or CompressedImage, uint8 [H, W, 3] RGB; may be a view of the message.

    Raises:
        InputError: another type, or an image that cannot be decoded.
    """
    if type_name == IMAGE:
        return decode_image(message)
    if type_name == COMPRESSED_IMAGE:
        return decode_compressed(message)
    raise InputError(f"a {type_name} message holds no image; accepted: {', '.join(IMAGE_TYPES)}")


def labels_of(message: Any, type_name: str) -> LabelImage:
    """The class ids of a mono8 Image (padded rows are fine) or a gray PNG, uint8 [H, W], exactly.

    Raises:
        InputError: not such a message.
    """
    if type_name == COMPRESSED_IMAGE:
        return decode_labels(message.data, f"compressed image with format {message.format!r}")
    if type_name != IMAGE:
        raise InputError(f"a {type_name} message holds no labels; accepted: {', '.join(IMAGE_TYPES)}")
    if message.encoding not in ("mono8", "8UC1"):
        raise InputError(
            f"an image with encoding {message.encoding!r} is not a label image: mono8 with class ids is accepted"
        )
    return decode_mono8(message)
