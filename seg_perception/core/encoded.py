"""JPEG and PNG bytes to pixels and back, checked before a decoder sees them.

A decoder that is given half a file may answer with half an image, and OpenCV 4.10 and 4.11 fill the
rest of a truncated JPEG with whatever image was in that memory before (opencv issue 26488): on a car
that is an old frame under a new stamp. So the file's structure is walked first: signature, size,
kind of pixels, and that it is whole.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from seg_perception.core.errors import InputError
from seg_perception.core.types import MAX_PIXELS, LabelImage, RgbImage, Size


class Codec(Enum):
    """The file formats that are read."""

    JPEG = "JPEG"
    PNG = "PNG"


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """What the header of a whole JPEG or PNG says."""

    codec: Codec
    size: Size
    channels: int  # 1 gray, 2 gray + alpha, 3 color, 4 color + alpha; 1 for a PNG palette too
    bit_depth: int
    has_palette: bool = False


_JPEG_START: Final = b"\xff\xd8"
_PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_MAX_JPEG_SCANS: Final = 100  # progressive files have about ten; thousands are an attack on the decoder's time

# In entropy-coded data FF is followed by 00 (a stuffed byte), D0 to D7 (restart) or FF (fill); else a marker starts.
_JPEG_SCAN_END: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
_JPEG_DECODED_FRAMES: Final = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended, progressive (Huffman)
_JPEG_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # all frame headers; those three are tables
_JPEG_SCAN, _JPEG_EOI = 0xDA, 0xD9
_JPEG_NO_SEGMENT: Final = frozenset({0x00, 0x01, *range(0xD0, 0xD9)})

_PNG_CHANNELS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # color type -> channels


def _as_bytes(data: Any, source: str) -> memoryview:
    try:
        return memoryview(data).cast("B")
    except TypeError as error:
        raise InputError(f"{source}: {type(data).__name__} cannot be read as bytes ({error})") from error


def _truncated(kind: str, data: memoryview, source: str) -> InputError:
    return InputError(f"{source}: the {kind} ends early, after {len(data)} bytes; the file or message is truncated")


def _checked_size(width: int, height: int, source: str) -> Size:
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise InputError(f"{source}: a size of {width}x{height} is not accepted; 1 to {MAX_PIXELS} pixels are")
    return Size(width, height)


def _inspect_jpeg(data: memoryview, source: str) -> EncodedImage:
    """Walk the markers (ITU-T T.81, annex B) from the first to the end-of-image marker."""
    frame: EncodedImage | None = None
    position, scans = len(_JPEG_START), 0
    while True:
        marker, segment, position = _jpeg_segment(data, position, source)
        if marker == _JPEG_EOI:
            if frame is None or not scans:
                raise InputError(f"{source}: the JPEG is damaged: it ends before any pixels")
            return frame
        if marker in _JPEG_FRAMES:
            if frame is not None:
                raise InputError(f"{source}: the JPEG is damaged: it has two frame headers")
            frame = _jpeg_frame(marker, segment, source)
        elif marker == _JPEG_SCAN:
            scans += 1
            if frame is None or scans > _MAX_JPEG_SCANS:
                raise InputError(f"{source}: the JPEG is damaged: a scan before the frame header, or too many scans")
            end = _JPEG_SCAN_END.search(data, position)
            if end is None:
                raise _truncated("JPEG", data, source)
            position = end.start()


def _jpeg_segment(data: memoryview, position: int, source: str) -> tuple[int, memoryview, int]:
    """The marker at a position, its segment's content, and where the next marker is."""
    while bytes(data[position : position + 2]) == b"\xff\xff":  # fill bytes
        position += 1
    head = bytes(data[position : position + 4])
    if head[:2] == bytes((0xFF, _JPEG_EOI)):
        return _JPEG_EOI, data[:0], position + 2
    if len(head) < 4:
        raise _truncated("JPEG", data, source)
    marker, length = head[1], int.from_bytes(head[2:], "big")
    if head[0] != 0xFF or marker in _JPEG_NO_SEGMENT or length < 2:
        raise InputError(f"{source}: the JPEG is damaged: {head.hex(' ')} at byte {position} is no marker")
    segment = data[position + 4 : position + 2 + length]
    if len(segment) != length - 2:
        raise _truncated("JPEG", data, source)
    return marker, segment, position + 2 + length


def _jpeg_frame(marker: int, segment: memoryview, source: str) -> EncodedImage:
    """Precision, size and number of components from a frame header."""
    if marker not in _JPEG_DECODED_FRAMES:
        raise InputError(
            f"{source}: a JPEG of frame type {marker:#04x} (lossless, hierarchical or arithmetic) is not accepted; "
            "baseline and progressive are"
        )
    if len(segment) < 6:
        raise InputError(f"{source}: the JPEG is damaged: its frame header has {len(segment)} bytes")
    height, width = int.from_bytes(segment[1:3], "big"), int.from_bytes(segment[3:5], "big")
    return EncodedImage(Codec.JPEG, _checked_size(width, height, source), segment[5], segment[0])


def _inspect_png(data: memoryview, source: str) -> EncodedImage:
    """Walk the chunks (W3C PNG, section 5) up to IEND and check every checksum."""
    header: EncodedImage | None = None
    position = len(_PNG_SIGNATURE)
    while True:
        if position + 12 > len(data):
            raise _truncated("PNG", data, source)
        length = int.from_bytes(data[position : position + 4], "big")
        kind = bytes(data[position + 4 : position + 8])
        end = position + 8 + length
        if end + 4 > len(data):
            raise _truncated("PNG", data, source)
        if zlib.crc32(data[position + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise InputError(f"{source}: the PNG is damaged: wrong checksum of chunk {kind!r} at byte {position}")
        if (kind == b"IHDR") != (header is None):
            raise InputError(f"{source}: the PNG is damaged: chunk {kind!r} where the header or data is expected")
        if kind == b"IHDR":
            chunk = data[position + 8 : end]
            if length != 13 or chunk[9] not in _PNG_CHANNELS:
                raise InputError(f"{source}: the PNG is damaged: its header is not one of the standard's")
            size = _checked_size(int.from_bytes(chunk[0:4], "big"), int.from_bytes(chunk[4:8], "big"), source)
            header = EncodedImage(Codec.PNG, size, _PNG_CHANNELS[chunk[9]], chunk[8], has_palette=chunk[9] == 3)
        elif kind == b"IEND":
            assert header is not None
            return header
        position = end + 4


def inspect_encoded(data: Any, source: str) -> EncodedImage:
    """Check that data is one whole JPEG or PNG, and say what it holds; nothing is decoded.

    Args:
        data: bytes, array.array, memoryview or contiguous uint8 array. Bytes after the image's end
            are ignored (cameras pad their frames).
        source: where it came from, for the error.

    Raises:
        InputError: neither JPEG nor PNG, damaged, truncated, or larger than `MAX_PIXELS`.
    """
    view = _as_bytes(data, source)
    start = bytes(view[:8])
    if start.startswith(_JPEG_START):
        return _inspect_jpeg(view, source)
    if start == _PNG_SIGNATURE:
        return _inspect_png(view, source)
    shown = start.hex(" ") or "nothing"
    raise InputError(f"{source}: {len(view)} bytes that start with {shown} are neither JPEG nor PNG")


def _decode(data: Any, image: EncodedImage, flags: int, source: str) -> NDArray[np.uint8]:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise InputError(f"{source}: the {image.codec.value} cannot be decoded: {error}") from error
    if pixels is None or Size.of(pixels) != image.size:
        got = "nothing" if pixels is None else f"{Size.of(pixels)}"
        raise InputError(f"{source}: the {image.codec.value} of {image.size} cannot be decoded; the decoder gave {got}")
    return np.asarray(pixels, np.uint8)


def decode_rgb(data: Any, source: str) -> RgbImage:
    """Decode a JPEG or PNG to RGB, uint8 [H, W, 3]. Gray is repeated, alpha dropped, EXIF rotation not applied.

    Raises:
        InputError: as `inspect_encoded`; or 16 bits a channel, or a JPEG that is neither gray nor three-channel.
    """
    image = inspect_encoded(data, source)
    if image.bit_depth > 8:
        raise InputError(f"{source}: {image.bit_depth}-bit {image.codec.value} is not accepted; 8 bits a channel are")
    if image.codec is Codec.JPEG and image.channels not in (1, 3):
        raise InputError(f"{source}: a JPEG with {image.channels} channels is not accepted; 1 or 3 are")
    if hasattr(cv2, "IMREAD_COLOR_RGB"):  # OpenCV 4.11 on: the decoder itself writes RGB
        return _decode(data, image, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION, source)
    pixels = _decode(data, image, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION, source)
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels), np.uint8)


def decode_labels(data: Any, source: str) -> LabelImage:
    """Decode a PNG of class ids, uint8 [H, W], exactly.

    Raises:
        InputError: as `inspect_encoded`; or not an 8-bit gray PNG.
    """
    image = inspect_encoded(data, source)
    if image.codec is not Codec.PNG or image.has_palette or (image.channels, image.bit_depth) != (1, 8):
        kind = "palette" if image.has_palette else f"{image.channels}-channel"
        raise InputError(
            f"{source}: {image.bit_depth}-bit {kind} {image.codec.value} is not accepted as a label image; "
            "an 8-bit gray PNG whose values are class ids is"
        )
    return _decode(data, image, cv2.IMREAD_GRAYSCALE, source)


def read_rgb(path: Path) -> RgbImage:
    """Read a JPEG or PNG file: see `decode_rgb`.

    Raises:
        OSError: the file cannot be read.
        InputError: it is not an image that is accepted; the text names the file.
    """
    return decode_rgb(path.read_bytes(), str(path))


def read_labels(path: Path) -> LabelImage:
    """Read a PNG file of class ids: see `decode_labels`.

    Raises:
        OSError: the file cannot be read.
        InputError: it is not an 8-bit gray PNG; the text names the file.
    """
    return decode_labels(path.read_bytes(), str(path))


def encode_png_bytes(labels: LabelImage) -> NDArray[np.uint8]:
    """Labels or a mask, uint8 [H, W], as the bytes of a gray PNG, uint8 [N].

    Raises:
        InputError: another shape or type.
    """
    if labels.dtype != np.uint8 or labels.ndim != 2 or not labels.size:
        raise InputError(f"labels to encode must be uint8 [H, W], got {labels.dtype} {list(labels.shape)}")
    # OpenCV's own settings favor speed: on label images 1 ms and 12 KB where the next smaller file took 3 ms
    done, encoded = cv2.imencode(".png", labels)
    if not done:
        raise InputError(f"labels of {Size.of(labels)} could not be encoded as PNG")
    return np.asarray(encoded, np.uint8).reshape(-1)
