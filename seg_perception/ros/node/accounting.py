"""Every frame is accounted for: what became of each message a camera sent, and where its time went.

A received frame carries a `Ticket` and whoever knows its fate books it; the first booking counts, so
that nobody has to keep a list of what is still open.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum


class Fate(Enum):
    """How a frame ended."""

    PUBLISHED = "published"  # its outputs went out
    SUPERSEDED = "superseded"  # a newer one came before inference took it
    REJECTED = "rejected"  # it could not be used: encoding, size, broken data
    FAILED = "failed"  # lost to an engine failure or a deactivation


@dataclass(frozen=True, slots=True)
class FrameCounts:
    """What became of one camera's frames since the node was configured.

    Attributes:
        received: messages the subscription delivered.
        published, superseded, rejected, failed: see `Fate`.
        in_flight: frames that wait or are worked on: tickets that somebody holds and nobody has booked.
    """

    received: int = 0
    published: int = 0
    superseded: int = 0
    rejected: int = 0
    failed: int = 0
    in_flight: int = 0

    @property
    def unaccounted(self) -> int:
        """Received minus everything that is known; anything but 0 is a defect of this package."""
        return self.received - self.published - self.superseded - self.rejected - self.failed - self.in_flight


class Ticket:
    """One received frame's claim to be accounted for; booked once, from any thread.

    Attributes:
        number: of the frame among its camera's, from 1.
    """

    __slots__ = ("__weakref__", "_account", "_booked", "number")

    def __init__(self, account: FrameAccount, number: int) -> None:
        self._account = account
        self._booked = False
        self.number = number

    def book(self, fate: Fate) -> bool:
        """Say how the frame ended; False, and nothing is changed, where that was said before."""
        return self._account._book(self, fate)


class FrameAccount:
    """One camera's account; thread-safe.

    In flight are the tickets that are alive and not booked. So a frame that was dropped without a word
    is missing from the sum, and `FrameCounts.unaccounted` is a check and not a definition.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._received = 0
        self._ended = dict.fromkeys(Fate, 0)
        self._open: weakref.WeakSet[Ticket] = weakref.WeakSet()

    def receive(self) -> Ticket:
        """A message came."""
        with self._lock:
            self._received += 1
            ticket = Ticket(self, self._received)
            self._open.add(ticket)
        return ticket

    def _book(self, ticket: Ticket, fate: Fate) -> bool:
        with self._lock:
            if ticket._booked:
                return False
            ticket._booked = True
            self._open.discard(ticket)
            self._ended[fate] += 1
            return True

    def counts(self) -> FrameCounts:
        """All numbers at one instant."""
        with self._lock:
            ended = {fate.value: count for fate, count in self._ended.items()}
            return FrameCounts(received=self._received, in_flight=len(self._open), **ended)


class Stage(Enum):
    """The way of a frame through the node, in order; the last three span several stages."""

    RECEIVE = "receive"  # from the publisher's middleware to the subscription's callback
    WAIT = "wait"  # until it is prepared, and then for the engine
    PREPARE = "prepare"  # decoding the message and resizing
    INFER = "infer"  # the engine's call (the whole batch's: every frame of it waits that long)
    FINISH = "finish"  # labels and confidence to camera size, drivable mask
    PUBLISH = "publish"  # making and handing over the messages
    NODE = "node"  # from the callback to the last output handed over
    STAMP_TO_OUTPUT = "stamp_to_output"  # from the header's stamp, by the node's clock; not of another day's stamps


SAME_CLOCK_S = 3600.0
"""Stamps farther than this from the node's clock are of another time: an old bag without use_sim_time."""


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Of one stage, milliseconds."""

    p50: float
    p95: float
    p99: float


class LatencyWindow:
    """The last frames' stage times; thread-safe and of fixed size."""

    def __init__(self, frames: int = 300) -> None:
        self._times: dict[Stage, deque[float]] = {stage: deque(maxlen=frames) for stage in Stage}
        self._lock = threading.Lock()

    def add(self, seconds: Mapping[Stage, float]) -> None:
        """Add one frame; stages that could not be measured are simply absent."""
        with self._lock:
            for stage, value in seconds.items():
                self._times[stage].append(value)

    def percentiles(self) -> dict[Stage, Percentiles]:
        """The p50, p95 and p99, in milliseconds, of every stage that was measured."""
        with self._lock:
            snapshot = {stage: list(times) for stage, times in self._times.items() if times}
        return {stage: Percentiles(*_percentiles(times, (0.5, 0.95, 0.99))) for stage, times in snapshot.items()}

    def clear(self) -> None:
        with self._lock:
            for times in self._times.values():
                times.clear()


def _percentiles(seconds: list[float], shares: Sequence[float]) -> list[float]:
    """Milliseconds; between two values in proportion. As np.percentile, which takes six times as long for so few."""
    seconds.sort()
    answers = []
    for share in shares:
        below, rest = divmod(share * (len(seconds) - 1), 1.0)
        low, high = seconds[int(below)], seconds[min(int(below) + 1, len(seconds) - 1)]
        answers.append((low + rest * (high - low)) * 1e3)
    return answers


class RateMeter:
    """Events a second over a sliding window; thread-safe and of fixed size.

    Args:
        window_s: seconds looked back.
        limit: most events remembered; a faster stream is measured over a shorter time.
    """

    def __init__(self, window_s: float = 3.0, limit: int = 600) -> None:
        self._window = window_s
        self._times: deque[float] = deque(maxlen=limit)
        self._lock = threading.Lock()

    def tick(self, now: float) -> None:
        """An event at monotonic time `now`, seconds."""
        with self._lock:
            self._times.append(now)

    def rate(self, now: float) -> float | None:
        """Events a second; None until the first event is half a window old (too early to judge).

        Counts the intervals between events, so three events one second apart are 1 Hz; when events
        stop, the time since the last one pulls the rate down.
        """
        with self._lock:
            if not self._times or (now - self._times[0] < self._window / 2):
                return None
            recent = [t for t in self._times if now - t <= self._window]
            if len(recent) < 2:
                return len(recent) / self._window
            span = recent[-1] - recent[0]
            silence = now - recent[-1]
            typical = span / (len(recent) - 1)
            return (len(recent) - 1) / (span + max(0.0, silence - typical))

    def clear(self) -> None:
        with self._lock:
            self._times.clear()
