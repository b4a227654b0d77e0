"""How tests wait: for a condition, never for a time, and so long that only a hang comes to the end of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

PATIENCE_S = 120.0
"""Of one wait. A machine of two busy cores makes a test of two seconds last a minute."""


def wait_until(condition: Callable[[], Any], what: str, saw: Callable[[], object] | None = None) -> Any:
    """Wait for a condition and answer what it gave.

    Args:
        what: is waited for.
        saw: tells what is there instead, for the failure; left out: what the condition gave last.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not (result := condition()):
        if time.monotonic() > deadline:
            found = f"{result if saw is None else saw()!r}"
            raise AssertionError(f"waited {PATIENCE_S:g} s for {what}; what is there: {found[:2000]}")
        time.sleep(0.01)
    return result


def until_answered(client: Any, request: Any, what: str) -> Any:
    """A service's answer to a request that may be put again: DDS loses what comes while it still discovers."""
    asked, asked_at = [client.call_async(request)], time.monotonic()

    def answers() -> list[Any]:
        nonlocal asked_at
        if time.monotonic() - asked_at > 1.0:
            asked.append(client.call_async(request))
            asked_at = time.monotonic()
        return [future.result() for future in asked if future.done()]

    return wait_until(answers, what)[0]
