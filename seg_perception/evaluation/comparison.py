"""A against B: two models, engines or settings on the same images, with confidence intervals of what differs.

With truth both are scored; without (a bag) B is compared with A. The intervals are those of `evaluation.intervals`.
Frames of one drive resemble their neighbors, so that the intervals of a film are too narrow.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from seg_perception.core.drivable import DrivableSettings, SourceMasker, drivable_class_ids
from seg_perception.core.errors import InputError
from seg_perception.core.label_set import LabelSet
from seg_perception.core.metrics import Scores, percent
from seg_perception.core.types import UNLABELED, LabelImage, MaskImage, RgbImage, Segmentation
from seg_perception.core.visual import outline, overlay
from seg_perception.evaluation.counts import Calibration, PixelCounts
from seg_perception.evaluation.files import encode_jpeg
from seg_perception.evaluation.gate import class_metrics
from seg_perception.evaluation.intervals import Interval, draws
from seg_perception.segmenter import Segmenter


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
    has_confidence: bool = True
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
        return Calibration.of(self.counts if self.has_confidence else PixelCounts(len(self.counts.table)))


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
        seconds: of each frame, since its film's first one; None of a single picture.
        a, b: both sides.
        agreement: share of each frame's pixels with the same label in A and B.
        gallery: the worst frames for B first (without truth: those that differ most).
        timeline: frames to look at along the way; empty for single pictures.
    """

    title: str
    label_set: LabelSet
    has_truth: bool
    names: tuple[str, ...]
    seconds: tuple[float | None, ...]
    a: SideRecord
    b: SideRecord
    agreement: tuple[float, ...]
    gallery: tuple[ShownFrame, ...]
    timeline: tuple[ShownFrame, ...]

    def class_differences(self) -> dict[str, Interval]:
        """Class -> IoU of B minus IoU of A, in 0 to 1, with its interval. Needs truth."""
        a, b = self._resampled(self.a.confusion), self._resampled(self.b.confusion)
        return self._of_classes(self.b.iou() - self.a.iou(), iou_of(b) - iou_of(a))

    def mean_difference(self) -> Interval:
        """Mean IoU of B minus that of A, in 0 to 1. Needs truth."""
        a, b = self._resampled(self.a.confusion), self._resampled(self.b.confusion)
        value = float(mean_of(self.b.iou()) - mean_of(self.a.iou()))
        return Interval.of(value, mean_of(iou_of(b)) - mean_of(iou_of(a)), len(self.names))

    def mask_difference(self) -> Interval:
        """IoU of B's drivable mask minus that of A's, in 0 to 1. Needs truth."""
        drawn = draws(len(self.names))
        counts = [np.asarray(side.mask, np.float64) for side in (self.a, self.b)]
        a, b = (_mask_iou(drawn @ of_frames) for of_frames in counts)
        told = int(((counts[0] + counts[1]).sum(axis=1) > 0).sum())
        return Interval.of(self.b.mask_iou() - self.a.mask_iou(), b - a, told)

    def class_agreement(self) -> dict[str, Interval]:
        """Class -> IoU between A's and B's labels, in 0 to 1, with its interval."""
        return self._of_classes(self.b.iou(), iou_of(self._resampled(self.b.confusion)))

    def _of_classes(self, values: NDArray[np.float64], resampled: NDArray[np.float64]) -> dict[str, Interval]:
        frames = (np.asarray(self.b.confusion).sum(axis=2) > 0).sum(axis=0)  # that hold a class: [C]
        return {
            c.name: Interval.of(values[c.id], resampled[:, c.id], int(frames[c.id])) for c in self.label_set.classes
        }

    def metrics(self) -> dict[str, float]:
        """Name -> percent or NaN, for --fail-if: of B, of A with "a_" before it, and B minus A with "diff_"."""
        values = {"agreement": 100 * float(np.mean(self.agreement))}
        of_class = class_metrics(self.label_set)
        for prefix, side in (("", self.b), ("a_", self.a)):
            iou, calibration = side.iou(), side.calibration
            fractions = {of_class[c.name]: float(iou[c.id]) for c in self.label_set.classes} | {
                "mean_iou": float(mean_of(iou)),
                "drivable_iou": side.mask_iou(),
                "pixel_accuracy": Scores.of(side.counts.confusion).pixel_accuracy,
                "calibration_error": calibration.expected_error,
            }
            values |= {f"{prefix}{name}": 100 * value for name, value in fractions.items()}
            values[f"{prefix}latency_ms"] = float(np.median(side.milliseconds))
        values |= {f"diff_{name}": values[name] - values[f"a_{name}"] for name in list(values) if f"a_{name}" in values}
        return {name: values[name] for name in metric_names(self.label_set, self.has_truth)}

    def _resampled(self, confusion: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
        """Sums over frames drawn with replacement, [resamples, C, C]."""
        table = np.asarray(confusion, np.float64)
        summed: NDArray[np.float64] = (draws(len(table)) @ table.reshape(len(table), -1)).reshape(-1, *table.shape[1:])
        return summed


def metric_names(label_set: LabelSet, has_truth: bool) -> list[str]:
    """What `Comparison.metrics` will have."""
    scores = [*class_metrics(label_set).values(), "mean_iou", "drivable_iou"]
    names = ["agreement", *scores, "latency_ms", "a_latency_ms", "diff_latency_ms"]
    if has_truth:
        scores += ["pixel_accuracy", "calibration_error"]
        names += [f"{prefix}{name}" for prefix in ("", "a_", "diff_") for name in scores]
    return list(dict.fromkeys(names))


def iou_of(confusion: NDArray[np.floating] | NDArray[np.int64]) -> NDArray[np.float64]:
    """IoU of each class, [..., C], from counts of [..., truth, answer]."""
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


_PANEL_WIDTH = 320
_RED = (225, 30, 30)


@dataclass(frozen=True, slots=True)
class ComparedFrame:
    """One image to compare on.

    Attributes:
        name: for people.
        image: uint8 [H, W, 3] RGB.
        truth: uint8 [H, W] class ids, 255 where there is none; None: nobody knows.
        stamp_ns: of a film; None: a single picture, which has no past.
        source: the film that it is of.
    """

    name: str
    image: RgbImage
    truth: LabelImage | None = None
    stamp_ns: int | None = None
    source: str = ""


@dataclass(frozen=True, slots=True)
class Contestant:
    """A or B.

    Attributes:
        description: model, engine and what else is set, for people.
        segmenter: opened.
        drivable: how its mask is judged.
    """

    description: str
    segmenter: Segmenter
    drivable: DrivableSettings


def compare(
    title: str,
    frames: Iterable[ComparedFrame],
    a: Contestant,
    b: Contestant,
    gallery: int = 12,
    timeline: int = 40,
    announced: int = 0,
    on_frame: Callable[[int], object] = lambda _: None,
) -> Comparison:
    """Run both on every frame.

    Args:
        title: what the frames are, for people.
        frames: all with truth, or all without.
        a, b: their models must have the same classes. With truth both masks are judged against those that A's settings
            call drivable.
        gallery: so many of the worst frames are shown.
        timeline: of a film, so many frames are shown along the way.
        announced: how many frames there will be, if known, to spread the shown ones evenly.
        on_frame: is called after each frame with the number done.

    Raises:
        InputError: no frames, different classes, or some frames have truth and some have none.
        EngineError: an engine failed.
    """
    labels = a.segmenter.card.label_set
    if labels.names != b.segmenter.card.label_set.names:
        raise InputError(
            f"A and B have different classes ({', '.join(labels.names)} and "
            f"{', '.join(b.segmenter.card.label_set.names)}) and cannot be compared"
        )
    work = _Work(labels, (a, b), gallery, max(1, announced // max(1, timeline)), timeline)
    count = 0
    for count, frame in enumerate(frames, 1):
        work.add(frame)
        on_frame(count)
    if not count:
        raise InputError(f"{title}: there are no frames to compare on")
    return work.result(title)


class _Work:
    def __init__(
        self, label_set: LabelSet, sides: tuple[Contestant, Contestant], gallery: int, step: int, timeline: int
    ) -> None:
        self._label_set = label_set
        self._sides = sides
        self._gallery_size, self._step, self._timeline_size = gallery, step, timeline
        self._records = [
            SideRecord(side.description, PixelCounts(len(label_set)), side.segmenter.card.has_confidence)
            for side in sides
        ]
        self._maskers = [SourceMasker(side.drivable, label_set) for side in sides]
        self._drivable_ids = drivable_class_ids(sides[0].drivable, label_set)
        self._names: list[str] = []
        self._seconds: list[float | None] = []
        self._starts: dict[str, int] = {}  # film -> its first stamp
        self._agreement: list[float] = []
        self._has_truth: bool | None = None
        self._gallery: list[tuple[float, int, ShownFrame]] = []
        self._timeline: list[ShownFrame] = []

    def add(self, frame: ComparedFrame) -> None:
        index, truth = len(self._names), frame.truth
        if self._has_truth not in (None, truth is not None):
            raise InputError(f"{frame.name}: some frames have truth and some have none; compare on them apart")
        self._has_truth = truth is not None
        answers, masks = [], []
        for side, record, masker in zip(self._sides, self._records, self._maskers, strict=True):
            began = time.perf_counter()
            answer = side.segmenter.segment(frame.image)
            record.milliseconds.append(1000 * (time.perf_counter() - began))
            answers.append(answer)
            masks.append(masker.mask(answer, frame.stamp_ns, frame.source))
        reference = answers[0].labels if truth is None else truth
        for record, answer, mask in zip(self._records, answers, masks, strict=True):
            record.confusion.append(record.counts.add(reference, answer))
            record.mask.append(self._mask_counts(mask, masks[0], truth))
            record.drivable_share.append(float((mask > 0).mean()))
            record.mean_confidence.append(float(answer.confidence.mean()) / 255)
            record.free_ahead.append(_free_ahead(mask))
        self._names.append(frame.name)
        self._seconds.append(self._seconds_of(frame))
        self._agreement.append(float((answers[0].labels == answers[1].labels).mean()))
        self._keep(index, frame, answers, masks)

    def _seconds_of(self, frame: ComparedFrame) -> float | None:
        if frame.stamp_ns is None:
            return None
        return (frame.stamp_ns - self._starts.setdefault(frame.source, frame.stamp_ns)) / 1e9

    def _mask_counts(self, mask: MaskImage, of_a: MaskImage, truth: LabelImage | None) -> tuple[int, int, int]:
        """Right, wrong and missing pixels of the mask, against what A calls drivable in the truth, or A's mask."""
        known = np.ones(mask.shape, bool) if truth is None else truth != UNLABELED
        wanted = of_a > 0 if truth is None else np.isin(truth, self._drivable_ids)
        said = (mask > 0) & known
        right = int((said & wanted).sum())
        return right, int(said.sum()) - right, int((wanted & known).sum()) - right

    def _keep(
        self, index: int, frame: ComparedFrame, answers: Sequence[Segmentation], masks: Sequence[MaskImage]
    ) -> None:
        """Keep pictures of the worst frames, and of some along a film."""
        last = [mean_of(iou_of(record.confusion[-1])) for record in self._records]
        of_mask = [_mask_iou(np.asarray(record.mask[-1], np.float64)) for record in self._records]
        same_mask = float((masks[0] == masks[1]).mean())
        # two settings may give the same labels and other masks
        badness = 1 - min(self._agreement[-1], same_mask)
        if frame.truth is not None:
            badness = float(np.nan_to_num([last[0] - last[1], of_mask[0] - of_mask[1]], nan=-9.0).max())
        wanted = len(self._gallery) < self._gallery_size or badness > self._gallery[0][0]
        on_timeline = (
            frame.stamp_ns is not None and index % self._step == 0 and len(self._timeline) < self._timeline_size
        )
        if not (self._gallery_size and wanted) and not on_timeline:
            return
        caption = f"same label on {100 * self._agreement[-1]:.1f} % of the pixels, same mask on {100 * same_mask:.1f} %"
        if frame.truth is not None:
            scores = [
                f"{name} {percent(float(last[i]))} (mask {percent(float(of_mask[i]))})" for i, name in enumerate("AB")
            ]
            caption = f"mean IoU {', '.join(scores)}; {caption}"
        shown = _shown(index, frame, caption, answers, masks, self._label_set)
        if on_timeline:
            self._timeline.append(shown)
        if self._gallery_size and wanted:
            push = heapq.heappush if len(self._gallery) < self._gallery_size else heapq.heappushpop
            push(self._gallery, (badness, -index, shown))

    def result(self, title: str) -> Comparison:
        worst = sorted((entry for entry in self._gallery if entry[0] > 0), reverse=True)
        return Comparison(
            title=title,
            label_set=self._label_set,
            has_truth=bool(self._has_truth),
            names=tuple(self._names),
            seconds=tuple(self._seconds),
            a=self._records[0],
            b=self._records[1],
            agreement=tuple(self._agreement),
            gallery=tuple(shown for _, _, shown in worst),
            timeline=tuple(self._timeline),
        )


def _free_ahead(mask: MaskImage) -> float:
    """How far up the mask reaches from the bottom without a gap in the middle third, as a share of the height."""
    third = mask.shape[1] // 3
    middle = mask[:, third : max(third + 1, 2 * third)]
    rows = (middle > 0).mean(axis=1)[::-1] >= 0.5
    blocked = np.flatnonzero(~rows)
    return float((blocked[0] if blocked.size else len(rows)) / len(rows))


def _shown(
    index: int,
    frame: ComparedFrame,
    caption: str,
    answers: Sequence[Segmentation],
    masks: Sequence[MaskImage],
    label_set: LabelSet,
) -> ShownFrame:
    """The frame, its truth, A, B and where they differ (with truth: where B is wrong and A right) in one row."""
    image = frame.image
    panels = {"image": image}
    if frame.truth is not None:
        panels["truth"] = overlay(image, frame.truth, label_set, 0.75)
    for name, answer, mask in zip("AB", answers, masks, strict=True):
        panels[name] = outline(overlay(image, answer.labels, label_set, 0.65), mask)
    gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB) // 2 + 96
    gray[answers[0].labels != answers[1].labels] = _RED
    panels["A and B differ (red)"] = np.asarray(gray, np.uint8)
    size = (_PANEL_WIDTH, max(1, round(_PANEL_WIDTH * image.shape[0] / image.shape[1])))
    row = [cv2.resize(panel, size, interpolation=cv2.INTER_AREA) for panel in panels.values()]
    picture = np.ascontiguousarray(np.hstack(row), np.uint8)
    return ShownFrame(index, frame.name, caption, encode_jpeg(picture, 78), tuple(panels))
