"""What goes to the ROS log: the library's own words, errors on one line, and no line too often."""

from __future__ import annotations

import logging
import time
from typing import Any

LONGEST_TEXT = 2000
"""Characters of any text that goes to the log or to diagnostics; a message may carry megabytes of it."""


def shortened(text: str) -> str:
    """A text of at most about LONGEST_TEXT characters, which says how many are left out."""
    if len(text) <= LONGEST_TEXT:
        return text
    half = LONGEST_TEXT // 2
    return f"{text[:half]} [... {len(text) - 2 * half} characters ...] {text[-half:]}"


def describe_error(error: BaseException) -> str:
    """Class and text, on one line as far as the text allows."""
    return shortened(f"{type(error).__name__}: {error}")


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


class RosLogHandler(logging.Handler):
    """Passes on to the ROS log what the library says through Python's logging."""

    def __init__(self, ros_logger: Any) -> None:
        super().__init__(logging.INFO)
        self._ros_logger = ros_logger

    def emit(self, record: logging.LogRecord) -> None:
        text = shortened(record.getMessage())
        # one call site for each severity: rclpy refuses one site with changing severities
        if record.levelno >= logging.ERROR:
            self._ros_logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._ros_logger.warning(text)
        else:
            self._ros_logger.info(text)
