"""Finds the camera_info that belongs to a published frame: the one with exactly the same stamp."""

from __future__ import annotations

import threading
from collections import OrderedDict

from sensor_msgs.msg import CameraInfo


class CameraInfoMatcher:
    """Pairs calibrations with published frames by stamp, whichever comes first; thread-safe, bounded.

    A frame without a calibration of its own stamp gets none: a calibration under a stamp that the
    driver did not give it would be an invention.
    """

    def __init__(self, limit: int = 32) -> None:
        self._limit = limit
        self._infos: OrderedDict[int, CameraInfo] = OrderedDict()
        self._wanted: OrderedDict[int, None] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, stamp_ns: int, info: CameraInfo) -> CameraInfo | None:
        """A calibration came; returns it if its frame was published already."""
        with self._lock:
            if self._wanted.pop(stamp_ns, 0) is None:
                return info
            _remember(self._infos, stamp_ns, info, self._limit)
            return None

    def match(self, stamp_ns: int) -> CameraInfo | None:
        """A frame was published; returns its calibration if that came already."""
        with self._lock:
            info = self._infos.pop(stamp_ns, None)
            if info is None:
                _remember(self._wanted, stamp_ns, None, self._limit)
            return info


def _remember(table: OrderedDict, key: int, value: object, limit: int) -> None:  # type: ignore[type-arg]
    table[key] = value
    while len(table) > limit:
        table.popitem(last=False)
