"""Label files as people have them, read exactly: no decoder may change a value without a word.

Gray ids of 1 to 16 bits, palettes by index, ids stored as R=G=B, and colors: PNG, BMP, TIFF, lossless WebP and GIF.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from seg_perception.core.codecs import Codec, EncodedImage, checked_size, opencv_pixels
from seg_perception.core.errors import DatasetError, InputError, pip_install
from seg_perception.core.files import read_regular_file
from seg_perception.core.image_file import MAX_FILE_BYTES, parse_encoded, upright
from seg_perception.core.label_set import LabelMapping, text_of
from seg_perception.core.types import LabelImage

MASK_SUFFIXES: Final = (".png", ".bmp", ".tif", ".tiff", ".webp", ".gif")
"""Formats that keep values exactly; WebP only where it is lossless."""

_GIF: Final = b"GIF8"
_CHANNELS: Final = {1: "gray", 2: "gray and alpha", 3: "color", 4: "color and alpha"}


@dataclass(frozen=True, slots=True)
class Mask:
    """What a label file stores.

    Attributes:
        kind: for errors: "8-bit palette PNG".
        pixels: uint8 or uint16 [H, W] of values or palette indices; or uint8 [H, W, 3] of colors, RGB.
        shown: uint8 [H, W, 3] RGB, the colors of a file with a palette.
    """

    kind: str
    pixels: NDArray[Any]
    shown: NDArray[np.uint8] | None = None

    def values(self) -> NDArray[Any] | None:
        """The ids, uint8 or uint16 [H, W]; None for a file of true colors."""
        if self.pixels.ndim == 2:
            return self.pixels
        red = self.pixels[..., 0]
        gray = np.array_equal(red, self.pixels[..., 1]) and np.array_equal(red, self.pixels[..., 2])
        return np.ascontiguousarray(red) if gray else None

    def colors(self) -> NDArray[np.uint8] | None:
        """The colors, uint8 [H, W, 3] RGB; None for 16-bit ids."""
        if self.pixels.ndim == 3:
            return self.pixels
        if self.shown is not None:
            return self.shown
        return np.repeat(self.pixels[..., None], 3, axis=2) if self.pixels.dtype == np.uint8 else None

    def labels(self, mapping: LabelMapping, source: Path | str) -> LabelImage:
        """The class ids, uint8 [H, W].

        A file of colors is read by the mapping's colors, a file of ids or with a palette by its values; where
        it has only one of the tables, by that one: ids stored as R=G=B by values, a palette's colors by colors.

        Raises:
            DatasetError: a value or color that the mapping does not know, or true colors without `colors`.
        """
        by_colors = bool(mapping.classes_of_colors) and (self.pixels.ndim == 3 or not mapping.classes_of_values)
        if by_colors and (colors := self.colors()) is not None:
            return mapping.apply_colors(colors, source)
        values = self.values()
        if values is None:
            raise DatasetError(f"{source}: {self._needs_colors(mapping)}")
        return mapping.apply(values, source)

    def _needs_colors(self, mapping: LabelMapping) -> str:
        found, counts = np.unique(self.pixels.reshape(-1, 3), axis=0, return_counts=True)
        most = np.argsort(-counts, kind="stable")[:8]
        listed = ", ".join(
            f'"{text_of((int(found[i][0]), int(found[i][1]), int(found[i][2])))}" ({counts[i]} pixels)' for i in most
        )
        more = f" and {len(found) - 8} more" if len(found) > 8 else ""
        return (
            f"{self.kind} holds colors, and the mapping {mapping.name!r} has no 'colors'; write there which class "
            f"each stands for: {listed}{more}"
        )


def read_mask(path: Path) -> Mask:
    """Read a label file, exactly as stored and upright.

    Raises:
        OSError: no such file (FileNotFoundError), or it cannot be read.
        DatasetError: a format that does not keep values (JPEG, lossy WebP), transparent pixels, colors of 16
            bits, damaged, or truncated.
    """
    try:
        return decode_mask(read_regular_file(path, MAX_FILE_BYTES), str(path))
    except InputError as error:
        raise DatasetError(str(error)) from error


def decode_mask(content: bytes, source: str) -> Mask:
    """The same from a file's content.

    Raises:
        InputError: as `read_mask` says, of the content.
    """
    if content[:4] == _GIF:
        return _decode_gif(content, source)
    file = parse_encoded(content, source)
    header = file.header
    if header.codec is Codec.JPEG or header.lossy:
        raise InputError(
            f"{source}: a {header.codec.value} is not accepted as a label image: its compression changes values; "
            "export the masks anew as PNG"
        )
    channels = "palette" if header.has_palette else _CHANNELS[header.channels]
    kind = f"{header.bit_depth}-bit {channels} {header.codec.value}"
    if header.channels in (2, 4):
        _demand_opaque(content, header, kind, source)
    pixels: NDArray[Any] = upright(file.values(source), header.orientation)
    shown = upright(file.rgb(source), header.orientation) if header.has_palette else None
    if pixels.dtype == np.uint16 and pixels.ndim == 3:  # ids above 255 stored as R=G=B; true colors have eight bits
        pixels = Mask(kind, pixels).values()  # type: ignore[assignment]
        if pixels is None:
            raise InputError(f"{source}: colors of 16 bits a channel are not accepted as labels; 8 bits are")
    return Mask(kind, pixels, shown)


def _decode_gif(content: bytes, source: str) -> Mask:
    """What a GIF's one picture shows, by Pillow (not every OpenCV reads GIF): gray levels, or colors.

    Its palette indices are no values to go by: writers number them anew (Pillow drops colors that a picture does not
    use), so that one class would have another index in each picture.

    Raises:
        InputError: Pillow is not here; several pictures; one that does not cover its frame; damaged.
    """
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise InputError(
            f"{source}: GIF label files need Pillow ({pip_install('convert')}); or save the masks as PNG"
        ) from error
    if len(content) < 13:
        raise InputError(f"{source}: the GIF ends early, after {len(content)} bytes; the file is truncated")
    size = checked_size(int.from_bytes(content[6:8], "little"), int.from_bytes(content[8:10], "little"), source)
    try:
        with Image.open(io.BytesIO(content), formats=("GIF",)) as image:
            whole = image.tile[0][1] == (0, 0, *image.size)
            count = getattr(image, "n_frames", 1)
            image.seek(0)
            shown = np.array(image.convert("RGB"))
    except (OSError, EOFError, ValueError, SyntaxError, IndexError) as error:  # Pillow's, of damaged files
        raise InputError(f"{source}: the GIF cannot be decoded: {error}") from error
    if count != 1 or not whole or shown.shape[:2] != (size.height, size.width):
        what = f"of {count} pictures" if count != 1 else "whose picture does not cover its frame"
        raise InputError(f"{source}: a GIF {what} is not accepted as a label image; save the masks as PNG")
    return Mask("8-bit palette GIF", shown)


def _demand_opaque(content: bytes, header: EncodedImage, kind: str, source: str) -> None:
    """The color of a transparent pixel says nothing."""
    stored = opencv_pixels(content, header, cv2.IMREAD_UNCHANGED, source)
    if stored.ndim == 3 and stored.shape[2] == 4:
        alpha = np.asarray(stored[..., 3], np.uint16)
        if transparent := int(np.count_nonzero(alpha != (1 << header.bit_depth) - 1)):
            raise InputError(
                f"{source}: {transparent} pixels of the {kind} are transparent, and their color says nothing; "
                "save the mask without transparency, on a color of its own"
            )
