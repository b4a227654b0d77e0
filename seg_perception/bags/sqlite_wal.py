"""How much of SQLite's write-ahead log (the file -wal that a killed recorder leaves) SQLite will read.

Source: "WAL-mode File Format" in SQLite's documentation. SQLite stops without a word at the first
frame whose checksum is wrong, and before the first that no commit follows.
"""

from __future__ import annotations

import struct
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from seg_perception.core.files import open_regular_file

_HEAD: Final = struct.Struct(">IIII8sII")  # magic, version, page size, checkpoint, salt, checksum
_FRAME_HEAD: Final = struct.Struct(">II8sII")  # page number, size of the database after a commit, salt, checksum
_MAGIC: Final = (0x377F0682, 0x377F0683)  # checksums over little-endian, over big-endian words


def what_is_lost_of(path: Path) -> str | None:
    """What SQLite will not read of a log, in words; None: nothing, or only what an earlier run left."""
    with open_regular_file(path) as file:
        size = file.seek(0, 2)
        file.seek(0)
        head = file.read(_HEAD.size)
        magic, _, page_size, _, salt, first, second = _HEAD.unpack(head) if len(head) == _HEAD.size else (0,) * 7
        words = np.dtype(">u4" if magic == _MAGIC[1] else "<u4")
        if magic not in _MAGIC or not 512 <= page_size <= 65536 or _sum(head[:24], words, (0, 0)) != (first, second):
            return f"{path} is damaged: the messages recorded last, in its {size} bytes, cannot be read"
        sums, valid, committed = (first, second), True, _HEAD.size
        while len(head := file.read(_FRAME_HEAD.size)) == _FRAME_HEAD.size:
            _, commit, frame_salt, first, second = _FRAME_HEAD.unpack(head)
            if frame_salt != salt:
                return None if file.tell() - _FRAME_HEAD.size == committed else _lost(path, file.tell() - committed)
            page = file.read(page_size)
            valid = valid and len(page) == page_size
            if valid:
                sums = _sum(page, words, _sum(head[:8], words, sums))
                valid = sums == (first, second)
            if valid and commit:
                committed = file.tell()
    return _lost(path, size - committed) if size > committed else None


def _lost(path: Path, count: int) -> str:
    return f"{path} ends in the middle of a transaction, or is damaged: the messages in its last {count} bytes are lost"


def _sum(data: bytes, words: np.dtype[np.uint32], start: tuple[int, int]) -> tuple[int, int]:
    """SQLite's checksum: each word is added to the sum of the two sums before it, so it counts by Fibonacci numbers."""
    values = np.frombuffer(data, words).astype(np.uint32)
    count, weights = len(values), _fibonacci(len(values) + 2)
    ends = []
    for last in (count - 1, count):  # number of words that each of the two sums has seen
        total = int(np.dot(values[:last], weights[:last][::-1]))
        ends.append((total + start[0] * int(weights[last - 1]) + start[1] * int(weights[last])) % 2**32)
    return ends[0], ends[1]


@cache
def _fibonacci(count: int) -> NDArray[np.uint32]:
    """1, 1, 2, 3, 5 ... modulo 2**32."""
    numbers = [1, 1]
    while len(numbers) < count:
        numbers.append((numbers[-1] + numbers[-2]) % 2**32)
    return np.array(numbers[:count], np.uint32)
