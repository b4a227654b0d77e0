"""Puts messages that carry no stamp of the drive at the right moment of its recording."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping

from seg_perception.node_outputs import FrameOutput, LatchedOutput, Output
from seg_perception.ros.bag_tools.recorder import RecordedMessage


class DriveTimes:
    """Collects unstamped messages while driving and dates them afterwards.

    A frame's numbers leave the node after its labels and before the next frame's, so they belong to
    the last labels received before them. Latched messages belong to the first frame, what the node says
    of its own accord (diagnostics) to the last frame sent before it. What came before the drive (answers
    to warm-up frames) is left out.

    Args:
        outputs: which there are, by topic.
    """

    def __init__(self, outputs: Mapping[str, Output]) -> None:
        self._outputs = outputs
        self._sent: list[tuple[int, int]] = []  # wall time, stamp; both rise
        self._labels: list[tuple[int, int]] = []  # wall time received, stamp
        self._kept: list[RecordedMessage] = []

    def sent(self, wall_ns: int, stamp_ns: int) -> None:
        """A frame was published."""
        self._sent.append((wall_ns, stamp_ns))

    def labeled(self, received_ns: int, stamp_ns: int) -> None:
        """A frame's labels came."""
        self._labels.append((received_ns, stamp_ns))

    def keep(self, message: RecordedMessage) -> None:
        """An unstamped message came."""
        self._kept.append(message)

    def dated(self) -> Iterator[tuple[int, RecordedMessage]]:
        """The kept messages that belong to the drive, each with its record time in nanoseconds."""
        self._labels.sort()
        for message in self._kept:
            row = self._outputs[message.topic]
            if isinstance(row, LatchedOutput):
                if self._sent:
                    yield self._sent[0][1], message
                continue
            moments = self._labels if isinstance(row, FrameOutput) else self._sent
            before = bisect_right(moments, message.received_ns, key=lambda moment: moment[0])
            if before:
                yield moments[before - 1][1], message
