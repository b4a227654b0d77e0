"""The band along class borders, where segmentations differ most and area-based scores say least.

A "trimap" as in Kohli et al. 2009 (doi:10.1007/s11263-008-0202-0): only pixels near a border count.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from seg_perception.core.errors import SettingsError
from seg_perception.core.types import UNLABELED, LabelImage

WIDTH = 3


def boundary_band(labels: LabelImage, width: int = WIDTH) -> NDArray[np.bool_]:
    """Labeled pixels with another class within `width` pixels (in rows and columns).

    The border of an unlabeled area is no border between classes.

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
