"""TIFF (revision 6.0), and the orientation that EXIF stores in the same structure."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, Literal

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
    unpacked_rows,
)
from seg_perception.core.codecs.orientation import MAX_XMP, settled
from seg_perception.core.types import RgbImage, Size

_PIECE: Final = 1 << 18
_LZW_CLEAR, _LZW_END, _LZW_FIRST = 256, 257, 258


def _lzw_bit_offsets() -> NDArray[np.int64]:
    """Where the codes after a clear code start, in bits, and where the last ends.

    The table grows by one entry a code; entries 510, 1022 and 2046 make the codes after them wider
    by one bit. A table has 4096 entries at most.
    """
    widths = np.repeat([9, 10, 11, 12], [254, 512, 1024, 4096 - 254 - 512 - 1024])
    return np.concatenate([[0], np.cumsum(widths)])


_LZW_OFFSETS: Final = _lzw_bit_offsets()


def _none_length(data: memoryview, limit: int) -> int:
    return min(len(data), limit)


def _deflate_length(data: memoryview, limit: int) -> int:
    unpacker, got = zlib.decompressobj(), 0
    rest: memoryview | bytes = data
    try:
        while rest and not unpacker.eof and got < limit:
            got += len(unpacker.decompress(rest, min(_PIECE, limit - got)))
            rest = unpacker.unconsumed_tail
    except zlib.error:
        return 0  # damaged: no more can be told
    return got


def _packbits_length(data: memoryview, limit: int) -> int:
    position, got = 0, 0
    while position < len(data) and got < limit:
        count = data[position]
        if count < 128:  # count + 1 bytes as they are
            got += min(count + 1, len(data) - position - 1)
            position += count + 2
        else:  # one byte, 257 - count times; 128 means nothing
            got += 257 - count if count > 128 and position + 1 < len(data) else 0
            position += 2 if count > 128 else 1
    return min(got, limit)


def _lzw_length(data: memoryview, limit: int) -> int:
    """Codes between two clear codes lie at known places, so they are read at once."""
    content = np.concatenate([np.frombuffer(data, np.uint8), np.zeros(4, np.uint8)]).astype(np.int64)
    position, got, bits = 0, 0, 8 * len(data)
    while got < limit:
        offsets = position + _LZW_OFFSETS
        offsets = offsets[: int(np.searchsorted(offsets, bits, "right"))]  # whole codes only
        if len(offsets) < 2:
            break
        starts, widths = offsets[:-1], np.diff(offsets)
        at = starts >> 3
        three_bytes = content[at] << 16 | content[at + 1] << 8 | content[at + 2]
        codes = three_bytes >> (24 - (starts & 7) - widths) & ((1 << widths) - 1)
        ends = np.flatnonzero((codes == _LZW_CLEAR) | (codes == _LZW_END))
        count = int(ends[0]) if len(ends) else len(codes)
        lengths = _lzw_string_lengths(codes[:count])
        if lengths is None:
            break
        got += int(lengths.sum())
        if not len(ends) or codes[count] == _LZW_END:
            break
        position = int(offsets[count + 1])
    return min(got, limit)


def _lzw_string_lengths(codes: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """The bytes of each code's string; None where a code stands for a string that there is not yet.

    Entry 258 + i is the string of code i and one byte more. So a code's length is that of an earlier
    code plus one, and so on down to a single byte: the number of steps is found by doubling them.
    """
    numbers = np.arange(len(codes))
    earlier = np.where(codes < _LZW_CLEAR, numbers, codes - _LZW_FIRST)
    if len(codes) and ((earlier > numbers) | ((codes >= _LZW_FIRST) & (earlier == numbers))).any():
        return None
    lengths = (codes >= _LZW_FIRST).astype(np.int64)
    while True:
        further = earlier[earlier]
        if np.array_equal(further, earlier):
            return lengths + 1
        lengths, earlier = lengths + lengths[earlier], further


UNPACKED_LENGTH: Final[Mapping[int, Callable[[memoryview, int], int]]] = MappingProxyType(
    {1: _none_length, 5: _lzw_length, 8: _deflate_length, 32773: _packbits_length, 32946: _deflate_length}
)
"""By TIFF's compression number: the bytes that a part unpacks to, counted no further than a limit."""


STARTS: Final = (b"II\x2a\x00", b"MM\x00\x2a")

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _COLORS, _ORIENTATION = 256, 257, 258, 259, 262, 274
_SAMPLES, _ROWS_PER_STRIP, _PLANES, _PREDICTOR, _COLOR_MAP, _SAMPLE_FORMAT = 277, 278, 284, 317, 320, 339
_STRIPS: Final = (273, 279)  # offsets and byte counts
_TILES: Final = (324, 325)
_TILE_WIDTH, _TILE_HEIGHT = 322, 323
_COMPRESSIONS: Final = {1: "none", 5: "LZW", 8: "deflate", 32773: "PackBits", 32946: "deflate"}
_NUMBERS: Final = {  # by the sample format
    1: "unsigned whole numbers", 2: "signed whole numbers", 3: "floating-point numbers", 4: "undefined numbers",
    5: "complex whole numbers", 6: "complex floating-point numbers",
}  # fmt: skip
_PALETTE, _WHITE_IS_ZERO, _BLACK_IS_ZERO = 3, 0, 1
_EXTRA_SAMPLES, _ALPHA_APPLIED = 338, 1
_XMP: Final = 700
_MAX_TILE: Final = 4096  # width and height

_READ: Final = frozenset({_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _COLORS, _ORIENTATION, _SAMPLES, _ROWS_PER_STRIP}) | {
    _PLANES,
    _PREDICTOR,
    _COLOR_MAP,
    _SAMPLE_FORMAT,
    *_STRIPS,
    *_TILES,
    _TILE_WIDTH,
    _TILE_HEIGHT,
}
_MAX_VALUES: Final = 1 << 20  # of one tag: the strips of the largest picture, one row each, and more

_TYPES: Final = {1: "u1", 3: "u2", 4: "u4"}  # BYTE, SHORT, LONG

_Tags = Mapping[int, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class TiffFile:
    """A TIFF of one page whose strips or tiles all lie in the file.

    Attributes:
        data: the file, with an orientation of 1 and, where it has alpha, with one that has been applied to its colors.
        palette: uint8 [2^bits, 3] RGB; None without one.
    """

    header: EncodedImage
    data: memoryview
    white_is_zero: bool
    palette: NDArray[np.uint8] | None = None

    def rgb(self, source: str) -> RgbImage:
        if self.palette is not None:
            return self.palette[np.asarray(self._numbers(source), np.uint8)]
        if self.header.bit_depth < 8:
            gray = np.asarray(self._numbers(source), np.uint8) * np.uint8(255 // (2**self.header.bit_depth - 1))
            return np.repeat((255 - gray if self.white_is_zero else gray)[..., None], 3, axis=2)
        pixels = opencv_rgb(self.data, self.header, source)
        if self.header.bit_depth == 16:
            say_if_low(pixels, "16-bit TIFF")
        return pixels

    def values(self, source: str) -> NDArray[np.generic]:
        if self.white_is_zero:
            raise refused(Codec.TIFF, "whose white is 0", "black as 0 is where values count; or a PNG", source)
        return self._numbers(source)

    def _numbers(self, source: str) -> NDArray[np.generic]:
        """As stored. A palette is read as if it were gray, and packed bits as bytes: OpenCV would change them."""
        bits, size = self.header.bit_depth, self.header.size
        if self.palette is None and bits >= 8:
            return opencv_values(self.data, self.header, source)
        packed = Size(-(-size.width * bits // 8), size.height)
        changes = {_COLORS: _BLACK_IS_ZERO} | ({_BITS: 8, _WIDTH: packed.width} if bits < 8 else {})
        header = replace(self.header, size=packed, bit_depth=8, has_palette=False)
        values = opencv_values(_with_tags(self.data, changes), header, source)
        return unpacked_rows(np.asarray(values, np.uint8), bits, size.width)


def exif_orientation(exif: memoryview) -> int | None:
    """The orientation of EXIF data, 1 to 8; None where there is none or it cannot be read."""
    if bytes(exif[:6]) == b"Exif\0\0":
        exif = exif[6:]
    try:
        tags, _ = _directory(exif)
    except ValueError:
        return None
    return _orientation(tags)


def parse(data: memoryview, source: str) -> TiffFile:
    """Read the one directory, and see that all of its pixels are in the file.

    Raises:
        InputError: damaged, truncated, too large, several pages, or a kind that is not read.
    """
    try:
        tags, pages_follow = _directory(data)
        if pages_follow:
            raise refused(Codec.TIFF, "of several pages", "one page is", source)
        header = _header(tags, source)
        _check_extent(tags, header, data, source)
    except ValueError as error:
        raise damaged(Codec.TIFF, str(error), source) from error
    changes = {}
    if header.orientation != 1:  # some of OpenCV's versions and modes would apply it, some not
        changes[_ORIENTATION] = 1
    if header.channels in (2, 4):  # else libtiff multiplies the colors by their alpha
        changes[_EXTRA_SAMPLES] = _ALPHA_APPLIED
    stored = _with_tags(data, changes) if changes else data
    palette = _palette(tags, header.bit_depth, source) if header.has_palette else None
    return TiffFile(header, stored, tags[_COLORS] == (_WHITE_IS_ZERO,), palette)


def _with_tags(data: memoryview, values: Mapping[int, int]) -> memoryview:
    """The file with a directory of its own behind it, in which some tags have one other value each."""
    order: Literal["little", "big"] = "little" if data[0] == ord("I") else "big"

    def packed(number: int, length: int) -> bytes:
        return number.to_bytes(length, order)

    start = int.from_bytes(data[4:8], order)
    count = int.from_bytes(data[start : start + 2], order)
    rows = [bytes(data[at : at + 12]) for at in range(start + 2, start + 2 + 12 * count, 12)]
    entries = {int.from_bytes(row[:2], order): row for row in rows}
    for tag, value in values.items():
        entries[tag] = packed(tag, 2) + packed(4, 2) + packed(1, 4) + packed(value, 4)
    content = bytes(data) + bytes(len(data) % 2)
    directory = packed(len(entries), 2) + b"".join(entries[tag] for tag in sorted(entries)) + bytes(4)
    return memoryview(content[:4] + packed(len(content), 4) + content[8:] + directory)


def _palette(tags: _Tags, bits: int, source: str) -> NDArray[np.uint8]:
    """uint8 [2^bits, 3] RGB: the colors have 16 bits, of which careless writers use the lower eight only."""
    colors = np.array(tags.get(_COLOR_MAP, ()), np.uint16)
    if colors.size != 3 << bits:
        raise damaged(Codec.TIFF, f"its palette has {colors.size} of {3 << bits} numbers", source)
    eight_bits = colors if colors.max() < 256 else colors >> 8
    return np.ascontiguousarray(eight_bits.reshape(3, -1).T.astype(np.uint8))


def _directory(data: memoryview) -> tuple[_Tags, bool]:
    """The first directory's whole numbers by tag, and whether another one follows.

    Raises:
        ValueError: it does not lie in the data.
    """
    order = {b"II": "little", b"MM": "big"}.get(bytes(data[:2]))
    if order is None or len(data) < 8:
        raise ValueError("it has no TIFF header")
    little = order == "little"

    def number(at: int, length: int) -> int:
        if at + length > len(data):
            raise ValueError("its directory lies outside the file")
        return int.from_bytes(data[at : at + length], "little" if little else "big")

    start = number(4, 4)
    count = number(start, 2)
    tags: dict[int, tuple[int, ...]] = {}
    for at in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, length = number(at, 2), _TYPES.get(number(at + 2, 2)), number(at + 4, 4)
        if tag == _XMP and tag not in tags:  # of type BYTE or UNDEFINED; where it lies elsewhere, the pixels are whole
            tags[tag] = tuple(data[number(at + 8, 4) :][: min(length, MAX_XMP + 1)])
        if kind is None or tag not in _READ or tag in tags:
            continue
        if length > _MAX_VALUES:
            raise ValueError(f"tag {tag} has {length} values")
        dtype = np.dtype(kind).newbyteorder("<" if little else ">")
        inside = dtype.itemsize * length <= 4
        where = at + 8 if inside else number(at + 8, 4)
        if where + dtype.itemsize * length > len(data):
            raise ValueError(f"the values of tag {tag} lie outside the file")
        tags[tag] = tuple(np.frombuffer(data, dtype, length, where).tolist())
    return tags, number(start + 2 + 12 * count, 4) != 0


def _orientation(tags: _Tags) -> int | None:
    value = tags.get(_ORIENTATION, ())
    return value[0] if len(value) == 1 and 1 <= value[0] <= 8 else None


def _one(tags: _Tags, tag: int, default: int | None = None) -> int:
    value = tags.get(tag, (default,))
    if len(value) != 1 or value[0] is None:
        raise ValueError(f"tag {tag} is missing, or has not one value")
    return value[0]


def _header(tags: _Tags, source: str) -> EncodedImage:
    size = checked_size(_one(tags, _WIDTH), _one(tags, _HEIGHT), source)
    samples, bits = _one(tags, _SAMPLES, 1), set(tags.get(_BITS, (1,)))
    colors, compression = _one(tags, _COLORS), _one(tags, _COMPRESSION, 1)
    kinds = set(tags.get(_SAMPLE_FORMAT, (1,)))
    if bits not in ({1}, {2}, {4}, {8}, {16}) or kinds != {1}:
        numbers = " and ".join(_NUMBERS.get(kind, f"numbers of sample format {kind}") for kind in sorted(kinds))
        what = f"of {numbers} of {' and '.join(map(str, sorted(bits)))} bits a channel"
        accepted = "unsigned whole numbers of 1, 2, 4, 8 or 16 bits are: save it anew as uint8 or uint16"
        raise refused(Codec.TIFF, what, accepted, source)
    if compression not in _COMPRESSIONS:
        accepted = ", ".join(sorted(set(_COMPRESSIONS.values())))
        raise refused(Codec.TIFF, f"of compression {compression}", f"{accepted} are", source)
    depth = bits.pop()
    if depth < 8 and (samples > 1 or _TILE_WIDTH in tags or _one(tags, _PREDICTOR, 1) != 1):
        what = f"of {depth} bits with several channels, tiles or a predictor"
        raise refused(Codec.TIFF, what, "one channel in strips is", source)
    gray_or_palette = (0, 1, _PALETTE) if depth <= 8 else (0, 1)
    if (colors not in gray_or_palette or samples > 2) and (colors != 2 or samples not in (3, 4)):
        raise refused(
            Codec.TIFF, f"of {samples} channels and color model {colors}", "gray, palette and RGB are", source
        )
    turned = settled(_orientation(tags), bytes(tags[_XMP]) if _XMP in tags else None, source)
    return EncodedImage(Codec.TIFF, size, samples, depth, colors == _PALETTE, turned)


def _check_extent(tags: _Tags, header: EncodedImage, data: memoryview, source: str) -> None:
    """Every strip or tile that the picture needs is announced and lies in the file."""
    width, height = header.size.width, header.size.height
    planes = header.channels if _one(tags, _PLANES, 1) == 2 else 1
    bits_a_pixel = header.channels * header.bit_depth // planes
    tiled = _TILE_WIDTH in tags
    if tiled:
        across, down = _one(tags, _TILE_WIDTH), _one(tags, _TILE_HEIGHT)
        if not (0 < across <= _MAX_TILE and 0 < down <= _MAX_TILE):
            raise refused(Codec.TIFF, f"of {across}x{down} tiles", f"sides of 1 to {_MAX_TILE} are", source)
    else:
        across, down = width, min(_one(tags, _ROWS_PER_STRIP, height), height)
    if down < 1:
        raise ValueError("its strips have no rows")
    pieces = -(-width // across) * -(-height // down) * planes
    offsets, lengths = (tags.get(tag, ()) for tag in (_TILES if tiled else _STRIPS))
    if len(offsets) != pieces or len(lengths) != pieces:
        raise ValueError(f"it names {len(offsets)} of the {pieces} parts of its pixels")
    if any(offset + length > len(data) for offset, length in zip(offsets, lengths, strict=True)):
        raise truncated(Codec.TIFF, data, source)
    unpacked_length = UNPACKED_LENGTH[_one(tags, _COMPRESSION, 1)]
    in_a_plane = pieces // planes
    for piece, (offset, length) in enumerate(zip(offsets, lengths, strict=True)):
        rows = down if tiled else min(down, height - piece % in_a_plane * down)
        needed = rows * -(-across * bits_a_pixel // 8)
        got = unpacked_length(data[offset : offset + length], needed)
        if got < needed:
            raise damaged(Codec.TIFF, f"part {piece} of its pixels has {got} of {needed} bytes", source)
