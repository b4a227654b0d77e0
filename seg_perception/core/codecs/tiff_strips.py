"""How many bytes the compressed parts of a TIFF unpack to (TIFF 6.0, sections 9 and 13; Adobe's deflate).

libtiff, as OpenCV uses it, fills what a damaged part does not cover and says nothing. Lengths are all
that is needed to see it, so nothing is unpacked but deflate.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

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
