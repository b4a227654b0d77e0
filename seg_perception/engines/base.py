"""What an engine is: a box that takes image bytes and gives label and confidence bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from seg_perception.core.errors import EngineError, InputError
from seg_perception.core.model_card import ModelCard
from seg_perception.core.types import Size

INPUT_NAME = "image"
OUTPUT_NAMES = ("labels", "confidence")


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What runs the model, for logs, diagnostics and reports."""

    runtime: str  # "onnxruntime", "tensorrt", ...
    version: str
    device: str  # "CPU", or the GPU's name
    precision: str
    max_batch: int | None  # largest batch of one call; None: any
    fixed_size: Size | None  # the only input size it takes; None: any that fits the card

    def __str__(self) -> str:
        return f"{self.runtime} {self.version} on {self.device} ({self.precision})"


class Engine(Protocol):
    """One opened model. Not thread-safe: one thread opens, uses and closes it.

    `infer` takes uint8 [N, H, W, 3] RGB, C-contiguous, H and W multiples of the card's
    `size_multiple`, and returns (labels, confidence), each uint8 [N, H, W]. The arrays belong to
    the caller.

    Raises (infer):
        InputError: the batch has a wrong dtype, shape or size.
        EngineError: the runtime failed, with its own message.
    """

    @property
    def card(self) -> ModelCard: ...

    @property
    def info(self) -> EngineInfo: ...

    def infer(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]: ...

    def close(self) -> None:
        """Release everything; calling it twice is harmless."""


def check_batch(images: NDArray[np.uint8], card: ModelCard, info: EngineInfo) -> None:
    """The check every engine makes before it runs.

    Raises:
        InputError: says what came and what is accepted.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or images.size == 0:
        raise InputError(f"an engine takes uint8 [N, H, W, 3] RGB images, got {images.dtype} {list(images.shape)}")
    count, height, width, _ = images.shape
    if height % card.size_multiple or width % card.size_multiple:
        raise InputError(
            f"input {width}x{height} does not fit {card.id}: width and height must be multiples of {card.size_multiple}"
        )
    if info.fixed_size is not None and Size(width, height) != info.fixed_size:
        raise InputError(f"input {width}x{height} does not fit this engine, which was built for {info.fixed_size}")
    if info.max_batch is not None and count > info.max_batch:
        raise InputError(f"a batch of {count} does not fit this engine, which takes at most {info.max_batch}")


def check_answer(
    labels: NDArray[np.uint8], confidence: NDArray[np.uint8], images: NDArray[np.uint8], card: ModelCard
) -> None:
    """The check of what an engine answered to uint8 [N, H, W, 3], before anybody resizes or publishes it.

    Raises:
        EngineError: not uint8 [N, H, W] twice, or a label that is none of the card's classes.
    """
    for name, answer in zip(OUTPUT_NAMES, (labels, confidence), strict=True):
        if answer.dtype != np.uint8 or answer.shape != images.shape[:3]:
            raise EngineError(
                f"{card.id}: the engine answered images of {list(images.shape)} with {name} of "
                f"{answer.dtype} {list(answer.shape)}; uint8 {list(images.shape[:3])} is accepted"
            )
    highest, classes = int(labels.max()), len(card.label_set)
    if highest >= classes:
        raise EngineError(
            f"{card.id}: the engine answered with class {highest}, but the model card has {classes} classes "
            f"(0 to {classes - 1}): the card does not belong to this model"
        )
