"""The one table that every score is computed from: pixels by truth, answer and confidence.

Confidence is a byte, so the table is small (10 x 10 x 256) and nothing is lost or sampled: calibration
and thresholds are exact, and datasets of any length add up without keeping their pixels.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from seg_perception.core.errors import InputError, SettingsError
from seg_perception.core.types import UNLABELED, LabelImage, Segmentation

CONFIDENCES = 256
BAND_WIDTH = 3


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
        """int64 [truth, answer]."""
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
        width: half-width of the band, at least 1.

    Returns:
        bool [H, W].
    """
    if width < 1:
        raise SettingsError(f"a boundary band of {width} pixels is not accepted: it must be at least 1")
    window = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    labeled = labels != UNLABELED
    # 0 never raises a maximum and 255 never lowers a minimum: unlabeled pixels drop out of both
    highest = cv2.dilate(np.where(labeled, labels, np.uint8(0)), window)
    lowest = cv2.erode(labels, window)
    return np.asarray(labeled & (highest != lowest), bool)
