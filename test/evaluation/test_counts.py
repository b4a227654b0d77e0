"""The table of counts and its scores (calibration, drivable mask) and the band along borders, worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seg_perception.core.errors import InputError, SettingsError
from seg_perception.core.metrics import ConfusionMatrix
from seg_perception.core.types import Segmentation
from seg_perception.evaluation.counts import Calibration, DrivableScores, PixelCounts, boundary_band, first_byte


def counts_of(truth: list[int], labels: list[int], confidence: list[int], num_classes: int = 3) -> PixelCounts:
    counts = PixelCounts(num_classes)
    row = [np.array([values], np.uint8) for values in (truth, labels, confidence)]
    counts.add(row[0], Segmentation(row[1], row[2]))
    return counts


# Ten pixels, class 0 is drivable. 51 = 0.2, 102 = 0.4, 204 = 0.8, 255 = 1.0 as a fraction of 255.
TRUTH = [0, 0, 0, 0, 1, 1, 1, 2, 2, 255]
LABEL = [0, 0, 0, 1, 0, 0, 1, 2, 0, 0]
CONFIDENCE = [255, 204, 51, 204, 204, 51, 102, 255, 255, 255]


def test_the_table_holds_each_labeled_pixel_once() -> None:
    counts = counts_of(TRUTH, LABEL, CONFIDENCE)
    assert counts.pixels == 9  # ten less the unlabeled one
    assert counts.confusion.tolist() == [[3, 1, 0], [2, 1, 0], [1, 0, 1]]
    assert counts.table[0, 0, [51, 204, 255]].tolist() == [1, 1, 1]
    assert counts.table[2, 0, 255] == 1


def test_calibration_by_hand() -> None:
    calibration = Calibration.of(counts_of(TRUTH, LABEL, CONFIDENCE), bins=5)
    # bins of a fifth: 51 = 0.2 belongs to (0, 0.2], 102 = 0.4 to (0.2, 0.4], 204 = 0.8 to (0.6, 0.8]
    # confidence 0.2: pixels 2 (right), 5 (wrong)           -> 1 of 2 right, mean 0.2, gap 0.3
    # confidence 0.4: pixel 6 (right)                       -> 1 of 1 right, mean 0.4, gap 0.6
    # confidence 0.8: pixels 1 (right), 3 and 4 (wrong)     -> 1 of 3 right, mean 0.8, gap 0.4667
    # confidence 1.0: pixels 0, 7 (right), 8 (wrong)        -> 2 of 3 right, mean 1.0, gap 0.3333
    assert [b.pixels for b in calibration.bins] == [2, 1, 0, 3, 3]
    assert calibration.bins[0].accuracy == pytest.approx(1 / 2)
    assert calibration.bins[3].accuracy == pytest.approx(1 / 3)
    assert calibration.bins[3].confidence == pytest.approx(0.8)
    assert math.isnan(calibration.bins[2].accuracy)
    assert calibration.expected_error == pytest.approx((2 * 0.3 + 1 * 0.6 + 3 * (0.8 - 1 / 3) + 3 * (1 / 3)) / 9)
    assert calibration.accuracy == pytest.approx(5 / 9)  # right: pixels 0, 1, 2, 6, 7
    assert calibration.mean_confidence == pytest.approx((1 + 0.8 + 0.2 + 0.8 + 0.8 + 0.2 + 0.4 + 1 + 1) / 9)


def test_calibration_of_one_class_looks_only_at_answers_that_name_it() -> None:
    calibration = Calibration.of(counts_of(TRUTH, LABEL, CONFIDENCE), bins=5, classes=[1])
    # class 1 is answered for pixel 3 (wrong, 0.8) and pixel 6 (right, 0.4)
    assert [b.pixels for b in calibration.bins] == [0, 1, 0, 1, 0]
    assert calibration.expected_error == pytest.approx((0.6 + 0.8) / 2)


def test_with_fifteen_bins_the_edges_are_multiples_of_seventeen() -> None:
    # 255 / 15 = 17: a confidence byte of 17 still belongs to the first bin, 18 to the second
    calibration = Calibration.of(counts_of([0] * 4, [0] * 4, [0, 17, 18, 255]))
    assert [b.pixels for b in calibration.bins] == [2, 1] + [0] * 12 + [1]
    with pytest.raises(SettingsError, match="0 bins of confidence are not accepted: 1 to 255"):
        Calibration.of(counts_of([0], [0], [0]), bins=0)


def test_drivable_by_hand() -> None:
    scores = DrivableScores.of(counts_of(TRUTH, LABEL, CONFIDENCE), drivable=[0])
    # said drivable: pixels 0, 1, 2 (true), 4, 5, 8 (false); the drivable pixel 3 is missed
    assert scores.precision == pytest.approx(3 / 6)
    assert scores.recall == pytest.approx(3 / 4)
    assert scores.f1 == pytest.approx(2 * 3 / (6 + 4))
    assert scores.iou == pytest.approx(3 / 7)
    assert scores.false_drivable == pytest.approx(3 / 5)  # three of the five pixels of class 1 and 2
    assert scores.confident_wrong == pytest.approx(1 / 5)  # pixel 8 only: 0.8 is below 0.9
    # threshold     hits   false   F1 = 2 hits / (hits + false + 4)
    # 0 to 51/255    3      3      6/10 = 0.6      <- the best, first reached at 0
    # to 204/255     2      2      4/8  = 0.5
    # above          1      1      2/6  = 0.333
    assert scores.max_f == pytest.approx(0.6)
    assert scores.max_f_threshold == 0.0


def test_a_threshold_takes_area_away() -> None:
    counts = counts_of([0, 0, 1, 1], [0, 0, 0, 0], [204, 255, 51, 102])
    scores = DrivableScores.of(counts, drivable=[0], threshold=0.3)
    assert scores.precision == pytest.approx(2 / 3)  # 0.2 is gone, 0.4 stays
    assert scores.max_f == 1.0  # above 0.4 both wrong ones are gone and both right ones stay
    assert scores.max_f_threshold == pytest.approx(103 / 255)  # the lowest byte above 102
    assert scores.confident_wrong == 0.0


def test_confident_wrong_counts_only_what_the_deployed_threshold_lets_through() -> None:
    counts = counts_of([1, 1], [0, 0], [235, 255])
    assert DrivableScores.of(counts, [0]).confident_wrong == 1.0
    assert DrivableScores.of(counts, [0], threshold=0.95).confident_wrong == 0.5


def test_the_threshold_is_rounded_as_in_the_drivable_mask() -> None:
    from seg_perception.core.drivable import keep_confident

    everything = np.full((1, 256), 255, np.uint8)
    confidences = np.arange(256, dtype=np.uint8)[None]
    for threshold in (0.0, 0.2, 0.5, 0.9, 1.0):
        kept = keep_confident(everything, confidences, threshold)
        assert np.flatnonzero(kept)[0] == first_byte(threshold)


def test_nothing_to_divide_by_gives_no_number() -> None:
    scores = DrivableScores.of(counts_of([1, 1], [1, 1], [9, 9]), drivable=[0])  # no drivable pixel, none said
    assert math.isnan(scores.precision)
    assert math.isnan(scores.recall)
    assert math.isnan(scores.max_f)
    assert scores.false_drivable == 0.0
    with pytest.raises(SettingsError, match="at least one drivable class"):
        DrivableScores.of(counts_of([1], [1], [9]), drivable=[])


def test_wrong_ids_and_sizes_are_refused() -> None:
    with pytest.raises(InputError, match=r"truth: label values \[7\] are not classes 0 to 2"):
        counts_of([7], [0], [0])
    with pytest.raises(InputError, match=r"answer: label values \[3\] are not classes 0 to 2"):
        counts_of([0], [3], [0])
    with pytest.raises(InputError, match="differ in size"):
        counts_of([0, 0], [0], [0])
    with pytest.raises(InputError, match=r"must be non-negative \[C, C, 256\], got \[2, 2\]"):
        PixelCounts.of(np.zeros((2, 2), np.int64))


def slow_calibration_error(right: list[bool], confidence: list[int], bins: int) -> float:
    """One pixel at a time, with fractions: slow and obvious."""
    groups: dict[int, list[tuple[bool, float]]] = {}
    for hit, byte in zip(right, confidence, strict=True):
        index = next(i for i in range(bins) if byte * bins <= (i + 1) * 255)
        groups.setdefault(index, []).append((hit, byte / 255))
    gaps = [abs(sum(h for h, _ in g) - sum(c for _, c in g)) for g in groups.values()]
    return sum(gaps) / len(right)


def slow_max_f(truth: list[int], labels: list[int], confidence: list[int], drivable: int) -> float:
    best = float("nan")
    for threshold in range(256):
        said = [label == drivable and c >= threshold for label, c in zip(labels, confidence, strict=True)]
        true = [t == drivable for t in truth]
        hits = sum(s and t for s, t in zip(said, true, strict=True))
        if sum(said) + sum(true):
            f1 = 2 * hits / (sum(said) + sum(true))
            best = f1 if math.isnan(best) else max(best, f1)
    return best


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 10, 15, 255]))
def test_fast_and_obvious_agree(seed: int, bins: int) -> None:
    random = np.random.default_rng(seed)
    truth = random.choice(np.array([0, 1, 2], np.uint8), (5, 6))
    labels = random.integers(0, 3, (5, 6), dtype=np.uint8)
    confidence = random.integers(0, 256, (5, 6), dtype=np.uint8)
    counts = PixelCounts(3)
    image = counts.add(truth, Segmentation(labels, confidence))
    matrix = ConfusionMatrix(3)
    matrix.add(truth, labels)
    assert (counts.confusion == matrix.counts).all()
    assert (image == matrix.counts).all()

    flat = (truth.reshape(-1).tolist(), labels.reshape(-1).tolist(), confidence.reshape(-1).tolist())
    right = [t == p for t, p in zip(flat[0], flat[1], strict=True)]
    assert Calibration.of(counts, bins).expected_error == pytest.approx(slow_calibration_error(right, flat[2], bins))
    assert DrivableScores.of(counts, [0]).max_f == pytest.approx(slow_max_f(*flat, 0), nan_ok=True)


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
def test_band_of_fast_and_obvious_agree(seed: int, width: int) -> None:
    random = np.random.default_rng(seed)
    blocks = random.choice(np.array([0, 1, 8, 255], np.uint8), (4, 5))
    labels = np.kron(blocks, np.ones((4, 3), np.uint8))
    assert (boundary_band(labels, width) == slow_band(labels, width)).all()
