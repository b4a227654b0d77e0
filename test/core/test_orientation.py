"""All eight EXIF orientations of files, in every format that has them; refused in messages."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves it out

from handmade import encoded, exif, tiff_of, with_exif

from seg_perception.core.encoded import decode_labels, decode_rgb, inspect_encoded, parse_encoded, upright
from seg_perception.core.errors import InputError
from seg_perception.core.image_file import read_labels, read_rgb
from seg_perception.core.image_message import decode_compressed
from seg_perception.core.types import Size

# Stored are three rows of two pixels: ab, cd, ef. EXIF 2.32 (4.6.4.A) tells where stored row 0 and column 0 belong:
UPRIGHT = {
    1: ["ab", "cd", "ef"],  # row 0 top, column 0 left: as it is
    2: ["ba", "dc", "fe"],  # top, right: mirrored
    3: ["fe", "dc", "ba"],  # bottom, right: turned by 180 degrees
    4: ["ef", "cd", "ab"],  # bottom, left: upside down, mirrored
    5: ["ace", "bdf"],  # row 0 left, column 0 top: rows are columns
    6: ["eca", "fdb"],  # right, top: a phone held upright
    7: ["fdb", "eca"],  # right, bottom
    8: ["bdf", "ace"],  # left, bottom: a phone held upside down
}
COLORS = {"a": (250, 10, 10), "b": (10, 250, 10), "c": (10, 10, 250)}
COLORS |= {"d": (240, 240, 10), "e": (10, 240, 240), "f": (128, 128, 128)}
BLOCK = 16  # pixels a letter, so that JPEG and WebP keep its color


def picture(rows: list[str]) -> np.ndarray:
    colors = np.array([[COLORS[letter] for letter in row] for row in rows], np.uint8)
    return colors.repeat(BLOCK, 0).repeat(BLOCK, 1)


STORED = picture(UPRIGHT[1])


def file_of(kind: str, orientation: int) -> bytes:
    if kind == "TIFF":
        return tiff_of(STORED, orientation)
    suffix, settings = {
        "JPEG": (".jpg", (cv2.IMWRITE_JPEG_QUALITY, 98)),
        "progressive JPEG": (".jpg", (cv2.IMWRITE_JPEG_QUALITY, 98, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)),
        "PNG": (".png", ()),
        "WebP": (".webp", (cv2.IMWRITE_WEBP_QUALITY, 98)),
        "lossless WebP": (".webp", (cv2.IMWRITE_WEBP_QUALITY, 101)),
    }[kind]
    return with_exif(encoded(suffix, STORED, *settings), exif(orientation, "><"[orientation % 2]))


@pytest.mark.parametrize("kind", ["JPEG", "progressive JPEG", "PNG", "WebP", "lossless WebP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_files_come_out_upright(kind: str, orientation: int, tmp_path: Path) -> None:
    data = file_of(kind, orientation)
    header = inspect_encoded(data, "test")
    assert header.orientation == orientation
    assert header.size == Size(2 * BLOCK, 3 * BLOCK)  # as stored
    expected = picture(UPRIGHT[orientation])
    (tmp_path / "file").write_bytes(data)
    values = upright(parse_encoded(data, "test").values("test"), orientation)
    for answer in (decode_rgb(data, "test"), read_rgb(tmp_path / "file"), values):
        assert answer.shape == expected.shape
        assert answer.flags.c_contiguous
        # chroma is shared by 2x2 pixels, so colors bleed by one pixel at the borders: the letters' middles count
        middles = slice(BLOCK // 2, None, BLOCK)
        error = np.abs(answer[middles, middles].astype(int) - expected[middles, middles])
        assert error.max() <= (0 if kind in ("PNG", "lossless WebP", "TIFF") else 8), (kind, orientation)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_labels_are_turned_with_their_images(orientation: int, tmp_path: Path) -> None:
    ids = np.array([[0, 1], [2, 3], [4, 5]], np.uint8)
    expected = [[ord(letter) - ord("a") for letter in row] for row in UPRIGHT[orientation]]
    data = with_exif(encoded(".png", ids), exif(orientation))
    assert decode_labels(data, "test").tolist() == expected
    (tmp_path / "a.png").write_bytes(data)
    assert read_labels(tmp_path / "a.png").tolist() == expected
    assert upright(ids, orientation).tolist() == expected


@pytest.mark.parametrize(
    "content", [b"", b"MM", exif(0), exif(9), exif(6)[:-8], b"II\x2a\x00\xff\xff\xff\xff", b"junk" * 9]
)
def test_an_orientation_that_cannot_be_read_is_none(content: bytes) -> None:
    assert inspect_encoded(with_exif(encoded(".jpg", STORED), content), "test").orientation == 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_turned_picture_in_a_message_is_refused(kind: str, orientation: int) -> None:
    """CameraInfo describes the pixels as they are stored; turning them would break it, not turning them the labels."""
    codec = kind.lower()
    decode_compressed(SimpleNamespace(format=codec, data=file_of(kind, 1)))
    with pytest.raises(InputError, match=rf"format '{codec}': its EXIF orientation is {orientation}: .* driver"):
        decode_compressed(SimpleNamespace(format=codec, data=file_of(kind, orientation)))
