"""The front door's objects: a loaded model, and what it says of an image."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from seg_perception.core.drivable import DrivableSettings, SourceMasker
from seg_perception.core.errors import EngineError, InputError
from seg_perception.core.files import make_folder, model_file, user_path, write_atomically
from seg_perception.core.image_file import encode_png_bytes, read_rgb
from seg_perception.core.label_set import LabelSet
from seg_perception.core.model_card import ModelCard
from seg_perception.core.types import ConfidenceImage, LabelImage, MaskImage, RgbImage, Segmentation, Size
from seg_perception.core.visual import DEFAULT_OPACITY, colorize, outline, overlay, with_legend
from seg_perception.engines.base import EngineInfo, EngineOptions
from seg_perception.engines.opening import open_engine
from seg_perception.segmenter import Segmenter
from seg_perception.sources import Source, SourceKind, find_source, frames

if TYPE_CHECKING:
    from PIL.Image import Image

    ImageLike: TypeAlias = "str | Path | NDArray[np.uint8] | Image"


KINDS = ("labels", "colors", "confidence", "drivable", "overlay")
"""Folders that `Result.save` writes into."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Result:
    """What the model says of one image, pixel by pixel, at the image's own size; a notebook shows the overlay.

    Attributes:
        image: the image itself, uint8 [H, W, 3] RGB.
        labels: class ids, uint8 [H, W]; `label_set.names[id]` is a class's name.
        confidence: the winning class's probability x 255, uint8 [H, W].
        drivable: where the car may drive, uint8 [H, W], 255 yes and 0 no.
        label_set: the classes with their colors.
        name: a relative file name without ending: of an image its stem, of a video's or bag's frame its number.
        source: the file, camera, URL or bag topic, for people; "array" or "PIL image".
        stamp_ns: of a bag the header's stamp; of a video nanoseconds since its start; of a camera or live
            stream the time of arrival since 1970; None for an image.
    """

    image: RgbImage
    labels: LabelImage
    confidence: ConfidenceImage
    drivable: MaskImage
    label_set: LabelSet
    name: str
    source: str
    stamp_ns: int | None = None

    def __repr__(self) -> str:
        shares = sorted(self.shares().items(), key=lambda item: -item[1])
        there = ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares if share)
        return (
            f"<Result of {self.source}, {self.size}: {there}; drivable {100 * self.drivable.astype(bool).mean():.1f} %>"
        )

    def _repr_png_(self) -> bytes:
        return _rgb_png(self.overlay(legend=True)).tobytes()

    @property
    def size(self) -> Size:
        """Width and height of the image."""
        return Size.of(self.labels)

    def named(self, name: str) -> Result:
        """The same under another name, which `save` uses."""
        return replace(self, name=name)

    def colors(self) -> RgbImage:
        """The labels in their classes' colors, uint8 [H, W, 3] RGB."""
        return colorize(self.labels, self.label_set)

    def overlay(self, opacity: float = DEFAULT_OPACITY, border: bool = True, legend: bool = False) -> RgbImage:
        """The image with the colors laid over it, uint8 RGB.

        Args:
            opacity: 0 shows the image only, 1 the colors only.
            border: draw the border of the drivable mask.
            legend: add a strip below with the classes that are there and the share of each; the picture grows by it.

        Raises:
            InputError: opacity is outside 0 to 1.
        """
        picture = overlay(self.image, self.labels, self.label_set, opacity)
        if border:
            picture = outline(picture, self.drivable, width=max(1, round(min(picture.shape[:2]) / 240)))
        return with_legend(picture, self.label_set, self.shares()) if legend else picture

    def shares(self) -> dict[str, float]:
        """Class name -> share of the image's pixels, 0 to 1; a class that is not there has 0."""
        counts = np.bincount(self.labels.reshape(-1), minlength=len(self.label_set))
        return {c.name: float(counts[c.id]) / self.labels.size for c in self.label_set.classes}

    def save(self, folder: str | Path, opacity: float = DEFAULT_OPACITY) -> dict[str, Path]:
        """Write PNG files: labels (class ids, which look black), colors, confidence, drivable and overlay.

        Args:
            folder: gets FOLDER/labels/NAME.png and so on; made where it is missing.
            opacity: of the overlay, 0 to 1.

        Returns:
            Kind -> file written: labels, colors, confidence, drivable, overlay.

        Raises:
            InputError: opacity is outside 0 to 1.
            OSError: a file cannot be written.
        """
        pictures = (
            encode_png_bytes(self.labels),
            _rgb_png(self.colors()),
            encode_png_bytes(self.confidence),
            encode_png_bytes(self.drivable),
            _rgb_png(self.overlay(opacity, legend=True)),
        )
        written = {}
        for kind, encoded in zip(KINDS, pictures, strict=True):
            path = user_path(folder) / kind / f"{self.name}.png"
            make_folder(path.parent)
            write_atomically(path, encoded.tobytes())
            written[kind] = path
        return written


def _rgb_png(picture: RgbImage) -> NDArray[np.uint8]:
    return np.asarray(cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1], np.uint8)


class Model:
    """A loaded model: call it with an image, or give it several cameras' images or a whole source.

    Made by `load`. Leaving its `with` block, or `close`, releases the engine. Not thread-safe.

    Attributes:
        segmenter: the three steps apart (prepare, infer, finish), for callers that time or pipeline them.
        identity: names model file, engine and input size: equal only if the answers are.
        drivable: how the mask is judged.
    """

    def __init__(self, segmenter: Segmenter, identity: str, drivable: DrivableSettings) -> None:
        self.segmenter = segmenter
        self.identity = identity
        self.drivable = drivable
        self._still = SourceMasker(drivable, segmenter.card.label_set)
        self._closed = False

    def __repr__(self) -> str:
        return f"<Model {self.description}{', closed' if self._closed else ''}>"

    @property
    def card(self) -> ModelCard:
        """Classes, scores, data, limits: what the model file says of itself."""
        return self.segmenter.card

    @property
    def info(self) -> EngineInfo:
        """What runs the model."""
        return self.segmenter.info

    @property
    def description(self) -> str:
        """Model and engine, for people."""
        return f"{self.card.id} with {self.info}"

    def __call__(self, image: ImageLike) -> Result:
        """Segment one image.

        Args:
            image: a file's path (str or Path; turned upright by EXIF or XMP), an array, or a PIL image. An
                array is uint8 [H, W, 3] in RGB order. OpenCV reads BGR, which nothing here can notice:
                turn it first, `cv2.cvtColor(image, cv2.COLOR_BGR2RGB)`.

        Raises:
            FileNotFoundError: no such file.
            InputError: not an image that is accepted; the text says what came and what is.
            EngineError: the runtime failed, or the model is closed.
        """
        return self.batch([image])[0]

    def batch(self, images: Sequence[ImageLike]) -> list[Result]:
        """Segment several images, such as those of several cameras, in as few runs of the engine as possible.

        Args:
            images: as `__call__`; their sizes may differ.

        Returns:
            One result for each, in order.

        Raises:
            FileNotFoundError, InputError, EngineError: as `__call__`.
        """
        if isinstance(images, (str, bytes, Path, np.ndarray)) or not hasattr(images, "__iter__"):
            raise InputError("batch takes a list of images; for one image, call the model itself")
        opened = [_open_image(image) for image in images]
        answers = self._segment([pixels for _, _, pixels in opened])
        label_set = self.card.label_set
        return [
            Result(pixels, s.labels, s.confidence, self._still.mask(s), label_set, name, source)
            for (name, source, pixels), s in zip(opened, answers, strict=True)
        ]

    def stream(
        self,
        source: str | Path | int,
        topic: str | None = None,
        on_fault: Callable[[str], object] | None = None,
    ) -> Iterator[Result]:
        """Segment every image of a source, one after the other, as it is asked for.

        Args:
            source: a video, a folder of images and videos, a bag, a camera's index, or a URL that OpenCV opens. A
                camera or live stream gives its newest frame each time, and never ends by itself.
            topic: the image topic of a bag; None takes /image or the only one.
            on_fault: is told of every file or message that cannot be used, and the rest goes on; None raises.

        Raises:
            FileNotFoundError: no such file or folder.
            InputError: the source, or without `on_fault` one of its images, cannot be used.
            EngineError: the runtime failed, or the model is closed.
        """
        return self._stream(find_source(source), topic, on_fault)

    def _stream(self, source: Source, topic: str | None, on_fault: Callable[[str], object] | None) -> Iterator[Result]:
        label_set = self.card.label_set
        masker = SourceMasker(self.drivable, label_set)
        for frame in frames(source, topic, on_fault):
            segmentation = self._segment([frame.image])[0]
            mask = masker.mask(segmentation, frame.stamp_ns, frame.source)
            yield Result(
                frame.image,
                segmentation.labels,
                segmentation.confidence,
                mask,
                label_set,
                frame.name,
                frame.source,
                frame.stamp_ns,
            )

    def _segment(self, images: Sequence[RgbImage]) -> list[Segmentation]:
        if self._closed:
            raise EngineError("this model is closed: use it inside its 'with' block, or load it again")
        segmenter = self.segmenter
        return [segmenter.finish(raw) for raw in segmenter.infer([segmenter.prepare(image) for image in images])]

    def close(self) -> None:
        """Release the engine; calling it twice is harmless."""
        self._closed = True
        self.segmenter.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load(
    model: str | Path | None = None,
    engine: str = "auto",
    size: str | Size | tuple[int, int] | None = None,
    threads: int = 0,
    drivable: DrivableSettings | None = None,
    options: EngineOptions | None = None,
) -> Model:
    """Open a model with an engine.

    Args:
        model: an ONNX file with a model card, or a compiled `.engine` file; None takes the shipped model.
        engine: what runs it, by name; "auto" takes the best that can run here, and logs which (docs/deploy.md has
            the table).
        size: what the network sees, "480x352" or (480, 352); None keeps each image's shape and spends the
            model card's number of pixels.
        threads: of the CPU engines; 0 takes all cores that this process may use.
        drivable: how the drivable mask is judged; None takes every drivable label that is surer than 0.5.
        options: everything else about engines, such as where compiled ones are kept.

    Raises:
        FileNotFoundError: no such model.
        ModelError: the file breaks the contract of a deployed graph.
        EngineError: an unknown engine, or it is not installed or cannot run here.
        InputError: a malformed size, or one that the model does not take.
        SettingsError: `drivable` names a class that the model does not have.
    """
    for name, value, kind in (("drivable", drivable, DrivableSettings), ("options", options, EngineOptions)):
        if not isinstance(value, (kind, type(None))):
            raise InputError(f"{name} {value!r} is not accepted: a {kind.__name__} is")
    path = model_file(model)
    wanted = Size.parse(size) if size is not None else None
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: not a regular file; a model is an .onnx or .engine file")
    opened = open_engine(path, engine, threads, options, wanted)
    try:
        segmenter = Segmenter(opened, wanted)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        identity = f"{opened.card.id} with {opened.info}; model {digest}; input size {wanted or 'automatic'}"
        return Model(segmenter, identity, drivable or DrivableSettings())
    except BaseException:
        opened.close()
        raise


def _open_image(image: Any) -> tuple[str, str, RgbImage]:
    """Name, source and pixels of whatever a caller gives for an image."""
    if isinstance(image, (str, Path)):
        source = find_source(image)
        if source.kind is not SourceKind.IMAGE:
            raise InputError(f"{source} is a {source.kind.value}, not an image: use model.stream({str(image)!r})")
        assert isinstance(source.place, Path)
        return source.name, str(source), read_rgb(source.place)
    if isinstance(image, np.ndarray):
        return "image", "array", _checked_array(image)
    pillow = sys.modules.get("PIL.Image")  # who has such an image has imported it
    if pillow is not None and isinstance(image, pillow.Image):
        return "image", "PIL image", _of_pillow(image)
    raise InputError(
        f"a {type(image).__name__} is not accepted as an image: a path, a uint8 [H, W, 3] array in RGB order or a "
        "PIL image is"
    )


def _checked_array(image: NDArray[Any]) -> RgbImage:
    if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size:
        return image
    hint = ""
    if image.dtype != np.uint8:
        hint = "; bring its values to 0 to 255 and the type to uint8"
    elif image.ndim == 2:
        hint = "; for a gray image, np.repeat(image[..., None], 3, axis=2)"
    elif image.ndim == 3 and image.shape[2] == 4:
        hint = "; leave the alpha channel out, image[..., :3]"
    elif image.ndim == 3 and image.shape[0] == 3:
        hint = "; channels come last, np.moveaxis(image, 0, -1)"
    elif image.ndim == 4:
        hint = "; for several images, model.batch(list(images))"
    raise InputError(
        f"an image array must be uint8 [H, W, 3] in RGB order (not OpenCV's BGR), got {image.dtype} "
        f"{list(image.shape)}{hint}"
    )


def _of_pillow(image: Image) -> RgbImage:
    from PIL import ImageOps

    if image.mode not in ("RGB", "L", "P", "1", "RGBA", "LA", "CMYK", "YCbCr"):
        raise InputError(f"a PIL image of mode {image.mode} is not accepted: 8 bits a channel, such as RGB or L, are")
    return np.array(ImageOps.exif_transpose(image).convert("RGB"), np.uint8)
