"""Pixels counted by truth, answer and confidence, and the scores that only these counts give.

Confidence is a byte, so the table is small (10 x 10 x 256) and nothing is lost or sampled: calibration and thresholds
are exact, and datasets of any length add up without keeping their pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from seg_perception.core.errors import InputError, SettingsError
from seg_perception.core.types import UNLABELED, LabelImage, Segmentation

CONFIDENCES = 256
BAND_WIDTH = 3
MOST_BAND = 1000  # pixels


class PixelCounts:
    """Counts labeled pixels over any number of images.

    Args:
        num_classes: classes are 0 to num_classes-1; truth 255 is not counted.
    """

    def __init__(self, num_classes: int) -> None:
        self.table: NDArray[np.int64] = np.zeros((num_classes, num_classes, CONFIDENCES), np.int64)
        """[truth, answer, confidence byte]"""

    @classmethod
    def of(cls, table: NDArray[np.int64]) -> PixelCounts:
        """Wrap an existing table, int64 [classes, classes, 256]."""
        if table.ndim != 3 or table.shape[0] != table.shape[1] or table.shape[2] != CONFIDENCES or (table < 0).any():
            raise InputError(f"pixel counts must be non-negative [C, C, {CONFIDENCES}], got {list(table.shape)}")
        counts = cls(table.shape[0])
        counts.table += table
        return counts

    def add(self, truth: LabelImage, answer: Segmentation) -> NDArray[np.int64]:
        """Count one image.

        Returns:
            This image's own confusion counts, [truth, answer].

        Raises:
            InputError: sizes differ, or an id is neither a class nor, in the truth, 255.
        """
        if truth.shape != answer.labels.shape:
            raise InputError(f"truth {list(truth.shape)} and answer {list(answer.labels.shape)} differ in size")
        n = len(self.table)
        labeled = truth != UNLABELED
        ids = truth[labeled].astype(np.int32)
        answers = answer.labels[labeled].astype(np.int32)
        for what, values in (("truth", ids), ("answer", answers)):
            if values.size and int(values.max()) >= n:
                bad = sorted({int(v) for v in np.unique(values) if v >= n})
                raise InputError(f"{what}: label values {bad} are not classes 0 to {n - 1}")
        index = (ids * n + answers) * CONFIDENCES + answer.confidence[labeled]
        image = np.bincount(index, minlength=self.table.size).reshape(self.table.shape)
        self.table += image
        confusion: NDArray[np.int64] = image.sum(axis=2)
        return confusion

    @property
    def confusion(self) -> NDArray[np.int64]:
        """Pixels by class of the truth and of the answer, int64 [truth, answer]."""
        confusion: NDArray[np.int64] = self.table.sum(axis=2)
        return confusion

    @property
    def pixels(self) -> int:
        return int(self.table.sum())


def boundary_band(labels: LabelImage, width: int = BAND_WIDTH) -> NDArray[np.bool_]:
    """The band along class borders: labeled pixels with another class within `width` pixels (in rows and columns).

    There segmentations differ most, and area-based scores say least: a "trimap" as in Kohli et al. 2009
    (doi:10.1007/s11263-008-0202-0). The border of an unlabeled area is no border between classes.

    Args:
        labels: uint8 [H, W]; 255 is unlabeled.
        width: half-width of the band, 1 to `MOST_BAND`.

    Returns:
        bool [H, W].
    """
    if not 1 <= width <= MOST_BAND:
        raise SettingsError(f"a boundary band of {width} pixels is not accepted: 1 to {MOST_BAND} are")
    window = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    labeled = labels != UNLABELED
    # 0 never raises a maximum and 255 never lowers a minimum: unlabeled pixels drop out of both
    highest = cv2.dilate(np.where(labeled, labels, np.uint8(0)), window)
    lowest = cv2.erode(labels, window)
    return np.asarray(labeled & (highest != lowest), bool)


BINS = 15


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Pixels whose confidence is above `low` and at most `high` (the first bin includes 0).

    `accuracy` and `confidence` are means in 0 to 1, NaN in an empty bin.
    """

    low: float
    high: float
    pixels: int
    accuracy: float
    confidence: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """How far confidence can be taken at its word: reliability by bins of confidence, and its summary, ECE.

    The expected calibration error (Guo et al. 2017, arXiv:1706.04599): the pixels are put into equal bins of
    confidence, each bin's share of right answers is compared with its mean confidence, and the differences are
    averaged by pixels.

    Attributes:
        expected_error: ECE, 0 to 1; 0 means that of the pixels with 80 % confidence 80 % are right.
        mean_confidence: over all labeled pixels, 0 to 1.
        accuracy: share of right answers, 0 to 1.
        bins: the reliability diagram.
    """

    expected_error: float
    mean_confidence: float
    accuracy: float
    bins: tuple[ReliabilityBin, ...]

    @classmethod
    def of(cls, counts: PixelCounts, bins: int = BINS, classes: Sequence[int] | None = None) -> Calibration:
        """Of all answers, or only of those that name one of `classes`.

        Raises:
            SettingsError: a number of bins that is not in 1 to 255.
        """
        if not 1 <= bins <= CONFIDENCES - 1:
            raise SettingsError(f"{bins} bins of confidence are not accepted: 1 to {CONFIDENCES - 1} are")
        chosen = range(len(counts.table)) if classes is None else classes
        right = np.zeros(CONFIDENCES, np.int64)
        total = np.zeros(CONFIDENCES, np.int64)
        for c in chosen:
            right += counts.table[c, c]
            total += counts.table[:, c].sum(axis=0)
        return _of_histograms(right, total, bins)


def _of_histograms(right: NDArray[np.int64], total: NDArray[np.int64], bins: int) -> Calibration:
    """From right answers and all answers by confidence byte, each int64 [256]."""
    byte = np.arange(CONFIDENCES)
    top = CONFIDENCES - 1
    # bin i holds i/bins < byte/255 <= (i+1)/bins; in whole numbers, so that no edge is rounded
    bin_of_byte = np.maximum(-(-byte * bins // top) - 1, 0)
    pixels = np.bincount(bin_of_byte, total, bins)
    hits = np.bincount(bin_of_byte, right, bins)
    confidences = np.bincount(bin_of_byte, total * byte / top, bins)
    with np.errstate(invalid="ignore", divide="ignore"):
        accuracy, confidence = hits / pixels, confidences / pixels
    count = total.sum()
    nan = float("nan")
    return Calibration(
        expected_error=float(np.abs(hits - confidences).sum() / count) if count else nan,
        mean_confidence=float(confidences.sum() / count) if count else nan,
        accuracy=float(hits.sum() / count) if count else nan,
        bins=tuple(
            ReliabilityBin(i / bins, (i + 1) / bins, int(pixels[i]), float(accuracy[i]), float(confidence[i]))
            for i in range(bins)
        ),
    )


CONFIDENT = 0.9
"""From here up a wrong "drivable" counts as confident and wrong."""


@dataclass(frozen=True, slots=True)
class DrivableScores:
    """What a planner that trusts the drivable mask would meet: fractions in 0 to 1, NaN where nothing can be divided.

    "Positive" means drivable. A pixel's score for "drivable" is its confidence where the winning class is drivable, and
    "never" elsewhere: the deployed graph gives the winner's probability only. So a threshold on it can take area away
    from the mask but not add any, exactly as `min_confidence` does in the node, and MaxF is what that parameter can
    reach, not what the full probabilities could.

    Attributes:
        threshold: the confidence from which a drivable label counts (the node's `min_confidence`).
        precision: of the mask, the share that is drivable.
        recall: of what is drivable, the share in the mask.
        f1: harmonic mean of the two.
        iou: intersection over union of mask and truth.
        max_f: the highest F1 over all thresholds.
        max_f_threshold: the lowest threshold that reaches it.
        false_drivable: of what is not drivable, the share that the mask calls drivable.
        confident_wrong: of what is not drivable, the share in the mask with a confidence of at least
            `CONFIDENT`: no threshold below that would save the car.
    """

    threshold: float
    precision: float
    recall: float
    f1: float
    iou: float
    max_f: float
    max_f_threshold: float
    false_drivable: float
    confident_wrong: float

    @classmethod
    def of(cls, counts: PixelCounts, drivable: Sequence[int], threshold: float = 0.0) -> DrivableScores:
        """From the counts and the drivable classes' ids.

        Raises:
            SettingsError: no drivable class, or a threshold outside 0 to 1.
        """
        if not drivable:
            raise SettingsError("drivable scores need a label set with at least one drivable class")
        if not 0.0 <= threshold <= 1.0:
            raise SettingsError(f"threshold {threshold} is not in 0 to 1")
        is_drivable = np.zeros(len(counts.table), bool)
        is_drivable[list(drivable)] = True
        said = counts.table[:, is_drivable].sum(axis=1)  # [truth, confidence]
        true_at = _at_least(said[is_drivable].sum(axis=0))
        false_at = _at_least(said[~is_drivable].sum(axis=0))
        positives = int(counts.table[is_drivable].sum())
        negatives = counts.pixels - positives

        f1_at = [_f1(int(t), int(f), positives) for t, f in zip(true_at, false_at, strict=True)]
        best = int(np.nanargmax(f1_at)) if not all(map(math.isnan, f1_at)) else 0
        byte = first_byte(threshold)
        hits, false = int(true_at[byte]), int(false_at[byte])
        return cls(
            threshold=threshold,
            precision=_ratio(hits, hits + false),
            recall=_ratio(hits, positives),
            f1=f1_at[byte],
            iou=_ratio(hits, positives + false),
            max_f=f1_at[best],
            max_f_threshold=best / (CONFIDENCES - 1),
            false_drivable=_ratio(false, negatives),
            confident_wrong=_ratio(int(false_at[max(byte, first_byte(CONFIDENT))]), negatives),
        )


def first_byte(threshold: float) -> int:
    """The lowest confidence byte that reaches a threshold in 0 to 1 (the drivable mask's own rule)."""
    return math.ceil(round(threshold * (CONFIDENCES - 1), 6))


def _at_least(by_confidence: NDArray[np.int64]) -> NDArray[np.int64]:
    """[256] counts at each confidence -> counts at this confidence or above."""
    return np.cumsum(by_confidence[::-1])[::-1]


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def _f1(hits: int, false: int, positives: int) -> float:
    """2 TP / (2 TP + FP + FN), where TP + FN are the positives."""
    return _ratio(2 * hits, hits + false + positives)
