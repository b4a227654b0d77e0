"""Scores of the drivable mask: what a planner that trusts the mask would meet.

A pixel's score for "drivable" is its confidence where the winning class is drivable, and "never"
elsewhere: the deployed graph gives the winner's probability only. So a threshold on it can take area
away from the mask but not add any, exactly as `min_confidence` does in the node, and MaxF is what
that parameter can reach, not what the full probabilities could.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seg_perception.core.errors import SettingsError
from seg_perception.evaluation.counts import CONFIDENCES, PixelCounts

CONFIDENT = 0.9
"""From here up a wrong "drivable" counts as confident and wrong."""


@dataclass(frozen=True, slots=True)
class DrivableScores:
    """Fractions in 0 to 1, NaN where there is nothing to divide by. "Positive" means drivable.

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
