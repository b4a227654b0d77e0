"""How a signal asks for an end: shared by the commands and the node, and the one safe way in Python."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

_LOOKED_AT_S: Final = 0.1


def ending_signals() -> tuple[signal.Signals, ...]:
    """The signals that ask for an end: SIGINT, SIGTERM, and SIGHUP (the terminal is gone) unless nohup keeps it off."""
    heeds_hangup = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    return (signal.SIGINT, signal.SIGTERM, *((signal.SIGHUP,) if heeds_hangup else ()))


class StopEvent(threading.Event):
    """An event that a signal's handler may set, by `ask`.

    `Event.set` takes a lock. A handler runs between any two steps of the main thread, also while that holds the lock
    or while another signal's handler does, and would then wait for itself for ever. `ask` takes none.
    """

    def __init__(self) -> None:
        super().__init__()
        self._asked = False

    def ask(self) -> None:
        """Set it, from a signal's handler."""
        self._asked = True

    def is_set(self) -> bool:
        return self._asked or super().is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """As `Event.wait`; what a handler asked is noticed within 0.1 s."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self.is_set():
            left = _LOOKED_AT_S if deadline is None else min(_LOOKED_AT_S, deadline - time.monotonic())
            if left <= 0:
                break
            super().wait(left)
        return self.is_set()


class InterruptBetweenSteps:
    """A context in which a signal that asks for an end is not heeded: who works there looks at `asked` between steps.

    The second signal interrupts at once (not a SIGHUP, of which two come): by KeyboardInterrupt. Python heeds signals
    in its main thread only; elsewhere nothing changes.

    Args:
        held: False changes nothing, either.
    """

    def __init__(self, held: bool = True) -> None:
        self._held = held and threading.current_thread() is threading.main_thread()
        self._at_once = False
        self._before: dict[signal.Signals, Any] = {}
        self.asked = False

    def __enter__(self) -> InterruptBetweenSteps:
        if self._held:
            self._before = {number: signal.signal(number, self._ask) for number in ending_signals()}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _frame: object) -> None:
        if self._at_once or (self.asked and number != signal.SIGHUP):
            raise KeyboardInterrupt
        self.asked = True

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """For long work that nothing is lost by leaving: the first signal interrupts it."""
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False
