"""Image types shared by every room. Arrays are C-contiguous numpy arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import Enum
from numbers import Integral, Real
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from seg_perception.core.errors import InputError

RgbImage: TypeAlias = NDArray[np.uint8]
"""uint8 [H, W, 3], RGB order, 0 to 255."""

LabelImage: TypeAlias = NDArray[np.uint8]
"""uint8 [H, W] class ids; `UNLABELED` where there is no truth."""

ConfidenceImage: TypeAlias = NDArray[np.uint8]
"""uint8 [H, W]: the winning class's softmax probability x 255, rounded."""

MaskImage: TypeAlias = NDArray[np.uint8]
"""uint8 [H, W], 0 or 255."""

UNLABELED = 255

UNKNOWN = 254
"""In the labels of training crops: nothing that any class names, where the network must not be sure."""

MAX_PIXELS = 64 * 1024 * 1024
"""No image larger than this is decoded: a header that claims more is taken for damage or an attack."""


_Choice = TypeVar("_Choice", bound=Enum)


def parse_choice(kind: type[_Choice], text: Any, name: str) -> _Choice:
    """The member of an enumeration whose value is this text; a member is passed through.

    Raises:
        InputError: no such member; lists them.
    """
    try:
        return kind(text)
    except ValueError:
        raise InputError(f"{name} {text!r} is not one of {', '.join(str(one.value) for one in kind)}") from None


def parse_fields(settings: object, **parsers: Callable[[Any], object]) -> None:
    """Let a frozen dataclass take plain values, and only those of its fields' types.

    A field that is not None and has a parser becomes what that makes of it. Of the others whole numbers, numbers and
    bools must be some (in a condition, "no" would be true), and one text or number does for a tuple of them.

    Raises:
        InputError: values of another type, and what parsers refuse, all together.
    """
    faults = []
    for field in fields(settings):  # type: ignore[arg-type]  # whoever calls this is a dataclass
        value, kind = getattr(settings, field.name), str(field.type).removesuffix(" | None")
        if value is None and kind != field.type:
            continue
        try:
            if field.name in parsers:
                parsed = parsers[field.name](value)
            elif kind in _NUMBERS:
                parsed = _number(field.name, value, kind)
            elif kind in ("tuple[str, ...]", "tuple[float, ...]"):
                parsed = (value,) if isinstance(value, (str, Real)) else tuple(value)
            else:
                continue
        except InputError as error:
            faults.append(str(error))
            continue
        if parsed is not value:
            object.__setattr__(settings, field.name, parsed)
    if faults:
        raise InputError("; ".join(faults))


_NUMBERS = {"int": (Integral, "a whole number"), "float": (Real, "a number"), "bool": (bool, "True or False")}


def _number(name: str, value: object, kind: str) -> object:
    accepted, words = _NUMBERS[kind]
    if not isinstance(value, accepted) or isinstance(value, bool) != (kind == "bool"):
        raise InputError(f"{name} {value!r} is not accepted: {words} is")
    return value


class Precision(str, Enum):
    """What a graph or an engine computes in; prints, compares and is stored as its text."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"

    @classmethod
    def parse(cls, text: str) -> Precision:
        """Parse "fp16".

        Raises:
            InputError: not one of the three; lists them.
        """
        return parse_choice(cls, text, "precision")

    def __str__(self) -> str:
        return self.value


class CameraEncoding(str, Enum):
    """How the bytes of a camera image lie, for graphs that take them as they come.

    YUV is BT.601 in studio range, as `core.image_message` reads it.
    """

    RGB = "rgb"  # [H, W, 3]
    BGR = "bgr"  # [H, W, 3]
    YUV422 = "yuv422"  # [H, W, 2]: U Y V Y, as sensor_msgs' yuv422 and uyvy
    YUV422_YUY2 = "yuv422_yuy2"  # [H, W, 2]: Y U Y V, as sensor_msgs' yuv422_yuy2 and yuyv
    NV12 = "nv12"  # [H * 3 / 2, W, 1]: H rows of Y, then H / 2 rows of U V U V ...

    @property
    def messages(self) -> tuple[str, ...]:
        """Names that sensor_msgs/Image has for it."""
        return _MESSAGES[self.value]

    @classmethod
    def parse(cls, text: str) -> CameraEncoding:
        """Parse "nv12".

        Raises:
            InputError: not one of them; lists them.
        """
        return parse_choice(cls, text, "camera encoding")

    def array_shape(self, size: Size) -> tuple[int, int, int]:
        """Rows, columns and bytes of a column, of the uint8 array of an image of this size.

        Raises:
            InputError: the encoding needs an even width (and height).
        """
        odd = size.width % 2 or (self is CameraEncoding.NV12 and size.height % 2)
        if self not in (CameraEncoding.RGB, CameraEncoding.BGR) and odd:
            raise InputError(f"{self} images of {size} cannot be: chroma is shared by two pixels, so sides are even")
        if self is CameraEncoding.NV12:
            return size.height * 3 // 2, size.width, 1
        return size.height, size.width, 3 if self in (CameraEncoding.RGB, CameraEncoding.BGR) else 2

    def __str__(self) -> str:
        return self.value


_MESSAGES = {
    "rgb": ("rgb8",),
    "bgr": ("bgr8",),
    "yuv422": ("yuv422", "uyvy"),
    "yuv422_yuy2": ("yuv422_yuy2", "yuyv"),
    "nv12": ("nv12",),
}


@dataclass(frozen=True, slots=True, order=True)
class Size:
    """Image size in pixels; prints and parses as WIDTHxHEIGHT.

    Attributes:
        width: columns, at least 1.
        height: rows, at least 1.

    Raises:
        InputError: a side below 1.
    """

    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise InputError(f"image size {self} is not accepted: width and height must be at least 1")

    @classmethod
    def parse(cls, text: str | Size | tuple[int, int]) -> Size:
        """Parse "480x360" or (480, 360); a size is passed through.

        Raises:
            InputError: not two positive integers, joined by an x in a text.
        """
        if isinstance(text, Size):
            return text
        given: Any = text
        if isinstance(given, (tuple, list)) and len(given) == 2 and all(type(side) is int for side in given):
            return cls(*given)
        if not isinstance(text, str):
            raise InputError(f"size {text!r} is not accepted: write '480x352' or (480, 352), width first")
        width, _, height = text.lower().partition("x")
        if not (width.strip().isdecimal() and height.strip().isdecimal()):
            raise InputError(f"image size {text!r} is not accepted: write WIDTHxHEIGHT, for example 480x360")
        return cls(int(width), int(height))

    @classmethod
    def of(cls, image: NDArray[np.uint8]) -> Size:
        """The size of an image array [H, W, ...]."""
        return cls(int(image.shape[1]), int(image.shape[0]))

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """What the network says of one image, pixel by pixel, at the image's own size.

    Attributes:
        labels: class ids, uint8 [H, W].
        confidence: the winning class's probability x 255, uint8 [H, W].

    Raises:
        InputError: not two uint8 images of one size.
    """

    labels: LabelImage
    confidence: ConfidenceImage

    def __post_init__(self) -> None:
        for name, image in (("labels", self.labels), ("confidence", self.confidence)):
            if image.dtype != np.uint8 or image.ndim != 2:
                raise InputError(f"{name} must be uint8 [H, W], got {image.dtype} {list(image.shape)}")
        if self.labels.shape != self.confidence.shape:
            raise InputError(
                f"labels {list(self.labels.shape)} and confidence {list(self.confidence.shape)} differ in size"
            )


def check_rgb(image: NDArray[np.uint8]) -> RgbImage:
    """Pass an RGB image through, or say what is wrong with it.

    Raises:
        InputError: not uint8 [H, W, 3] with at least one pixel.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise InputError(f"an RGB image must be uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
    return image
