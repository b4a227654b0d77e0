"""One slot for each camera: the receiving thread puts the newest frame, inference takes them all.

Nothing here can grow: an unread frame is replaced, and counted as superseded.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

from seg_perception.ros.node.accounting import Fate, Ticket


class Ticketed(Protocol):
    """A frame that is accounted for."""

    @property
    def ticket(self) -> Ticket: ...


FrameT = TypeVar("FrameT", bound=Ticketed)


class Mailboxes(Generic[FrameT]):
    """The newest unread frame of each camera.

    Args:
        cameras: which there are, by name.
    """

    def __init__(self, cameras: Iterable[str]) -> None:
        self._cameras = frozenset(cameras)
        self._slots: dict[str, FrameT] = {}
        self._changed = threading.Condition()
        self._open = True
        self._nudged = False

    def put(self, camera: str, frame: FrameT) -> None:
        """Put a camera's newest frame; never blocks on inference.

        Raises:
            KeyError: no such camera.
        """
        if camera not in self._cameras:
            raise KeyError(camera)
        with self._changed:
            if (older := self._slots.get(camera)) is not None:
                older.ticket.book(Fate.SUPERSEDED)
            self._slots[camera] = frame
            if not self._open:
                self._drop_all()
            self._changed.notify_all()

    def take_all(self, timeout: float) -> dict[str, FrameT]:
        """Take every camera's waiting frame at once, as soon as there is one.

        A camera without a fresh frame is absent and delays nobody. Empty after `timeout` seconds
        without a frame, or at once after `nudge`.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while not self._slots and not self._nudged:
                remaining = deadline - time.monotonic()
                if remaining <= 0.0 or not self._changed.wait(remaining):
                    break
            self._nudged = False
            taken, self._slots = self._slots, {}
            return taken

    def nudge(self) -> None:
        """Make `take_all` return now, so that its thread looks at something else."""
        with self._changed:
            self._nudged = True
            self._changed.notify_all()

    def open(self) -> None:
        """Accept frames."""
        with self._changed:
            self._open = True

    def close(self) -> None:
        """Drop what waits and whatever still comes; each is counted as failed."""
        with self._changed:
            self._open = False
            self._drop_all()

    def _drop_all(self) -> None:
        for frame in self._slots.values():
            frame.ticket.book(Fate.FAILED)
        self._slots = {}
