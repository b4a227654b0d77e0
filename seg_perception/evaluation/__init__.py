"""Evaluation: dataset x Segmenter -> scores, of any engine, so that the deployed artifact is what is scored."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from tqdm import tqdm

from seg_perception.core.drivable import DEFAULT_MIN_CONFIDENCE
from seg_perception.core.errors import DatasetError, SettingsError
from seg_perception.core.files import shipped_file
from seg_perception.core.label_set import LabelSet
from seg_perception.core.metrics import ConfusionMatrix, Scores
from seg_perception.core.settings import from_mapping, read_yaml
from seg_perception.core.types import UNLABELED, parse_fields
from seg_perception.datasets.base import Dataset
from seg_perception.datasets.registry import DatasetSettings
from seg_perception.evaluation.counts import (
    BAND_WIDTH,
    MOST_BAND,
    Calibration,
    DrivableScores,
    PixelCounts,
    boundary_band,
)
from seg_perception.segmenter import Segmenter


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """One or more datasets.

    Attributes:
        datasets: as in a training's settings.
        data_root: folder that their roots are relative to.
    """

    datasets: tuple[DatasetSettings, ...]
    data_root: Path = Path()

    def __post_init__(self) -> None:
        if not self.datasets:
            raise SettingsError("datasets: at least one is needed")


def load_evaluation_settings(name_or_path: str | Path) -> EvaluationSettings:
    """Read `data_root` and `datasets`, or the validation sets of a training's settings file.

    Args:
        name_or_path: a YAML file, or the name of one in config/evaluation or config/train.

    Raises:
        FileNotFoundError: no such file.
        SettingsError: not YAML, or any fault in it.
    """
    path = shipped_file(("config/evaluation", "config/train"), name_or_path, "settings")
    document = read_yaml(path)
    if not isinstance(document, dict):
        raise SettingsError(f"{path}: a table with 'datasets' is expected, got {type(document).__name__}")
    if "datasets" not in document and "validation" in document:  # a training's settings
        document = {"datasets": document["validation"], "data_root": document.get("data_root", ".")}
    return from_mapping(EvaluationSettings, document, str(path))


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """What an evaluation measures beside the labels.

    Attributes:
        min_confidence: the threshold of the deployed drivable mask, 0 to 1.
        band: half-width in pixels of the band along class borders.
    """

    min_confidence: float = DEFAULT_MIN_CONFIDENCE
    band: int = BAND_WIDTH

    def __post_init__(self) -> None:
        parse_fields(self)
        faults = []
        if not 0.0 <= self.min_confidence <= 1.0:
            faults.append(f"min_confidence: {self.min_confidence} is not in 0 to 1")
        if not 1 <= self.band <= MOST_BAND:
            faults.append(f"band: {self.band} pixels are not in 1 to {MOST_BAND}")
        if faults:
            raise SettingsError("\n".join(faults))


@dataclass(frozen=True, slots=True)
class ImageScore:
    """One image of the dataset; fractions in 0 to 1, NaN where it has no labeled pixel."""

    index: int
    name: str
    mean_iou: float
    pixel_accuracy: float


@dataclass(frozen=True)
class Evaluation:
    """What one dataset says of one engine.

    Attributes:
        dataset: its name.
        label_set: the classes.
        counts: every labeled pixel.
        band_counts: those in the band along class borders.
        images: a score for each image, in the dataset's order.
        options: how it was measured.
        has_confidence: whether the model gives one; if not, nothing is said of it.
    """

    dataset: str
    label_set: LabelSet
    counts: PixelCounts
    band_counts: ConfusionMatrix
    images: tuple[ImageScore, ...]
    options: EvaluationOptions = EvaluationOptions()
    has_confidence: bool = True

    @cached_property
    def scores(self) -> Scores:
        """Scores of every labeled pixel."""
        return Scores.of(self.counts.confusion)

    @cached_property
    def boundary(self) -> Scores:
        """Scores of the band along class borders."""
        return self.band_counts.scores()

    @cached_property
    def calibration(self) -> Calibration:
        """How often the labels of each confidence are right; of no pixel where there is no confidence."""
        return Calibration.of(self.counts if self.has_confidence else PixelCounts(len(self.label_set)))

    @cached_property
    def drivable(self) -> DrivableScores | None:
        """None where the label set has no drivable class."""
        if not (ids := self.label_set.drivable_ids):
            return None
        scores = DrivableScores.of(self.counts, ids, self.options.min_confidence)
        return scores if self.has_confidence else replace(scores, confident_wrong=math.nan)

    def percentages(self) -> dict[str, float]:
        """Metric name -> percent with two decimals, as the model card stores them; a metric without a value is left
        out.
        """
        return {name: round(100 * value, 2) for name, value in self.fractions().items() if not np.isnan(value)}

    def fractions(self) -> dict[str, float]:
        """Metric name -> value in 0 to 1, not rounded; NaN where it has none."""
        scores, drivable = self.scores, self.drivable
        values = {
            "mean_iou": scores.mean_iou,
            "pixel_accuracy": scores.pixel_accuracy,
            "frequency_weighted_iou": scores.frequency_weighted_iou,
            "boundary_mean_iou": self.boundary.mean_iou,
            "calibration_error": self.calibration.expected_error,
        }
        if drivable is not None:
            values |= {
                "drivable_f1": drivable.f1,
                "drivable_max_f": drivable.max_f,
                "drivable_precision": drivable.precision,
                "drivable_recall": drivable.recall,
                "false_drivable": drivable.false_drivable,
                "confident_wrong_drivable": drivable.confident_wrong,
            }
        values |= {f"iou/{name}": iou for name, iou in zip(self.label_set.names, scores.iou, strict=True)}
        return values

    def table(self) -> str:
        """Everything measured, for a terminal; percent."""
        scores, boundary, calibration, drivable = self.scores, self.boundary, self.calibration, self.drivable
        truth = self.counts.confusion.sum(axis=1)
        band = self.options.band
        lines = [
            f"{self.dataset}: {len(self.images)} images{self._unlabeled()}, {scores.pixels} labeled pixels",
            f"  {'class':<16}{'IoU':>8}{f'IoU {band} px':>10}{'share':>8}",
        ]
        for name, iou, near, count in zip(self.label_set.names, scores.iou, boundary.iou, truth, strict=True):
            share = count / max(scores.pixels, 1)
            if count:
                lines.append(f"  {name:<16}{_percent(iou)}{_percent(near, 10)}{_percent(share)}")
            else:
                lines.append(f"  {name:<16}{'-':>8}{'-':>10}{'-':>8}   not in the truth")
        lines += [
            f"  {'mean IoU':<16}{_percent(scores.mean_iou)}{_percent(boundary.mean_iou, 10)}",
            f"  {'weighted IoU':<16}{_percent(scores.frequency_weighted_iou)}   by frequency of the class",
            f"  {'pixel accuracy':<16}{_percent(scores.pixel_accuracy)}{_percent(boundary.pixel_accuracy, 10)}",
        ]
        if drivable is not None:
            lines += _drivable_lines(drivable)
        sure = f"ECE; mean confidence {_percent(calibration.mean_confidence, 0)}"
        sure = sure if self.has_confidence else "the model gives labels only: its confidence is 100 % everywhere"
        lines.append(f"  {'calibration':<16}{_percent(calibration.expected_error)}   {sure}")
        return "\n".join(lines)

    def _unlabeled(self) -> str:
        count = sum(np.isnan(image.pixel_accuracy) for image in self.images)
        return f" ({count} without a labeled pixel)" if count else ""


def _drivable_lines(drivable: DrivableScores) -> list[str]:
    parts = f"precision {_percent(drivable.precision, 0)}, recall {_percent(drivable.recall, 0)}"
    wrong = f"confident and wrong {_percent(drivable.confident_wrong, 0)}"
    return [
        f"  {'drivable F1':<16}{_percent(drivable.f1)}   at confidence {drivable.threshold:.2f}; {parts}",
        f"  {'drivable MaxF':<16}{_percent(drivable.max_f)}   at confidence {drivable.max_f_threshold:.2f}",
        f"  {'false drivable':<16}{_percent(drivable.false_drivable)}   of what is not drivable; {wrong}",
    ]


def _percent(fraction: float, width: int = 8) -> str:
    return f"{'-':>{width}}" if np.isnan(fraction) else f"{100 * fraction:{width}.2f}"


def demand_same_classes(dataset: Dataset, classes: LabelSet) -> None:
    """Check that truth and answers mean the same by their ids.

    Raises:
        DatasetError: the dataset maps to another label set than the model's.
    """
    if dataset.label_set.names != classes.names:
        raise DatasetError(
            f"{dataset.name} maps to the classes {', '.join(dataset.label_set.names)}, "
            f"but the model knows {', '.join(classes.names)}; choose a mapping to the model's classes"
        )


def of_labels_alone(metric: str) -> bool:
    """Whether a metric of `Evaluation.fractions` follows from the labels, whatever the confidence is."""
    return metric.startswith("iou/") or metric in _OF_LABELS


_OF_LABELS = ("mean_iou", "pixel_accuracy", "frequency_weighted_iou", "boundary_mean_iou")


def evaluate(
    dataset: Dataset,
    segmenter: Segmenter,
    progress: bool = False,
    options: EvaluationOptions | None = None,
) -> Evaluation:
    """Segment every image at its own size and count it against its truth.

    Raises:
        DatasetError: the dataset maps to another label set than the model's; a file is unreadable; or nothing
            is labeled.
        EngineError: the engine failed.
    """
    options = options or EvaluationOptions()
    classes = segmenter.card.label_set
    demand_same_classes(dataset, classes)
    counts = PixelCounts(len(classes))
    band_counts = ConfusionMatrix(len(classes))
    images = []
    for index in tqdm(range(len(dataset)), desc=dataset.name, unit="image", disable=not progress):
        sample = dataset.load(index)
        answer = segmenter.segment(sample.image)
        scores = Scores.of(counts.add(sample.labels, answer))
        band = boundary_band(sample.labels, options.band)
        band_counts.add(np.where(band, sample.labels, np.uint8(UNLABELED)), answer.labels)
        images.append(ImageScore(index, sample.name, scores.mean_iou, scores.pixel_accuracy))
    if not counts.confusion.any():
        raise DatasetError(
            f"{dataset.name}: no pixel of its {len(dataset)} images is labeled; there is nothing to score"
        )
    has_confidence = segmenter.card.has_confidence
    return Evaluation(dataset.name, classes, counts, band_counts, tuple(images), options, has_confidence)
