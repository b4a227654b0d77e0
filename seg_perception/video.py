"""Reads videos, and writes MP4 that every browser plays, or GIF."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from seg_perception.core.errors import InputError
from seg_perception.core.types import RgbImage, Size, check_rgb

_H264 = ["-preset", "veryfast", "-crf", "20", "-movflags", "+faststart"]
_PALETTE = ["-filter_complex", "[0:v] split [a][b]; [a] palettegen=stats_mode=diff [p]; [b][p] paletteuse"]


class VideoWriter:
    """Writes RGB frames of one size to an MP4 (H.264, 4:2:0) or, by the name's ending, a GIF.

    H.264 needs even sides: an odd one grows by repeating its last row or column. The file appears
    under its name when it is complete; leaving a `with` block by an exception drops it.

    Args:
        path: ends in .mp4 or .gif.
        fps: frames a second.

    Raises:
        InputError: another ending, imageio-ffmpeg is missing, frames of different sizes, or ffmpeg
            failed.
    """

    def __init__(self, path: Path, fps: float) -> None:
        if path.suffix not in (".mp4", ".gif"):
            raise InputError(f"{path}: a video is written as .mp4 or .gif")
        self.path = path
        self.frames = 0
        self._fps = fps
        self._partial = path.with_name(f".{path.stem}.part{path.suffix}")
        self._size: Size | None = None
        self._pipe: Generator[None, bytes | None, None] | None = None

    def add(self, frame: RgbImage) -> None:
        """Append one frame, uint8 [H, W, 3] RGB."""
        size = Size.of(check_rgb(frame))
        if self._size is None:
            self._size = size
            self._open(size)
        elif size != self._size:
            raise InputError(f"{self.path}: a frame of {size} does not fit a video of {self._size}")
        assert self._pipe is not None
        padded = np.pad(frame, ((0, size.height % 2), (0, size.width % 2), (0, 0)), mode="edge")
        try:
            self._pipe.send(np.ascontiguousarray(padded).tobytes())
        except OSError as error:
            raise InputError(f"{self.path}: ffmpeg failed: {error}") from error
        self.frames += 1

    def _open(self, size: Size) -> None:
        try:
            import imageio_ffmpeg
        except ImportError as error:
            raise InputError("writing a video needs ffmpeg: pip install imageio-ffmpeg") from error
        gif = self.path.suffix == ".gif"
        self._pipe = imageio_ffmpeg.write_frames(
            str(self._partial),
            (size.width + size.width % 2, size.height + size.height % 2),
            fps=self._fps,
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
            InputError: no frame was added, or ffmpeg wrote nothing.
        """
        if self._pipe is None:
            raise InputError(f"{self.path}: no frames for the video")
        self._pipe.close()
        if not self._partial.is_file() or not self._partial.stat().st_size:
            raise InputError(f"{self.path}: ffmpeg wrote nothing")
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


class VideoReader:
    """The frames of a video, in order.

    Raises:
        FileNotFoundError: no such file.
        InputError: not a video that OpenCV can decode.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"no video at {path}")
        self.path = path
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise InputError(f"{path}: not a video that can be decoded (cut off, or an unknown format)")

    @property
    def fps(self) -> float:
        """Frames a second; 25 where the file does not say."""
        return float(self._capture.get(cv2.CAP_PROP_FPS)) or 25.0

    @property
    def announced_frames(self) -> int:
        """How many frames the file says it has; 0 if it does not say."""
        return max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    def __iter__(self) -> Iterator[RgbImage]:
        """uint8 [H, W, 3] RGB frames.

        Raises:
            InputError: nothing could be decoded.
        """
        count = 0
        while True:
            good, frame = self._capture.read()
            if not good:
                break
            count += 1
            yield np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)
        if not count:
            raise InputError(f"{self.path}: no frame of this video can be decoded")

    def close(self) -> None:
        self._capture.release()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
