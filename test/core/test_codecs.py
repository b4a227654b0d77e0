"""Each image format: exact where it keeps numbers, every pixel written, damage and bombs refused before they cost."""

from __future__ import annotations

import os
import resource
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from handmade import PNG_SIGNATURE, chunk, encoded, png_of, tiff_of
from numpy.typing import NDArray

from seg_perception.core.codecs import Codec, jpeg, png
from seg_perception.core.errors import InputError
from seg_perception.core.image_file import decode_rgb, inspect_encoded, parse_encoded
from seg_perception.core.types import Size

RNG = np.random.default_rng(3)
COLOR = RNG.integers(0, 256, (21, 13, 3), np.uint8)  # odd sides: rows need padding in BMP
GRAY = RNG.integers(0, 256, (21, 13), np.uint8)
DEEP = RNG.integers(0, 65536, (21, 13), np.uint16)


def values(data: bytes) -> NDArray[np.generic]:
    return parse_encoded(data, "x").values("x")


LOSSLESS: dict[str, Callable[[NDArray[np.generic]], bytes]] = {
    "PNG": lambda pixels: encoded(".png", pixels),
    "BMP": lambda pixels: encoded(".bmp", pixels),
    "WebP": lambda pixels: encoded(".webp", pixels, cv2.IMWRITE_WEBP_QUALITY, 101),
    "TIFF": tiff_of,
    "TIFF, LZW": lambda pixels: encoded(".tiff", pixels, cv2.IMWRITE_TIFF_COMPRESSION, 5),
    "TIFF, deflate": lambda pixels: encoded(".tif", pixels, cv2.IMWRITE_TIFF_COMPRESSION, 32946),
}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_numbers_are_kept_exactly(kind: str) -> None:
    data = LOSSLESS[kind](COLOR)
    np.testing.assert_array_equal(decode_rgb(data, "x"), COLOR)
    np.testing.assert_array_equal(values(data), COLOR)
    header = inspect_encoded(data, "x")
    assert (header.codec.value, header.size, header.lossy) == (kind.split(",", maxsplit=1)[0], Size(13, 21), False)
    if kind != "WebP":  # which has no gray
        np.testing.assert_array_equal(values(LOSSLESS[kind](GRAY)), GRAY)
        np.testing.assert_array_equal(decode_rgb(LOSSLESS[kind](GRAY), "x"), np.dstack([GRAY] * 3))
    if kind.startswith(("PNG", "TIFF")):
        data = LOSSLESS[kind](DEEP)
        np.testing.assert_array_equal(values(data), DEEP)
        np.testing.assert_array_equal(decode_rgb(data, "x")[:, :, 1], DEEP >> 8)


@pytest.mark.parametrize("kind", LOSSLESS)
def test_a_cut_file_is_refused_wherever_the_cut_falls(kind: str) -> None:
    data = LOSSLESS[kind](GRAY if kind != "WebP" else COLOR)
    for length in range(len(data)):
        with pytest.raises(InputError):
            decode_rgb(data[:length], "x")


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_palette_and_gray_pngs_of_few_bits_give_their_numbers(depth: int) -> None:
    top = 2**depth - 1
    numbers = np.array([[0, 1, top, 0, 1, 1, 0, top, top]], np.uint8) & top
    bits = np.unpackbits(numbers[..., None], axis=2)[..., 8 - depth :].reshape(1, -1)
    row = bytes(1) + np.packbits(bits, axis=1).tobytes()  # filter byte, then the packed row
    gray = png_of((9, 1, depth, 0, 0, 0, 0), zlib.compress(row))
    assert values(gray).tolist() == numbers.tolist()
    # gray levels spread over 0 to 255: of 1 bit 0 and 255, of 2 bits 0, 85, 170, 255, of 4 bits steps of 17
    assert decode_rgb(gray, "x")[0, :, 0].tolist() == [int(n) * 255 // top for n in numbers[0]]
    colors = bytes(range(1, 3 * 2**depth + 1)) if depth < 8 else bytes(range(256)) * 3
    palette = png_of((9, 1, depth, 3, 0, 0, 0), zlib.compress(row), chunk(b"PLTE", colors) + chunk(b"tRNS", b"\0"))
    assert values(palette).tolist() == numbers.tolist()
    assert inspect_encoded(palette, "x").has_palette
    expected = np.frombuffer(colors, np.uint8).reshape(-1, 3)[numbers]
    np.testing.assert_array_equal(decode_rgb(palette, "x"), expected)


def test_bmps_with_a_palette_give_their_indices() -> None:
    """1, 4 and 8 bits, bottom row first and top row first; rows are padded to four bytes."""
    numbers = np.array([[1, 0, 1, 1, 0], [0, 1, 0, 0, 1]], np.uint8)
    for bits in (1, 4, 8):
        row = np.zeros((2, 64 // bits), np.uint8)  # 5 pixels of 8 bits take 8 bytes
        row[:, :5] = numbers
        row = row[:, : (5 * bits + 31) // 32 * 32 // bits]
        packed = np.packbits(np.unpackbits(row[..., None], axis=2)[..., 8 - bits :].reshape(2, -1), axis=1)
        for height, rows in ((2, packed[::-1]), (-2, packed)):
            palette = bytes([10, 20, 30, 0, 40, 50, 60, 0])  # BGR0
            offset = 54 + len(palette)
            head = struct.pack("<2sIIIIiiHHIIiiII", b"BM", 0, 0, offset, 40, 5, height, 1, bits, 0, 0, 0, 0, 2, 2)
            data = head + palette + rows.tobytes()
            assert values(data).tolist() == numbers.tolist(), (bits, height)
            assert decode_rgb(data, "x")[0, :2].tolist() == [[60, 50, 40], [30, 20, 10]], (bits, height)


def test_interlaced_pngs() -> None:
    """The data of the seven passes: an 8x8 picture of its own pixel numbers, by hand from the standard's table."""
    picture = np.arange(64, dtype=np.uint8).reshape(8, 8)
    passes = [picture[::8, ::8], picture[::8, 4::8], picture[4::8, ::4], picture[::4, 2::4]]
    passes += [picture[2::4, ::2], picture[::2, 1::2], picture[1::2]]
    rows = b"".join(b"\0" + row.tobytes() for part in passes for row in part)
    assert len(rows) == 64 + 15
    assert values(png_of((8, 8, 8, 0, 0, 0, 1), zlib.compress(rows))).tolist() == picture.tolist()
    narrow = b"".join(b"\0" + row.tobytes() for part in passes for row in part[:, :1] if part is passes[0])
    tiny = png_of((1, 1, 8, 0, 0, 0, 1), zlib.compress(narrow))  # only the first pass has a pixel
    assert values(tiny).tolist() == [[0]]


def test_animated_pictures_are_refused() -> None:
    animation = chunk(b"acTL", struct.pack(">II", 2, 0))
    frame = chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 2, 2, 0, 0, 1, 1, 0, 0))
    pixels = zlib.compress(bytes(4 * 5))
    with pytest.raises(InputError, match=r"x: a PNG with an animation is not accepted; a still picture is"):
        decode_rgb(png_of((4, 4, 8, 0, 0, 0, 0), pixels, animation + frame), "x")
    still = encoded(".webp", COLOR)
    animated = b"WEBPVP8X" + struct.pack("<I", 10) + bytes([2]) + bytes(9) + still[12:]
    with pytest.raises(InputError, match=r"x: a WebP with an animation is not accepted"):
        decode_rgb(b"RIFF" + struct.pack("<I", len(animated)) + animated, "x")


def test_png_data_that_does_not_fit_the_header() -> None:
    header = (8, 8, 8, 0, 0, 0, 0)  # 8 rows of a filter byte and 8 pixels: 72 bytes
    for size, words in ((71, "ends after 71 of the 72"), (73, "goes on after the 72"), (5_000_000, "goes on after")):
        with pytest.raises(InputError, match=f"x: the PNG is damaged: its data {words}"):
            decode_rgb(png_of(header, zlib.compress(bytes(size))), "x")
    whole = zlib.compress(bytes(72))
    for data, words in (
        (whole[:-1], "ends after"),
        (whole[:-4] + bytes(4), "cannot be unpacked"),
        (b"", "ends after 0"),
    ):
        with pytest.raises(InputError, match=f"x: the PNG is damaged: its data {words}"):
            decode_rgb(png_of(header, data), "x")
    assert decode_rgb(png_of(header, whole), "x").shape == (8, 8, 3)


@pytest.mark.parametrize("way", ["isal", "Python's zlib", "counted only"])
def test_pngs_of_any_size_are_unpacked_whole(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """Around the 65535 bytes that are unpacked at a time, packed hard and hardly, in one data chunk and in many."""
    if way == "isal":
        pytest.importorskip("isal")
    else:
        monkeypatch.setattr(png, "find_zlib", lambda: zlib)
    if way == "counted only":
        monkeypatch.setattr(png, "KEPT", 0)
    for width in (254, 255, 256, 345):  # rows of 255 to 346 bytes: 257 rows are 65535, 65792, 66049 and 88922
        for top in (1, 256):
            pixels = RNG.integers(0, top, (257, width), np.uint8)
            packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels))
            one = png_of((width, 257, 8, 0, 0, 0, 0), packed)
            np.testing.assert_array_equal(values(one), pixels)
            small = b"".join(chunk(b"IDAT", packed[at : at + 1000]) for at in range(0, len(packed), 1000))
            many = one[:33] + small + chunk(b"IEND", b"")
            np.testing.assert_array_equal(values(many), pixels)
            np.testing.assert_array_equal(decode_rgb(many, "x")[..., 1], pixels)
            for wrong in (packed[:-1], packed[:-4] + b"\1\2\3\4", zlib.compress(bytes(257 * (width + 1) - 1))):
                with pytest.raises(InputError, match="x: the PNG is damaged: its data "):
                    decode_rgb(png_of((width, 257, 8, 0, 0, 0, 0), wrong), "x")


def test_what_hides_beside_the_pixels_is_never_unpacked() -> None:
    """Profiles and texts expand to a hundred megabytes each; the decoder gets none of them."""
    bomb = zlib.compress(bytes(100_000_000))
    extra = chunk(b"iCCP", b"p\0\0" + bomb) + chunk(b"zTXt", b"t\0\0" + bomb) + chunk(b"iTXt", b"t\0\1\0\0\0" + bomb)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    data = png_of((8, 8, 8, 0, 0, 0, 0), zlib.compress(bytes(72)), extra, extra)
    assert decode_rgb(data, "x").shape == (8, 8, 3)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def test_jpegs_that_take_more_walking_than_looking() -> None:
    whole = encoded(".jpg", COLOR)
    with pytest.raises(InputError, match=r"x: the JPEG is damaged: ff ff ff ff at byte .* is no marker"):
        decode_rgb(whole[:2] + b"\xff" * 50_000_000 + whole[2:], "x")
    with pytest.raises(InputError, match=r"x: a JPEG of more than 5000 segments is not accepted"):
        decode_rgb(whole[:2] + b"\xff\xfe\x00\x02" * 6000 + whole[2:], "x")
    for filling in (b"\xff", b"\xff\x00", b"\xff\xd0", b"\x55"):  # of the data between two markers
        with pytest.raises(InputError, match=r"x: a JPEG of .* with \d+ bytes in a scan is not accepted"):
            decode_rgb(whole[:-2] + filling * 1_000_000 + whole[-2:], "x")
    np.testing.assert_array_equal(  # fill bytes are allowed, before any marker
        decode_rgb(whole[:2] + b"\xff" * 1000 + whole[2:], "x"), decode_rgb(whole, "x")
    )


def test_jpegs_whose_data_cannot_hold_their_picture() -> None:
    data = bytearray(encoded(".jpg", COLOR))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 8000, 8000)
    with pytest.raises(InputError, match=r"x: the JPEG is damaged: \d+ bytes cannot hold the blocks of 8000x8000"):
        decode_rgb(bytes(data), "x")
    data = bytearray(encoded(".jpg", COLOR, cv2.IMWRITE_JPEG_PROGRESSIVE, 1))
    at = data.index(b"\xff\xc2") + 5
    data[at : at + 4] = struct.pack(">HH", 8000, 8000)
    with pytest.raises(InputError, match=r"x: a JPEG of 8000x8000 in 1 scans or more is not accepted"):
        decode_rgb(bytes(data), "x")


def kinds_of_jpeg() -> dict[str, bytes]:
    x, y = np.meshgrid(np.linspace(0, 255, 128), np.linspace(0, 255, 96))
    picture = cv2.add(np.stack([x, y, 255 - x], -1).astype(np.uint8), RNG.integers(0, 40, (96, 128, 3), np.uint8))
    kinds = {
        "baseline": encoded(".jpg", picture),
        "progressive": encoded(".jpg", picture, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        "restarts": encoded(".jpg", picture, cv2.IMWRITE_JPEG_RST_INTERVAL, 2),
        "optimized": encoded(".jpg", picture, cv2.IMWRITE_JPEG_OPTIMIZE, 1),
        "gray": encoded(".jpg", picture[:, :, 0]),
    }
    for name in ("411", "420", "422", "440", "444"):
        factor = getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{name}", None)
        if factor is not None:  # since OpenCV 4.7
            kinds[name] = encoded(".jpg", picture, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor)
    whole = kinds["baseline"]
    kinds["zeros before the end"] = whole[:-2] + bytes(6) + whole[-2:]
    kinds["fill before the end"] = whole[:-2] + b"\xff" * 7 + whole[-2:]
    kinds["zeros after the end"] = whole + bytes(999)
    return kinds


KINDS = kinds_of_jpeg()


@pytest.mark.parametrize("kind", KINDS)
def test_whole_jpegs_are_accepted_and_those_with_a_hole_are_not(kind: str) -> None:
    """The end marker stays; nine of ten such files were taken for good ones before (benchmarks/damaged_jpegs.py)."""
    pytest.importorskip("simplejpeg", reason="OpenCV alone does not say that a JPEG is damaged inside")
    whole = KINDS[kind]
    reference = cv2.imdecode(np.frombuffer(whole, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    np.testing.assert_array_equal(decode_rgb(whole, "x"), reference)  # the same library, the same pixels
    start, end = whole.index(b"\xff\xda") + 14, whole.rindex(b"\xff\xd9")
    places = np.linspace(start, end - 300, 12).astype(int)
    cut_short = [whole[:at] + whole[end:] for at in places]
    with_a_hole = [whole[:at] + whole[at + 250 :] for at in places]
    assert [refused(data) for data in cut_short] == [True] * 12
    # what is left may decode to exactly as many blocks; on small pictures that is likelier than on a camera's
    assert sum(refused(data) for data in with_a_hole) >= 8


def refused(data: bytes) -> bool:
    try:
        decode_rgb(data, "x")
    except InputError:
        return True
    return False


def test_jpegs_without_their_last_scans() -> None:
    """A progressive file that ends between two scans decodes to a blurred picture without a warning."""
    whole = KINDS["progressive"]
    starts = [at for at in range(len(whole)) if whole[at : at + 2] in (b"\xff\xda", b"\xff\xc4")]
    assert len(starts) > 12
    for at in starts[4:]:
        with pytest.raises(InputError, match=r"x: the JPEG is damaged: it ends before the last of its scans"):
            decode_rgb(whole[:at] + b"\xff\xd9", "x")


def test_without_simplejpeg_the_log_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    jpeg.find_simplejpeg.cache_clear()
    for _ in range(2):
        assert decode_rgb(KINDS["baseline"], "x").shape == (96, 128, 3)
        assert values(KINDS["gray"]).shape == (96, 128)
    jpeg.find_simplejpeg.cache_clear()
    (record,) = caplog.records
    assert "pip install simplejpeg" in record.message


@pytest.mark.parametrize(
    "data, words",
    [
        (tiff_of(COLOR, compression=7), "of compression 7 is not accepted; LZW, PackBits, deflate, none are"),
        (tiff_of(COLOR, next_page=8), "of several pages is not accepted"),
        (tiff_of(GRAY.astype(np.float32)), r"of floating-point numbers of 32 bits a channel is not accepted; unsigned"),
        (tiff_of(COLOR, colors=6), "of 3 channels and color model 6 is not accepted"),
        (tiff_of(GRAY, more=((322, 100_000), (323, 16))), "of 100000x16 tiles is not accepted"),
        (tiff_of(GRAY, more=((278, 5),)), "names 1 of the 5 parts"),
        (tiff_of(GRAY, more=((279, 99),)), "part 0 of its pixels has 99 of 273 bytes"),
        (tiff_of(GRAY, more=((279, 1 << 31),)), "truncated"),
        (tiff_of(GRAY, more=((256, 1 << 20), (257, 1 << 20))), "a size of 1048576x1048576 is not accepted"),
        (b"II\x2a\x00\xff\xff\xff\xff" + bytes(40), "its directory lies outside the file"),
        (b"BM" + bytes(12) + struct.pack("<IiiHHI", 40, 9, 9, 1, 8, 1) + bytes(99), "of 8 bits and compression 1"),
        (b"BM" + bytes(12) + struct.pack("<IiiHHI", 40, 9999, -9999, 1, 24, 0) + bytes(99), "a size of|truncated"),
        (b"BM" + bytes(12) + struct.pack("<IiiHHI", 12, 9, 9, 1, 24, 0) + bytes(99), "with a header of 12 bytes"),
        (b"RIFF\x04\0\0\0WEBP", "the WebP is damaged: it has no picture"),
        (b"RIFF\x16\0\0\0WEBPVP8 \x0a\0\0\0" + bytes(10), "its VP8 data has no start code"),
    ],
)
def test_kinds_that_are_refused(data: bytes, words: str) -> None:
    with pytest.raises(InputError, match=f"^x: .*{words}"):
        decode_rgb(data, "x")


@pytest.mark.parametrize(
    "dtype, numbers",
    [
        ("i1", "signed whole numbers of 8 bits"),
        ("i2", "signed whole numbers of 16 bits"),
        ("u4", "unsigned whole numbers of 32 bits"),
        ("f2", "floating-point numbers of 16 bits"),
        ("f8", "floating-point numbers of 64 bits"),
        ("c8", "complex floating-point numbers of 64 bits"),
    ],
)
def test_numbers_that_no_picture_has_are_named_with_what_is_accepted(dtype: str, numbers: str) -> None:
    wanted = "unsigned whole numbers of 1, 2, 4, 8 or 16 bits are: save it anew as uint8 or uint16"
    data = tiff_of(GRAY.astype(dtype))
    for read in (decode_rgb, parse_encoded):
        with pytest.raises(InputError, match=f"^x: a TIFF of {numbers} a channel is not accepted; {wanted}$"):
            read(data, "x")
    with pytest.raises(InputError, match="sample format 9"):
        decode_rgb(tiff_of(GRAY, more=((339, 9),)), "x")


@pytest.mark.parametrize("kind", [kind for kind in LOSSLESS if "," not in kind])
def test_slivers_are_refused_by_their_header(kind: str) -> None:
    assert decode_rgb(LOSSLESS[kind](np.zeros((2, 128, 3), np.uint8)), "x").shape == (2, 128, 3)
    with pytest.raises(InputError, match=r"^x: an image of 129x2 is not accepted: one side is more than 64 times"):
        decode_rgb(LOSSLESS[kind](np.zeros((2, 129, 3), np.uint8)), "x")


def test_values_of_tiffs_that_mean_colors() -> None:
    with pytest.raises(InputError, match=r"a TIFF whose white is 0 is not accepted"):
        values(tiff_of(GRAY, colors=0))
    np.testing.assert_array_equal(decode_rgb(tiff_of(GRAY, colors=0), "x")[:, :, 0], 255 - GRAY)


@pytest.mark.skipif(not hasattr(cv2, "IMWRITE_TIFF_ROWSPERSTRIP"), reason="this OpenCV does not say how it cuts strips")
@pytest.mark.parametrize("compression", [5, 8, 32773, 32946])
def test_tiffs_whose_parts_do_not_cover_the_picture(compression: int) -> None:
    """libtiff fills the rest without a word. Many strips, many LZW tables, strings as long as they get."""
    x = np.linspace(0, 20, 700)
    pictures = [
        RNG.integers(0, 256, (90, 700), np.uint8),  # no two bytes alike: tables fill up and start anew
        np.zeros((90, 700), np.uint8),  # the longest strings
        (100 + 99 * np.sin(x + x[:90, None])).astype(np.uint8),
        RNG.integers(0, 3, (90, 700, 3), np.uint8),
    ]
    for number, picture in enumerate(pictures):
        data = encoded(".tif", picture, cv2.IMWRITE_TIFF_COMPRESSION, compression, cv2.IMWRITE_TIFF_ROWSPERSTRIP, 90)
        np.testing.assert_array_equal(values(data), picture)
        samples = 3 if number == 3 else 1
        for taller in (91, 900):  # the same parts, a taller picture
            lie = data
            for tag in (257, 278):
                for kind in (3, 4):
                    entry = struct.pack("<HHI", tag, kind, 1)
                    lie = lie.replace(entry + struct.pack("<I", 90), entry + struct.pack("<I", taller))
            with pytest.raises(InputError, match=rf"has {90 * 700 * samples} of {taller * 700 * samples} bytes"):
                decode_rgb(lie, "x")


POISONED = """
import hashlib, sys
from seg_perception.core.image_file import parse_encoded
from seg_perception.core.errors import InputError
digest, decoded, refused = hashlib.sha256(), 0, 0
data = open(sys.argv[1], "rb").read()
position = 0
while position < len(data):
    length = int.from_bytes(data[position:position + 4], "little")
    item = data[position + 4:position + 4 + length]
    position += 4 + length
    for what in ("rgb", "values"):
        try:
            pixels = getattr(parse_encoded(item, "x"), what)("x")
            digest.update(pixels.tobytes())
            decoded += 1
        except InputError:
            digest.update(b"refused")
            refused += 1
print(digest.hexdigest(), decoded, refused)
"""


def test_every_pixel_is_written_by_every_decoder(tmp_path: Path) -> None:
    """glibc fills all memory that it hands out with a byte of our choice: an unwritten pixel would show it.

    Whole and damaged files of each format, decoded with two such bytes, must give the same pixels.
    """
    picture = RNG.integers(0, 256, (64, 48, 3), np.uint8)
    whole = [make(picture) for make in LOSSLESS.values()] + list(KINDS.values())
    whole += [encoded(".webp", picture), tiff_of(picture[:, :, 0]), encoded(".bmp", picture[:, :, 0])]
    small_frame = chunk(b"acTL", struct.pack(">II", 1, 0)) + chunk(b"fcTL", struct.pack(">6I2H2B", *([0] * 10)))
    files = [*whole, png_of((8, 8, 8, 0, 0, 0, 0), zlib.compress(bytes(72)), small_frame)]
    for data in whole:
        for _ in range(6):
            changed = bytearray(data)
            for at in RNG.integers(len(data) // 3, len(data) - 2, 2):
                changed[at] = RNG.integers(0, 255)
            if data.startswith(PNG_SIGNATURE):  # a checksum that fits, so that the decoder sees the damage
                at = data.index(b"IDAT")
                length = int.from_bytes(data[at - 4 : at], "big")
                changed[at + 4 + length : at + 8 + length] = struct.pack(
                    ">I", zlib.crc32(changed[at : at + 4 + length])
                )
            files.append(bytes(changed))
    (tmp_path / "files").write_bytes(b"".join(struct.pack("<I", len(data)) + data for data in files))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    answers = {
        subprocess.run(
            [sys.executable, "-c", POISONED, str(tmp_path / "files")],
            capture_output=True,
            text=True,
            timeout=100,
            env={**environment, "MALLOC_PERTURB_": perturb},
            check=True,
        ).stdout
        for perturb in ("1", "170")
    }
    (answer,) = answers
    _, decoded, refused = answer.split()
    assert int(decoded) > 2 * len(whole)
    assert int(refused) > len(whole)


def test_codecs_are_all_tried() -> None:
    assert {kind.split(",")[0] for kind in LOSSLESS} | {"JPEG"} == {codec.value for codec in Codec}
