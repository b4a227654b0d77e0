"""What a page may see: the newest frame of each camera in pictures as it asks for them, and the state of their maker.

Whoever makes frames asks `watched` and then `offer`s; pages take. Nothing here can grow: a frame is replaced by
the next one, a picture is encoded once however many pages look. No ROS: the node, a bag or a video are all sources.
"""

from __future__ import annotations

import io
import ipaddress
import json
import threading
import time
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import cv2
import numpy as np

from seg_perception.core.errors import InputError
from seg_perception.core.image_file import encode_png_bytes
from seg_perception.core.label_set import LabelSet
from seg_perception.core.types import ConfidenceImage, LabelImage, MaskImage, RgbImage, parse_fields
from seg_perception.core.visual import DEFAULT_OPACITY, colorize, outline, overlay


@dataclass(frozen=True, slots=True)
class ViewSettings:
    """How the page is served.

    Attributes:
        port: 0 takes a free one.
        address: to listen on; any but a loopback address makes a token necessary.
        rate: frames a second that one page gets of one camera at most.
        control: whether pages may change parameters and the lifecycle state.

    Raises:
        InputError: a value is out of range, or the address is none.
    """

    port: int = 0
    address: str = "127.0.0.1"
    rate: float = 5.0
    control: bool = False

    def __post_init__(self) -> None:
        parse_fields(self)
        if not 0 <= self.port <= 65535:
            raise InputError(f"view port {self.port} is not accepted: 1 to 65535 are, 0 takes a free one")
        if not 0.1 <= self.rate <= 60:
            raise InputError(f"view rate {self.rate:g} is not accepted: 0.1 to 60 frames a second are")
        try:
            ipaddress.ip_address(self.address)
        except ValueError:
            raise InputError(
                f"view address {self.address!r} is not accepted: an IP address of this machine is, 127.0.0.1 or 0.0.0.0"
            ) from None

    @property
    def open_to_others(self) -> bool:
        return not ipaddress.ip_address(self.address).is_loopback


@dataclass(frozen=True, slots=True)
class ViewFrame:
    """One frame and its answer, all of the image's size.

    Attributes:
        camera: '' for the one camera without a name.
        number: counts this camera's frames.
        stamp_ns: the image's own stamp; None where it has none.
        seen_at: monotonic seconds.
        extras: further pictures by name, uint8 [H, W, 3] RGB of any size (a grid from above).
    """

    camera: str
    number: int
    stamp_ns: int | None
    seen_at: float
    image: RgbImage
    labels: LabelImage
    confidence: ConfidenceImage
    mask: MaskImage
    label_set: LabelSet
    model: str
    extras: Mapping[str, RgbImage] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Slider:
    """A parameter that a page may move.

    Attributes:
        whole: only whole numbers are accepted.
    """

    name: str
    help: str
    value: float
    minimum: float
    maximum: float
    whole: bool = False


class Controls(Protocol):
    """What a page may do to its source; each returns '' or the reason why not, and never blocks for long."""

    def sliders(self) -> Sequence[Slider]: ...

    def set_parameter(self, name: str, value: float) -> str: ...

    def transitions(self) -> Sequence[str]:
        """Names of the lifecycle transitions that are possible now."""

    def change_state(self, transition: str) -> str: ...

    def pause(self, paused: bool) -> str: ...

    def step(self) -> str: ...


class Board:
    """The newest frames and the status, between a source's thread and the pages' thread.

    Args:
        title: what is looked at.
        controls: None: pages can only look.
    """

    def __init__(self, title: str, controls: Controls | None = None) -> None:
        self.title = title
        self.controls = controls
        self._lock = threading.Lock()
        self._frames: dict[str, ViewFrame] = {}
        self._status: dict[str, Any] = {}
        self._cameras: tuple[str, ...] = ()
        self._watchers: Counter[str] = Counter()
        self._on_frame: Callable[[str], None] | None = None

    # --- the source's side ---

    def set_cameras(self, cameras: Sequence[str]) -> None:
        """Which cameras there are; frames of others are forgotten."""
        with self._lock:
            self._cameras = tuple(cameras)
            self._frames = {name: frame for name, frame in self._frames.items() if name in cameras}

    def watched(self, camera: str) -> bool:
        """Whether a page looks at this camera: if not, a frame need not be offered."""
        return self._watchers[camera] > 0

    def offer(self, frame: ViewFrame) -> None:
        """Show a frame; its arrays must not be written afterwards."""
        with self._lock:
            self._frames[frame.camera] = frame
            tell = self._on_frame
        if tell is not None:
            tell(frame.camera)

    def set_status(self, status: Mapping[str, Any]) -> None:
        """JSON values about the source: see docs/view.md.

        Its `stale_s` says from which age a picture is called stale, None: never; by default the server does. Its
        `silent_s` says from which age on the status itself is too old to believe.
        """
        with self._lock:
            self._status = dict(status) | {"told_at": time.monotonic()}

    # --- the pages' side ---

    def on_frame(self, tell: Callable[[str], None] | None) -> None:
        """Call `tell(camera)` on the source's thread for each frame that is offered."""
        with self._lock:
            self._on_frame = tell

    def cameras(self) -> tuple[str, ...]:
        with self._lock:
            return self._cameras or tuple(self._frames)

    def latest(self, camera: str) -> ViewFrame | None:
        with self._lock:
            return self._frames.get(camera)

    def status(self) -> dict[str, Any]:
        """What `set_status` was told, with `age_s` since then; None: nothing yet."""
        with self._lock:
            status = dict(self._status)
        told = status.pop("told_at", None)
        return status | {"age_s": None if told is None else round(time.monotonic() - told, 2)}

    def watch(self, camera: str) -> None:
        with self._lock:
            self._watchers[camera] += 1

    def unwatch(self, camera: str) -> None:
        with self._lock:
            self._watchers[camera] -= 1
            if not +self._watchers:  # nobody looks: frames held for nobody would be memory for nothing
                self._frames = {}


WIDTHS: Final = (320, 480, 640, 960, 1280)
"""A page gets the smallest of these that fills its screen, so that pages share pictures."""

_JPEG_QUALITY: Final = 80


def _camera(frame: ViewFrame, _opacity: float) -> RgbImage:
    return frame.image


def _overlay(frame: ViewFrame, opacity: float) -> RgbImage:
    return outline(overlay(frame.image, frame.labels, frame.label_set, opacity), frame.mask)


def _labels(frame: ViewFrame, _opacity: float) -> RgbImage:
    return colorize(frame.labels, frame.label_set)


def _confidence(frame: ViewFrame, _opacity: float) -> RgbImage:
    return np.asarray(cv2.cvtColor(cv2.applyColorMap(frame.confidence, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB))


def _mask(frame: ViewFrame, _opacity: float) -> RgbImage:
    return np.repeat(frame.mask[..., None], 3, axis=2)


VIEWS: Final[dict[str, Callable[[ViewFrame, float], RgbImage]]] = {
    "overlay": _overlay,
    "camera": _camera,
    "labels": _labels,
    "confidence": _confidence,
    "mask": _mask,
}


@dataclass(frozen=True, slots=True)
class Look:
    """What a page wants to see of one camera. `view` is one of VIEWS or the name of a frame's extra."""

    view: str = "overlay"
    opacity: float = DEFAULT_OPACITY
    width: int = 640


def picture(frame: ViewFrame, look: Look) -> RgbImage:
    """The picture, uint8 RGB, not wider than asked; a view that the frame does not have is the camera's image."""
    extra = frame.extras.get(look.view)
    whole = extra if extra is not None else VIEWS.get(look.view, _camera)(frame, look.opacity)
    height, width = whole.shape[:2]
    if width <= look.width:
        return whole
    target = (look.width, max(1, round(height * look.width / width)))
    nearest = look.view in ("labels", "mask")
    shrunk = cv2.resize(whole, target, interpolation=cv2.INTER_NEAREST_EXACT if nearest else cv2.INTER_AREA)
    return np.asarray(shrunk, np.uint8)


def encoded(frame: ViewFrame, look: Look) -> bytes:
    """A JPEG, or a PNG of what JPEG would smear."""
    bgr = cv2.cvtColor(picture(frame, look), cv2.COLOR_RGB2BGR)
    if look.view in ("labels", "mask"):
        return bytes(cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1])
    return bytes(cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1])


def framed(frame: ViewFrame, look: Look) -> bytes:
    """What a page is sent: the length of a JSON text in four bytes, the text, which tells of it, and the picture."""
    head = {
        "camera": frame.camera,
        "number": frame.number,
        "stamp_ns": None if frame.stamp_ns is None else str(frame.stamp_ns),
        "view": look.view,
        "shares": shares(frame),
        "extras": sorted(frame.extras),
        "width": frame.image.shape[1],
        "height": frame.image.shape[0],
    }
    text = json.dumps(head).encode()
    return len(text).to_bytes(4, "big") + text + encoded(frame, look)


class PictureCache:
    """The last few pictures as they are sent; thread-safe, bounded."""

    def __init__(self, limit: int = 16) -> None:
        self._limit = limit
        self._pictures: OrderedDict[tuple[str, int, Look], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, frame: ViewFrame, look: Look) -> bytes:
        """The picture, made now if nobody has asked for it yet."""
        key = (frame.camera, frame.number, look)
        with self._lock:
            found = self._pictures.get(key)
        if found is None:
            found = framed(frame, look)
            with self._lock:
                self._pictures[key] = found
                while len(self._pictures) > self._limit:
                    self._pictures.popitem(last=False)
        return found


def shares(frame: ViewFrame) -> list[dict[str, Any]]:
    """The legend: name, color (#rrggbb) and share of the pixels of each class that is there."""
    # as bincount, which holds the interpreter and takes ten times as long
    counts = cv2.calcHist([frame.labels], [0], None, [256], [0, 256]).reshape(-1)
    return [
        {
            "name": c.name,
            "color": "#{:02x}{:02x}{:02x}".format(*c.color),
            "share": float(counts[c.id]) / frame.labels.size,
        }
        for c in frame.label_set.classes
        if counts[c.id]
    ]


def pixel(frame: ViewFrame, x: float, y: float) -> dict[str, Any]:
    """Class, confidence (0 to 1) and drivability at a place, 0 to 1 from the left and the top."""
    height, width = frame.labels.shape
    row, column = min(height - 1, int(y * height)), min(width - 1, int(x * width))
    label = int(frame.labels[row, column])
    names = frame.label_set.names
    return {
        "x": column,
        "y": row,
        "class": names[label] if label < len(names) else f"id {label}",
        "confidence": round(float(frame.confidence[row, column]) / 255, 3),
        "drivable": bool(frame.mask[row, column]),
    }


def kept(frame: ViewFrame) -> bytes:
    """A zip to label from: image and label ids as PNG, mask, confidence, and what made them."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        bgr = cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR)
        archive.writestr("image.png", bytes(cv2.imencode(".png", bgr)[1]))
        for name, values in (("labels", frame.labels), ("confidence", frame.confidence), ("drivable", frame.mask)):
            archive.writestr(f"{name}.png", encode_png_bytes(values).tobytes())
        about = {
            "camera": frame.camera,
            "stamp_ns": frame.stamp_ns,
            "model": frame.model,
            "classes": list(frame.label_set.names),
        }
        archive.writestr("frame.json", json.dumps(about, indent=2))
    return content.getvalue()
