"""What a page may say to the server, parsed strictly: anything else is refused with the reason."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from seg_perception.view.pictures import WIDTHS, Look

_MAX_CAMERAS = 16
_MAX_NAME = 120


class BadMessageError(ValueError):
    """A page's message cannot be used."""


@dataclass(frozen=True, slots=True)
class LookMessage:
    """Show these cameras so."""

    cameras: tuple[str, ...]
    look: Look


@dataclass(frozen=True, slots=True)
class NextMessage:
    """The last frame of this camera has been drawn."""

    camera: str
    type: Literal["next"] = "next"


@dataclass(frozen=True, slots=True)
class PixelMessage:
    """What is there? x and y from 0 to 1, from the left and the top."""

    camera: str
    x: float
    y: float
    type: Literal["pixel"] = "pixel"


@dataclass(frozen=True, slots=True)
class SetMessage:
    """Change a parameter."""

    name: str
    value: float
    type: Literal["set"] = "set"


@dataclass(frozen=True, slots=True)
class TransitionMessage:
    """Change the lifecycle state."""

    name: str
    type: Literal["transition"] = "transition"


@dataclass(frozen=True, slots=True)
class PauseMessage:
    """Hold the source's playback, or let it go on."""

    paused: bool
    type: Literal["pause"] = "pause"


@dataclass(frozen=True, slots=True)
class StepMessage:
    """One frame of a paused source."""

    type: Literal["step"] = "step"


Message: TypeAlias = (
    "LookMessage | NextMessage | PixelMessage | SetMessage | TransitionMessage | PauseMessage | StepMessage"
)


def parse_message(text: str) -> Message:
    """Parse one message.

    Raises:
        BadMessageError: not JSON, an unknown type, or a field that is missing or out of range.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise BadMessageError("a message is one JSON object") from None
    if not isinstance(document, dict):
        raise BadMessageError("a message is one JSON object")
    kind = document.get("type")
    if kind == "look":
        cameras = document.get("cameras")
        if not isinstance(cameras, list) or len(cameras) > _MAX_CAMERAS:
            raise BadMessageError(f"cameras: a list of at most {_MAX_CAMERAS} names is accepted")
        wanted = _number(document, "width", 1, 10_000)
        width = next((w for w in WIDTHS if w >= wanted), WIDTHS[-1])
        look = Look(_name(document, "view"), round(_number(document, "opacity", 0, 1), 2), width)
        return LookMessage(tuple(_text(name, "cameras") for name in cameras), look)
    if kind == "next":
        return NextMessage(_name(document, "camera"))
    if kind == "pixel":
        return PixelMessage(_name(document, "camera"), _number(document, "x", 0, 1), _number(document, "y", 0, 1))
    if kind == "set":
        return SetMessage(_name(document, "name"), _number(document, "value", -1e9, 1e9))
    if kind == "transition":
        return TransitionMessage(_name(document, "name"))
    if kind == "pause" and isinstance(document.get("paused"), bool):
        return PauseMessage(document["paused"])
    if kind == "step":
        return StepMessage()
    raise BadMessageError("type: one of look, next, pixel, set, transition, pause, step is accepted")


def _name(document: dict[str, Any], field: str) -> str:
    return _text(document.get(field), field)


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str) or len(value) > _MAX_NAME:
        raise BadMessageError(f"{field}: a text of at most {_MAX_NAME} characters is accepted")
    return value


def _number(document: dict[str, Any], field: str, lowest: float, highest: float) -> float:
    value = document.get(field)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not lowest <= value <= highest:  # not NaN
        raise BadMessageError(f"{field}: a number from {lowest:g} to {highest:g} is accepted")
    return float(value)
