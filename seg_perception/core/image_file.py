"""Image files: which names are images, and reading them upright, bounded, regular files only.

Every room reads image files through here: datasets, predict, the demo, calibration images, bag make.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from seg_perception.core.encoded import decode_labels, decode_rgb
from seg_perception.core.files import read_regular_file
from seg_perception.core.types import MAX_PIXELS, LabelImage, RgbImage

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
    """Read an image file as upright RGB, uint8 [H, W, 3]: see `core.encoded.decode_rgb`.

    Raises:
        OSError: the file cannot be read.
        InputError: it is not an image that is accepted; the text names the file.
    """
    return decode_rgb(read_regular_file(path, MAX_FILE_BYTES), str(path))


def read_labels(path: Path) -> LabelImage:
    """Read a PNG file of class ids, uint8 [H, W], upright: see `core.encoded.decode_labels`.

    Raises:
        OSError: the file cannot be read.
        InputError: it is not an 8-bit gray PNG; the text names the file.
    """
    return decode_labels(read_regular_file(path, MAX_FILE_BYTES), str(path))
