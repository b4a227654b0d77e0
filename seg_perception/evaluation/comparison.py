"""What A against B came to: scores of both, and differences with confidence intervals.

The intervals are a paired bootstrap over frames (Efron and Tibshirani 1993): frames are drawn with replacement, the
same for A and B. Frames of one drive resemble their neighbors, so that the intervals of a film are too narrow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from seg_perception.core.label_set import LabelSet
from seg_perception.evaluation.calibration import Calibration
from seg_perception.evaluation.counts import PixelCounts

RESAMPLES = 1000
_LOW, _HIGH = 2.5, 97.5  # percentiles of a 95 % interval


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its 95 % confidence interval; NaN where there is nothing to speak of."""

    value: float
    low: float
    high: float

    @property
    def is_sure(self) -> bool:
        """Whether the interval leaves zero out: a difference that another choice of frames would show, too.

        As it is told, in hundredths of a percent: what rounds to zero is none.
        """
        return round(self.low, 4) > 0 or round(self.high, 4) < 0


@dataclass(slots=True)
class SideRecord:
    """What one side said, frame by frame.

    Attributes:
        confusion: [truth or A, answer] counts of each frame, int64 [C, C].
        mask: of each frame, pixels of the mask that are right, wrong and missing.
        milliseconds, drivable_share, mean_confidence, free_ahead: one value a frame; shares in 0 to 1. Free ahead
            is how far up the image the mask reaches without a gap before the car, as a share of its height.
    """

    description: str
    counts: PixelCounts
    confusion: list[NDArray[np.int64]] = field(default_factory=list)
    mask: list[tuple[int, int, int]] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)
    drivable_share: list[float] = field(default_factory=list)
    mean_confidence: list[float] = field(default_factory=list)
    free_ahead: list[float] = field(default_factory=list)

    def iou(self) -> NDArray[np.float64]:
        """Of each class over all frames, 0 to 1; NaN where it is in neither truth nor answer."""
        return iou_of(np.sum(self.confusion, axis=0))

    def mask_iou(self) -> float:
        """Of the drivable mask over all frames, 0 to 1 or NaN."""
        return float(_mask_iou(np.sum(np.asarray(self.mask, np.float64), axis=0)))

    @property
    def calibration(self) -> Calibration:
        return Calibration.of(self.counts)


@dataclass(frozen=True, slots=True)
class ShownFrame:
    """A frame in the gallery or under the timeline.

    Attributes:
        index: among all frames.
        name: for people.
        caption: its scores.
        picture: JPEG of the panels.
        panels: what they show, from left to right.
    """

    index: int
    name: str
    caption: str
    picture: bytes
    panels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came out.

    Attributes:
        title: what was compared on, for people.
        label_set: the classes.
        has_truth: whether the frames have labels; else B is compared with A.
        names: of the frames.
        stamps_ns: of a film's frames; empty for single pictures.
        a, b: both sides.
        agreement: share of each frame's pixels with the same label in A and B.
        gallery: the worst frames for B first (without truth: those that differ most).
        timeline: frames to look at along the way; empty for single pictures.
    """

    title: str
    label_set: LabelSet
    has_truth: bool
    names: tuple[str, ...]
    stamps_ns: tuple[int, ...]
    a: SideRecord
    b: SideRecord
    agreement: tuple[float, ...]
    gallery: tuple[ShownFrame, ...]
    timeline: tuple[ShownFrame, ...]

    def class_differences(self) -> dict[str, Interval]:
        """Class -> IoU of B minus IoU of A, in 0 to 1, with its interval. Needs truth."""
        a, b = self._resampled(self.a.confusion), self._resampled(self.b.confusion)
        differences, values = iou_of(b) - iou_of(a), self.b.iou() - self.a.iou()
        return {c.name: _interval(values[c.id], differences[:, c.id]) for c in self.label_set.classes}

    def mean_difference(self) -> Interval:
        """Mean IoU of B minus that of A, in 0 to 1. Needs truth."""
        a, b = self._resampled(self.a.confusion), self._resampled(self.b.confusion)
        value = float(mean_of(self.b.iou()) - mean_of(self.a.iou()))
        return _interval(value, mean_of(iou_of(b)) - mean_of(iou_of(a)))

    def mask_difference(self) -> Interval:
        """IoU of B's drivable mask minus that of A's, in 0 to 1. Needs truth."""
        draws = _draws(len(self.names))
        a, b = (_mask_iou(draws @ np.asarray(side.mask, np.float64)) for side in (self.a, self.b))
        return _interval(self.b.mask_iou() - self.a.mask_iou(), b - a)

    def class_agreement(self) -> dict[str, Interval]:
        """Class -> IoU between A's and B's labels, in 0 to 1, with its interval."""
        resampled, values = iou_of(self._resampled(self.b.confusion)), self.b.iou()
        return {c.name: _interval(values[c.id], resampled[:, c.id]) for c in self.label_set.classes}

    def metrics(self) -> dict[str, float]:
        """Name -> percent or NaN, for --fail-if: of B, of A with "a_" before it, and B minus A with "diff_"."""
        values = {"agreement": 100 * float(np.mean(self.agreement))}
        for prefix, side in (("", self.b), ("a_", self.a)):
            iou, calibration = side.iou(), side.calibration
            fractions = {f"{metric_name(c.name)}_iou": float(iou[c.id]) for c in self.label_set.classes} | {
                "mean_iou": float(mean_of(iou)),
                "drivable_iou": side.mask_iou(),
                "pixel_accuracy": calibration.accuracy,
                "calibration_error": calibration.expected_error,
            }
            values |= {f"{prefix}{name}": 100 * value for name, value in fractions.items()}
            values[f"{prefix}latency_ms"] = float(np.median(side.milliseconds))
        values |= {f"diff_{name}": values[name] - values[f"a_{name}"] for name in list(values) if f"a_{name}" in values}
        return {name: values[name] for name in metric_names(self.label_set, self.has_truth)}

    def _resampled(self, confusion: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
        """Sums over frames drawn with replacement, [resamples, C, C]."""
        table = np.asarray(confusion, np.float64)
        summed: NDArray[np.float64] = (_draws(len(table)) @ table.reshape(len(table), -1)).reshape(-1, *table.shape[1:])
        return summed


def metric_names(label_set: LabelSet, has_truth: bool) -> list[str]:
    """What `Comparison.metrics` will have."""
    scores = [f"{metric_name(c.name)}_iou" for c in label_set.classes] + ["mean_iou", "drivable_iou"]
    names = ["agreement", *scores, "latency_ms", "a_latency_ms", "diff_latency_ms"]
    if has_truth:
        scores += ["pixel_accuracy", "calibration_error"]
        names += [f"{prefix}{name}" for prefix in ("", "a_", "diff_") for name in scores]
    return list(dict.fromkeys(names))


def metric_name(class_name: str) -> str:
    """A class's name as part of a metric's: "traffic light" is traffic_light."""
    return class_name.replace(" ", "_").replace("-", "_")


def _draws(frames: int) -> NDArray[np.float64]:
    """How often each frame is drawn, [resamples, frames]; the same every time."""
    random = np.random.default_rng(1)
    return random.multinomial(frames, np.full(frames, 1 / frames), RESAMPLES).astype(np.float64)


def iou_of(confusion: NDArray[np.floating] | NDArray[np.int64]) -> NDArray[np.float64]:
    """[..., C, C] -> [..., C]."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    union = confusion.sum(axis=-1) + confusion.sum(axis=-2) - hits
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(confusion.sum(axis=-1) > 0, hits / union, np.nan), np.float64)


def _mask_iou(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(counts[..., 0] / counts.sum(axis=-1), np.float64)


def mean_of(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Over the last axis; NaN where all are."""
    there = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(there, values, 0).sum(axis=-1) / there.sum(axis=-1), np.float64)


def _interval(value: float, resampled: NDArray[np.float64]) -> Interval:
    known = resampled[~np.isnan(resampled)]
    if not known.size or np.isnan(value):
        return Interval(float(value), float("nan"), float("nan"))
    low, high = np.percentile(known, [_LOW, _HIGH])
    return Interval(float(value), float(low), float(high))
