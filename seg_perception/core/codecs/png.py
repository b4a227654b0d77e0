"""PNG (W3C recommendation): every checksum, the whole picture, and no more work than its header announces."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Final

import cv2
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
    say_if_low,
    truncated,
)
from seg_perception.core.codecs.orientation import MAX_XMP, settled
from seg_perception.core.codecs.tiff import exif_orientation
from seg_perception.core.errors import InputError
from seg_perception.core.types import RgbImage

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_CHANNELS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # color type -> channels
_DEPTHS: Final = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_PALETTE: Final = 3
_MAX_KEYWORD: Final = 80  # bytes, with the zero that ends it
_MAX_CHUNKS: Final = 100_000  # 64 megapixels in chunks of 8 KB have a quarter of that
_PIECE: Final = 65535  # bytes unpacked at a time: the most that a stored block of deflate takes
_BITE: Final = 1 << 14  # packed bytes given to the unpacker at a time: what it leaves over is copied
_TEXT_EXIF: Final = (b"Raw profile type exif", b"Raw profile type APP1")
_TEXT_XMP: Final = (b"Raw profile type xmp", b"XML:com.adobe.xmp")
_MAX_TEXT: Final = 2 * MAX_XMP + (1 << 16)  # bytes: in digits, with line ends
KEPT: Final = 64 << 20  # bytes: a larger picture is counted, and unpacked again by the decoder
_STORED_START: Final = b"\x78\x01"  # head of a zlib stream
_ADAM7: Final = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""The seven passes of an interlaced picture: first column and row, step of columns and rows."""


@dataclass(frozen=True, slots=True)
class PngFile:
    """A PNG whose chunks are whole and whose data covers the picture exactly.

    Attributes:
        start: signature and header chunk.
        colors: the palette and its transparency, as chunks; empty without a palette.
        pixels: pieces of the data chunks, as they came or unpacked.
        palette: uint8 [256, 1, 3] RGB, black where the file has no color; None without a palette.
    """

    header: EncodedImage
    start: bytes
    pixels: Sequence[bytes | memoryview]
    palette: NDArray[np.uint8] | None

    def rgb(self, source: str) -> RgbImage:
        if self.palette is not None:
            return np.asarray(cv2.applyColorMap(self._numbers(source), self.palette), np.uint8)
        pixels = opencv_rgb(self._lean(self.start), self.header, source)
        if self.header.bit_depth == 16:
            say_if_low(pixels, "16-bit PNG")
        return pixels

    def values(self, source: str) -> NDArray[np.generic]:
        return self._numbers(source)

    def _numbers(self, source: str) -> NDArray[np.generic]:
        """As stored. A palette is read as if it were gray: OpenCV would give its colors, not its indices."""
        start = self.start
        if self.palette is not None:
            start = b"".join((SIGNATURE, *_chunk_of(b"IHDR", start[16:25] + b"\0" + start[26:29])))
        values = opencv_values(self._lean(start), self.header, source)
        if self.header.bit_depth < 8:  # OpenCV spreads 0 to 2^n - 1 over 0 to 255
            values = np.asarray(values // (255 // (2**self.header.bit_depth - 1)), np.uint8)
        return values

    def _lean(self, start: bytes) -> bytes:
        """The file without the chunks that say nothing of its pixels: no decoder unpacks what may hide in them."""
        return b"".join((start, *self.pixels, _END))


def parse(data: memoryview, source: str) -> PngFile:
    """Walk the chunks up to IEND, check every checksum, and unpack the data to see that it fits.

    Raises:
        InputError: damaged, truncated, too large, animated, or data that does not fit the header.
    """
    header, start, color_type, interlaced = _header(data, source)
    position = len(start)
    exif: int | None = None
    in_text: int | None = None
    xmp: bytes | None = None
    pixels: list[memoryview] = []
    palette: NDArray[np.uint8] | None = None
    for _ in range(_MAX_CHUNKS):
        kind, content, end = _chunk(data, position, source)
        if kind == b"IEND":
            break
        if kind == b"acTL":
            raise refused(Codec.PNG, "with an animation", "a still picture is", source)
        if kind == b"IHDR":
            raise damaged(Codec.PNG, f"chunk {kind!r} where the header or data is expected", source)
        if kind == b"IDAT":
            pixels.append(data[position:end])
        elif kind == b"PLTE" and color_type == _PALETTE:
            palette = _palette(content, source)
        elif kind == b"eXIf":
            exif = exif_orientation(content)
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            keyword = bytes(content[:_MAX_KEYWORD]).partition(b"\0")[0]
            if keyword in _TEXT_EXIF:
                in_text = exif_orientation(memoryview(_text(kind, content[len(keyword) + 1 :], profile=True)))
            elif keyword in _TEXT_XMP:
                xmp = _text(kind, content[len(keyword) + 1 :], profile=keyword == _TEXT_XMP[0])
        position = end
    else:
        raise refused(Codec.PNG, f"of more than {_MAX_CHUNKS} chunks", "fewer are", source)
    if color_type == _PALETTE and palette is None:
        raise damaged(Codec.PNG, "it has no palette", source)
    unpacked = _unpack([chunk[8:-4] for chunk in pixels], _raw_bytes(header, interlaced=interlaced), source)
    turned = settled(in_text if exif is None else exif, xmp, source)
    described = EncodedImage(Codec.PNG, header.size, header.channels, header.bit_depth, color_type == _PALETTE, turned)
    return PngFile(described, start, unpacked or pixels, palette)


def _text(kind: bytes, content: memoryview, profile: bool) -> bytes:
    """What a text chunk says after its keyword, as far as `_MAX_TEXT`; empty where it cannot be read.

    Args:
        profile: it is as ImageMagick keeps data: name, length and hexadecimal lines.
    """
    packed = kind == b"zTXt"
    if kind == b"iTXt":  # packed or not, how, language, keyword in that language
        packed = bytes(content[:1]) == b"\1"
        head = bytes(content[2:_MAX_TEXT]).split(b"\0", 2)
        content = content[min(len(content), 4 + sum(map(len, head[:2]))) :] if len(head) == 3 else content[:0]
    elif packed:
        content = content[1:]
    try:
        text = zlib.decompressobj().decompress(content, _MAX_TEXT) if packed else bytes(content[:_MAX_TEXT])
        return bytes.fromhex("".join(text.decode("ascii").split()[2:])) if profile else text
    except (zlib.error, ValueError):
        return b""


def _header(data: memoryview, source: str) -> tuple[EncodedImage, bytes, int, bool]:
    """The header, its bytes with the signature, the color type, and whether the picture is interlaced."""
    kind, content, end = _chunk(data, len(SIGNATURE), source)
    if kind != b"IHDR":
        raise damaged(Codec.PNG, f"chunk {kind!r} where the header or data is expected", source)
    if len(content) != 13 or content[8] not in _DEPTHS.get(content[9], ()) or tuple(content[10:12]) != (0, 0):
        raise damaged(Codec.PNG, "its header is not one of the standard's", source)
    if content[12] > 1:
        raise damaged(Codec.PNG, "its header is not one of the standard's", source)
    size = checked_size(int.from_bytes(content[0:4], "big"), int.from_bytes(content[4:8], "big"), source)
    header = EncodedImage(Codec.PNG, size, _CHANNELS[content[9]], content[8])
    return header, bytes(data[:end]), content[9], bool(content[12])


def _chunk(data: memoryview, position: int, source: str) -> tuple[bytes, memoryview, int]:
    """The chunk at a position: its name, its content, and where the next one is."""
    if position + 12 > len(data):
        raise truncated(Codec.PNG, data, source)
    length = int.from_bytes(data[position : position + 4], "big")
    end = position + 8 + length
    if end + 4 > len(data):
        raise truncated(Codec.PNG, data, source)
    kind = bytes(data[position + 4 : position + 8])
    if zlib.crc32(data[position + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
        raise damaged(Codec.PNG, f"wrong checksum of chunk {kind!r} at byte {position}", source)
    return kind, data[position + 8 : end], end + 4


def _palette(content: memoryview, source: str) -> NDArray[np.uint8]:
    if len(content) % 3 or not 3 <= len(content) <= 768:
        raise damaged(Codec.PNG, f"its palette has {len(content)} bytes", source)
    palette = np.zeros((256, 1, 3), np.uint8)
    palette.reshape(-1)[: len(content)] = np.frombuffer(content, np.uint8)
    return palette


def _raw_bytes(header: EncodedImage, *, interlaced: bool) -> int:
    """How many bytes the data must unpack to: each row one filter byte and its pixels."""

    def of(width: int, height: int) -> int:
        return height * (1 + (width * header.channels * header.bit_depth + 7) // 8) if width else 0

    width, height = header.size.width, header.size.height
    if not interlaced:
        return of(width, height)
    return sum(of(-(-(width - left) // across), -(-(height - top) // down)) for left, top, across, down in _ADAM7)


def _unpack(chunks: Sequence[memoryview], expected: int, source: str) -> list[bytes] | None:
    """Unpack the data, no further than the header says, and see that it ends there.

    Data that ends early leaves pixels that no decoder writes; data that goes on (two megabytes can
    unpack to two gigabytes) keeps the decoder busy for seconds.

    Returns:
        The pieces of one chunk of stored blocks, so that the decoder need not unpack it all again;
        None for more than `KEPT` bytes.
    """
    library = find_zlib()
    unpacker, got, checksum = library.decompressobj(), 0, 1
    blocks = [_STORED_START]
    try:
        for bite in (chunk[at : at + _BITE] for chunk in chunks for at in range(0, len(chunk), _BITE)):
            rest: memoryview | bytes = bite
            more = True  # isal may have taken all of the bite and still hold what it unpacked
            while more and not unpacker.eof:
                limit = min(_PIECE, expected - got + 1)
                part = unpacker.decompress(rest, limit)
                rest, got = unpacker.unconsumed_tail, got + len(part)
                more = bool(rest) or len(part) == limit
                if got > expected:
                    raise damaged(Codec.PNG, f"its data goes on after the {expected} bytes of its pixels", source)
                if part and expected <= KEPT:
                    blocks += (struct.pack("<BHH", got == expected, len(part), len(part) ^ 0xFFFF), part)
                    checksum = library.adler32(part, checksum)
    except library.error as error:
        raise damaged(Codec.PNG, f"its data cannot be unpacked ({error})", source) from error
    if got < expected or not unpacker.eof:
        raise InputError(
            f"{source}: the PNG is damaged: its data ends after {got} of the {expected} bytes of its pixels"
        )
    return _chunk_of(b"IDAT", *blocks, checksum.to_bytes(4, "big")) if expected <= KEPT else None


def _chunk_of(kind: bytes, *content: bytes) -> list[bytes]:
    """The pieces of one chunk."""
    checksum = zlib.crc32(kind)
    for piece in content:
        checksum = zlib.crc32(piece, checksum)
    return [struct.pack(">I", sum(map(len, content))), kind, *content, struct.pack(">I", checksum)]


@cache
def find_zlib() -> ModuleType:
    """Take isal's, which unpacks in half the time, or Python's own."""
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib
    library: ModuleType = isal_zlib
    return library


_END: Final = b"".join(_chunk_of(b"IEND"))
