"""Image files (JPEG, PNG, WebP, BMP, TIFF) to pixels, and PNG back; checked before a decoder sees them.

A decoder that is given half a file may answer with half an image, and OpenCV 4.10 and 4.11 fill the rest of a truncated
JPEG with whatever image was in that memory before (opencv issue 26488): on a car that is an old frame under a new
stamp. So a file's structure is walked first: signature, size, kind of pixels, that it is whole, and that decoding it
takes no more than its picture's size is worth. Every room reads image files through here, upright, bounded, regular
files only: datasets, predict, the demo, calibration images, bag make.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from seg_perception.core.codecs import Codec, EncodedImage, ImageFile, bmp_and_webp, jpeg, png, tiff
from seg_perception.core.errors import InputError
from seg_perception.core.files import read_regular_file
from seg_perception.core.types import MAX_PIXELS, LabelImage, RgbImage, Size

_OTHERS: Final = (  # where the mark is, the mark in lower case, what the file is and what to do
    (0, b"gif8", "a GIF, which has 256 colors at most: save it as PNG"),
    (4, b"ftypavi", "an AVIF image: save it as JPEG or PNG"),
    (4, b"ftyphei", "a HEIC image, as phones make them: save it as JPEG"),
    (4, b"ftypmif1", "a HEIC or AVIF image: save it as JPEG or PNG"),
    (4, b"ftyp", "a video or another MP4 file: give a video to 'seg-perception predict', or its frames as JPEG"),
    (4, b"jp  ", "a JPEG 2000 image: save it as JPEG or PNG"),
    (4, b"jxl ", "a JPEG XL image: save it as JPEG or PNG"),
    (0, b"ii+\0", "a BigTIFF: save it as a plain TIFF or as PNG"),
    (0, b"mm\0+", "a BigTIFF: save it as a plain TIFF or as PNG"),
    (0, b"8bps", "a Photoshop file: save the picture as PNG"),
    (0, b"%pdf", "a PDF: save the picture as PNG"),
    (0, b"\x93numpy", "a NumPy array: save it as PNG, as uint8 or uint16"),
    (0, b"v/1\x01", "an OpenEXR image of floating-point numbers: save it as PNG, as uint8 or uint16"),
    (0, b"#?radiance", "a Radiance HDR image of floating-point numbers: save it as PNG, as uint8 or uint16"),
    (0, b"pf\n", "a PFM image of floating-point numbers: save it as PNG, as uint8 or uint16"),
    (0, b"p5\n", "a PGM image: save it as PNG"),
    (0, b"p6\n", "a PPM image: save it as PNG"),
    (0, b"version http", "a pointer of Git LFS, not the image itself: fetch it with 'git lfs pull'"),
    (0, b"<!doctype", "a web page, not an image: download the image itself"),
    (0, b"<html", "a web page, not an image: download the image itself"),
)
_TURNS: Final = {1: 0, 2: 0, 3: 2, 4: 2, 5: 3, 6: 3, 7: 1, 8: 1}  # orientation: quarter turns against the clock
_MIRRORED: Final = frozenset({2, 4, 5, 7})  # mirrored left to right after the turn


def parse_encoded(data: Any, source: str) -> ImageFile:
    """Check that data is one whole image of a format that is read; nothing is decoded.

    Args:
        data: bytes, array.array, memoryview or contiguous uint8 array. Bytes after the image's end
            are ignored (cameras pad their frames).
        source: where it came from, for the error.

    Raises:
        InputError: none of the formats, damaged, truncated, animated, or larger than `MAX_PIXELS`.
    """
    try:
        view = memoryview(data).cast("B").toreadonly()
    except TypeError as error:
        raise InputError(f"{source}: {type(data).__name__} cannot be read as bytes ({error})") from error
    start = bytes(view[:12])
    if start.startswith(jpeg.START):
        return jpeg.parse(view, source)
    if start.startswith(png.SIGNATURE):
        return png.parse(view, source)
    if bmp_and_webp.is_webp(start):
        return bmp_and_webp.parse_webp(view, source)
    if start.startswith(tiff.STARTS):
        return tiff.parse(view, source)
    if start.startswith(bmp_and_webp.BMP_START):
        return bmp_and_webp.parse_bmp(view, source)
    names = ", ".join(codec.value for codec in Codec)
    if what := next((what for at, mark, what in _OTHERS if start[at : at + len(mark)].lower() == mark), None):
        raise InputError(f"{source}: {what} ({names} are read)")
    shown = start[:8].hex(" ") or "nothing"
    raise InputError(f"{source}: {len(view)} bytes that start with {shown} are none of {names}")


def inspect_encoded(data: Any, source: str) -> EncodedImage:
    """What the header of one whole image says: see `parse_encoded`."""
    return parse_encoded(data, source).header


def upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn stored pixels [H, W, ...] as an EXIF orientation of 1 to 8 asks for; contiguous.

    The orientation says where the stored first row and column belong: 1 top and left, 2 top and
    right, 3 bottom and right, 4 bottom and left, 5 left and top, 6 right and top, 7 right and bottom,
    8 left and bottom (EXIF 2.32, 4.6.4.A).
    """
    turned = np.rot90(pixels, _TURNS[orientation])
    return np.ascontiguousarray(turned[:, ::-1] if orientation in _MIRRORED else turned)


def decode_rgb(data: Any, source: str) -> RgbImage:
    """Decode an image file to upright RGB, uint8 [H, W, 3].

    The orientation of EXIF, or else of XMP, is applied, as annotation tools and viewers do. Gray is repeated, alpha
    dropped, of 16 bits a channel the upper 8 are kept.

    Raises:
        InputError: as `parse_encoded`; or a JPEG that is neither gray nor three-channel.
    """
    file = parse_encoded(data, source)
    return upright(file.rgb(source), file.header.orientation)


def decode_labels(data: Any, source: str) -> LabelImage:
    """Decode a PNG of class ids, uint8 [H, W], exactly and upright.

    Raises:
        InputError: as `parse_encoded`; or not an 8-bit gray PNG.
    """
    file = parse_encoded(data, source)
    image = file.header
    if image.codec is not Codec.PNG or image.has_palette or (image.channels, image.bit_depth) != (1, 8):
        kind = "palette" if image.has_palette else f"{image.channels}-channel"
        raise InputError(
            f"{source}: {image.bit_depth}-bit {kind} {image.codec.value} is not accepted as a label image; "
            "an 8-bit gray PNG whose values are class ids is"
        )
    return upright(np.asarray(file.values(source), np.uint8), image.orientation)


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


IMAGE_SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
"""Endings of the image files that are read, in lower case; files may have them in upper case, too."""

MAX_FILE_BYTES: Final = 4 * MAX_PIXELS
"""No larger image file is read: the largest picture, uncompressed, with four bytes a pixel."""


def is_image_name(path: Path) -> bool:
    """Whether a name says that the file is an image to read."""
    return not is_hidden(path) and path.suffix.lower() in IMAGE_SUFFIXES


def is_hidden(path: Path) -> bool:
    """Names that start with a dot are not data: macOS writes ._NAME.jpg beside each NAME.jpg."""
    return path.name.startswith(".")


def image_files(paths: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Sort a folder's entries into images and other files, both by name; hidden names and folders are neither."""
    visible = sorted(path for path in paths if not is_hidden(path) and not path.is_dir())
    images = [path for path in visible if is_image_name(path)]
    return images, [path for path in visible if not is_image_name(path)]


def read_rgb(path: Path) -> RgbImage:
    """Read an image file as upright RGB, uint8 [H, W, 3]: see `decode_rgb`.

    Raises:
        OSError: the file cannot be read.
        InputError: it is not an image that is accepted; the text names the file.
    """
    return decode_rgb(read_regular_file(path, MAX_FILE_BYTES), str(path))


def read_labels(path: Path) -> LabelImage:
    """Read a PNG file of class ids, uint8 [H, W], upright: see `decode_labels`.

    Raises:
        OSError: the file cannot be read.
        InputError: it is not an 8-bit gray PNG; the text names the file.
    """
    return decode_labels(read_regular_file(path, MAX_FILE_BYTES), str(path))
