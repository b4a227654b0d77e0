"""Evaluations as one JSON file: the percentages for people, the counts for whoever recomputes them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seg_perception.core.documents import parse_json
from seg_perception.core.errors import InputError, SegPerceptionError
from seg_perception.core.files import read_regular_file, write_atomically
from seg_perception.core.label_set import LabelClass, LabelSet
from seg_perception.core.metrics import ConfusionMatrix
from seg_perception.evaluation.counts import PixelCounts
from seg_perception.evaluation.evaluator import Evaluation, EvaluationOptions, ImageScore

FORMAT = 1
FILE_NAME = "evaluation.json"
_MAX_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Example:
    """A picture of one image with truth and answer.

    Attributes:
        dataset: the evaluation it belongs to.
        place: "best 1", "worst 1", ...
        name: of the image.
        caption: its scores, for people.
        file: the picture, relative to the JSON file's folder.
    """

    dataset: str
    place: str
    name: str
    caption: str
    file: str


@dataclass(frozen=True, slots=True)
class EvaluationFile:
    """What one model, run by one engine, reached on one or more datasets.

    Attributes:
        model: the model card's id.
        engine: what ran it, on which input size, and the model file's hash.
        evaluations: one for each dataset.
        examples: pictures beside the file.
    """

    model: str
    engine: str
    evaluations: tuple[Evaluation, ...]
    examples: tuple[Example, ...] = ()


def write_evaluations(path: Path, content: EvaluationFile) -> None:
    """Write the file, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    document = {
        "format": FORMAT,
        "model": content.model,
        "engine": content.engine,
        "evaluations": [_to_document(e) for e in content.evaluations],
        "examples": [asdict(e) for e in content.examples],
    }
    write_atomically(path, json.dumps(document, allow_nan=False, separators=(",", ":")).encode())


def _to_document(evaluation: Evaluation) -> dict[str, Any]:
    classes = [{"name": c.name, "color": c.color, "drivable": c.drivable} for c in evaluation.label_set.classes]
    return {
        "dataset": evaluation.dataset,
        "percent": evaluation.percentages(),
        "label_set": {"name": evaluation.label_set.name, "classes": classes},
        "options": asdict(evaluation.options),
        "images": [
            [i.index, i.name, _number_or_null(i.mean_iou), _number_or_null(i.pixel_accuracy)] for i in evaluation.images
        ],
        "counts": evaluation.counts.table.tolist(),
        "band_counts": evaluation.band_counts.counts.tolist(),
    }


def _number_or_null(value: float) -> float | None:
    return None if math.isnan(value) else value


def read_evaluations(path: Path) -> EvaluationFile:
    """Read a file that `write_evaluations` wrote.

    Raises:
        FileNotFoundError: no such file.
        InputError: not such a file, or damaged.
    """
    document = parse_json(read_regular_file(path, _MAX_BYTES), str(path))
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise InputError(f"{path}: not what 'seg-perception evaluate --json' writes (format {FORMAT})")
    try:
        return EvaluationFile(
            str(document["model"]),
            str(document["engine"]),
            tuple(_from_document(e) for e in document["evaluations"]),
            tuple(Example(**e) for e in document["examples"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, MemoryError, SegPerceptionError) as error:
        raise InputError(f"{path}: this evaluation cannot be read: {type(error).__name__}: {error}") from error


def _from_document(document: Mapping[str, Any]) -> Evaluation:
    label_set = document["label_set"]
    rows = label_set["classes"]
    classes = tuple(LabelClass(i, c["name"], tuple(c["color"]), c["drivable"]) for i, c in enumerate(rows))
    matrix = ConfusionMatrix(len(classes))
    matrix.counts += _whole_numbers(document["band_counts"])
    return Evaluation(
        document["dataset"],
        LabelSet(label_set["name"], classes),
        PixelCounts.of(_whole_numbers(document["counts"])),
        matrix,
        tuple(ImageScore(i, name, _number(iou), _number(accuracy)) for i, name, iou, accuracy in document["images"]),
        EvaluationOptions(**document["options"]),
    )


def _whole_numbers(values: Any) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.dtype.kind != "i":
        raise InputError(f"counts must be whole numbers, got {array.dtype}")
    return array.astype(np.int64)


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
