"""Every frame is accounted for: what became of each message a camera sent."""

from __future__ import annotations

import threading
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FrameCounts:
    """What became of one camera's frames since the node was configured.

    Attributes:
        received: messages the subscription delivered.
        published: frames whose outputs were published.
        superseded: frames a newer one replaced before inference took them.
        rejected: messages that could not be used (encoding, size, broken data).
        failed: frames taken or waiting when the engine failed or the node was deactivated.
        waiting: frames in the mailbox, 0 or 1.
        processing: frames inside the inference thread, 0 or 1.
    """

    received: int = 0
    published: int = 0
    superseded: int = 0
    rejected: int = 0
    failed: int = 0
    waiting: int = 0
    processing: int = 0

    @property
    def in_flight(self) -> int:
        return self.waiting + self.processing

    @property
    def unaccounted(self) -> int:
        """Received minus everything that is known; anything but 0 is a defect of this package."""
        return self.received - self.published - self.superseded - self.rejected - self.failed - self.in_flight


class FrameAccount:
    """One camera's books. Every method is one transition of one frame; thread-safe.

    A frame arrives, may be superseded while it waits, is taken, and ends as published, rejected or
    failed. Each count is kept on its own, so that `FrameCounts.unaccounted` is a check and not a
    definition.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._received = self._published = self._superseded = self._rejected = self._failed = 0
        self._waiting = self._processing = 0

    def arrive(self, *, replaces_waiting: bool) -> None:
        """A message came; with `replaces_waiting` it took the place of one that nobody had taken."""
        with self._lock:
            self._received += 1
            if replaces_waiting:
                self._superseded += 1
            else:
                self._waiting += 1

    def take(self) -> None:
        """The waiting frame went into the inference thread."""
        with self._lock:
            self._waiting -= 1
            self._processing += 1

    def publish(self) -> None:
        """The taken frame's outputs went out."""
        with self._lock:
            self._processing -= 1
            self._published += 1

    def reject(self) -> None:
        """The taken frame could not be used."""
        with self._lock:
            self._processing -= 1
            self._rejected += 1

    def fail(self) -> None:
        """The taken frame was lost to an engine failure or a deactivation."""
        with self._lock:
            self._processing -= 1
            self._failed += 1

    def drop_waiting(self) -> None:
        """The waiting frame was dropped because the node stopped."""
        with self._lock:
            self._waiting -= 1
            self._failed += 1

    def counts(self) -> FrameCounts:
        """All numbers at one instant."""
        with self._lock:
            return FrameCounts(
                self._received,
                self._published,
                self._superseded,
                self._rejected,
                self._failed,
                self._waiting,
                self._processing,
            )
