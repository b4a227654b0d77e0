"""A window for pictures. Tk shows it: OpenCV's usual wheel has no windows."""

from __future__ import annotations

import os
import threading
from types import TracebackType
from typing import TYPE_CHECKING

from seg_perception.core.errors import InputError

if TYPE_CHECKING:
    from seg_perception.core.types import RgbImage

_LARGEST = (1280, 800)


class Window:
    """Shows one picture at a time; closing it, or pressing q or Escape, sets `stop`.

    Raises:
        InputError: Tk is not installed, or there is no display.
    """

    def __init__(self, title: str, stop: threading.Event) -> None:
        try:
            import tkinter as tk
        except ImportError as error:
            raise InputError("--show needs Tk: apt install python3-tk") from error
        try:
            self._root = tk.Tk()
        except tk.TclError as error:
            display = os.environ.get("DISPLAY") or "none"
            raise InputError(f"--show needs a display, and there is none to use (DISPLAY: {display})") from error
        self._tkinter = tk
        self._root.title(title)
        self._label = tk.Label(self._root)
        self._label.pack()
        self._root.protocol("WM_DELETE_WINDOW", stop.set)
        for key in ("q", "<Escape>"):
            self._root.bind(key, lambda _event: stop.set())

    def show(self, picture: RgbImage) -> None:
        """Show an RGB picture, uint8 [H, W, 3], shrunk to fit where it is very large."""
        from seg_perception.core.resizing import resize_image
        from seg_perception.core.types import Size

        height, width = picture.shape[:2]
        scale = min(1.0, _LARGEST[0] / width, _LARGEST[1] / height)
        if scale < 1:
            picture = resize_image(picture, Size(max(1, round(width * scale)), max(1, round(height * scale))))
            height, width = picture.shape[:2]
        content = f"P6 {width} {height} 255 ".encode() + picture.tobytes()
        self._image = self._tkinter.PhotoImage(data=content, format="PPM")  # Tk keeps no reference of its own
        self._label.configure(image=self._image)
        self._root.update()

    def __enter__(self) -> Window:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._root.destroy()
