"""Scores as a table for people."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from seg_perception.core.label_set import LabelSet


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
    from seg_perception.core.metrics import Scores

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
