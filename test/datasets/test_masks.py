"""Label files made as the tools make them (Pillow, an encoder that is not ours): the values are the truth's."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seg_perception.core.errors import DatasetError
from seg_perception.core.label_set import LabelMapping, load_label_mapping, load_label_set
from seg_perception.datasets.masks import Mask, read_mask

RNG = np.random.default_rng(3)
PALETTE = RNG.integers(0, 256, (256, 3), np.uint8)
DRIVING = load_label_set("driving")
BY_COLOR = LabelMapping("by color", DRIVING, {}, {c.color: c.name for c in DRIVING.classes} | {(0, 0, 0): "ignore"})
IDS = np.tile(np.array([[0, 1, 7, 9, 255]], np.uint8), (6, 3))


def saved(path: Path, image: Image.Image, **options: object) -> Mask:
    image.save(path, **options)
    return read_mask(path)


def with_palette(ids: np.ndarray, palette: np.ndarray = PALETTE) -> Image.Image:
    image = Image.fromarray(ids).convert("L")
    indexed = Image.new("P", image.size)
    indexed.putdata(list(ids.reshape(-1).tolist()))
    indexed.putpalette(palette.tobytes())
    return indexed


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_files_give_their_indices(tmp_path: Path, bits: int) -> None:
    ids = RNG.integers(0, 1 << bits, (13, 19), np.uint8)
    mask = saved(tmp_path / "a.png", with_palette(ids), bits=bits)
    assert mask.kind == f"{bits}-bit palette PNG"
    assert np.array_equal(mask.pixels, ids)
    assert np.array_equal(mask.colors(), PALETTE[ids])
    assert np.array_equal(saved(tmp_path / "a.bmp", with_palette(ids)).pixels, ids)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_tiffs_with_a_palette_give_their_indices(tmp_path: Path, compression: str | None) -> None:
    ids = RNG.integers(0, 256, (13, 19), np.uint8)
    mask = saved(tmp_path / "a.tif", with_palette(ids), compression=compression)
    assert mask.kind == "8-bit palette TIFF"
    assert np.array_equal(mask.pixels, ids)
    assert np.array_equal(mask.colors(), PALETTE[ids])
    one_bit = ids > 127
    mask = saved(tmp_path / "b.tif", Image.fromarray(one_bit), compression=compression)
    assert np.array_equal(mask.pixels, one_bit)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("palette", [True, False])
def test_tiffs_of_few_bits(tmp_path: Path, bits: int, palette: bool) -> None:
    """By hand: Pillow writes none of 2 or 4 bits. 13 columns, so that each row ends inside of a byte."""
    ids = RNG.integers(0, 1 << bits, (5, 13), np.uint8)
    planes = np.unpackbits(ids[..., None], axis=2)[..., 8 - bits :].reshape(5, -1)
    packed = np.packbits(planes, axis=1)
    colors = RNG.integers(0, 256, (3, 1 << bits)).astype("<u2")
    tags = {256: 13, 257: 5, 258: bits, 259: 1, 262: 3 if palette else 1, 273: 8, 277: 1, 278: 5, 279: packed.size}
    at = 8 + packed.size + packed.size % 2
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    if palette:
        directory += struct.pack("<HHII", 320, 3, colors.size, at)
    content = packed.tobytes().ljust(at - 8, b"\0") + (colors << 8).tobytes()
    start = struct.pack("<4sI", b"II\x2a\0", 8 + len(content))
    count = struct.pack("<H", len(tags) + palette)
    (tmp_path / "a.tiff").write_bytes(start + content + count + directory + bytes(4))
    mask = read_mask(tmp_path / "a.tiff")
    assert np.array_equal(mask.pixels, ids)
    shown = colors.T[ids] if palette else np.repeat(ids[..., None], 3, axis=2)
    assert np.array_equal(mask.colors(), shown)


@pytest.mark.parametrize("options", [{}, {"interlace": 0}, {"transparency": 3}, {"optimize": True}])
def test_gifs_are_read_by_what_they_show(tmp_path: Path, options: dict[str, object]) -> None:
    """Their writers number palettes anew: by index, the ids 0, 1, 7, 9 and 255 would be 0 to 4."""
    identity, binary = load_label_mapping("identity"), load_label_mapping("binary_road")
    gray = saved(tmp_path / "gray.gif", Image.fromarray(IDS), **options)
    assert np.array_equal(gray.labels(identity, "x"), IDS)
    road = np.where(IDS > 5, 255, 0).astype(np.uint8)
    found = saved(tmp_path / "road.gif", Image.fromarray(road), **options).labels(binary, "x")
    assert np.array_equal(found, binary.apply(road, "x"))
    colors = Image.fromarray(DRIVING.palette[IDS]).quantize(256, dither=Image.Dither.NONE)
    mask = saved(tmp_path / "colors.gif", colors, **options)
    assert np.array_equal(mask.labels(BY_COLOR, "x"), IDS)
    with pytest.raises(
        DatasetError, match=r"8-bit palette GIF holds colors, and the mapping 'identity' has no 'colors'"
    ):
        mask.labels(identity, "colors.gif")


def test_gifs_that_are_no_label_files_are_refused(tmp_path: Path) -> None:
    frames = [with_palette(np.full((6, 8), value, np.uint8)) for value in (1, 2)]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "cut.gif")
    content = (tmp_path / "cut.gif").read_bytes()
    (tmp_path / "small.gif").write_bytes(content[:6] + struct.pack("<HH", 16, 6) + content[10:])
    (tmp_path / "huge.gif").write_bytes(content[:6] + b"\xff\xff\xff\xff" + content[10:])
    (tmp_path / "cut.gif").write_bytes(content[:-6])
    (tmp_path / "start.gif").write_bytes(b"GIF89a")
    for name, message in (
        ("film", "a GIF of 2 pictures is not accepted as a label image; save the masks as PNG"),
        ("small", "whose picture does not cover its frame"),
        ("huge", "a size of 65535x65535 is not accepted"),
        ("cut", "the GIF cannot be decoded"),
        ("start", "the GIF ends early"),
    ):
        with pytest.raises(DatasetError, match=message):
            read_mask(tmp_path / f"{name}.gif")


def test_gray_with_alpha_of_eight_and_sixteen_bits(tmp_path: Path) -> None:
    opaque = np.dstack([IDS, np.full(IDS.shape, 255, np.uint8)])
    assert np.array_equal(saved(tmp_path / "a.png", Image.fromarray(opaque)).values(), IDS)
    rows = b"".join(b"\0" + b"".join(struct.pack(">HH", 300 + int(v), 65535) for v in row) for row in IDS)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", IDS.shape[1], IDS.shape[0], 16, 4, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    values = read_mask(tmp_path / "b.png").values()
    assert np.array_equal(values, IDS.astype(np.uint16) + 300)


def test_transparency_of_a_palette_or_of_one_color_changes_no_value(tmp_path: Path) -> None:
    ids = RNG.integers(0, 200, (9, 7), np.uint8)
    assert np.array_equal(saved(tmp_path / "a.png", with_palette(ids), transparency=3).pixels, ids)
    colors = Image.fromarray(DRIVING.palette[IDS])
    mask = saved(tmp_path / "b.png", colors, transparency=DRIVING.classes[0].color)
    assert np.array_equal(mask.labels(BY_COLOR, "x"), IDS)


@pytest.mark.parametrize("name", ["a.png", "a.bmp"])
def test_masks_of_one_bit_are_0_and_1(tmp_path: Path, name: str) -> None:
    ids = RNG.integers(0, 2, (13, 19), np.uint8)
    assert np.array_equal(saved(tmp_path / name, Image.fromarray(ids.astype(bool))).pixels, ids)


@pytest.mark.parametrize("bits", [2, 4])
def test_gray_files_of_few_bits_are_not_spread(tmp_path: Path, bits: int) -> None:
    """A gray PNG by hand: Pillow writes none of 2 or 4 bits. One row of the values 0 to 2^bits - 1."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = bytes((0b00011011,)) if bits == 2 else bytes.fromhex("0123456789abcdef")
    header = struct.pack(">IIBBBBB", 1 << bits, 1, bits, 0, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    assert read_mask(tmp_path / "a.png").pixels.tolist() == [list(range(1 << bits))]


@pytest.mark.parametrize(
    "name, options",
    [("a.png", {}), ("a.PNG", {}), ("a.bmp", {}), ("a.tif", {}), ("a.tiff", {"compression": "tiff_lzw"}),
     ("a.webp", {"lossless": True})],
)  # fmt: skip
def test_gray_ids_ids_as_rgb_and_colors_in_every_format(tmp_path: Path, name: str, options: dict[str, object]) -> None:
    identity = load_label_mapping("identity")
    colors = DRIVING.palette[IDS]
    for image in (IDS, np.repeat(IDS[..., None], 3, axis=2)):
        mask = saved(tmp_path / name, Image.fromarray(image), **options)
        assert np.array_equal(mask.labels(identity, "x"), IDS)
    mask = saved(tmp_path / name, Image.fromarray(colors), **options)
    assert np.array_equal(mask.labels(BY_COLOR, "x"), IDS)
    assert mask.values() is None


def test_ids_of_sixteen_bits(tmp_path: Path) -> None:
    ids = np.array([[0, 300, 65534], [1, 255, 256]], np.uint16)
    for name in ("a.png", "a.tiff"):
        assert np.array_equal(saved(tmp_path / name, Image.fromarray(ids)).pixels, ids)


def test_which_table_of_the_mapping_reads_which_file(tmp_path: Path) -> None:
    palette = np.zeros((256, 3), np.uint8)
    palette[[0, 1]] = DRIVING.classes[9].color, DRIVING.classes[8].color
    indexed = saved(tmp_path / "p.png", with_palette(np.array([[0, 1]], np.uint8), palette))
    color = saved(tmp_path / "c.png", Image.fromarray(DRIVING.palette[np.array([[7, 2]])]))
    values, colors = {0: "road", 1: "sidewalk"}, BY_COLOR.classes_of_colors
    both = LabelMapping("both", DRIVING, values, colors)
    assert indexed.labels(LabelMapping("v", DRIVING, values), "x").tolist() == [[0, 1]]
    assert indexed.labels(BY_COLOR, "x").tolist() == [[9, 8]]  # by what it shows
    assert indexed.labels(both, "x").tolist() == [[0, 1]]  # by its indices
    assert color.labels(both, "x").tolist() == [[7, 2]]
    with pytest.raises(DatasetError, match=r'c\.png: 8-bit color PNG .*, and the mapping .v. has no .colors.; '
                       r'.* which class each stands for: "70,130,180" \(1 pixels\), "153'):  # fmt: skip
        color.labels(LabelMapping("v", DRIVING, values), "c.png")


def test_alpha_is_fine_where_it_hides_nothing(tmp_path: Path) -> None:
    opaque = np.dstack([DRIVING.palette[IDS], np.full(IDS.shape, 255, np.uint8)])
    assert np.array_equal(saved(tmp_path / "a.png", Image.fromarray(opaque)).labels(BY_COLOR, "x"), IDS)
    opaque[0, :2, 3] = 0
    with pytest.raises(DatasetError, match=r"b\.png: 2 pixels of the 8-bit color and alpha PNG are transparent"):
        saved(tmp_path / "b.png", Image.fromarray(opaque))


def test_what_loses_values_is_refused(tmp_path: Path) -> None:
    gray, color = Image.fromarray(IDS), Image.fromarray(DRIVING.palette[IDS])
    for name, image, what in (
        ("a.jpg", gray, "a JPEG is not accepted as a label image: its compression changes values"),
        ("really.png", gray, "a JPEG is not accepted"),
        ("a.webp", color, "a WebP is not accepted as a label image"),
    ):
        file = io.BytesIO()
        image.save(file, {"a.jpg": "JPEG", "really.png": "JPEG", "a.webp": "WEBP"}[name])
        (tmp_path / name).write_bytes(file.getvalue())
        with pytest.raises(DatasetError, match=f"{name}: .*{what}"):
            read_mask(tmp_path / name)


def test_a_photo_and_its_mask_stand_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the stored picture must be turned by a quarter clockwise
    stored = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    assert saved(tmp_path / "a.png", Image.fromarray(stored), exif=exif).pixels.tolist() == [[4, 1], [5, 2], [6, 3]]
