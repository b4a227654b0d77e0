"""Files that evaluations and trainings leave: scores as JSON, pictures of the best and the worst, curves of a run."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from seg_perception.core.errors import InputError, SegPerceptionError
from seg_perception.core.files import make_folder, read_regular_file, real_path, write_atomically
from seg_perception.core.label_set import LabelClass, LabelSet
from seg_perception.core.metrics import ConfusionMatrix
from seg_perception.core.settings import parse_json, read_yaml
from seg_perception.core.types import UNLABELED, RgbImage, Segmentation
from seg_perception.core.visual import overlay
from seg_perception.datasets.base import Dataset, Sample
from seg_perception.evaluation import Evaluation, EvaluationOptions, ImageScore
from seg_perception.evaluation.counts import PixelCounts
from seg_perception.segmenter import Segmenter

SETTINGS, STEPS, VALIDATION = "settings.yaml", "steps.csv", "validation.csv"
_MAX_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ValidationPoint:
    """Scores on one dataset after so many steps, as fractions; NaN for a class that is not there."""

    step: int
    mean_iou: float
    pixel_accuracy: float
    iou: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """Curves of one run.

    Attributes:
        name: of the folder.
        settings: the text of settings.yaml, which is YAML, or nothing.
        steps, loss: the training loss after each step.
        validation: dataset -> points, in order.
    """

    name: str
    settings: str
    steps: tuple[int, ...]
    loss: tuple[float, ...]
    validation: Mapping[str, tuple[ValidationPoint, ...]]

    def best_step(self) -> int | None:
        """The step with the highest mean over the datasets' mean IoU; None without validation."""
        sums: dict[int, list[float]] = {}
        for points in self.validation.values():
            for point in points:
                sums.setdefault(point.step, []).append(point.mean_iou)
        whole = {step: sum(values) for step, values in sums.items() if len(values) == len(self.validation)}
        return max(whole, key=lambda step: (whole[step], -step)) if whole else None


def is_run_folder(folder: Path) -> bool:
    return (folder / STEPS).is_file()


def read_run(folder: Path) -> TrainingRun:
    """Read a run's folder; a run may still be going on.

    Raises:
        FileNotFoundError: no steps.csv there.
        InputError: logs that do not look like a run's.
        SettingsError: its settings are no YAML.
    """
    try:
        steps = _rows(folder / STEPS)
        validation: dict[str, list[ValidationPoint]] = {}
        if (folder / VALIDATION).is_file():
            for row in _rows(folder / VALIDATION):
                fixed = {key: row.pop(key) for key in ("step", "dataset", "mean_iou", "pixel_accuracy")}
                point = ValidationPoint(
                    _step(fixed["step"]),
                    float(fixed["mean_iou"]),
                    float(fixed["pixel_accuracy"]),
                    {name: float(value) for name, value in row.items()},
                )
                validation.setdefault(fixed["dataset"], []).append(point)
        settings = folder / SETTINGS
        if settings.is_file():
            read_yaml(settings)  # so that whoever parses the text need not expect faults
        return TrainingRun(
            real_path(folder).name,
            settings.read_text(encoding="utf-8") if settings.is_file() else "",
            tuple(_step(row["step"]) for row in steps),
            tuple(float(row["loss"]) for row in steps),
            {name: tuple(points) for name, points in validation.items()},
        )
    except (KeyError, ValueError, csv.Error) as error:
        raise InputError(f"{folder}: its logs cannot be read: {type(error).__name__}: {error}") from error


def _step(text: str) -> int:
    if re.fullmatch("[0-9]{1,13}", text) is None:
        raise ValueError(f"{text[:40]!r} is no step")
    return int(text)


def _rows(path: Path) -> list[dict[str, str]]:
    """Whole rows only: a run that is going on, or was killed, can leave half a row at the end."""
    content = read_regular_file(path, _MAX_BYTES).decode("utf-8")
    table = list(csv.reader(io.StringIO(content, newline="")))
    header = table[0] if table else []
    return [dict(zip(header, row, strict=True)) for row in table[1:] if len(row) == len(header) and all(row)]


FORMAT = 1
FILE_NAME = "evaluation.json"


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
        temperature: of the softmax that made the confidence, as the model card says; None: not told.
    """

    model: str
    engine: str
    evaluations: tuple[Evaluation, ...]
    examples: tuple[Example, ...] = ()
    temperature: float | None = None


def write_evaluations(path: Path, content: EvaluationFile) -> None:
    """Write the file, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    document = {
        "format": FORMAT,
        "model": content.model,
        "engine": content.engine,
        "temperature": content.temperature,
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
        "has_confidence": evaluation.has_confidence,
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
            document.get("temperature"),  # files of before did not say
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
        bool(document.get("has_confidence", True)),  # files of before did not say
    )


def _whole_numbers(values: Any) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.dtype.kind != "i":
        raise InputError(f"counts must be whole numbers, got {array.dtype}")
    return array.astype(np.int64)


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


PANELS = ("image", "truth", "answer", "wrong (red)", "confidence (bright is sure)")
_PANEL_WIDTH = 400
_GAP = 4
_RED = (225, 30, 30)


def best_and_worst(evaluation: Evaluation, best: int, worst: int) -> list[tuple[str, ImageScore]]:
    """The worst images and then the best ones by mean IoU, each with its place ("worst 1")."""
    ranked = sorted((i for i in evaluation.images if not math.isnan(i.mean_iou)), key=lambda i: (i.mean_iou, i.index))
    lowest = [(f"worst {place}", image) for place, image in enumerate(ranked[:worst], 1)]
    rest = ranked[len(lowest) :]
    return lowest + [(f"best {place}", image) for place, image in enumerate(reversed(rest[-best:] if best else []), 1)]


def comparison(sample: Sample, answer: Segmentation, label_set: LabelSet) -> RgbImage:
    """The panels of PANELS in one row, each 400 pixels wide: uint8 [H, W, 3]."""
    image, truth = sample.image, sample.labels
    gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB) // 2 + 96
    gray[truth == UNLABELED] = 40
    gray[(truth != UNLABELED) & (truth != answer.labels)] = _RED
    confidence = cv2.cvtColor(cv2.applyColorMap(answer.confidence, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
    panels = [
        image,
        overlay(image, truth, label_set, 0.75),
        overlay(image, answer.labels, label_set, 0.75),
        gray,
        confidence,
    ]
    size = (_PANEL_WIDTH, max(1, round(_PANEL_WIDTH * image.shape[0] / image.shape[1])))
    gap = np.full((size[1], _GAP, 3), 255, np.uint8)
    row = []
    for panel in panels:
        row += [cv2.resize(np.ascontiguousarray(panel), size, interpolation=cv2.INTER_AREA), gap]
    return np.ascontiguousarray(np.hstack(row[:-1]), np.uint8)


def write_examples(
    folder: Path,
    dataset: Dataset,
    segmenter: Segmenter,
    evaluation: Evaluation,
    best: int = 3,
    worst: int = 5,
) -> list[Example]:
    """Segment the best and the worst images once more and write their pictures under folder/examples/.

    Raises:
        OSError: a picture cannot be written.
    """
    examples = []
    # two names can become one here ("a/b" and "a-b"): the hash keeps their pictures apart
    short = re.sub(r"[^A-Za-z0-9]+", "-", evaluation.dataset).strip("-") or "dataset"
    short += f"-{zlib.crc32(os.fsencode(evaluation.dataset)):08x}"
    make_folder(folder / "examples")
    for place, image in best_and_worst(evaluation, best, worst):
        sample = dataset.load(image.index)
        picture = comparison(sample, segmenter.segment(sample.image), evaluation.label_set)
        file = f"examples/{short}-{place.replace(' ', '-')}.jpg"
        write_atomically(folder / file, encode_jpeg(picture))
        caption = f"mean IoU {100 * image.mean_iou:.1f} %, {100 * image.pixel_accuracy:.1f} % of the pixels right"
        examples.append(Example(evaluation.dataset, place, image.name, caption, file))
    return examples


def encode_jpeg(image: RgbImage, quality: int = 85) -> bytes:
    """An RGB image, uint8 [H, W, 3], as JPEG."""
    ok, content = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert ok
    return content.tobytes()
