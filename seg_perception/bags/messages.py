"""Builds the messages a driving bag holds, and reads the stamps of any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from seg_perception.bags.topics import CAMERA_INFO, COMPRESSED_IMAGE, IMAGE
from seg_perception.bags.typestore import standard_types
from seg_perception.core.errors import InputError
from seg_perception.node_outputs import Content

__all__ = [
    "CAMERA_INFO",
    "COMPRESSED_IMAGE",
    "IMAGE",
    "build",
    "camera_info",
    "compressed_png",
    "header",
    "header_of",
    "image",
    "stamp_ns_of",
]

_NANOSECONDS: Final = 1_000_000_000


def header(stamp_ns: int, frame_id: str) -> Any:
    """A std_msgs/Header.

    Raises:
        InputError: the stamp does not fit the message's 32-bit seconds.
    """
    seconds, nanoseconds = divmod(stamp_ns, _NANOSECONDS)
    if not 0 <= seconds < 2**31:
        raise InputError(f"stamp {stamp_ns} ns is not accepted: seconds must be 0 to {2**31 - 1}")
    types = standard_types().types
    stamp = types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)
    return types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame_id)


def header_of(message: Any) -> Any:
    """A message's header with its stamp as it is, be it negative; InputError if it has none."""
    stamp_ns_of(message)
    types = standard_types().types
    stamp = types["builtin_interfaces/msg/Time"](sec=message.header.stamp.sec, nanosec=message.header.stamp.nanosec)
    return types["std_msgs/msg/Header"](stamp=stamp, frame_id=message.header.frame_id)


def stamp_ns_of(message: Any) -> int:
    """The header's stamp in nanoseconds.

    Raises:
        InputError: the message has no header.
    """
    if not hasattr(message, "header"):
        raise InputError(f"a {type(message).__name__} message has no header, so no stamp to match by")
    stamp = message.header.stamp
    return int(stamp.sec) * _NANOSECONDS + int(stamp.nanosec)


def image(pixels: NDArray[np.uint8], header: Any) -> Any:
    """A sensor_msgs/Image: mono8 from uint8 [H, W], rgb8 from uint8 [H, W, 3]; rows are not padded.

    Raises:
        InputError: another shape or dtype.
    """
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        raise InputError(
            f"an image message takes uint8 [H, W] or uint8 [H, W, 3] RGB, got {pixels.dtype} {list(pixels.shape)}"
        )
    height, width = pixels.shape[:2]
    return standard_types().types[IMAGE](
        header=header,
        height=height,
        width=width,
        encoding="mono8" if pixels.ndim == 2 else "rgb8",
        is_bigendian=0,
        step=width * (1 if pixels.ndim == 2 else 3),
        data=np.ascontiguousarray(pixels).reshape(-1),
    )


def compressed_png(pixels: NDArray[np.uint8], header: Any) -> Any:
    """A sensor_msgs/CompressedImage, lossless PNG, of uint8 [H, W] or RGB uint8 [H, W, 3]."""
    stored = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else pixels
    encoded = cv2.imencode(".png", stored)[1]
    return standard_types().types[COMPRESSED_IMAGE](header=header, format="png", data=encoded.reshape(-1))


def camera_info(
    width: int, height: int, focal_length: float, header: Any, center: tuple[float, float] | None = None
) -> Any:
    """A sensor_msgs/CameraInfo of an undistorted pinhole camera.

    Args:
        width, height: in pixels.
        focal_length: in pixels, the same for both axes.
        header: of the image it belongs to.
        center: principal point (x, y) in pixels; the image's middle unless given.
    """
    cx, cy = center or ((width - 1) / 2, (height - 1) / 2)
    types = standard_types().types
    f = focal_length
    return types[CAMERA_INFO](
        header=header,
        height=height,
        width=width,
        distortion_model="plumb_bob",
        d=np.zeros(5),
        k=np.array([f, 0, cx, 0, f, cy, 0, 0, 1], np.float64),
        r=np.eye(3).reshape(-1),
        p=np.array([f, 0, cx, 0, 0, f, cy, 0, 0, 0, 1, 0], np.float64),
        binning_x=0,
        binning_y=0,
        roi=types["sensor_msgs/msg/RegionOfInterest"](x_offset=0, y_offset=0, height=0, width=0, do_rectify=False),
    )


def build(type_name: str, content: Content, header: Any) -> Any:
    """A message of any standard type from what it shall say, see `node_outputs.Content`.

    Args:
        header: a std_msgs/Header; stands in the message, with what the content says of it changed.

    Raises:
        InputError: pixels of another shape or type.
    """
    if isinstance(content, np.ndarray):
        return image(content, header)
    fields: dict[str, Any] = dict(content) if isinstance(content, Mapping) else {"data": content}
    told = {"stamp": {"sec": header.stamp.sec, "nanosec": header.stamp.nanosec}, "frame_id": header.frame_id}
    named = [name for name, _ in standard_types().fielddefs[type_name][1]]
    if "header" in named:
        fields["header"] = told | dict(fields.get("header", {}))
    return _filled(type_name, fields)


def _filled(type_name: str, fields: Mapping[str, Any]) -> Any:
    types = standard_types()
    values = {name: _value(kind, fields.get(name)) for name, kind in types.fielddefs[type_name][1]}
    return types.types[type_name](**values)


_BASE, _NAMED = 1, 2  # rosbags' kinds of fields; others are arrays and sequences


def _value(kind: Any, given: Any) -> Any:
    """A field's value; its type's zero where nothing is given."""
    node, what = int(kind[0]), kind[1]
    if node == _NAMED:
        return _filled(what, given or {})
    if node == _BASE:
        name = what[0]
        zero: Any = "" if name == "string" else False if name == "bool" else 0.0 if name.startswith("float") else 0
        return zero if given is None else given
    element, length = what
    if int(element[0]) == _NAMED:
        return [_filled(element[1], part) for part in given or [{}] * length]
    dtype = {"byte": "uint8", "octet": "uint8", "char": "uint8", "bool": "bool"}.get(element[1][0], element[1][0])
    return np.zeros(length, dtype) if given is None else np.ascontiguousarray(given, dtype)
