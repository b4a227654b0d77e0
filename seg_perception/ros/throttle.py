"""At most one log line in a while; each camera has its own, so none hides another's."""

from __future__ import annotations

import time


class Throttle:
    """Says when a line may be written again."""

    def __init__(self, period_s: float) -> None:
        self._period = period_s
        self._last: float | None = None

    def due(self) -> bool:
        """True at first, then once every period."""
        now = time.monotonic()
        if self._last is not None and now - self._last < self._period:
            return False
        self._last = now
        return True

    def rearm(self) -> None:
        """The next line may be written at once."""
        self._last = None
