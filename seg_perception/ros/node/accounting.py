"""Every frame is accounted for: what became of each message a camera sent.

A received frame carries a `Ticket` and whoever knows its fate books it; the first booking counts, so
that nobody has to keep a list of what is still open.
"""

from __future__ import annotations

import threading
import weakref
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
    """One received frame's claim to be accounted for; booked once, from any thread."""

    __slots__ = ("__weakref__", "_account", "_booked")

    def __init__(self, account: FrameAccount) -> None:
        self._account = account
        self._booked = False

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
        ticket = Ticket(self)
        with self._lock:
            self._received += 1
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
