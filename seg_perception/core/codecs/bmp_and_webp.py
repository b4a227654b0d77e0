"""BMP and WebP: short headers, and OpenCV's decoders behind them."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from seg_perception.core.codecs import (
    Codec,
    EncodedImage,
    checked_size,
    damaged,
    opencv_rgb,
    opencv_values,
    refused,
    truncated,
    unpacked_rows,
)
from seg_perception.core.codecs.orientation import settled
from seg_perception.core.codecs.tiff import exif_orientation
from seg_perception.core.types import RgbImage

BMP_START: Final = b"BM"
_BMP_RGB, _BMP_BIT_FIELDS = 0, 3
_BMP_CHANNELS: Final = {1: 1, 4: 1, 8: 1, 16: 3, 24: 3, 32: 4}  # by bits of a pixel

_WEBP_ANIMATED: Final = 0x02  # of the flags of VP8X
_WEBP_MAX_CHUNKS: Final = 1000


@dataclass(frozen=True, slots=True)
class BmpFile:
    """An uncompressed BMP with all of its rows.

    Attributes:
        rows: uint8 [H, bytes of a row], top row first.
        bits: of a pixel; up to 8 they are indices of a palette.
    """

    header: EncodedImage
    data: memoryview
    rows: NDArray[np.uint8]
    bits: int

    def rgb(self, source: str) -> RgbImage:
        return opencv_rgb(self.data, self.header, source)

    def values(self, source: str) -> NDArray[np.generic]:
        """Palette indices [H, W] (gray BMPs have a palette, too), or RGB."""
        if self.bits > 8:
            return self.rgb(source)
        return unpacked_rows(self.rows, self.bits, self.header.size.width)


@dataclass(frozen=True, slots=True)
class WebpFile:
    """A still WebP whose chunks are whole."""

    header: EncodedImage
    data: memoryview

    def rgb(self, source: str) -> RgbImage:
        return opencv_rgb(self.data, self.header, source)

    def values(self, source: str) -> NDArray[np.generic]:
        return opencv_values(self.data, self.header, source)


def is_webp(start: bytes) -> bool:
    """Whether the first twelve bytes are a WebP's."""
    return start[:4] == b"RIFF" and start[8:12] == b"WEBP"


def parse_bmp(data: memoryview, source: str) -> BmpFile:
    """Read the header, and see that every row is there.

    Raises:
        InputError: damaged, truncated, too large, or compressed.
    """
    if len(data) < 54:
        raise truncated(Codec.BMP, data, source)
    offset, header_bytes, width, height, _, bits, compression = struct.unpack("<10xIIiiHHI", data[:34])
    if header_bytes not in (40, 52, 56, 108, 124):
        raise refused(Codec.BMP, f"with a header of {header_bytes} bytes", "those of Windows 3 and later are", source)
    if compression not in (_BMP_RGB, _BMP_BIT_FIELDS) or bits not in _BMP_CHANNELS:
        raise refused(Codec.BMP, f"of {bits} bits and compression {compression}", "uncompressed ones are", source)
    size = checked_size(width, abs(height), source)
    row = (width * bits + 31) // 32 * 4
    if offset + row * size.height > len(data):
        raise truncated(Codec.BMP, data, source)
    rows = np.frombuffer(data, np.uint8, row * size.height, offset).reshape(size.height, row)
    header = EncodedImage(Codec.BMP, size, _BMP_CHANNELS[bits], 8, has_palette=bits <= 8)
    return BmpFile(header, data, rows[::-1] if height > 0 else rows, bits)


def parse_webp(data: memoryview, source: str) -> WebpFile:
    """Walk the chunks.

    Raises:
        InputError: damaged, truncated, too large, or animated.
    """
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        raise truncated(Codec.WEBP, data, source)
    position = 12
    exif: int | None = None
    xmp: memoryview | None = None
    picture: tuple[int, int, int, bool] | None = None  # width, height, channels, lossy
    for _ in range(_WEBP_MAX_CHUNKS):
        if position + 8 > end:
            break
        kind, length = bytes(data[position : position + 4]), int.from_bytes(data[position + 4 : position + 8], "little")
        content = data[position + 8 : min(position + 8 + length, end)]
        if len(content) < length:
            raise truncated(Codec.WEBP, data, source)
        if kind in (b"ANIM", b"ANMF") or (kind == b"VP8X" and content and content[0] & _WEBP_ANIMATED):
            raise refused(Codec.WEBP, "with an animation", "a still picture is", source)
        if kind in (b"VP8 ", b"VP8L") and picture is None:
            picture = _webp_picture(kind, content, source)
        elif kind == b"EXIF":
            exif = exif_orientation(content)
        elif kind == b"XMP ":
            xmp = content
        position += 8 + length + length % 2
    if picture is None:
        raise damaged(Codec.WEBP, "it has no picture", source)
    width, height, channels, lossy = picture
    size = checked_size(width, height, source)
    turned = settled(exif, xmp, source)
    return WebpFile(EncodedImage(Codec.WEBP, size, channels, 8, False, turned, lossy), data[:end])


def _webp_picture(kind: bytes, content: memoryview, source: str) -> tuple[int, int, int, bool]:
    """Width, height, channels and lossiness from the first bytes of a VP8 or VP8L chunk."""
    if kind == b"VP8 ":
        if len(content) < 10 or bytes(content[3:6]) != b"\x9d\x01\x2a":
            raise damaged(Codec.WEBP, "its VP8 data has no start code", source)
        width, height = (int.from_bytes(content[at : at + 2], "little") & 0x3FFF for at in (6, 8))
        return width, height, 3, True
    if len(content) < 5 or content[0] != 0x2F:
        raise damaged(Codec.WEBP, "its VP8L data has no signature", source)
    bits = int.from_bytes(content[1:5], "little")
    return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, 4 if bits >> 28 & 1 else 3, False
