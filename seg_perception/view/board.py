"""What a page may see: the newest frame of each camera and the state of what makes them.

Whoever makes frames asks `watched` and then `offer`s; pages take. Nothing here can grow: a frame is replaced by
the next one. No ROS: the node, a bag or a video are all sources.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from seg_perception.core.label_set import LabelSet
from seg_perception.core.types import ConfidenceImage, LabelImage, MaskImage, RgbImage


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

        Its `stale_s` says from which age a picture is called stale, None: never; by default the server does.
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
        """What `set_status` was told, with `age_s` since then."""
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
