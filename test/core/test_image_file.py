"""Image files of every format, ending, orientation and name: decoded right, or refused with the reason."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib
from array import array
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from handmade import encoded, exif, tiff_of, with_exif, with_xmp, xmp
from numpy.typing import NDArray

from seg_perception.core.codecs import Codec, EncodedImage
from seg_perception.core.errors import InputError
from seg_perception.core.files import write_atomically
from seg_perception.core.image_file import (
    IMAGE_SUFFIXES,
    decode_labels,
    decode_rgb,
    encode_png_bytes,
    image_files,
    inspect_encoded,
    is_image_name,
    parse_encoded,
    read_labels,
    read_rgb,
    upright,
)
from seg_perception.core.image_message import decode_compressed
from seg_perception.core.types import MAX_PIXELS, RgbImage, Size


def smooth_picture(width: int = 64, height: int = 48) -> RgbImage:
    """A color gradient: JPEG keeps it almost exactly."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack([x, y, 255 - x], -1).astype(np.uint8)


def jpeg(image: NDArray[np.uint8], *settings: int) -> bytes:
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 95, *settings])
    assert done
    return data.tobytes()


def png(image: NDArray[np.generic]) -> bytes:
    done, data = cv2.imencode(".png", image)
    assert done
    return data.tobytes()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def handmade_png(width: int, height: int, depth: int, color_type: int, rows: bytes, extra: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + extra + data + chunk(b"IEND", b"")


def frame_header(data: bytes) -> int:
    """Where the baseline JPEG's frame header (FF C0) starts."""
    return data.index(b"\xff\xc0")


@pytest.mark.parametrize(
    "settings",
    [
        (),
        (cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        (cv2.IMWRITE_JPEG_RST_INTERVAL, 2),
        (cv2.IMWRITE_JPEG_OPTIMIZE, 1),
    ],
)
def test_jpeg_comes_out_in_rgb(settings: tuple[int, ...]) -> None:
    picture = smooth_picture()
    data = jpeg(picture, *settings)
    assert inspect_encoded(data, "test") == EncodedImage(Codec.JPEG, Size(64, 48), 3, 8, lossy=True)
    answer = decode_rgb(data, "test")
    assert np.abs(answer.astype(int) - picture).mean() < 2
    assert answer.dtype == np.uint8
    assert answer.flags.c_contiguous


def test_png_comes_out_exactly_in_rgb() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    data = png(picture[:, :, ::-1])
    assert inspect_encoded(data, "test") == EncodedImage(Codec.PNG, Size(7, 5), 3, 8)
    np.testing.assert_array_equal(decode_rgb(data, "test"), picture)


def test_gray_is_repeated_and_alpha_dropped() -> None:
    gray = np.array([[0, 100, 255]], np.uint8)
    expected = [[[0] * 3, [100] * 3, [255] * 3]]
    assert decode_rgb(png(gray), "test").tolist() == expected
    bgra = np.dstack([gray, gray, gray, [[0, 7, 255]]]).astype(np.uint8)
    assert decode_rgb(png(bgra), "test").tolist() == expected
    assert inspect_encoded(png(bgra), "test").channels == 4
    flat = np.full((16, 16), 90, np.uint8)
    assert inspect_encoded(jpeg(flat), "test").channels == 1
    assert np.abs(decode_rgb(jpeg(flat), "test").astype(int) - 90).max() <= 1


@pytest.mark.parametrize(
    "kind", [bytes, bytearray, memoryview, lambda b: array("B", b), lambda b: np.frombuffer(b, "u1")]
)
def test_any_buffer_is_data(kind: type) -> None:
    picture = np.full((4, 6, 3), 9, np.uint8)
    np.testing.assert_array_equal(decode_rgb(kind(png(picture)), "test"), picture)


def test_bytes_after_the_end_are_ignored() -> None:
    picture = smooth_picture()
    for data in (jpeg(picture), png(picture)):
        np.testing.assert_array_equal(decode_rgb(data + bytes(1000), "test"), decode_rgb(data, "test"))


def test_jpeg_without_huffman_tables_as_usb_cameras_send_it() -> None:
    """Motion JPEG leaves the standard's example tables out; the decoder must bring its own."""
    data = jpeg(smooth_picture())
    bare = data
    while (at := bare.find(b"\xff\xc4")) >= 0:
        bare = bare[:at] + bare[at + 2 + int.from_bytes(bare[at + 2 : at + 4], "big") :]
    assert len(bare) < len(data) - 400  # 432 bytes of tables are gone
    np.testing.assert_array_equal(decode_rgb(bare, "test"), decode_rgb(data, "test"))


@pytest.mark.parametrize("codec", ["baseline", "progressive", "restarts", "png"])
def test_no_cut_file_is_ever_decoded(codec: str) -> None:
    """Every length shorter than the whole is refused, wherever the cut falls."""
    picture = np.random.default_rng(1).integers(0, 256, (24, 32, 3), np.uint8)
    settings = {"progressive": (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), "restarts": (cv2.IMWRITE_JPEG_RST_INTERVAL, 1)}
    whole = png(picture) if codec == "png" else jpeg(picture, *settings.get(codec, ()))
    decode_rgb(whole, "test")
    for length in range(len(whole)):
        with pytest.raises(InputError, match=r"truncated|are none of JPEG, PNG, WebP, BMP, TIFF"):
            decode_rgb(whole[:length], "test")


def test_no_pixel_of_the_last_image_in_half_of_the_next() -> None:
    """Opencv issue 26488: decode A, then half of B."""
    magenta = np.full((240, 320, 3), (255, 0, 255), np.uint8)
    noise = np.random.default_rng(2).integers(0, 256, (240, 320), np.uint8)
    gray_noise = np.dstack([noise] * 3)  # nothing in B is anywhere near magenta
    a, b = jpeg(magenta), jpeg(gray_noise)
    for _ in range(5):
        decode_rgb(a, "A")
        with pytest.raises(InputError, match=r"half of B: the JPEG ends early, after .* truncated"):
            decode_rgb(b[: len(b) // 2], "half of B")
    # a transport that closes the half file with an end marker does not get it through either
    decode_rgb(a, "A")
    with pytest.raises(InputError, match=r"closed: the JPEG is damaged: .*premature end of data segment"):
        decode_rgb(b[: len(b) // 2] + b"\xff\xd9", "closed")


@pytest.mark.parametrize(
    "start, what",
    [
        (b"GIF89a", "a GIF, which has 256 colors at most: save it as PNG"),
        (b"\0\0\0\x18ftypheic", "a HEIC image, as phones make them: save it as JPEG"),
        (b"\0\0\0\x20ftypavif", "an AVIF image"),
        (b"\0\0\0\x20ftypisom", "a video or another MP4 file"),
        (b"\0\0\0\x0cjP  \r\n", "a JPEG 2000 image"),
        (b"P6\n2 2 255\n", "a PPM image"),
        (b"II+\0\x08\0\0\0", "a BigTIFF: save it as a plain TIFF"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS, .*'git lfs pull'"),
        (b"<!DOCTYPE html>", "a web page, not an image"),
        (b"\x93NUMPY", "a NumPy array: save it as PNG, as uint8 or uint16"),
        (b"v/1\x01", "an OpenEXR image of floating-point numbers"),
        (b"PF\n5 4", "a PFM image of floating-point numbers"),
    ],
)
def test_other_files_are_called_by_their_names(start: bytes, what: str) -> None:
    with pytest.raises(InputError, match=f"x: {what}.* \\(JPEG, PNG, WebP, BMP, TIFF are read\\)"):
        decode_rgb(start + bytes(100), "x")


def test_no_format_that_is_read() -> None:
    with pytest.raises(
        InputError, match=r"x: 8 bytes that start with 52 49 46 46 00 .* none of JPEG, PNG, WebP, BMP, TIFF"
    ):
        decode_rgb(b"RIFF" + bytes(4), "x")
    with pytest.raises(InputError, match=r"x: 0 bytes that start with nothing are none of"):
        decode_rgb(b"", "x")
    with pytest.raises(InputError, match=r"x: list cannot be read as bytes"):
        decode_rgb([1, 2], "x")


def test_of_sixteen_bits_the_upper_eight_are_kept() -> None:
    # 0x1234 -> 0x12, 0xFFFF -> 0xFF, 0x00FF -> 0
    values = np.array([[0x1234, 0xFFFF, 0x00FF]], np.uint16)
    assert inspect_encoded(png(values), "test").bit_depth == 16
    assert decode_rgb(png(values), "test").tolist() == [[[0x12] * 3, [0xFF] * 3, [0] * 3]]
    red = np.zeros((1, 2, 3), np.uint16)
    red[..., 2] = 0xABCD  # OpenCV writes BGR
    assert decode_rgb(png(red), "test").tolist() == [[[0xAB, 0, 0]] * 2]
    data = bytearray(jpeg(smooth_picture()))
    data[frame_header(bytes(data)) + 4] = 12
    with pytest.raises(InputError, match=r"x: a JPEG with 3 channels of 12 bits is not accepted"):
        decode_rgb(bytes(data), "x")


def test_a_palette_png_is_an_image_but_not_labels() -> None:
    palette = chunk(b"PLTE", bytes([255, 0, 0, 0, 0, 255]))
    data = handmade_png(2, 1, 8, 3, bytes([0, 0, 1]), palette)  # a filter byte, then indices 0 and 1
    assert decode_rgb(data, "test").tolist() == [[[255, 0, 0], [0, 0, 255]]]
    with pytest.raises(InputError, match=r"x: 8-bit palette PNG is not accepted as a label image"):
        decode_labels(data, "x")


def test_labels_are_exact_or_refused() -> None:
    ids = np.arange(256, dtype=np.uint8).reshape(8, 32)
    np.testing.assert_array_equal(decode_labels(png(ids), "test"), ids)
    for data, kind in (
        (png(np.zeros((2, 2, 3), np.uint8)), "8-bit 3-channel PNG"),
        (png(np.zeros((2, 2), np.uint16)), "16-bit 1-channel PNG"),
        (handmade_png(8, 1, 1, 0, b"\x00\xaa"), "1-bit 1-channel PNG"),
        (jpeg(np.zeros((8, 8), np.uint8)), "8-bit 1-channel JPEG"),
    ):
        with pytest.raises(InputError, match=f"x: {kind} is not accepted as a label image"):
            decode_labels(data, "x")


def test_sizes_that_no_camera_has_are_refused_before_decoding() -> None:
    bomb = handmade_png(100_000, 100_000, 8, 0, b"\x00")
    with pytest.raises(InputError, match=rf"x: a size of 100000x100000 is not accepted; 1 to {MAX_PIXELS} pixels"):
        decode_rgb(bomb, "x")
    with pytest.raises(InputError, match=r"a size of 0x5 is not accepted"):
        decode_rgb(handmade_png(0, 5, 8, 0, b"\x00"), "x")
    data = bytearray(jpeg(smooth_picture()))
    at = frame_header(bytes(data)) + 5
    data[at : at + 4] = struct.pack(">HH", 65500, 65500)
    with pytest.raises(InputError, match=r"a size of 65500x65500 is not accepted"):
        decode_rgb(bytes(data), "x")
    data[at : at + 4] = struct.pack(">HH", 0, 10)  # a height that only a later marker (DNL) would tell
    with pytest.raises(InputError, match=r"a size of 10x0 is not accepted"):
        decode_rgb(bytes(data), "x")


def test_jpeg_kinds_that_are_refused() -> None:
    data = bytearray(jpeg(smooth_picture()))
    at = frame_header(bytes(data))
    data[at + 1] = 0xC9  # arithmetic coding
    with pytest.raises(InputError, match=r"frame type 0xc9 .*baseline and progressive are"):
        decode_rgb(bytes(data), "x")
    data[at + 1] = 0xC0
    data[at + 9] = 4  # four components: CMYK
    with pytest.raises(InputError, match=r"a JPEG with 4 channels of 8 bits is not accepted"):
        decode_rgb(bytes(data), "x")


def test_damaged_structure() -> None:
    data = jpeg(smooth_picture())
    at = frame_header(data)
    length = struct.unpack(">H", data[at + 2 : at + 4])[0]
    frame = data[at : at + 2 + length]
    scan = data.index(b"\xff\xda")
    for damaged, words in (
        (data[:2] + b"\x00\x00" + data[4:], "is no marker"),
        (data[:2] + b"\xff\xd8" + data[2:], "is no marker"),
        (data[:2] + b"\xff\xd9", "ends before any pixels"),
        (data[:at] + frame + data[at:], "two frame headers"),
        (data[:at] + b"\xff\xc0\x00\x04\x08\x00" + data[at + 2 + length :], "frame header has 2 bytes"),
        (data[:at] + data[at + 2 + length :], "a scan before the frame header"),
        (data[:scan] + data[scan:-2] * 101 + b"\xff\xd9", "too many scans"),
    ):
        with pytest.raises(InputError, match=f"x: the JPEG is damaged: .*{words}"):
            inspect_encoded(damaged, "x")


def test_damaged_png() -> None:
    data = png(smooth_picture())
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1  # one bit in the pixels
    start, rest = data[:8], data[8:]
    for damaged, words in (
        (bytes(flipped), "wrong checksum of chunk b'IDAT'"),
        (start + chunk(b"IEND", b""), "chunk b'IEND' where the header"),
        (start + rest[:25] + rest, "chunk b'IHDR' where the header or data"),
        (start + chunk(b"IHDR", bytes(12)) + rest[25:], "header is not one of the standard's"),
        (start + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 5, 0, 0, 0)) + rest[25:], "header is not one"),
    ):
        with pytest.raises(InputError, match=f"x: the PNG is damaged: .*{words}"):
            inspect_encoded(damaged, "x")


def test_a_file_whose_pixels_are_missing_is_refused() -> None:
    """The structure is whole, the pixels are not: 4 rows are promised, one is there."""
    data = handmade_png(4, 4, 8, 0, bytes(5))
    with pytest.raises(InputError, match=r"its data ends after 5 of the 20 bytes of its pixels"):
        decode_rgb(data, "x")


def test_random_damage_never_escapes_as_another_error() -> None:
    rng = np.random.default_rng(4)
    picture = smooth_picture(40, 24)
    refused = 0
    for whole in (jpeg(picture), png(picture)):
        for _ in range(150):
            data = bytearray(whole)
            for position in rng.integers(0, len(data), 3):
                data[position] = rng.integers(0, 256)
            try:
                assert decode_rgb(bytes(data), "x").ndim == 3
            except InputError:
                refused += 1
    assert refused > 150  # all damage to a PNG is seen, and some to a JPEG


def test_labels_survive_png() -> None:
    rng = np.random.default_rng(6)
    for shape in ((1, 1), (4, 1), (37, 53)):
        labels = rng.integers(0, 256, shape, np.uint8)
        data = encode_png_bytes(labels)
        assert data.dtype == np.uint8
        assert data.ndim == 1
        np.testing.assert_array_equal(decode_labels(data, "test"), labels)


@pytest.mark.parametrize(
    "labels", [np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.int64), np.zeros((0, 2), np.uint8)]
)
def test_only_labels_are_encoded(labels: NDArray[np.uint8]) -> None:
    with pytest.raises(InputError, match=r"labels to encode must be uint8 \[H, W\], got"):
        encode_png_bytes(labels)


def test_files_are_named_in_errors(tmp_path: Path) -> None:
    picture, labels, broken = tmp_path / "a.jpg", tmp_path / "b.png", tmp_path / "c.png"
    picture.write_bytes(jpeg(smooth_picture()))
    labels.write_bytes(png(np.full((2, 2), 3, np.uint8)))
    broken.write_bytes(labels.read_bytes()[:-1])
    assert read_rgb(picture).shape == (48, 64, 3)
    assert read_labels(labels).tolist() == [[3, 3], [3, 3]]
    with pytest.raises(InputError, match=r"c\.png: the PNG ends early"):
        read_rgb(broken)
    with pytest.raises(InputError, match=r"a\.jpg: 8-bit 3-channel JPEG is not accepted as a label image"):
        read_labels(picture)
    with pytest.raises(FileNotFoundError):
        read_rgb(tmp_path / "absent.png")


def test_a_decoder_without_rgb_gives_the_same_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ubuntu 22.04 and 24.04 carry OpenCV 4.5 and 4.6, which can only decode to BGR."""
    picture = smooth_picture()
    data = [jpeg(picture), png(picture), png(picture[:, :, 0])]
    expected = [decode_rgb(item, "test") for item in data]
    monkeypatch.delattr(cv2, "IMREAD_COLOR_RGB", raising=False)
    for item, pixels in zip(data, expected, strict=True):
        np.testing.assert_array_equal(decode_rgb(item, "test"), pixels)


def test_opencv_says_nothing_on_the_terminal() -> None:
    """A camera with a bad cable must not fill the log: damaged frames are refused in one message of ours."""
    code = (
        "import cv2, numpy as np\n"
        "from seg_perception.core.image_file import decode_rgb\n"
        "from seg_perception.core.errors import InputError\n"
        "data = cv2.imencode('.png', np.zeros((9, 9), np.uint8))[1].tobytes()\n"
        "for cut in range(len(data)):\n"
        "    try: decode_rgb(data[:cut], 'x')\n"
        "    except InputError: pass\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=True)
    assert (run.stdout, run.stderr) == ("", "")


PICTURE = np.full((8, 12, 3), (200, 100, 50), np.uint8)


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_every_ending_is_read_in_lower_and_upper_case(tmp_path: Path, suffix: str) -> None:
    for name in (f"a{suffix}", f"B{suffix.upper()}"):
        (tmp_path / name).write_bytes(encoded(suffix, PICTURE))
        assert is_image_name(tmp_path / name)
        assert np.abs(read_rgb(tmp_path / name).astype(int) - PICTURE).max() <= 3


@pytest.mark.parametrize(
    "name", ["run #3.png", "a?b%20c&d.png", 'it\'s "q".png', "Straße.png", "-o.png", "x" * 251 + ".png", b"caf\xe9.png"]
)
def test_a_picture_of_any_name_is_written_and_read(tmp_path: Path, name: str | bytes) -> None:
    path = tmp_path / os.fsdecode(name)
    write_atomically(path, encoded(".png", PICTURE))
    np.testing.assert_array_equal(read_rgb(path), PICTURE)
    assert image_files(tmp_path.iterdir()) == ([path], [])


def test_what_is_no_regular_file_is_refused_by_name(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    for read in (read_rgb, read_labels):
        for name, kind in (("pipe", "named pipe"), ("zero", "character device"), ("folder", "folder")):
            with pytest.raises(InputError, match=rf"{name}\.png: is a {kind}.*only regular files are read"):
                read(tmp_path / f"{name}.png")


def test_hidden_names_are_no_data_and_others_are_told_apart(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "notes.txt", "._a.png", ".DS_Store", "d.gif", "noending"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    images, others = image_files(tmp_path.iterdir())
    assert [path.name for path in images] == ["a.png", "b.JPG"]
    assert [path.name for path in others] == ["d.gif", "noending", "notes.txt"]


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


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("alpha", [0, 1, 2])  # ExtraSamples: unspecified, applied to the colors, or not
def test_alpha_of_a_tiff_is_dropped_not_applied(dtype: type, alpha: int) -> None:
    top = np.iinfo(dtype).max
    pixels = np.full((4, 6, 4), [top, top // 2, 0, top // 3], dtype)
    image = decode_rgb(tiff_of(pixels, more=((338, alpha),)), "test")
    assert np.abs(image.astype(int) - [255, 127, 0]).max() <= 1


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


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_orientation_in_xmp_alone_counts(
    kind: str, orientation: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = tiff_of(STORED, without=(274,)) if kind == "TIFF" else encoded(f".{kind.lower()}", STORED)
    data = with_xmp(plain, xmp(orientation, ("attribute", "element")[orientation % 2]))
    assert decode_rgb(plain, "test").shape == STORED.shape
    (path := tmp_path / f"a.{kind.lower()}").write_bytes(data)
    middles = slice(BLOCK // 2, None, BLOCK)
    expected = picture(UPRIGHT[orientation])
    assert np.abs(read_rgb(path)[middles, middles].astype(int) - expected[middles, middles]).max() <= 8
    assert not caplog.records
    turned = tiff_of(STORED, 3) if kind == "TIFF" else with_exif(plain, exif(3))
    assert inspect_encoded(with_xmp(turned, xmp(orientation)), "a").orientation == 3
    differs = [f"a: its EXIF orientation is 3 and its XMP's is {orientation}: EXIF's is taken"]
    assert caplog.messages == differs * (orientation != 3)


@pytest.mark.parametrize("how", ["iTXt packed", "ImageMagick"])
def test_xmp_in_the_other_texts_of_a_png_counts(how: str) -> None:
    png = encoded(".png", STORED)
    assert inspect_encoded(with_xmp(png, xmp(6), how), "test").orientation == 6
    assert inspect_encoded(with_xmp(png, b"<" * 5_000_000, how), "test").orientation == 1  # unpacked in part


INGREDIENT = (
    '<xmpMM:Pantry xmlns:xmpMM="http://ns.adobe.com/xap/1.0/mm/"><rdf:Bag><rdf:li>'
    '<rdf:Description tiff:Orientation="6"/></rdf:li></rdf:Bag></xmpMM:Pantry>'
)
ENTITIES = b'<!DOCTYPE x [<!ENTITY a "6"><!ENTITY b "&a;&a;">]>'


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        xmp(0),
        xmp(9),
        xmp("six"),
        xmp(66),
        xmp(6)[:-60],
        xmp(1, inside=INGREDIENT),
        xmp("", inside=INGREDIENT),
        ENTITIES + xmp("&a;"),
        (ENTITIES.decode() + xmp(6).decode().split("?>", 1)[1].split("<?")[0]).encode("utf-16"),
        xmp(6).replace(b"ns.adobe.com/tiff", b"example.org/tiff"),
        b"<a>" * 20_000 + b"Orientation",
    ],
)
def test_an_xmp_orientation_that_does_not_count_is_none(packet: bytes) -> None:
    assert inspect_encoded(with_xmp(encoded(".jpg", STORED), packet), "test").orientation == 1


def test_xmp_that_is_too_long_is_said(caplog: pytest.LogCaptureFixture) -> None:
    long = xmp(6, inside="<!--" + "x" * 2_000_000 + "-->")
    for kind, data in {"png": encoded(".png", STORED), "tiff": tiff_of(STORED, without=(274,))}.items():
        assert inspect_encoded(with_xmp(data, long), kind).orientation == 1
        assert caplog.messages[-1] == f"{kind}: taken as upright: its XMP of more than 1048576 bytes is not read"
    assert inspect_encoded(with_xmp(with_exif(encoded(".png", STORED), exif(8)), long), "test").orientation == 8
    assert len(caplog.messages) == 2


@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt"])
def test_exif_that_imagemagick_writes_as_text_counts(kind: bytes) -> None:
    """Until version 7.0.10 it kept EXIF data in hexadecimal lines; Pillow and ExifTool read them, too."""
    profile = b"Exif\0\0" + exif(6)
    text = b"\nexif\n%8d\n" % len(profile) + profile.hex().encode() + b"\n"
    packed = b"\0" + zlib.compress(text) if kind == b"zTXt" else text
    png = encoded(".png", STORED)
    data = png[:33] + chunk(kind, b"Raw profile type exif\0" + packed) + png[33:]
    np.testing.assert_array_equal(decode_rgb(data, "test"), picture(UPRIGHT[6]))
    odd = png[:33] + chunk(kind, b"Raw profile type exif\0" + packed[:5] + b"zz") + png[33:]
    np.testing.assert_array_equal(decode_rgb(odd, "test"), STORED)


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
    with pytest.raises(InputError, match=rf"format '{codec}': its EXIF or XMP orientation is {orientation}: .* driver"):
        decode_compressed(SimpleNamespace(format=codec, data=file_of(kind, orientation)))
