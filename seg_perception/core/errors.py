"""The package's errors: one root, so that a caller can catch them all; what their texts are made of."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final, NoReturn
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


class MissingPackageError(SegPerceptionError, ModuleNotFoundError):
    """A package is not installed; the text names the extra that brings it."""


def first_of(names: Iterable[object], most: int = 8) -> str:
    """Names for an error's text: the first ones, and how many it leaves out."""
    every = [str(name) for name in names]
    rest = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + rest


def pip_install(extra: str) -> str:
    """The command that brings what an extra of setup.py names, for an error's text; quoted, as zsh expands brackets."""
    return f"pip install 'seg_perception[{extra}]'"


_PACKAGES: Final = {
    "bags": "imageio_ffmpeg lz4 mcap rosbags zstandard",
    "convert": "PIL pycocotools",
    "onnx": "onnx onnxruntime",
    "ros": "builtin_interfaces diagnostic_msgs geometry_msgs lifecycle_msgs nav_msgs rcl_interfaces rclpy "
    "rosgraph_msgs sensor_msgs std_msgs",
    "train": "jinja2 markupsafe matplotlib onnxscript safetensors tensorboard torch",
    "view": "aiohttp",
}
EXTRA_OF: Final = {package: extra for extra, packages in _PACKAGES.items() for package in packages.split()}
"""Import name -> the extra of setup.py that brings it."""


@contextmanager
def extras_named() -> Iterator[None]:
    """Where a package is missing in this block, or function, name the extra to install.

    A module that no extra brings stays a ModuleNotFoundError: our own installation is broken or incomplete then, and
    the traceback says more than a sentence could.

    Raises:
        MissingPackageError: see there.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        extra = EXTRA_OF.get(package)
        if extra is None or isinstance(error, MissingPackageError):
            raise
        text = f"this needs the package {package!r}, which is not installed: {pip_install(extra)}"
        raise MissingPackageError(f"{text}, or source a ROS 2" if extra == "ros" else text, name=error.name) from error


def exit_with(main: Callable[[], int]) -> NoReturn:
    """End a script with what `main` returns, or with one line for an error that its user can mend."""
    try:
        sys.exit(main())
    except (SegPerceptionError, OSError) as problem:
        sys.exit(str(problem))


def printable(text: str, keep: str = "\n\t") -> str:
    """A text from a file, its control characters as escapes: printed, they could rewrite what the terminal shows."""
    return "".join(ascii(c)[1:-1] if category(c) == "Cc" and c not in keep else c for c in text)
