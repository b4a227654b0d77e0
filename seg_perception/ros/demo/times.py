"""Puts messages that carry no stamp of the drive at the right moment of its recording."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence

from seg_perception.node_outputs import FrameOutput, LatchedOutput, Output
from seg_perception.ros.bag_tools.recorder import RecordedMessage


class DriveTimes:
    """Collects unstamped messages while driving and dates them afterwards.

    The node publishes a frame's numbers after its labels and before the next frame's, each topic in order: the
    last number belongs to the last labels, the one before to the labels before. Where fewer numbers than labels came,
    each belongs to the last labels received before it. Latched messages belong to the first frame, what the node says
    of its own accord (diagnostics) to the last frame sent before it. What came before the drive (answers
    to warm-up frames) is left out.

    Args:
        outputs: which there are, by topic.
    """

    def __init__(self, outputs: Mapping[str, Output]) -> None:
        self._outputs = outputs
        self._sent: list[tuple[int, int]] = []  # wall time, stamp; both rise
        self._labels: list[tuple[int, int | None]] = []  # wall time received, stamp; None: a warm-up frame's
        self._numbers: dict[str, list[RecordedMessage]] = {
            topic: [] for topic, row in outputs.items() if isinstance(row, FrameOutput) and not row.stamped
        }
        self._others: list[RecordedMessage] = []

    def sent(self, wall_ns: int, stamp_ns: int) -> None:
        """A frame of the drive was published."""
        self._sent.append((wall_ns, stamp_ns))

    def labeled(self, received_ns: int, stamp_ns: int | None) -> None:
        """A frame's labels came; `stamp_ns` is None for a warm-up frame's."""
        self._labels.append((received_ns, stamp_ns))

    def keep(self, message: RecordedMessage) -> None:
        """An unstamped message came."""
        self._numbers.get(message.topic, self._others).append(message)

    @property
    def complete(self) -> bool:
        """Whether as many of each number as labels came since the drive began."""
        began = self._sent[0][0] if self._sent else 0
        labels = sum(received_ns >= began for received_ns, _ in self._labels)
        return all(sum(m.received_ns >= began for m in kept) >= labels for kept in self._numbers.values())

    def dated(self) -> Iterator[tuple[int, RecordedMessage]]:
        """The kept messages that belong to the drive, each with its record time in nanoseconds."""
        self._labels.sort(key=_received)
        first = next((i for i, (_, stamp_ns) in enumerate(self._labels) if stamp_ns is not None), len(self._labels))
        labels = self._labels[first:]
        for kept in self._numbers.values():
            if len(kept) >= len(labels):
                pairs = zip(labels, kept[len(kept) - len(labels) :], strict=True)
                yield from ((stamp_ns, message) for (_, stamp_ns), message in pairs if stamp_ns is not None)
            else:
                yield from _by_time(kept, labels)
        for message in self._others:
            if not self._sent:
                return
            if isinstance(self._outputs[message.topic], LatchedOutput):
                yield self._sent[0][1], message
            else:
                yield from _by_time((message,), self._sent)


def _by_time(
    messages: Iterable[RecordedMessage], moments: Sequence[tuple[int, int | None]]
) -> Iterator[tuple[int, RecordedMessage]]:
    """Each message with the stamp of the last moment before it was received."""
    for message in messages:
        before = bisect_right(moments, message.received_ns, key=_received)
        if before and (stamp_ns := moments[before - 1][1]) is not None:
            yield stamp_ns, message


def _received(moment: tuple[int, int | None]) -> int:
    return moment[0]
