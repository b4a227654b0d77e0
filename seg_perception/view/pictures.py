"""Pictures of a frame as a page asks for them: chosen, scaled down, encoded once however many pages look."""

from __future__ import annotations

import io
import json
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np

from seg_perception.core.encoded import encode_png_bytes
from seg_perception.core.types import RgbImage
from seg_perception.core.visual import DEFAULT_OPACITY, colorize, outline, overlay
from seg_perception.view.board import ViewFrame

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


class PictureCache:
    """The last few encoded pictures; thread-safe, bounded."""

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
            found = encoded(frame, look)
            with self._lock:
                self._pictures[key] = found
                while len(self._pictures) > self._limit:
                    self._pictures.popitem(last=False)
        return found


def shares(frame: ViewFrame) -> list[dict[str, Any]]:
    """The legend: name, color (#rrggbb) and share of the pixels of each class that is there."""
    counts = np.bincount(frame.labels.reshape(-1), minlength=len(frame.label_set))
    return [
        {"name": c.name, "color": "#{:02x}{:02x}{:02x}".format(*c.color), "share": counts[c.id] / frame.labels.size}
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
