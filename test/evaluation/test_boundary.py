"""The band along class borders."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seg_perception.core.errors import SettingsError
from seg_perception.evaluation.counts import boundary_band


def test_a_straight_border_by_hand() -> None:
    # columns 0 to 3 are class 4, columns 4 to 8 class 1: the border lies between columns 3 and 4
    labels = np.array([[4, 4, 4, 4, 1, 1, 1, 1, 1]] * 3, np.uint8)
    assert np.flatnonzero(boundary_band(labels, 1)[1]).tolist() == [3, 4]
    assert np.flatnonzero(boundary_band(labels, 2)[1]).tolist() == [2, 3, 4, 5]


def test_the_edge_of_the_unlabeled_is_no_border() -> None:
    labels = np.array([[3, 3, 255, 255, 3, 3, 0]], np.uint8)
    # class 3 beside the unlabeled on both sides is not in the band; 3 beside 0 is
    assert np.flatnonzero(boundary_band(labels, 1)).tolist() == [5, 6]


def test_borders_count_across_a_thin_unlabeled_strip_when_they_are_near() -> None:
    labels = np.array([[1, 1, 255, 2, 2]], np.uint8)
    assert np.flatnonzero(boundary_band(labels, 1)).tolist() == []
    assert np.flatnonzero(boundary_band(labels, 2)).tolist() == [1, 3]  # two pixels apart; 255 itself never counts


def test_one_class_has_no_border() -> None:
    assert not boundary_band(np.full((4, 4), 9, np.uint8), 3).any()
    assert not boundary_band(np.full((4, 4), 255, np.uint8), 3).any()


def test_a_band_without_width_is_refused() -> None:
    with pytest.raises(SettingsError, match="a boundary band of 0 pixels is not accepted"):
        boundary_band(np.zeros((2, 2), np.uint8), 0)


def slow_band(labels: np.ndarray, width: int) -> np.ndarray:
    """Look at every pixel's neighborhood."""
    band = np.zeros(labels.shape, bool)
    for y, x in np.ndindex(labels.shape):
        window = labels[max(y - width, 0) : y + width + 1, max(x - width, 0) : x + width + 1]
        classes = set(window.reshape(-1).tolist()) - {255}
        band[y, x] = labels[y, x] != 255 and len(classes) > 1
    return band


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_fast_and_obvious_agree(seed: int, width: int) -> None:
    random = np.random.default_rng(seed)
    blocks = random.choice(np.array([0, 1, 8, 255], np.uint8), (4, 5))
    labels = np.kron(blocks, np.ones((4, 3), np.uint8))
    assert (boundary_band(labels, width) == slow_band(labels, width)).all()
