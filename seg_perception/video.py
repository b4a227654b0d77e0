"""Reads videos, cameras and streams, and writes MP4 that every browser plays, or GIF."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from seg_perception.core.errors import InputError, pip_install
from seg_perception.core.resizing import resize_image
from seg_perception.core.types import RgbImage, Size, check_rgb

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v")

MAX_STILL_S = 10.0
"""A frame stands for at most so long in a written video; a longer silence of the source is shortened to it."""

_H264 = ["-preset", "veryfast", "-crf", "20", "-movflags", "+faststart"]
# said, since browsers take HDTV's matrix for pictures of 720 lines and more: the legend's colors would be others
_H264 += ["-bsf:v", "h264_metadata=matrix_coefficients=6:colour_primaries=1:transfer_characteristics=1"]
_PALETTE = ["-filter_complex", "[0:v] split [a][b]; [a] palettegen=stats_mode=diff [p]; [b][p] paletteuse"]
_NETWORK_TIMEOUT_MS = 10_000
_FIRST_FRAME_S = 15.0
_UNKNOWN_FPS = 25.0
_CAMERAS = range(100)  # to OpenCV, 100 and more name a backend, and it crashes on -1


class VideoWriter:
    """Writes RGB frames to an MP4 (H.264, 4:2:0) or, by the name's ending, a GIF.

    The first frame's size is the video's; a frame of another size is scaled to fit into it and centered.
    H.264 needs even sides: an odd one grows by repeating its last row or column. The file appears
    under its name when it is complete; leaving a `with` block by an exception drops it.

    Args:
        path: ends in .mp4 or .gif.
        fps: frames a second.

    Attributes:
        fps: frames a second.
        frames: frames written so far, repeated ones included.
        fitted: frames that had another size than the first.
        shortened_s: seconds of silence that were left out, see `MAX_STILL_S`.
        left_out: frames that were followed within one frame's time, and so are not in the video.

    Raises:
        InputError: another ending, imageio-ffmpeg is missing, or ffmpeg failed.
    """

    def __init__(self, path: Path, fps: float) -> None:
        if path.suffix not in (".mp4", ".gif"):
            raise InputError(f"{path}: a video is written as .mp4 or .gif")
        self.path = path
        self.frames = 0
        self.fitted = 0
        self.shortened_s = 0.0
        self.left_out = 0
        self.fps = fps
        # absolute: ffmpeg would take a name that begins with a dash for an option, one with a colon for a protocol
        self._partial = path.absolute().with_name(f".{path.stem[-40:]}.part{path.suffix}")
        self._size: Size | None = None
        self._pipe: Generator[None, bytes | None, None] | None = None
        self._waiting: tuple[bytes, float] | None = None  # a frame whose duration is not known yet, and its time
        self._owed_s = 0.0

    def add(self, frame: RgbImage, seconds: float | None = None) -> None:
        """Append one frame, uint8 [H, W, 3] RGB.

        Args:
            frame: the picture.
            seconds: when it was taken, on any clock. It then stands until the next one's time, so that
                the video keeps real time whatever the source's rate; two frames within one frame's time
                leave the later one. None: it follows the frame before.
        """
        size = Size.of(check_rgb(frame))
        if self._size is None:
            self._size = size
            self._open(size)
        elif size != self._size:
            frame, size = _fitted(frame, self._size), self._size
            self.fitted += 1
        padded = np.pad(frame, ((0, size.height % 2), (0, size.width % 2), (0, 0)), mode="edge")
        content = np.ascontiguousarray(padded).tobytes()
        if seconds is None:
            self._send(content)
            return
        if self._waiting is not None:
            self._show_until(seconds)
        self._waiting = (content, seconds)

    def _show_until(self, seconds: float) -> None:
        assert self._waiting is not None
        content, began = self._waiting
        stood = max(0.0, seconds - began)
        self.shortened_s += max(0.0, stood - MAX_STILL_S)
        self._owed_s += min(stood, MAX_STILL_S)
        times = round(self._owed_s * self.fps)
        self.left_out += times <= 0
        for _ in range(times):
            self._send(content)
            self._owed_s -= 1 / self.fps

    def _send(self, content: bytes) -> None:
        assert self._pipe is not None
        try:
            self._pipe.send(content)
        except OSError as error:
            raise InputError(f"{self.path}: ffmpeg failed: {error}") from error
        self.frames += 1

    def _open(self, size: Size) -> None:
        try:
            import imageio_ffmpeg
        except ImportError as error:
            raise InputError(f"writing a video needs ffmpeg: {pip_install('bags')}") from error
        gif = self.path.suffix == ".gif"
        self._pipe = imageio_ffmpeg.write_frames(
            str(self._partial),
            (size.width + size.width % 2, size.height + size.height % 2),
            fps=self.fps,
            codec="gif" if gif else "libx264",
            pix_fmt_out="pal8" if gif else "yuv420p",
            quality=None,
            macro_block_size=1,
            ffmpeg_log_level="error",
            output_params=_PALETTE if gif else _H264,
        )
        self._pipe.send(None)

    def close(self) -> None:
        """Finish the file.

        Raises:
            InputError: no frame was added, or ffmpeg failed or wrote nothing.
        """
        if self._pipe is None:
            raise InputError(f"{self.path}: no frames for the video")
        if self._waiting is not None:
            self._send(self._waiting[0])
            self._waiting = None
        frame = getattr(self._pipe, "gi_frame", None)
        process = frame.f_locals.get("p") if frame is not None else None  # which imageio-ffmpeg keeps to itself
        self._pipe.close()
        status = process.returncode if process is not None else 0
        if status or not self._partial.is_file() or not self._partial.stat().st_size:
            self._partial.unlink(missing_ok=True)
            what = f"failed at the end (exit status {status}); is the disk full?" if status else "wrote nothing"
            raise InputError(f"{self.path}: ffmpeg {what}")
        self._partial.replace(self.path)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
            return
        if self._pipe is not None:
            self._pipe.close()
        self._partial.unlink(missing_ok=True)


def _fitted(frame: RgbImage, size: Size) -> RgbImage:
    """The whole frame, as large as it fits into the size, on black."""
    height, width = frame.shape[:2]
    scale = min(size.width / width, size.height / height)
    inside = Size(max(1, round(width * scale)), max(1, round(height * scale)))
    canvas = np.zeros((size.height, size.width, 3), np.uint8)
    left, top = (size.width - inside.width) // 2, (size.height - inside.height) // 2
    canvas[top : top + inside.height, left : left + inside.width] = resize_image(frame, inside)
    return canvas


@dataclass(frozen=True, slots=True, eq=False)
class VideoFrame:
    """One frame.

    Attributes:
        image: uint8 [H, W, 3] RGB.
        seconds: its time: from the video's start, or of the clock (since 1970) for a camera or live stream.
    """

    image: RgbImage
    seconds: float


class VideoReader:
    """The frames of a video file, a camera or a stream, in order.

    A camera or live stream gives its newest frame each time one is asked for, so that a slow reader
    is not late; those in between are counted in `superseded`.

    Args:
        source: a video file, a camera's index, or a URL that OpenCV opens (rtsp://, http://, ...).

    Raises:
        FileNotFoundError: no such file.
        InputError: not a video that OpenCV can decode, no such camera, or the URL does not answer.
    """

    def __init__(self, source: Path | int | str) -> None:
        self.source = source
        self.superseded = 0
        self._capture = _opened(source)
        # a file behind a URL announces its length, a live stream has none
        self.is_live = not isinstance(source, Path) and not self.announced_frames

    @property
    def fps(self) -> float:
        """Frames a second; 25 where the source does not say."""
        said = float(self._capture.get(cv2.CAP_PROP_FPS))
        return said if 0 < said <= 1000 else _UNKNOWN_FPS

    @property
    def announced_frames(self) -> int:
        """How many frames the source says it has; 0 if it does not say."""
        return max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    def frames(self) -> Iterator[VideoFrame]:
        """Every frame with its time.

        Raises:
            InputError: nothing could be decoded.
        """
        count = 0
        for count, frame in enumerate(self._live() if self.is_live else self._recorded(), 1):  # noqa: B007
            yield frame
        if not count:
            raise InputError(f"{self.source}: no frame of this video can be decoded")

    def __iter__(self) -> Iterator[RgbImage]:
        """The images of `frames`."""
        return (frame.image for frame in self.frames())

    def _recorded(self) -> Iterator[VideoFrame]:
        fps, last = self.fps, -1.0
        while True:
            good, image = self._capture.read()
            if not good:
                return
            seconds = float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000
            if not last < seconds < float("inf"):  # some containers carry no times
                seconds = max(last, -1 / fps) + 1 / fps
            last = seconds
            yield VideoFrame(_rgb(image), seconds)

    def _live(self) -> Iterator[VideoFrame]:
        newest = _Newest(self._capture)
        try:
            while (found := newest.take()) is not None:
                image, seconds = found
                self.superseded = newest.superseded
                yield VideoFrame(_rgb(image), seconds)
        finally:
            newest.stop()

    def close(self) -> None:
        self._capture.release()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _rgb(image: RgbImage) -> RgbImage:
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def _opened(source: Path | int | str) -> cv2.VideoCapture:
    if isinstance(source, int):
        if source not in _CAMERAS:
            raise InputError(f"camera {source}: a camera's index is {_CAMERAS[0]} to {_CAMERAS[-1]}")
        capture = cv2.VideoCapture(source)
        fault = f"camera {source}: there is no such camera, or another program uses it"
    elif isinstance(source, Path):
        if not source.exists():
            raise FileNotFoundError(2, "there is no such video", str(source))
        if not source.is_file():
            raise InputError(f"{source}: not a regular file; a video file is accepted")
        capture = _opened_file(source)
        fault = f"{source}: not a video that can be decoded (cut off, or an unknown format)"
    else:
        if not source.isprintable():  # OpenCV's Python layer crashes on bytes that are no text
            raise InputError(f"{source!r}: a URL with characters that no URL has; write them as %XX")
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _NETWORK_TIMEOUT_MS]
        limits += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, _NETWORK_TIMEOUT_MS]
        capture = cv2.VideoCapture(source, cv2.CAP_FFMPEG, limits)
        if not capture.isOpened():
            capture = cv2.VideoCapture(source)  # an OpenCV without FFMPEG
        fault = f"{source}: no video at this address, or OpenCV cannot open it"
    if not capture.isOpened():
        raise InputError(fault)
    return capture


def _opened_file(path: Path) -> cv2.VideoCapture:
    name = str(path.absolute())  # absolute: "a:b.mp4" is no protocol
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes that are no text: OpenCV's Python layer would crash on them
        with path.open("rb") as file:
            return cv2.VideoCapture(f"/proc/self/fd/{file.fileno()}")
    return cv2.VideoCapture(name)


class _Newest:
    """Reads a live capture in a thread of its own and keeps the newest frame."""

    def __init__(self, capture: cv2.VideoCapture) -> None:
        self.superseded = 0
        self._capture = capture
        self._condition = threading.Condition()
        self._frame: tuple[RgbImage, float] | None = None
        self._ended = False
        self._thread = threading.Thread(target=self._read, name="camera", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._ended:
            good, image = self._capture.read()
            with self._condition:
                if good:
                    self.superseded += self._frame is not None
                    self._frame = (image, time.time())
                else:
                    self._ended = True
                self._condition.notify_all()

    def take(self) -> tuple[RgbImage, float] | None:
        """The newest frame that was not taken yet; None when the source has ended."""
        with self._condition:
            self._condition.wait_for(lambda: self._frame is not None or self._ended, _FIRST_FRAME_S)
            frame, self._frame = self._frame, None
            return frame

    def stop(self) -> None:
        self._ended = True
        self._thread.join()
