"""The whole import in one call: read, decide, wrap, write, open as an engine, compare with the original."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from seg_perception.core.errors import InputError, ModelError
from seg_perception.core.files import NAME, make_room_for, write_atomically
from seg_perception.core.image_file import IMAGE_SUFFIXES, image_files, read_rgb
from seg_perception.core.resizing import resize_image
from seg_perception.core.types import RgbImage, Size
from seg_perception.engines.opening import open_engine
from seg_perception.export.importing import (
    ImportRequest,
    Kind,
    OriginalModel,
    count_operators,
    not_in_tensorrt,
    prepare_pixels,
    read_foreign,
)
from seg_perception.export.importing.importer import DEFAULT_SIZE, Imported, import_model
from seg_perception.export.importing.wrap import LEAST_SUM


@dataclass(frozen=True, slots=True)
class AnswerComparison:
    """The imported graph against the original, over all images.

    Attributes:
        pixels: compared.
        equal: with the same label.
        ties: that differ where the original's two best classes are within a thousandth in probability;
            None of a model that answers ids only.
        only: the one class that the original gives every pixel of every image; None: it gives several.
    """

    images: int
    pixels: int
    equal: int
    ties: int | None
    only: str | None

    @property
    def agreement(self) -> float:
        """0 to 1."""
        return self.equal / self.pixels

    def __str__(self) -> str:
        differ = self.pixels - self.equal
        text = f"labels equal to the original's: {self.agreement:.4%} of {self.pixels} pixels in {self.images} images"
        if differ:
            text += f"; {differ} differ, " + (
                "and no scores tell how close they were"
                if self.ties is None
                else f"{self.ties} of them where its two best classes are within 0.001"
            )
        if self.only is not None:
            text += (
                f"\nthe model calls every pixel of them {self.only}: if it should not, --scale, --mean, --std or "
                "--color are not those that it was trained with"
            )
        return text


def reference_probabilities(answer: NDArray[Any], imported: Imported, size: Size) -> NDArray[np.float64]:
    """What the original says of each class of the new label set, by an obvious way: float64 [C, H, W]."""
    kind, source = imported.decision.kind, imported.classes.source
    values = imported.layout.first(answer)
    if kind is Kind.LABELS:
        grid = values[0]
        rows = (np.arange(size.height) * grid.shape[0]) // size.height
        columns = (np.arange(size.width) * grid.shape[1]) // size.width
        ids = grid[rows][:, columns].astype(int)
        spread = np.eye(len(source))[ids].transpose(2, 0, 1)
    else:
        if kind is Kind.SIGMOID and (values.min() < 0 or values.max() > 1):
            values = 1 / (1 + np.exp(-values))
        values = np.stack(
            [cv2.resize(channel.astype(np.float32), (size.width, size.height)) for channel in values]
        ).astype(np.float64)
        if kind is Kind.SIGMOID:
            values = np.concatenate([1 - values, values])
        if kind is Kind.SCORES:
            values = np.exp(values - values.max(axis=0))
        if kind in (Kind.SCORES, Kind.PROBABILITIES):
            values /= np.maximum(values.sum(axis=0), LEAST_SUM)
        spread = values
    summed = np.zeros((len(imported.card.label_set), size.height, size.width))
    for index, target in enumerate(imported.classes.targets):
        summed[target] += spread[index]
    return summed


def compare_with_original(
    original: OriginalModel,
    imported: Imported,
    answer_of: Callable[[NDArray[np.uint8]], tuple[NDArray[np.uint8], NDArray[np.uint8]]],
    images: Mapping[str, NDArray[np.uint8]],
) -> AnswerComparison:
    """Labels of the imported graph and of the original on the same pixels.

    Args:
        original: the foreign model, opened.
        answer_of: runs the imported graph; `Engine.infer` is one.
        images: uint8 [H, W, 3] RGB at a size that the model takes, by name.

    Raises:
        InputError: no images.
        ModelError: the original answers with something that is no number.
    """
    if not images:
        raise InputError("a comparison needs at least one image")
    pixels = equal = ties = 0
    seen: set[int] = set()
    for name, image in images.items():
        batch = np.repeat(image[np.newaxis], imported.decision.batch or 1, axis=0)
        answer = original.run(imported.decision.input.name, prepare_pixels(batch, imported.decision))
        chosen = answer[imported.decision.output.name]
        if not (chosen < np.inf).all():  # minus infinity is a score; NaN is not below anything
            raise ModelError(
                f"{original.foreign.path}: its answer to {name} holds infinity or what is no number (NaN): its weights "
                "are damaged, or the pixels overflow in it; --scale, --mean and --std say how they are scaled"
            )
        expected = reference_probabilities(chosen, imported, Size.of(image))
        labels = answer_of(batch)[0][0]
        same = labels == expected.argmax(axis=0)
        best = np.sort(expected, axis=0)[-2:] if len(expected) > 1 else np.stack([0 * expected[0], expected[0]])
        pixels, equal = pixels + same.size, equal + int(same.sum())
        seen.update(np.unique(expected.argmax(axis=0)).tolist())
        ties += int((~same & (best[1] - best[0] < 1e-3)).sum())
    only = imported.card.label_set.names[seen.pop()] if len(seen) == 1 else None
    return AnswerComparison(len(images), pixels, equal, None if imported.decision.kind is Kind.LABELS else ties, only)


_IMAGES = 4
_LEAST_AGREEMENT = 0.95
"""Less is another model. Quantized ones may differ by a percent: runtimes round them by what stands beside them."""


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What was made, what was guessed, and whether it says the same; as text, for people.

    Attributes:
        source: the foreign model.
        out: the deployed one.
        imported: how the source was taken, its classes and the new model card.
        comparison: the answers of both on the same images.
    """

    source: Path
    out: Path
    imported: Imported
    comparison: AnswerComparison

    def __str__(self) -> str:
        card, decision, classes = self.imported.card, self.imported.decision, self.imported.classes
        lines = [f"{self.out}: {card.id}, {len(card.label_set)} classes of {card.label_set.name}, {card.input_size}"]
        if decision.reasons:
            lines += ["guessed:", *(f"  {reason}" for reason in decision.reasons), "the command that states it:"]
            lines += [f"    {decision.command(self.source, self.out)}"]
        lines += classes.notes
        if not card.has_confidence:
            lines.append("the model answers ids only: the confidence is 255 everywhere, thresholds on it mean nothing")
        if foreign := not_in_tensorrt(count_operators(self.imported.model)):
            lines.append(f"operators that TensorRT does not take: {', '.join(foreign)}")
        lines.append(str(self.comparison))
        return "\n".join(lines)


def import_file(
    source: str | Path,
    out: str | Path,
    request: ImportRequest | None = None,
    name: str | None = None,
    images: str | Path | None = None,
) -> ImportReport:
    """Make a deployed model file of any semantic-segmentation ONNX file.

    Args:
        source: the foreign model.
        out: the deployed model to write.
        request: what is known about the model; None: everything is guessed.
        name: for the model card; None: the source's name.
        images: a folder of pictures for the comparison; None: rendered streets.

    Raises:
        FileNotFoundError: no such model or folder.
        ModelError, InputError, SettingsError: it cannot be imported; nothing is written.
        OSError: it cannot be written.
        EngineError: ONNX Runtime does not run the result; nothing is written.
    """
    source, out, images = Path(source), Path(out), Path(images) if images is not None else None
    make_room_for(out, source)
    original = OriginalModel(read_foreign(source))
    imported = import_model(original, request or ImportRequest(), name)
    pictures = _pictures(images, imported.decision.input_size or imported.card.input_size)
    content = imported.model.SerializeToString()
    with tempfile.TemporaryDirectory(prefix=f".{NAME}-", dir=out.parent) as folder:
        trial = Path(folder, "trial.onnx")
        trial.write_bytes(content)
        comparison = _compare(original, imported, trial, pictures)
    write_atomically(out, content)
    return ImportReport(source, out, imported, comparison)


def _compare(
    original: OriginalModel, imported: Imported, trial: Path, pictures: dict[str, RgbImage]
) -> AnswerComparison:
    with open_engine(trial, "onnxruntime") as engine:
        comparison = compare_with_original(original, imported, engine.infer, pictures)
    if comparison.agreement < _LEAST_AGREEMENT:
        raise ModelError(
            f"{original.foreign.path} (opset {original.foreign.opset}): what it becomes is not what it is, so nothing "
            f"was written: {str(comparison).splitlines()[0]}. Export it anew with opset 17 or later; if that does not "
            "help, this is a fault of the import: report it with the model"
        )
    return comparison


def _pictures(folder: Path | None, size: Size) -> dict[str, RgbImage]:
    if folder is None:
        from seg_perception.datasets.scenes import ScenesDataset

        scenes = ScenesDataset("val", _IMAGES, DEFAULT_SIZE)
        found = {f"scene {index}": scenes.load(index).image for index in range(len(scenes))}
    else:
        files, _others = image_files(folder.iterdir())
        if not files:
            raise InputError(f"{folder}: no picture in it ({', '.join(IMAGE_SUFFIXES)})")
        found = {path.name: read_rgb(path) for path in islice(files, 20)}
    return {name: resize_image(image, size) for name, image in found.items()}
