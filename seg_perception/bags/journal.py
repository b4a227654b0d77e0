"""Remembers the finished frames of a long job on disk, so that a killed job goes on where it was.

The file is a line of JSON that says which job it belongs to, then records that are only ever
appended. A record that was cut off or damaged, and everything after it, is dropped on opening.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np

from seg_perception.core.errors import InputError
from seg_perception.core.files import open_regular_file
from seg_perception.core.types import Size
from seg_perception.segmenter import RawSegmentation

_RECORD = struct.Struct("<QIIIIII")  # frame, network width and height, camera width and height, bytes, CRC-32
_LONGEST_LINE = 1 << 24  # bytes of the first line, which names every part of the bag
_CRC_BYTES = 4  # the last field of the head; it is of all that comes before it, and of the bytes that follow


class Journal:
    """Raw segmentations by frame number.

    Args:
        path: the journal's file; made if it is not there.
        job: one line that names everything the results depend on.

    Raises:
        InputError: the file belongs to another job.
    """

    def __init__(self, path: Path, job: str) -> None:
        self.path = path
        head = job.encode() + b"\n"
        found = b""
        if path.exists():
            with open_regular_file(path) as file:
                found = file.readline(_LONGEST_LINE)
        if found != head:
            if not head.startswith(found):  # otherwise new, or killed while the line was written
                raise InputError(
                    f"{path} belongs to another job, so this one cannot resume from it: remove it to start anew.\n"
                    f"  it has:   {found.decode(errors='replace').strip()}\n  this job: {job}"
                )
            path.write_bytes(head)
        self._positions: dict[int, int] = {}
        end = len(head)
        for frame, position, after in self._scan(len(head)):
            self._positions[frame] = position
            end = after
        self._file = path.open("r+b")
        self._file.truncate(end)
        self._end = end

    def _scan(self, start: int) -> Iterator[tuple[int, int, int]]:
        with self.path.open("rb") as file:
            file.seek(start)
            while len(head := file.read(_RECORD.size)) == _RECORD.size:
                position = file.tell() - _RECORD.size
                frame, *_, length, crc = _RECORD.unpack(head)
                payload = file.read(length)
                # a power cut can leave a tail of zeros: an empty record would have an empty payload's CRC, zero
                if not length or len(payload) != length or zlib.crc32(head[:-_CRC_BYTES] + payload) != crc:
                    return
                yield frame, position, file.tell()

    def __len__(self) -> int:
        return len(self._positions)

    def get(self, frame: int) -> RawSegmentation | None:
        """A finished frame; None if it is not finished."""
        if (position := self._positions.get(frame)) is None:
            return None
        self._file.seek(position)
        _, width, height, camera_width, camera_height, length, _ = _RECORD.unpack(self._file.read(_RECORD.size))
        planes = np.frombuffer(zlib.decompress(self._file.read(length)), np.uint8).reshape(2, height, width)
        return RawSegmentation(planes[0].copy(), planes[1].copy(), Size(camera_width, camera_height))

    def add(self, frame: int, raw: RawSegmentation) -> None:
        """Append a finished frame; it survives the process from here on."""
        height, width = raw.labels.shape
        payload = zlib.compress(np.stack([raw.labels, raw.confidence]).tobytes(), 1)
        camera = raw.camera_size
        fields = (frame, width, height, camera.width, camera.height, len(payload))
        crc = zlib.crc32(_RECORD.pack(*fields, 0)[:-_CRC_BYTES] + payload)
        record = _RECORD.pack(*fields, crc)
        self._file.seek(self._end)
        self._file.write(record + payload)
        self._file.flush()
        self._positions[frame] = self._end
        self._end += len(record) + len(payload)

    def remove(self) -> None:
        """Close and delete the journal: the job is done."""
        self._file.close()
        self.path.unlink()

    def close(self) -> None:
        """Keep the journal for the next attempt. Calling it twice is harmless."""
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
