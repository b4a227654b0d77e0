"""The package's errors: one root, so that a caller can catch them all; and lists in their texts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import NoReturn
from unicodedata import category


class SegPerceptionError(Exception):
    """Root of every error this package raises on purpose.

    OSError is never wrapped: a missing file stays a FileNotFoundError.
    """


class InputError(SegPerceptionError):
    """An image, message or file cannot be used; the text says what came and what is accepted."""


class SettingsError(SegPerceptionError):
    """Settings are wrong; the text lists every fault found, one a line."""


class ModelError(SegPerceptionError):
    """A model file or its model card breaks the contract of the deployed graph."""


class EngineError(SegPerceptionError):
    """An engine cannot be opened or failed while running."""


class DatasetError(SegPerceptionError):
    """A dataset is incomplete or holds values its label set does not know."""


def first_of(names: Iterable[object], most: int = 8) -> str:
    """Names for an error's text: the first ones, and how many it leaves out."""
    every = [str(name) for name in names]
    rest = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + rest


def pip_install(extra: str) -> str:
    """The command that brings what an extra of setup.py names, for an error's text; quoted, as zsh expands brackets."""
    return f"pip install 'seg_perception[{extra}]'"


def exit_with(main: Callable[[], int]) -> NoReturn:
    """End a script with what `main` returns, or with one line for an error that its user can mend."""
    try:
        sys.exit(main())
    except (SegPerceptionError, OSError) as problem:
        sys.exit(str(problem))


def printable(text: str, keep: str = "\n\t") -> str:
    """A text from a file, its control characters as escapes: printed, they could rewrite what the terminal shows."""
    return "".join(ascii(c)[1:-1] if category(c) == "Cc" and c not in keep else c for c in text)
