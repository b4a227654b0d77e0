"""Does the confidence image mean something? Reliability per confidence bin, and its summary, ECE.

The expected calibration error (Guo et al. 2017, arXiv:1706.04599): the pixels are put into equal
bins of confidence, each bin's share of right answers is compared with its mean confidence, and the
gaps are averaged by pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seg_perception.core.errors import SettingsError
from seg_perception.evaluation.counts import CONFIDENCES, PixelCounts

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
    """How far confidence can be taken at its word.

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
