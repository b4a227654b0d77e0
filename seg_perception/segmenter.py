"""Image in, Segmentation out: the whole flow on one page."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seg_perception.core.errors import InputError
from seg_perception.core.image_message import RawImage, camera_bytes, check_camera_bytes, to_camera_bytes
from seg_perception.core.model_card import ModelCard
from seg_perception.core.resizing import check_aspect, check_multiple, network_size, resize_image, resize_labels
from seg_perception.core.types import (
    CameraEncoding,
    ConfidenceImage,
    LabelImage,
    RgbImage,
    Segmentation,
    Size,
    check_rgb,
)
from seg_perception.engines.base import DeviceImage, Engine, EngineInfo, ImageBatch, Pixels, check_answer

log = logging.getLogger(__name__)

_MOST_STRETCHED = 1.15
"""Width to height of an image and of an engine's one size may differ by this: rounding to 32 pixels does that."""


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """An image as the engine takes it, and the size to bring the answer back to.

    Attributes:
        pixels: uint8 [H, W, 3] RGB at the network's size; or what the card's camera encoding says.
        camera_size: of the image as it came.
    """

    pixels: NDArray[np.uint8]
    camera_size: Size


@dataclass(frozen=True, slots=True)
class PreparedOnGpu:
    """The same in a GPU's memory.

    Attributes:
        pixels: the image there, in the engine's size and encoding.
        camera_size: of the image as it came.
    """

    pixels: DeviceImage
    camera_size: Size


@dataclass(frozen=True, slots=True)
class RawSegmentation:
    """The engine's answer at the network's size.

    Attributes:
        labels: class ids, uint8 [h, w].
        confidence: the winning class's probability x 255, uint8 [h, w].
        camera_size: that the answer is brought back to.
    """

    labels: LabelImage
    confidence: ConfidenceImage
    camera_size: Size


def _aspect(size: Size) -> float:
    return size.width / size.height


@dataclass(frozen=True, slots=True)
class _OnGpu:
    """A `DeviceImage`."""

    shape: tuple[int, int, int]
    step: int
    reading: Callable[[int], AbstractContextManager[int]]


class Segmenter:
    """Segments images of any size with one engine. `seg_perception.load` makes one with files, masks and pictures.

    Args:
        engine: an opened engine; `close`, or leaving a `with` block, closes it.
        size: the network's input size, "480x352" or (480, 352); None keeps each camera's shape and spends the model
            card's pixel count (see `core.resizing.network_size`), or takes the engine's one size.

    Raises:
        InputError: the size is malformed, or not one that the engine takes.

    The three steps are public so that a caller can time and batch them; `segment` is all three.
    """

    def __init__(self, engine: Engine, size: str | Size | tuple[int, int] | None = None) -> None:
        self._engine = engine
        size = None if size is None else Size.parse(size)
        fixed, multiple = engine.info.fixed_size, engine.card.size_multiple
        if fixed is not None and size not in (None, fixed):
            raise InputError(f"network size {size} does not fit this engine, which was built for {fixed}")
        if size is not None:
            check_multiple(size, multiple, engine.card.id)
        self._size = fixed or size
        self._network_size = lru_cache(maxsize=64)(self._compute_network_size)

    @property
    def card(self) -> ModelCard:
        return self._engine.card

    @property
    def info(self) -> EngineInfo:
        """What runs the model."""
        return self._engine.info

    @property
    def takes_camera_bytes(self) -> bool:
        """Whether the graph decodes its camera's images by itself: `prepare_raw` takes them as they are."""
        return self._engine.card.camera_encoding is not CameraEncoding.RGB

    def _compute_network_size(self, camera: Size) -> Size:
        """Asked once for each size of images."""
        card, fixed = self._engine.card, self._engine.info.fixed_size
        stretch = 1.0 if fixed is None else _aspect(camera) / _aspect(fixed)
        if not 1 / _MOST_STRETCHED < stretch < _MOST_STRETCHED:
            log.warning(
                "%s takes %s only: images of %s are %s by %.0f %% to fit, which costs accuracy; export or compile it "
                "for that shape",
                card.id, fixed, camera, "narrowed" if stretch > 1 else "flattened",
                100 * (1 - min(stretch, 1 / stretch)),
            )  # fmt: skip
        return self._size or network_size(camera, card.input_size, card.size_multiple)

    def prepare(self, image: RgbImage) -> PreparedImage:
        """Resize an RGB image, uint8 [H, W, 3], to the network's size.

        How: `core.resizing.resize_image`. For an engine that takes a camera's bytes it is brought to that camera's
        size and encoding, see `core.image_message.to_camera_bytes`.

        Raises:
            InputError: not uint8 [H, W, 3], or a sliver (`core.resizing.check_aspect`).
        """
        camera = Size.of(check_rgb(image))
        check_aspect(camera)
        resized = np.ascontiguousarray(resize_image(image, self._network_size(camera)))
        return PreparedImage(to_camera_bytes(resized, self._engine.card.camera_encoding), camera)

    def prepare_raw(self, image: RawImage) -> PreparedImage:
        """A camera's image as it came, for an engine that `takes_camera_bytes`: neither decoded nor resized.

        Raises:
            InputError: not the encoding and size that this engine takes, see `core.image_message.camera_bytes`.
        """
        card = self._engine.card
        return PreparedImage(camera_bytes(image, card.camera_encoding, card.input_size), card.input_size)

    @property
    def takes_gpu_images(self) -> bool:
        """Whether images of the engine's own size and encoding may lie in a GPU's memory: see `prepare_on_gpu`."""
        return bool(getattr(self._engine, "gathers", False)) and self._engine.info.fixed_size is not None

    def needs_no_host(self, image: RawImage) -> bool:
        """Whether the engine takes an image as it is: neither its encoding nor its size are another one."""
        return (
            image.encoding in self._engine.card.camera_encoding.messages and image.size == self._engine.info.fixed_size
        )

    def prepare_on_gpu(self, image: RawImage, reading: Callable[[int], AbstractContextManager[int]]) -> PreparedOnGpu:
        """A camera's image in a GPU's memory, for an engine that `takes_gpu_images`: it never touches the host.

        Args:
            image: of its data only the length is asked.
            reading: see `DeviceImage.reading`.

        Raises:
            InputError: not the encoding and size that this engine takes, see `core.image_message.check_camera_bytes`.
        """
        encoding, size = self._engine.card.camera_encoding, self._engine.info.fixed_size
        assert size is not None
        check_camera_bytes(image, encoding, size)
        return PreparedOnGpu(_OnGpu(encoding.array_shape(size), image.step, reading), size)

    def infer(self, prepared: Sequence[PreparedImage | PreparedOnGpu]) -> list[RawSegmentation]:
        """Run the engine: one call for each group of equal network size and allowed batch.

        Raises:
            EngineError: the runtime failed, or its answer breaks the contract (shape, type, ids of the classes).
        """
        answers: list[RawSegmentation | None] = [None] * len(prepared)
        groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, item in enumerate(prepared):
            groups[item.pixels.shape].append(index)
        for indices in groups.values():
            step = self._engine.info.max_batch or len(indices)
            for start in range(0, len(indices), step):
                chunk = indices[start : start + step]
                images = self._batch(tuple(prepared[i].pixels for i in chunk))
                labels, confidence = self._engine.infer(images)
                check_answer(labels, confidence, images, self._engine.card)
                for position, i in enumerate(chunk):
                    answers[i] = RawSegmentation(labels[position], confidence[position], prepared[i].camera_size)
        return [answer for answer in answers if answer is not None]

    def _batch(self, pixels: tuple[Pixels, ...]) -> Any:
        """What the engine's `infer` takes, copied no more often than it needs."""
        if getattr(self._engine, "gathers", False):
            return ImageBatch(pixels)
        arrays = [np.asarray(image) for image in pixels]  # nothing of a GPU comes here, see `prepare_on_gpu`
        return arrays[0][np.newaxis] if len(arrays) == 1 else np.stack(arrays)  # one alone may be a view

    def finish(self, raw: RawSegmentation) -> Segmentation:
        """Bring labels and confidence back to the camera's size (nearest neighbor, on bytes)."""
        return Segmentation(resize_labels(raw.labels, raw.camera_size), resize_labels(raw.confidence, raw.camera_size))

    def segment(self, image: RgbImage) -> Segmentation:
        """Segment one RGB image, uint8 [H, W, 3]; the answer has the same height and width.

        Raises:
            InputError: not uint8 [H, W, 3].
            EngineError: the runtime failed.
        """
        return self.finish(self.infer([self.prepare(image)])[0])

    def close(self) -> None:
        """Close the engine; calling it twice is harmless."""
        self._engine.close()

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
