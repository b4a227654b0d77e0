"""Images as `sensor_msgs` describes them, raw and compressed, to RGB, whoever deserialized them. Knows no ROS.

The names of the encodings, the meaning of `step` (bytes from one row to the next, padding included) and of
`is_bigendian` are those of sensor_msgs; the plane layouts of nv12, nv21 and nv24 and the byte order of the packed YUV
formats are those of V4L2 (Linux kernel documentation, "YUV Formats").
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from seg_perception.core.codecs import Codec, ImageFile, say_if_low
from seg_perception.core.errors import InputError
from seg_perception.core.image_file import parse_encoded
from seg_perception.core.resizing import check_aspect
from seg_perception.core.types import MAX_PIXELS, CameraEncoding, RgbImage, Size

_SHOWN: Final = 80  # characters of a name: nobody says how long a message's is
_NAMELESS_CHANNELS: Final = {
    "8UC1": "mono8 or its Bayer pattern",
    "8UC3": "bgr8 or rgb8",
    "8UC4": "bgra8 or rgba8",
    "16UC1": "mono16, if it is no depth,",
    "16UC3": "bgr16 or rgb16",
}


@dataclass(frozen=True, slots=True)
class RawImage:
    """The fields of a `sensor_msgs/Image` that describe its pixels.

    Attributes:
        size: in pixels.
        encoding: a name from `ENCODINGS`.
        step: bytes from the start of one row to the start of the next. For nv12, nv21 and nv24 it
            is the row of the luma plane; the chroma plane follows at once, its rows `step` apart
            (nv24: 2 x step).
        is_bigendian: byte order of 16-bit pixels.
        data: anything with the buffer protocol (array.array, bytes, uint8 array), all rows.
    """

    size: Size
    encoding: str
    step: int
    is_bigendian: bool
    data: Any


_Rows = NDArray[np.uint8]  # uint8 [rows, step]: every plane's rows, padding included


@dataclass(frozen=True, slots=True)
class _Encoding:
    """How one encoding lies in memory, and how it becomes RGB.

    Attributes:
        row_bytes: bytes of pixels in one row, for a width.
        rows: rows of `step` bytes in the data, for a height.
        even_width, even_height: chroma is shared by neighbors, so the side must be even.
    """

    row_bytes: Callable[[int], int]
    rows: Callable[[int], int]
    to_rgb: Callable[[_Rows, RawImage], RgbImage]
    even_width: bool = False
    even_height: bool = False


def _pixels(rows: _Rows, size: Size, channels: int) -> NDArray[np.uint8]:
    """uint8 [H, W, channels] view without the padding (OpenCV reads padded rows as they are)."""
    return rows[:, : size.width * channels].reshape(size.height, size.width, channels)


def _rgb(rows: _Rows, image: RawImage) -> RgbImage:
    return np.ascontiguousarray(_pixels(rows, image.size, 3))  # copies only padded rows


def _converted(channels: int, code: int) -> Callable[[_Rows, RawImage], RgbImage]:
    def to_rgb(rows: _Rows, image: RawImage) -> RgbImage:
        pixels = _pixels(rows, image.size, channels)
        return np.asarray(cv2.cvtColor(pixels if channels > 1 else pixels[:, :, 0], code), np.uint8)

    return to_rgb


def _upper_bytes(bytes_per_pixel: int, to_rgb: Callable[[_Rows, RawImage], RgbImage]) -> _Encoding:
    """16 bits a channel: the upper 8 of each, 0 to 65535 becoming 0 to 255 rounded down, then as 8 bits."""

    def of_upper(rows: _Rows, image: RawImage) -> RgbImage:
        numbers = rows[:, : image.size.width * bytes_per_pixel].reshape(image.size.height, -1, 2)
        upper = np.asarray(cv2.extractChannel(numbers, 0 if image.is_bigendian else 1), np.uint8)
        say_if_low(upper, f"{image.encoding} image")
        return to_rgb(upper, image)

    return _packed(bytes_per_pixel, of_upper)


def _bayer(code: int) -> Callable[[_Rows, RawImage], RgbImage]:
    convert = _converted(1, code)

    def to_rgb(rows: _Rows, image: RawImage) -> RgbImage:
        if image.size.width < 3 or image.size.height < 3:
            raise InputError(
                f"a {image.encoding} image of {image.size} is not accepted: "
                "its colors need at least 3x3 pixels to be interpolated"
            )
        return convert(rows, image)

    return to_rgb


def _nv12_or_nv21(code: int) -> Callable[[_Rows, RawImage], RgbImage]:
    def to_rgb(rows: _Rows, image: RawImage) -> RgbImage:
        # [H * 3 / 2, W]: H rows of luma, then H / 2 rows of interleaved chroma
        return np.asarray(cv2.cvtColor(rows[:, : image.size.width], code), np.uint8)

    return to_rgb


# BT.601, studio range (luma 16 to 235, chroma 16 to 240), to full-range RGB; rows R, G, B over Y, U, V, 1.
# With Kr = 0.299, Kb = 0.114, Kg = 1 - Kr - Kb: luma scale 255/219, chroma scale 255/224.
_KR, _KG, _KB = 0.299, 0.587, 0.114
_LUMA, _CHROMA = 255 / 219, 255 / 224
_RED_V = 2 * (1 - _KR) * _CHROMA
_BLUE_U = 2 * (1 - _KB) * _CHROMA
_GREEN_U, _GREEN_V = -_BLUE_U * _KB / _KG, -_RED_V * _KR / _KG
_YUV_TO_RGB: Final[NDArray[np.float64]] = np.array(
    [
        [_LUMA, 0, _RED_V, -16 * _LUMA - 128 * _RED_V],
        [_LUMA, _GREEN_U, _GREEN_V, -16 * _LUMA - 128 * (_GREEN_U + _GREEN_V)],
        [_LUMA, _BLUE_U, 0, -16 * _LUMA - 128 * _BLUE_U],
    ]
)


_RGB_TO_YUV: Final[NDArray[np.float64]] = np.hstack(
    [np.linalg.inv(_YUV_TO_RGB[:, :3]), [[16.0], [128.0], [128.0]]]  # black is Y 16, U and V 128
)


def _nv24(rows: _Rows, image: RawImage) -> RgbImage:
    height, width = image.size.height, image.size.width
    luma = np.maximum(rows[:height, :width], 16)  # as OpenCV treats the other YUV formats
    chroma = rows[height:].reshape(height, 2 * image.step)[:, : 2 * width].reshape(height, width, 2)
    yuv = np.empty((height, width, 3), np.uint8)
    cv2.mixChannels([luma, chroma], [yuv], [0, 0, 1, 1, 2, 2])
    return np.asarray(cv2.transform(yuv, _YUV_TO_RGB), np.uint8)


def _packed(bytes_per_pixel: int, to_rgb: Callable[[_Rows, RawImage], RgbImage], *, even: bool = False) -> _Encoding:
    return _Encoding(lambda width: width * bytes_per_pixel, lambda height: height, to_rgb, even_width=even)


# OpenCV names a Bayer pattern by the second row's second and third pixel, ROS by the first row's
# first two and the second row's: what ROS calls RGGB is OpenCV's "BG", and so on.
_BAYER: Final = {
    "rggb": cv2.COLOR_BayerBG2RGB,
    "bggr": cv2.COLOR_BayerRG2RGB,
    "gbrg": cv2.COLOR_BayerGR2RGB,
    "grbg": cv2.COLOR_BayerGB2RGB,
}

ENCODINGS: Final[Mapping[str, _Encoding]] = MappingProxyType(
    {
        "rgb8": _packed(3, _rgb),
        "bgr8": _packed(3, _converted(3, cv2.COLOR_BGR2RGB)),
        "rgba8": _packed(4, _converted(4, cv2.COLOR_RGBA2RGB)),
        "bgra8": _packed(4, _converted(4, cv2.COLOR_BGRA2RGB)),
        "mono8": _packed(1, _converted(1, cv2.COLOR_GRAY2RGB)),
        "mono16": _upper_bytes(2, _converted(1, cv2.COLOR_GRAY2RGB)),
        "rgb16": _upper_bytes(6, _rgb),
        "bgr16": _upper_bytes(6, _converted(3, cv2.COLOR_BGR2RGB)),
        "rgba16": _upper_bytes(8, _converted(4, cv2.COLOR_RGBA2RGB)),
        "bgra16": _upper_bytes(8, _converted(4, cv2.COLOR_BGRA2RGB)),
        **{f"bayer_{pattern}8": _packed(1, _bayer(code)) for pattern, code in _BAYER.items()},
        **{f"bayer_{pattern}16": _upper_bytes(2, _bayer(code)) for pattern, code in _BAYER.items()},
        "yuv422": _packed(2, _converted(2, cv2.COLOR_YUV2RGB_UYVY), even=True),
        "uyvy": _packed(2, _converted(2, cv2.COLOR_YUV2RGB_UYVY), even=True),
        "yuv422_yuy2": _packed(2, _converted(2, cv2.COLOR_YUV2RGB_YUY2), even=True),
        "yuyv": _packed(2, _converted(2, cv2.COLOR_YUV2RGB_YUY2), even=True),
        "nv12": _Encoding(
            lambda width: width, lambda height: height * 3 // 2, _nv12_or_nv21(cv2.COLOR_YUV2RGB_NV12), True, True
        ),
        "nv21": _Encoding(
            lambda width: width, lambda height: height * 3 // 2, _nv12_or_nv21(cv2.COLOR_YUV2RGB_NV21), True, True
        ),
        "nv24": _Encoding(lambda width: width, lambda height: height * 3, _nv24),
    }
)
"""Every encoding that `decode_raw` accepts."""


def decode_raw(image: RawImage) -> RgbImage:
    """Convert to RGB, uint8 [H, W, 3], C-contiguous.

    One conversion and no other copy. Tightly packed rgb8 is not even converted: the answer is a
    read-only view of `image.data`. Alpha is dropped. Of 16 bits a channel the upper 8 are kept, as
    sensor_msgs means them: 0 to 65535 becomes 0 to 255 (values that use the lower bits only are said
    once in the log). YUV is BT.601, studio range, as cameras and OpenCV have it; luma under 16 counts
    as 16. Bayer is demosaiced bilinearly.

    Raises:
        InputError: an unknown encoding, an impossible size or step, too few or too many bytes; the
            text says what came and what is accepted.
    """
    rows = checked_rows(image)
    return ENCODINGS[image.encoding].to_rgb(rows, image)


def camera_bytes(image: RawImage, encoding: CameraEncoding, size: Size) -> NDArray[np.uint8]:
    """A camera's image as a graph takes it that decodes by itself, uint8 of `encoding.array_shape(size)`.

    Tightly packed rows are not copied: the answer is a read-only view of `image.data`. Padding is taken out.

    Raises:
        InputError: another encoding or size than the graph takes, or as `decode_raw`; the text says what came
            and what is taken.
    """
    _check_camera(image, encoding, size)
    rows, width, channels = encoding.array_shape(size)
    return np.ascontiguousarray(checked_rows(image)[:, : width * channels]).reshape(rows, width, channels)


def check_camera_bytes(image: RawImage, encoding: CameraEncoding, size: Size) -> None:
    """The checks of `camera_bytes` without a look at the data, of which only the length is asked: for a GPU's memory.

    Raises:
        InputError: as `camera_bytes`.
    """
    _check_camera(image, encoding, size)
    _check_length(image, _checked_layout(image), len(image.data))


def _check_camera(image: RawImage, encoding: CameraEncoding, size: Size) -> None:
    if image.encoding not in encoding.messages or image.size != size:
        raise InputError(
            f"a {image.encoding[:_SHOWN]} image of {image.size} is not accepted: this engine takes the camera's bytes "
            f"as they are, {' or '.join(encoding.messages)} images of {size}"
        )


def to_camera_bytes(image: RgbImage, encoding: CameraEncoding) -> NDArray[np.uint8]:
    """An RGB image, uint8 [H, W, 3], as a camera of this encoding would give it, uint8 of `encoding.array_shape`.

    YUV is rounded, and its chroma is the mean of the pixels that share it: what comes out is not quite what went in.

    Raises:
        InputError: the encoding needs an even width (and height).
    """
    size = Size.of(image)
    answer = np.empty(encoding.array_shape(size), np.uint8)
    if encoding is CameraEncoding.RGB:
        return image
    if encoding is CameraEncoding.BGR:
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), np.uint8)
    yuv = np.asarray(cv2.transform(image, _RGB_TO_YUV), np.uint8)
    rows = size.height // 2 if encoding is CameraEncoding.NV12 else size.height
    chroma = cv2.resize(yuv[:, :, 1:], (size.width // 2, rows), interpolation=cv2.INTER_AREA)
    shared = np.asarray(chroma, np.uint8).reshape(rows, size.width)  # U V U V ...
    if encoding is CameraEncoding.NV12:
        answer[: size.height, :, 0], answer[size.height :, :, 0] = yuv[:, :, 0], shared
    else:
        luma = 1 if encoding is CameraEncoding.YUV422 else 0
        answer[:, :, luma], answer[:, :, 1 - luma] = yuv[:, :, 0], shared
    return answer


def checked_rows(image: RawImage) -> NDArray[np.uint8]:
    """The data as rows, uint8 [rows, step], padding included: a read-only view.

    Raises:
        InputError: as `decode_raw`.
    """
    rows = _checked_layout(image)
    try:
        data = np.frombuffer(image.data, np.uint8)
    except (TypeError, ValueError, BufferError) as error:
        raise InputError(
            f"a {image.encoding} image of {image.size}: its data is a {type(image.data).__name__} that cannot be read "
            f"as bytes ({error}); array.array('B'), bytes and contiguous uint8 arrays are accepted"
        ) from error
    _check_length(image, rows, data.size)
    data.flags.writeable = False  # the answer may be a view: nobody may draw into a received message
    return data.reshape(rows, image.step)


def _check_length(image: RawImage, rows: int, length: int) -> None:
    needed = rows * image.step
    if length != needed:
        raise InputError(
            f"a {image.encoding} image of {image.size} with step {image.step} must have {rows} x {image.step} = "
            f"{needed} bytes, got {length}"
        )


def _checked_layout(image: RawImage) -> int:
    """Rows of `step` bytes that the data must have; everything but the data is checked."""
    size, step = image.size, image.step
    encoding = ENCODINGS.get(image.encoding)
    if encoding is None:
        name, why = image.encoding[:_SHOWN], ""
        if name in _NAMELESS_CHANNELS:
            why = f": it does not say what its channels are; set {_NAMELESS_CHANNELS[name]} in the publisher"
        raise InputError(f"image encoding {name!r} is not accepted{why}; accepted: {', '.join(ENCODINGS)}")
    what = f"a {image.encoding} image of {size}"
    if size.width * size.height > MAX_PIXELS:
        raise InputError(f"{what} is not accepted: more than {MAX_PIXELS} pixels")
    check_aspect(size, f"a {image.encoding} image")
    if (encoding.even_width and size.width % 2) or (encoding.even_height and size.height % 2):
        sides = "width and height" if encoding.even_height else "width"
        raise InputError(f"{what} is not accepted: neighboring pixels share their color, so its {sides} must be even")
    if step < encoding.row_bytes(size.width):
        raise InputError(
            f"{what} with step {step} is not accepted: one row needs at least {encoding.row_bytes(size.width)} bytes"
        )
    return encoding.rows(size.height)


_NO_PICTURES: Final = ("16uc", "16sc", "32fc", "32sc", "64fc", "8sc")
"""Formats of depth and other measurements, in lower case: sensor_msgs gives their numbers no colors."""

_COLOR: Final = 3  # channels


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

    Encodings and their conversion: `decode_raw`. A tightly packed rgb8 message is not
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
        InputError: another format; a file with an orientation, EXIF's or XMP's (docs/adr/0012-images-in.md); or
            data that `core.image_file.parse_encoded` refuses.
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
            f"{source}: its EXIF or XMP orientation is {header.orientation}: the pixels are stored turned or mirrored; "
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
