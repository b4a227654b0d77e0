"""Scores from one accumulated confusion matrix (never from averages of batches), and their table for people."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from seg_perception.core.errors import InputError
from seg_perception.core.types import UNLABELED, LabelImage

if TYPE_CHECKING:
    from seg_perception.core.label_set import LabelSet


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


def percent(fraction: float) -> str:
    """A fraction as "71.33 %"; "-" if there is nothing to speak of."""
    return "-" if math.isnan(fraction) else f"{100 * fraction:.2f} %"


def drivable_iou(counts: NDArray[np.int64], label_set: LabelSet) -> float:
    """IoU of the drivable classes taken as one, from a confusion matrix [truth, prediction]; 0 to 1 or NaN."""
    ids = list(label_set.drivable_ids)
    hits = int(counts[ids][:, ids].sum())
    union = int(counts[ids].sum()) + int(counts[:, ids].sum()) - hits
    return hits / union if union else math.nan


def score_table(counts: NDArray[np.int64], label_set: LabelSet) -> str:
    """Per-class IoU and share of the truth, then the means; drivable classes carry a star."""
    scores = Scores.of(counts)
    truth = counts.sum(axis=1)
    lines = [f"{'class':<16}{'IoU':>10}{'share of truth':>18}"]
    for c in label_set.classes:
        if not truth[c.id]:
            lines.append(f"{c.name + (' *' if c.drivable else ''):<16}{'-':>10}{'not in the truth':>18}")
            continue
        share = float(truth[c.id]) / scores.pixels
        lines.append(f"{c.name + (' *' if c.drivable else ''):<16}{percent(scores.iou[c.id]):>10}{percent(share):>18}")
    present = int((truth > 0).sum())
    lines += [
        "-" * 44,
        f"{'mean IoU':<16}{percent(scores.mean_iou):>10}   over the {present} classes in the truth",
        f"{'drivable (*) IoU':<16}{percent(drivable_iou(counts, label_set)):>10}",
        f"{'pixel accuracy':<16}{percent(scores.pixel_accuracy):>10}   of {scores.pixels} pixels",
    ]
    return "\n".join(lines)
