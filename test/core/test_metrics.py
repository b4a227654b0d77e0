"""Scores of one accumulated confusion matrix, against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seg_perception.core.errors import InputError
from seg_perception.core.metrics import ConfusionMatrix, Scores

# Truth and prediction of twelve pixels; 255 is unlabeled.
TRUTH = np.array([[0, 0, 0, 0], [1, 1, 2, 2], [2, 255, 255, 0]], np.uint8)
PREDICTION = np.array([[0, 0, 1, 2], [1, 1, 2, 0], [2, 0, 1, 0]], np.uint8)


def matrix_of(truth: np.ndarray, prediction: np.ndarray, num_classes: int) -> ConfusionMatrix:
    matrix = ConfusionMatrix(num_classes)
    matrix.add(truth, prediction)
    return matrix


def test_counts_and_scores_by_hand() -> None:
    matrix = matrix_of(TRUTH, PREDICTION, 3)
    # truth 0: five pixels (top row and the last one), answered 0, 0, 1, 2, 0
    # truth 1: two pixels, both answered 1
    # truth 2: three pixels, answered 2, 0, 2; the two pixels of 255 are nowhere
    assert matrix.counts.tolist() == [[3, 1, 1], [0, 2, 0], [1, 0, 2]]
    scores = matrix.scores()
    assert scores.pixels == 10
    assert scores.iou == pytest.approx(
        (
            3 / 6,  # hits 3; union: 5 true + 4 answered - 3
            2 / 3,  # hits 2; union: 2 true + 3 answered - 2
            2 / 4,  # hits 2; union: 3 true + 3 answered - 2
        )
    )
    assert scores.mean_iou == pytest.approx((3 / 6 + 2 / 3 + 2 / 4) / 3)
    assert scores.pixel_accuracy == pytest.approx(7 / 10)  # 3 + 2 + 2 right of 10
    # each class's IoU weighted by its share of the truth: 5, 2 and 3 of 10 pixels
    assert scores.frequency_weighted_iou == pytest.approx(0.5 * 3 / 6 + 0.2 * 2 / 3 + 0.3 * 2 / 4)


def test_a_class_without_truth_has_no_part_in_the_mean_but_costs_the_class_it_displaces() -> None:
    truth = np.array([[0, 0, 0, 1]], np.uint8)
    prediction = np.array([[0, 0, 2, 1]], np.uint8)
    scores = matrix_of(truth, prediction, 4).scores()
    assert scores.iou[0] == pytest.approx(2 / 3)  # one of three pixels went to class 2
    assert scores.iou[1] == 1.0
    assert math.isnan(scores.iou[2])  # answered once, never true
    assert math.isnan(scores.iou[3])  # neither true nor answered
    assert scores.mean_iou == pytest.approx((2 / 3 + 1) / 2)


def test_images_add_up_to_one_matrix_and_are_not_averaged() -> None:
    # Image A: 1 of 1 pixel of class 0 right. Image B: 0 of 9 right (answered 1).
    matrix = matrix_of(np.zeros((1, 1), np.uint8), np.zeros((1, 1), np.uint8), 2)
    matrix.add(np.zeros((3, 3), np.uint8), np.ones((3, 3), np.uint8))
    assert matrix.scores().iou[0] == pytest.approx(1 / 10)  # an average over images would say 0.5


def test_nothing_labeled_gives_no_number() -> None:
    scores = matrix_of(np.full((2, 2), 255, np.uint8), np.zeros((2, 2), np.uint8), 2).scores()
    assert scores.pixels == 0
    assert math.isnan(scores.mean_iou)
    assert math.isnan(scores.pixel_accuracy)
    assert math.isnan(scores.frequency_weighted_iou)


def test_wrong_ids_and_sizes_are_refused() -> None:
    with pytest.raises(InputError, match=r"label values \[7\] are not classes 0 to 2"):
        matrix_of(np.array([[7]], np.uint8), np.array([[0]], np.uint8), 3)
    with pytest.raises(InputError, match=r"label values \[255\] are not classes 0 to 2"):
        matrix_of(np.array([[1]], np.uint8), np.array([[255]], np.uint8), 3)  # a prediction is never unlabeled
    with pytest.raises(InputError, match=r"truth \[1, 2\] and prediction \[2, 1\] differ in size"):
        matrix_of(np.zeros((1, 2), np.uint8), np.zeros((2, 1), np.uint8), 3)


def slow_iou(truth: np.ndarray, prediction: np.ndarray, class_id: int) -> float:
    """Intersection over union with sets of pixels, of a class in the truth: slow and obvious."""
    labeled = [(y, x) for y, x in np.ndindex(truth.shape) if truth[y, x] != 255]
    true = {p for p in labeled if truth[p] == class_id}
    said = {p for p in labeled if prediction[p] == class_id}
    return len(true & said) / len(true | said) if true else float("nan")


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_iou_equals_the_obvious_way(num_classes: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    truth = random.choice(np.array([*range(num_classes), 255], np.uint8), (6, 7))
    prediction = random.integers(0, num_classes, (6, 7), dtype=np.uint8)
    scores = Scores.of(matrix_of(truth, prediction, num_classes).counts)
    expected = [slow_iou(truth, prediction, c) for c in range(num_classes)]
    assert scores.iou == pytest.approx(expected, nan_ok=True)
