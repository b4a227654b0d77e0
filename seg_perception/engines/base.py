"""What an engine is: a box that takes image bytes and gives label and confidence bytes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from seg_perception.core.errors import EngineError, InputError
from seg_perception.core.model_card import ModelCard
from seg_perception.core.types import CameraEncoding, Precision, Size, parse_choice, parse_fields

INPUT_NAME = "image"
OUTPUT_NAMES = ("labels", "confidence")

MOST_THREADS = 256
"""Of one inference on a CPU: with thousands a run takes seconds, and starting them may fail."""


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What runs the model, for logs, diagnostics and reports.

    Attributes:
        runtime: "onnxruntime", "tensorrt", ...
        version: of the runtime.
        device: "CPU", or the GPU's name.
        precision: for people: a `Precision`, or "bf16", "int8 and bf16", ...
        max_batch: largest batch of one call; None: any.
        fixed_size: the only input size it takes; None: any that fits the card.
        largest_size: no side of an input may be longer; None: any that fits the card.
    """

    runtime: str
    version: str
    device: str
    precision: str
    max_batch: int | None
    fixed_size: Size | None
    largest_size: Size | None = None

    def __str__(self) -> str:
        return f"{self.runtime} {self.version} on {self.device} ({self.precision})"


class DeviceImage(Protocol):
    """One image in a GPU's memory, in the engine's size and encoding.

    Attributes:
        shape: rows, columns and bytes of a column, see `CameraEncoding.array_shape`.
        step: bytes from the start of one row to the start of the next.
    """

    @property
    def shape(self) -> tuple[int, int, int]: ...
    @property
    def step(self) -> int: ...

    def reading(self, stream: int) -> AbstractContextManager[int]:
        """Its address, for work that is enqueued on this CUDA stream inside the block."""


Pixels: TypeAlias = "NDArray[np.uint8] | DeviceImage"


@dataclass(frozen=True, slots=True)
class ImageBatch:
    """Images of one shape that lie apart, on the host or a GPU: an engine whose class says `gathers = True` takes it in
    place of an array, and copies each to where the GPU reads it, once.
    """

    images: tuple[Pixels, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """As an array of them all would have it."""
        return len(self.images), *self.images[0].shape


class Engine(Protocol):
    """One opened model. Not thread-safe: one thread opens, uses and closes it.

    `infer` takes uint8 [N, H, W, 3] RGB, C-contiguous, H and W multiples of the card's
    `size_multiple`, or what the card's camera encoding says; it may be a read-only view of a message,
    and is only read. It returns (labels, confidence), each uint8 [N, H, W]. The arrays belong to the
    caller. As a context manager an engine closes itself at the end of the block.

    Raises (infer):
        InputError: the batch has a wrong dtype, shape or size.
        EngineError: the runtime failed, with its own message; or the engine is closed.
    """

    @property
    def card(self) -> ModelCard: ...

    @property
    def info(self) -> EngineInfo: ...

    def infer(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]: ...

    def close(self) -> None:
        """Release everything; calling it twice is harmless."""

    def __enter__(self) -> Engine: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class CheckedEngine:
    """What our engines have in common: the checks before a run, the end, the block.

    A subclass sets `_card` and `_info`, answers checked images in `_run`, and gives everything back in `_release`.
    """

    _card: ModelCard
    _info: EngineInfo
    _closed = False
    gathers = False
    """Whether it takes an `ImageBatch` in place of an array."""

    @property
    def card(self) -> ModelCard:
        return self._card

    @property
    def info(self) -> EngineInfo:
        return self._info

    def infer(self, images: Any) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        if self._closed:
            raise EngineError("this engine is closed")
        check_batch(images, self._card, self._info)
        return self._run(images)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._release()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, images: Any) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        raise NotImplementedError

    def _release(self) -> None:
        raise NotImplementedError


class BuildEngine(Enum):
    """What opening does about an engine that must be built first and is missing, stale or damaged."""

    IF_MISSING = "if_missing"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How to open an engine; each engine takes what concerns it.

    Attributes:
        threads: of a CPU engine; 0 takes all cores this process may use.
        precision: of a GPU engine; None: fp16, or int8 of an int8 graph.
        batch: the largest batch of a GPU engine.
        size: the only network input size of a GPU engine; None: any shape of about the card's pixel count.
        build_engine: whether a missing, stale or damaged engine may be built, or is an error.
        cache: folder of built engines; None: seg_perception/engines in $XDG_CACHE_HOME or ~/.cache.
        cuda_graph: replay runs of a GPU engine from a captured CUDA graph.
        progress: called with a phase name and a fraction of 0 to 1 while building.
        stop_requested: asked while building; True ends the build with an EngineError.

    Raises:
        EngineError: threads below 0 or above `MOST_THREADS`, or a batch below 1.
        InputError: no such precision, a malformed size, or a value of another type.
    """

    threads: int = 0
    precision: Precision | None = None
    batch: int = 1
    size: Size | None = None
    build_engine: BuildEngine = BuildEngine.IF_MISSING
    cache: Path | None = None
    cuda_graph: bool = True
    progress: Callable[[str, float], None] | None = field(default=None, compare=False)
    stop_requested: Callable[[], bool] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        parse_fields(
            self,
            precision=Precision.parse,
            size=Size.parse,
            build_engine=partial(parse_choice, BuildEngine, name="build_engine"),
            cache=Path,
        )
        if not 0 <= self.threads <= MOST_THREADS:
            raise EngineError(
                f"threads {self.threads} is not accepted: 0 (all cores this process may use) to {MOST_THREADS} is"
            )
        if self.batch < 1:
            raise EngineError(f"batch {self.batch} must be at least 1")


class Device(Enum):
    """Where an engine computes; the value is for people."""

    CPU = "CPU"
    GPU = "NVIDIA GPU"


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What an engine's own file says of it: all that the rest of the package knows.

    Attributes:
        name: what `open_engine`, `--engine` and the node's parameter take.
        summary: one line, for `--help` and the documentation.
        extra: the pip extra that brings its packages; "" where none does.
        device: where it computes.
        why_not: why it cannot run on this machine, in a few words; None where it can. Quick; never raises.
        open: opens a model that exists, with a suffix of `suffixes`.
        auto: its place when "auto" chooses, the lowest first; None: taken by name only.
        suffixes: of the files it opens.
    """

    name: str
    summary: str
    extra: str
    device: Device
    why_not: Callable[[], str | None]
    open: Callable[[Path, EngineOptions], Engine]
    auto: int | None = None
    suffixes: tuple[str, ...] = (".onnx",)


def answer_shape(images: tuple[int, ...], card: ModelCard) -> tuple[int, int, int]:
    """The [N, H, W] of labels and confidence, from the shape of a batch of images as the card's encoding has them."""
    rows = images[1] * 2 // 3 if card.camera_encoding is CameraEncoding.NV12 else images[1]
    return images[0], rows, images[2]


def check_batch(images: NDArray[np.uint8] | ImageBatch, card: ModelCard, info: EngineInfo) -> None:
    """The check every engine makes before it runs.

    Raises:
        InputError: says what came and what is accepted.
    """
    if isinstance(images, ImageBatch):
        images = np.broadcast_to(np.uint8(0), images.shape)  # the same shape, without the pixels
    encoding = card.camera_encoding
    if encoding is not CameraEncoding.RGB:
        shape = encoding.array_shape(info.fixed_size or card.input_size)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != shape or images.size == 0:
            raise InputError(
                f"this engine takes {encoding} images of {info.fixed_size or card.input_size} as uint8 [N, "
                f"{', '.join(map(str, shape))}], got {images.dtype} {list(images.shape)}"
            )
    elif images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or images.size == 0:
        raise InputError(f"an engine takes uint8 [N, H, W, 3] RGB images, got {images.dtype} {list(images.shape)}")
    count, height, width = answer_shape(images.shape, card)
    if height % card.size_multiple or width % card.size_multiple:
        raise InputError(
            f"input {width}x{height} does not fit {card.id}: width and height must be multiples of {card.size_multiple}"
        )
    if info.fixed_size is not None and Size(width, height) != info.fixed_size:
        raise InputError(f"input {width}x{height} does not fit this engine, which was built for {info.fixed_size}")
    if (most := info.largest_size) is not None and (height > most.height or width > most.width):
        raise InputError(f"input {width}x{height} does not fit this engine, which takes up to {most}")
    if info.max_batch is not None and count > info.max_batch:
        raise InputError(f"a batch of {count} does not fit this engine, which takes at most {info.max_batch}")


def check_answer(
    labels: NDArray[np.uint8], confidence: NDArray[np.uint8], images: NDArray[np.uint8] | ImageBatch, card: ModelCard
) -> None:
    """The check of what an engine answered to uint8 [N, H, W, 3], before anybody resizes or publishes it.

    Raises:
        EngineError: not uint8 [N, H, W] twice, or a label that is none of the card's classes.
    """
    for name, answer in zip(OUTPUT_NAMES, (labels, confidence), strict=True):
        if answer.dtype != np.uint8 or answer.shape != answer_shape(images.shape, card):
            raise EngineError(
                f"{card.id}: the engine answered images of {list(images.shape)} with {name} of "
                f"{answer.dtype} {list(answer.shape)}; uint8 {list(answer_shape(images.shape, card))} is accepted"
            )
    highest, classes = int(labels.max()), len(card.label_set)
    if highest >= classes:
        raise EngineError(
            f"{card.id}: the engine answered with class {highest}, but the model card has {classes} classes "
            f"(0 to {classes - 1}): the card does not belong to this model"
        )
