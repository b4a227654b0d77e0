"""JPEG (ITU-T T.81): the markers are walked first, and the decoder must have met every block of the picture.

libjpeg decodes what is left of a damaged file and fills the rest; it only says so in warnings.
OpenCV drops those, simplejpeg (libjpeg-turbo, as OpenCV) reports them. Where simplejpeg is not
installed, OpenCV decodes, and damage inside the picture's data is not seen.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from functools import lru_cache
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
    opencv_pixels,
    opencv_rgb,
    refused,
    truncated,
)
from seg_perception.core.codecs.orientation import settled
from seg_perception.core.codecs.tiff import exif_orientation
from seg_perception.core.types import MAX_PIXELS, RgbImage

log = logging.getLogger(__name__)

START: Final = b"\xff\xd8"
_MAX_SCANS: Final = 100  # progressive files have about ten; thousands are an attack on the decoder's time
_MAX_SCANNED_PIXELS: Final = 10 * MAX_PIXELS  # of all scans together
_MAX_PROGRESSIVE_PIXELS: Final = MAX_PIXELS // 2  # the decoder keeps 6 more bytes of each
_MAX_SEGMENTS: Final = 5000  # files have tens; comments of one byte could be millions
_MAX_FILL: Final = 1 << 16  # FF bytes before a marker
_MAX_PIXEL_BYTES: Final = 16  # of a scan, for each pixel; noise of the best quality takes 4

# In entropy-coded data FF is followed by 00 (a stuffed byte), D0 to D7 (restart) or FF (fill); else a marker starts.
_SCAN_END: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
_FILL: Final = re.compile(rb"\xff+")
_DECODED_FRAMES: Final = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended, progressive (Huffman)
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # all frame headers; those three are tables
_PROGRESSIVE, _SCAN, _EOI, _APP1 = 0xC2, 0xDA, 0xD9, 0xE1
_XMP: Final = b"http://ns.adobe.com/xap/1.0/\0"
_ALL_COEFFICIENTS: Final = (1 << 64) - 1
_NO_SEGMENT: Final = frozenset({0x00, 0x01, *range(0xD0, 0xD9)})

_DAMAGE: Final = re.compile(r"(?i)premature end|bad huffman|bad arithmetic|found marker|extraneous bytes")
"""libjpeg's warnings (its jerror.h) that tell of wrong pixels; the others are of tables and versions."""
_EXTRANEOUS_AT_END: Final = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
_CAMERA_PADDING: Final = 8  # bytes that cameras are known to leave between the last block and the end marker


@dataclass(frozen=True, slots=True)
class JpegFile:
    """A JPEG whose markers are whole, up to the one that ends the image."""

    header: EncodedImage
    data: memoryview

    def rgb(self, source: str) -> RgbImage:
        if self.header.bit_depth != 8 or self.header.channels not in (1, 3):
            what = f"with {self.header.channels} channels of {self.header.bit_depth} bits"
            raise refused(Codec.JPEG, what, "1 or 3 of 8 bits are", source)
        pixels = self._checked("RGB", source)
        return opencv_rgb(self.data, self.header, source) if pixels is None else pixels

    def values(self, source: str) -> NDArray[np.generic]:
        """Gray levels [H, W] as they are; color as `rgb`. JPEG changes them by a few: no class ids."""
        if self.header.channels != 1:
            return self.rgb(source)
        pixels = self._checked("GRAY", source)
        if pixels is None:
            return opencv_pixels(self.data, self.header, cv2.IMREAD_GRAYSCALE, source)
        return pixels[:, :, 0]

    def _checked(self, colors: str, source: str) -> NDArray[np.uint8] | None:
        """The pixels, or None where simplejpeg is missing or does not know the file's kind.

        Raises:
            InputError: libjpeg warns that pixels are wrong.
        """
        library = find_simplejpeg()
        if library is None:
            return None
        try:
            return np.asarray(library.decode_jpeg(self.data, colors, strict=True), np.uint8)
        except ValueError as error:
            warning = str(error)
        if not _DAMAGE.search(warning):
            return None
        at_end = _EXTRANEOUS_AT_END.search(warning)
        if at_end is None or int(at_end[1]) > _CAMERA_PADDING:
            raise damaged(Codec.JPEG, f"{warning}", source)
        return np.asarray(library.decode_jpeg(self.data, colors, strict=False), np.uint8)


@lru_cache(maxsize=1)
def find_simplejpeg() -> ModuleType | None:
    """The decoder that hears libjpeg's warnings; None, and a warning, where it is not installed."""
    try:
        import simplejpeg
    except ImportError:
        log.warning(
            "simplejpeg is not installed: JPEGs that are damaged inside are decoded as if they were whole, "
            "and decoding takes twice as long; pip install simplejpeg"
        )
        return None
    library: ModuleType = simplejpeg
    return library


@dataclass(frozen=True, slots=True)
class _Unseen:
    """Which of the 64 coefficients of each component no scan has brought to its last bit, as bits of a number."""

    coefficients: dict[int, int]

    def take(self, scan: memoryview, *, progressive: bool) -> None:
        """Note what a scan's header (B.2.3) announces."""
        count = scan[0] if len(scan) else 0
        if len(scan) < 4 + 2 * count:
            return
        first, last, bits_left = scan[1 + 2 * count], scan[2 + 2 * count], scan[3 + 2 * count] & 15
        if not progressive:
            first, last, bits_left = 0, 63, 0
        if bits_left == 0:
            seen = (1 << last + 1) - (1 << first) if first <= last <= 63 else 0
            for component in scan[1 : 1 + 2 * count : 2]:
                rest = self.coefficients.get(component, 0) & ~seen
                self.coefficients[component] = rest
                if not rest:
                    del self.coefficients[component]


def parse(data: memoryview, source: str) -> JpegFile:
    """Walk the markers (annex B) from the first to the end-of-image marker.

    Raises:
        InputError: damaged, truncated, too large, or more work than any camera's picture.
    """
    frame: EncodedImage | None = None
    unseen = _Unseen({})
    position, scans, progressive = len(START), 0, False
    exif: memoryview | None = None
    xmp: memoryview | None = None
    for _ in range(_MAX_SEGMENTS):
        marker, segment, position = _segment(data, position, source)
        if marker == _EOI:
            if frame is None or not scans:
                raise damaged(Codec.JPEG, "it ends before any pixels", source)
            if unseen.coefficients:
                raise damaged(Codec.JPEG, "it ends before the last of its scans", source)
            turned = settled(None if exif is None else exif_orientation(exif), xmp, source)
            described = EncodedImage(
                Codec.JPEG, frame.size, frame.channels, frame.bit_depth, orientation=turned, lossy=True
            )
            return JpegFile(described, data[:position])
        if marker in _FRAMES:
            if frame is not None:
                raise damaged(Codec.JPEG, "it has two frame headers", source)
            frame, progressive = _frame(marker, segment, source), marker == _PROGRESSIVE
            unseen = _Unseen(dict.fromkeys(segment[6 : 6 + 3 * frame.channels : 3], _ALL_COEFFICIENTS))
        elif marker == _APP1 and exif is None and bytes(segment[:6]) == b"Exif\0\0":
            exif = segment
        elif marker == _APP1 and xmp is None and bytes(segment[: len(_XMP)]) == _XMP:
            xmp = segment[len(_XMP) :]
        elif marker == _SCAN:
            scans += 1
            unseen.take(segment, progressive=progressive)
            position = _scan(data, position, frame, scans, source, progressive=progressive)
    raise refused(Codec.JPEG, f"of more than {_MAX_SEGMENTS} segments", "fewer are", source)


def _scan(
    data: memoryview, position: int, frame: EncodedImage | None, scans: int, source: str, *, progressive: bool
) -> int:
    """Where the entropy-coded data ends that starts at a position."""
    if frame is None or scans > _MAX_SCANS:
        raise damaged(Codec.JPEG, "a scan before the frame header, or too many scans", source)
    pixels = frame.size.width * frame.size.height
    if scans * pixels > _MAX_SCANNED_PIXELS or (progressive and pixels > _MAX_PROGRESSIVE_PIXELS):
        raise refused(Codec.JPEG, f"of {frame.size} in {scans} scans or more", "fewer pixels or scans are", source)
    most = position + _MAX_FILL + _MAX_PIXEL_BYTES * pixels
    end = _SCAN_END.search(data, position, most)
    if end is None:
        if most < len(data):
            raise refused(Codec.JPEG, f"of {frame.size} with {most - position} bytes in a scan", "fewer are", source)
        raise truncated(Codec.JPEG, data, source)
    # the first scan says something of each block of 8x8 pixels; the shortest code has one bit
    if scans == 1 and (end.start() - position) * 8 < pixels // 64:
        raise damaged(Codec.JPEG, f"{end.start() - position} bytes cannot hold the blocks of {frame.size}", source)
    return end.start()


def _segment(data: memoryview, position: int, source: str) -> tuple[int, memoryview, int]:
    """The marker at a position, its segment's content, and where the next marker is."""
    fill = _FILL.match(data, position, position + _MAX_FILL)
    if fill is not None:
        position = fill.end() - 1
    head = bytes(data[position : position + 4])
    if head[:2] == bytes((0xFF, _EOI)):
        return _EOI, data[:0], position + 2
    if len(head) < 4:
        raise truncated(Codec.JPEG, data, source)
    marker, length = head[1], int.from_bytes(head[2:], "big")
    if head[0] != 0xFF or marker in _NO_SEGMENT or marker == 0xFF or length < 2:
        raise damaged(Codec.JPEG, f"{head.hex(' ')} at byte {position} is no marker", source)
    segment = data[position + 4 : position + 2 + length]
    if len(segment) != length - 2:
        raise truncated(Codec.JPEG, data, source)
    return marker, segment, position + 2 + length


def _frame(marker: int, segment: memoryview, source: str) -> EncodedImage:
    """Precision, size and number of components from a frame header."""
    if marker not in _DECODED_FRAMES:
        raise refused(
            Codec.JPEG,
            f"of frame type {marker:#04x} (lossless, hierarchical or arithmetic)",
            "baseline and progressive are",
            source,
        )
    if len(segment) < 6:
        raise damaged(Codec.JPEG, f"its frame header has {len(segment)} bytes", source)
    height, width = int.from_bytes(segment[1:3], "big"), int.from_bytes(segment[3:5], "big")
    return EncodedImage(Codec.JPEG, checked_size(width, height, source), segment[5], segment[0])
