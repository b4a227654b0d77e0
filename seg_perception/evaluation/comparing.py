"""Runs A and B on the same images, frame by frame: two models, two engines or two settings.

With truth both are scored; without (a bag) B is compared with A.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from seg_perception.core.drivable import DrivableMasker, DrivableSettings
from seg_perception.core.errors import InputError
from seg_perception.core.label_set import LabelSet
from seg_perception.core.types import UNLABELED, LabelImage, MaskImage, RgbImage, Segmentation
from seg_perception.core.visual import outline, overlay
from seg_perception.evaluation.comparison import Comparison, ShownFrame, SideRecord, iou_of, mean_of
from seg_perception.evaluation.counts import PixelCounts
from seg_perception.evaluation.pictures import encode_jpeg
from seg_perception.segmenter import Segmenter

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
    """

    name: str
    image: RgbImage
    truth: LabelImage | None = None
    stamp_ns: int | None = None


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
        a, b: their models must have the same classes.
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
        self._records = [SideRecord(side.description, PixelCounts(len(label_set))) for side in sides]
        self._maskers = [DrivableMasker(side.drivable, label_set) for side in sides]
        self._names: list[str] = []
        self._stamps: list[int] = []
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
            if frame.stamp_ns is None:
                masker.reset()
            answers.append(answer)
            masks.append(masker.mask(answer, frame.stamp_ns))
        reference = answers[0].labels if truth is None else truth
        for record, answer, mask in zip(self._records, answers, masks, strict=True):
            record.confusion.append(record.counts.add(reference, answer))
            record.mask.append(self._mask_counts(mask, masks[0], truth))
            record.drivable_share.append(float((mask > 0).mean()))
            record.mean_confidence.append(float(answer.confidence.mean()) / 255)
            record.free_ahead.append(_free_ahead(mask))
        self._names.append(frame.name)
        if frame.stamp_ns is not None:
            self._stamps.append(frame.stamp_ns)
        self._agreement.append(float((answers[0].labels == answers[1].labels).mean()))
        self._keep(index, frame, answers, masks)

    def _mask_counts(self, mask: MaskImage, of_a: MaskImage, truth: LabelImage | None) -> tuple[int, int, int]:
        """Right, wrong and missing pixels of the mask, against the truth's drivable classes or A's mask."""
        known = np.ones(mask.shape, bool) if truth is None else truth != UNLABELED
        wanted = of_a > 0 if truth is None else np.isin(truth, self._label_set.drivable_ids)
        said = (mask > 0) & known
        right = int((said & wanted).sum())
        return right, int(said.sum()) - right, int((wanted & known).sum()) - right

    def _keep(
        self, index: int, frame: ComparedFrame, answers: Sequence[Segmentation], masks: Sequence[MaskImage]
    ) -> None:
        """Keep pictures of the worst frames, and of some along a film."""
        last = [mean_of(iou_of(record.confusion[-1])) for record in self._records]
        badness = 1 - self._agreement[-1] if frame.truth is None else float(np.nan_to_num(last[0] - last[1], nan=-9.0))
        wanted = len(self._gallery) < self._gallery_size or badness > self._gallery[0][0]
        on_timeline = (
            frame.stamp_ns is not None and index % self._step == 0 and len(self._timeline) < self._timeline_size
        )
        if not (self._gallery_size and wanted) and not on_timeline:
            return
        caption = f"same label on {100 * self._agreement[-1]:.1f} % of the pixels"
        if frame.truth is not None:
            caption = f"mean IoU A {100 * last[0]:.1f} %, B {100 * last[1]:.1f} %; {caption}"
        shown = _shown(index, frame, caption, answers, masks, self._label_set)
        if on_timeline:
            self._timeline.append(shown)
        if self._gallery_size and wanted:
            push = heapq.heappush if len(self._gallery) < self._gallery_size else heapq.heappushpop
            push(self._gallery, (badness, -index, shown))

    def result(self, title: str) -> Comparison:
        worst = sorted(self._gallery, reverse=True)
        return Comparison(
            title=title,
            label_set=self._label_set,
            has_truth=bool(self._has_truth),
            names=tuple(self._names),
            stamps_ns=tuple(self._stamps),
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
