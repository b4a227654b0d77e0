"""Scores from one accumulated confusion matrix (never from averages of batches)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seg_perception.core.errors import InputError
from seg_perception.core.types import UNLABELED, LabelImage


class ConfusionMatrix:
    """Counts pixels by (truth, prediction) over any number of images.

    Args:
        num_classes: classes are 0 to num_classes-1; truth 255 is not counted.
    """

    def __init__(self, num_classes: int) -> None:
        self.counts: NDArray[np.int64] = np.zeros((num_classes, num_classes), np.int64)  # [truth, prediction]

    def add(self, truth: LabelImage, prediction: LabelImage) -> None:
        """Count one image.

        Raises:
            InputError: sizes differ, or an id is neither a class nor, in the truth, 255.
        """
        if truth.shape != prediction.shape:
            raise InputError(f"truth {list(truth.shape)} and prediction {list(prediction.shape)} differ in size")
        n = len(self.counts)
        counts = np.bincount((truth.astype(np.int32) * 256 + prediction).reshape(-1), minlength=65536)
        table = counts.reshape(256, 256)[:UNLABELED]  # row 255 is unlabeled truth
        if table.sum() != table[:n, :n].sum():
            bad = sorted({int(v) for v in np.argwhere(table).reshape(-1) if v >= n})
            raise InputError(f"label values {bad} are not classes 0 to {n - 1}")
        self.counts += table[:n, :n]

    def merge(self, other: ConfusionMatrix) -> None:
        """Add another matrix of the same classes."""
        self.counts += other.counts

    def scores(self) -> Scores:
        return Scores.of(self.counts)


@dataclass(frozen=True, slots=True)
class Scores:
    """Fractions in 0 to 1; the IoU of a class that is not in the truth is NaN.

    `mean_iou` averages the others (Everingham et al., PASCAL VOC; Cordts et al., Cityscapes): pixels
    wrongly given to a class without truth still count against the true class.
    """

    iou: tuple[float, ...]
    mean_iou: float
    frequency_weighted_iou: float
    pixel_accuracy: float
    pixels: int

    @classmethod
    def of(cls, counts: NDArray[np.int64]) -> Scores:
        hits = np.diag(counts).astype(np.float64)
        truth = counts.sum(axis=1)
        union = truth + counts.sum(axis=0) - hits
        present = truth > 0
        nan = float("nan")
        iou = np.divide(hits, union, out=np.full(len(hits), nan), where=present)
        total = int(truth.sum())
        return cls(
            iou=tuple(float(v) for v in iou),
            mean_iou=float(iou[present].mean()) if total else nan,
            frequency_weighted_iou=float((truth[present] * iou[present]).sum() / total) if total else nan,
            pixel_accuracy=float(hits.sum() / total) if total else nan,
            pixels=total,
        )
