"""The foreign file as its users run it, in NumPy and ONNX Runtime: the slow, obvious reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto

from seg_perception.core.errors import ModelError
from seg_perception.core.types import Size
from seg_perception.export.importing.model import Color, Decision, ForeignModel, Layout


class OriginalModel:
    """The foreign file in ONNX Runtime, run the way its users do: float64 arithmetic around it, in NumPy."""

    def __init__(self, foreign: ForeignModel) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        try:
            self._session = ort.InferenceSession(foreign.content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises several unrelated classes
            raise ModelError(f"{foreign.path}: ONNX Runtime cannot open it: {error}") from error
        self.foreign = foreign

    def run(self, name: str, tensor: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Every output by name.

        Raises:
            ModelError: the runtime failed.
        """
        names = [output.name for output in self._session.get_outputs()]
        try:
            return dict(zip(names, self._session.run(names, {name: tensor})))
        except Exception as error:  # onnxruntime raises several unrelated classes
            raise ModelError(
                f"{self.foreign.path}: it does not run on {tensor.dtype} {list(tensor.shape)}: {error}"
            ) from error


def prepare_pixels(images: NDArray[np.uint8], decision: Decision) -> NDArray[Any]:
    """RGB uint8 [N, H, W, 3] as the original wants it: color order, scaling, layout and type."""
    pixels = images[..., ::-1] if decision.color is Color.BGR else images
    if decision.input.type == TensorProto.UINT8:
        scaled: NDArray[Any] = pixels
    else:
        mean, std = np.array(decision.mean), np.array(decision.std)
        dtype = np.float16 if decision.input.type == TensorProto.FLOAT16 else np.float32
        scaled = ((pixels / decision.scale - mean) / std).astype(dtype)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2) if decision.layout is Layout.NCHW else scaled)


def probe_image(size: Size, batch: int) -> NDArray[np.uint8]:
    """uint8 [N, H, W, 3]: sky over ground with some texture; every class of answer shows its range on it."""
    rows = np.linspace(200, 60, size.height)[:, None, None]
    texture = np.random.default_rng(1).integers(-30, 30, (size.height, size.width, 3))
    image = np.clip(rows + texture, 0, 255).astype(np.uint8)
    return np.repeat(image[np.newaxis], batch, axis=0)


@dataclass(frozen=True, slots=True)
class AnswerLayout:
    """Axes of a model's answer: [N, h, w], [N, C, h, w] or [N, h, w, C]; of one image also without the N.

    Attributes:
        batched: the first axis is N.
        has_channels: there is an axis C, of 1 or more.
        channels_last: it is the last one.
        channels: 1 without that axis.
        stride: rows and columns of the image for one of the answer.
    """

    batched: bool
    has_channels: bool
    channels_last: bool
    channels: int
    stride: tuple[float, float]

    @classmethod
    def of(cls, answer: NDArray[Any], size: Size, batch: int) -> AnswerLayout | None:
        """Read them off an answer to `batch` images of a size; None where no two axes are the image's grid."""
        batched = answer.ndim == 4 or (answer.ndim == 3 and answer.shape[0] == batch)
        if not batched and batch != 1:
            return None
        shape = answer.shape[1:] if batched else answer.shape
        if len(shape) == 2:
            grid, channels, last = shape, 1, False
        elif len(shape) == 3:
            first_fits, last_fits = _fits(shape[1:], size), _fits(shape[:2], size)
            last = last_fits and (not first_fits or shape[2] < shape[0])
            grid, channels = (shape[:2], shape[2]) if last else (shape[1:], shape[0])
        else:
            return None
        if not _fits(grid, size) or channels < 1:
            return None
        return cls(batched, len(shape) == 3, last, channels, (size.height / grid[0], size.width / grid[1]))

    def first(self, answer: NDArray[Any]) -> NDArray[np.float64]:
        """The answer to the first image, float64 [C, h, w]."""
        values = np.asarray(answer[0] if self.batched else answer, np.float64)
        if not self.has_channels:
            return values[np.newaxis]
        return values.transpose(2, 0, 1) if self.channels_last else values


def _fits(grid: tuple[int, ...], size: Size) -> bool:
    """Whether h x w is the image's grid at some stride, with at least 16 places."""
    height, width = grid
    if not height or not width or height > size.height or width > size.width or height * width < 16:
        return False
    return abs(size.height / height - size.width / width) < 0.05 * size.height / height
