"""One page in a browser: what it may say, parsed strictly and so often, and how it is sent to."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from aiohttp import web

from seg_perception.view.board import WIDTHS, Look, ViewFrame

_MAX_CAMERAS = 16
_MAX_NAME = 120
_MESSAGES_A_SECOND: Final = 50
SEND_TIMEOUT_S: Final = 10.0  # a page that does not read is let go
SHOWN: Final = 3  # frames that a page may still see: the next is under way while a question about one is


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
    """What is there in the frame of this number? x and y from 0 to 1, from the left and the top."""

    camera: str
    number: int
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
        number, x, y = (_number(document, field, 0, most) for field, most in (("number", 2**53), ("x", 1), ("y", 1)))
        return PixelMessage(_name(document, "camera"), int(number), x, y)
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


class Page:
    """One browser's connection.

    Attributes:
        looks: what it wants to see of each camera.
        credit: cameras of which it may get a frame: it has answered for the one before.
        shown: the last frames it was sent of each camera, for questions about a pixel and for keeping: it may still see
            one of before the newest, which is under way.
        paused: it holds the frame that it sees; a look at it in another way is not a look at a newer one.
        held: how often it began to.
        again: cameras whose held frame it wants to see in another way.
    """

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self.socket = socket
        self.looks: dict[str, Any] = {}
        self.credit: set[str] = set()
        self.shown: dict[str, deque[ViewFrame]] = {}
        self.sent: dict[str, int] = {}
        self.paused = False
        self.held = 0
        self.again: set[str] = set()
        self.fresh = asyncio.Event()
        self._spoken = Limit(_MESSAGES_A_SECOND)
        self._invited = 0

    def hold(self) -> None:
        """No frame goes out any more until it asks."""
        self.credit.clear()
        self.held += 1

    def frame(self, camera: str, number: int) -> ViewFrame | None:
        """One of the frames that it was sent lately."""
        return next((frame for frame in self.shown.get(camera, ()) if frame.number == number), None)

    def may_speak(self) -> bool:
        """The answer to each frame that it was sent, and so many messages a second besides."""
        if self._invited:
            self._invited -= 1
            return True
        return self._spoken.another()

    async def send(self, content: str | bytes) -> None:
        """Send, or let a page go that does not read."""
        try:
            send = self.socket.send_str(content) if isinstance(content, str) else self.socket.send_bytes(content)
            self._invited += isinstance(content, bytes)  # a frame
            await asyncio.wait_for(send, SEND_TIMEOUT_S)
        except (asyncio.TimeoutError, ConnectionError):
            transport = self.socket._req.transport if self.socket._req is not None else None
            if transport is not None:
                transport.abort()
            raise asyncio.CancelledError from None


class Limit:
    """So many a second, and no more; those that are refused count, too."""

    def __init__(self, most: int) -> None:
        self._times: deque[float] = deque(maxlen=most)  # of the last ones

    def another(self) -> bool:
        now = time.monotonic()
        full = len(self._times) == self._times.maxlen and now - self._times[0] < 1.0
        self._times.append(now)
        return not full
