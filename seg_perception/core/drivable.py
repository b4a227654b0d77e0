"""From a segmentation to the mask of where the car may drive.

By default the mask is every drivable label that is more likely right than wrong; the other steps are
off. Each step only ever takes area away.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, fields, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from seg_perception.core.errors import InputError, SettingsError
from seg_perception.core.image_file import read_labels
from seg_perception.core.label_set import LabelSet
from seg_perception.core.resizing import resize_labels
from seg_perception.core.types import ConfidenceImage, LabelImage, MaskImage, Segmentation, Size, parse_fields

log = logging.getLogger(__name__)

EGO_BAND = 0.05
"""The ego region's height, as a share of the image's."""

EGO_LEFT, EGO_RIGHT = 1 / 3, 2 / 3
"""The ego region's first and last column, as a share of the image's width."""

MAX_APPEAR_FRAMES = 100

DEFAULT_MIN_CONFIDENCE = 0.5
"""Below it something else, or several things together, are more likely."""

_STALLED_AFTER = 3  # frames in a row whose times keep the temporal filter from counting
_REACHED = 128
_MAX_FLOODS = 20


@dataclass(frozen=True, slots=True)
class DrivableSettings:
    """How the drivable mask is judged; by default the network's answer where it is sure.

    Attributes:
        classes: names of the drivable classes; None takes those that the model card marks drivable.
        min_confidence: 0 to 1; a pixel less sure than this is not drivable. 0 takes every drivable label.
        ignore_polygons: areas that are never drivable (the bonnet), each as x0, y0, x1, y1, x2, y2,
            ...; relative to the image, 0 to 1 from the left and the top.
        ignore_mask: 8-bit gray PNG, stretched to the image; 128 and more is never drivable.
        connected_to_ego: keep only area that is connected (edge to edge) to the ego region: of the middle third of the
            columns, the lowest 5 % of the image that is not ignored.
        appear_frames: a pixel becomes drivable after this many drivable frames in a row and stops at
            once; 1 switches the filter off.
        max_gap_s: a longer time between two frames, or one that runs backwards, starts the count anew; a
            frame with the stamp of the one before is no further evidence, and does not count.

    Raises:
        SettingsError: values out of range; all of them are listed.
    """

    classes: tuple[str, ...] | None = None
    min_confidence: float = DEFAULT_MIN_CONFIDENCE
    ignore_polygons: tuple[tuple[float, ...], ...] = ()
    ignore_mask: Path | None = None
    connected_to_ego: bool = False
    appear_frames: int = 1
    max_gap_s: float = 0.5

    def __post_init__(self) -> None:
        parse_fields(self, ignore_mask=Path)
        faults = []
        if self.classes is not None and not self.classes:
            faults.append("classes is empty; name at least one class, or leave it out for the model card's")
        if not 0.0 <= self.min_confidence <= 1.0:
            faults.append(f"min_confidence {self.min_confidence} is not in 0 to 1")
        for index, polygon in enumerate(self.ignore_polygons):
            if len(polygon) < 6 or len(polygon) % 2:
                faults.append(
                    f"ignore_polygons[{index}] has {len(polygon)} numbers; "
                    "x, y pairs of at least three corners are needed"
                )
            if outside := [value for value in polygon if not 0.0 <= value <= 1.0]:
                faults.append(f"ignore_polygons[{index}]: {outside} not in 0 to 1 (relative to the image)")
        if not 1 <= self.appear_frames <= MAX_APPEAR_FRAMES:
            faults.append(f"appear_frames {self.appear_frames} is not in 1 to {MAX_APPEAR_FRAMES}")
        if not (math.isfinite(self.max_gap_s) and self.max_gap_s > 0.0):
            faults.append(f"max_gap_s {self.max_gap_s} is not a positive number of seconds")
        if faults:
            raise SettingsError("\n".join(f"drivable: {fault}" for fault in faults))

    def describe(self) -> str:
        """What differs from the defaults, for people."""
        default = DrivableSettings()
        differing = [
            f"{field.name} {getattr(self, field.name)}"
            for field in fields(self)
            if getattr(self, field.name) != getattr(default, field.name)
        ]
        return ", ".join(differing) or "as the node's defaults"


def at_least(values: NDArray[np.uint8], threshold: int) -> MaskImage:
    """255 where a value, uint8 [H, W], is the threshold or more."""
    return np.asarray(cv2.threshold(values, threshold - 1, 255, cv2.THRESH_BINARY)[1], np.uint8)


def mask_of_classes(labels: LabelImage, class_ids: tuple[int, ...]) -> MaskImage:
    """255 where the label, uint8 [H, W], is one of the ids."""
    if len(class_ids) == 1:  # a fraction of the table's time; cv2.compare takes images of a few pixels for a scalar
        return np.asarray(np.negative((labels == class_ids[0]).view(np.uint8)))  # 1 becomes 255
    table = np.zeros(256, np.uint8)
    table[list(class_ids)] = 255
    return np.asarray(cv2.LUT(labels, table), np.uint8)


def keep_confident(mask: MaskImage, confidence: ConfidenceImage, min_confidence: float) -> MaskImage:
    """The mask where the confidence byte / 255 is at least min_confidence (0 to 1)."""
    return mask & at_least(confidence, math.ceil(round(min_confidence * 255, 6)))


def polygons_mask(polygons: tuple[tuple[float, ...], ...], size: Size) -> MaskImage:
    """255 inside or on the border of any polygon (flat x, y pairs, relative to the image)."""
    mask = np.zeros((size.height, size.width), np.uint8)
    scale = np.array([size.width - 1, size.height - 1], np.float64)
    for polygon in polygons:
        corners = np.rint(np.asarray(polygon, np.float64).reshape(-1, 2) * scale).astype(np.int32)
        cv2.fillPoly(mask, [corners], (255,))
    return mask


def ego_region(ignored: MaskImage) -> MaskImage:
    """Where the car's own lane must begin, 255 in a mask like `ignored`.

    The middle third of the columns; in each, the lowest 5 % of the image's height (at least one
    row) that is not ignored: on a car, the road just ahead of the bonnet. A column that is ignored
    from top to bottom has none.
    """
    height, width = ignored.shape
    band = max(1, round(height * EGO_BAND))
    columns = np.arange(math.floor(width * EGO_LEFT), max(math.ceil(width * EGO_RIGHT), 1))
    free = ignored[:, columns] == 0  # [H, columns]
    below = np.cumsum(free[::-1], axis=0)[::-1]  # free rows from here down to the bottom
    region = np.zeros_like(ignored)
    region[:, columns] = np.where(free & (below <= band), 255, 0)
    return region


def keep_connected(mask: MaskImage, ego: MaskImage) -> MaskImage:
    """Keep the components of the mask (edge to edge) that reach into the ego region.

    Flooding from the ego region is 15 times as fast as labeling every component of a street image,
    but each flood costs, so a mask with very many components there (noise) is labeled instead: the
    time is bounded whatever comes.
    """
    rows = np.flatnonzero(ego.any(axis=1))  # not cv2.boundingRect: that of OpenCV 4.6 errs on narrow images
    if not rows.size:
        return np.zeros_like(mask)
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    seeds = mask[top:bottom] & ego[top:bottom]
    seeds[:, 1:] &= ~seeds[:, :-1]  # one seed for each horizontal run is enough
    flooded, floods = mask.copy(), 0
    for y, x in np.argwhere(seeds).tolist():
        if flooded[top + y, x] == 255:
            if floods == _MAX_FLOODS:
                return _keep_labeled(mask, ego)
            cv2.floodFill(flooded, None, (x, top + y), (_REACHED,), flags=4)
            floods += 1
    reached = cv2.threshold(flooded, _REACHED, 0, cv2.THRESH_TOZERO_INV)[1]  # 255, not reached, becomes 0
    return np.asarray(cv2.threshold(reached, 0, 255, cv2.THRESH_BINARY)[1], np.uint8)


def _keep_labeled(mask: MaskImage, ego: MaskImage) -> MaskImage:
    """The same by labeling every component: dear, but for any number of them."""
    count, components = cv2.connectedComponents(mask, connectivity=4)
    kept = np.zeros(count, np.uint8)
    kept[components[ego != 0]] = 255
    kept[0] = 0  # component 0 is everything outside the mask
    return np.asarray(np.take(kept, components), np.uint8)


def count_frames_in_a_row(counts: MaskImage, mask: MaskImage) -> MaskImage:
    """One more where the mask is set (up to 255), zero elsewhere; uint8 [H, W]."""
    one = cv2.threshold(mask, 0, 1, cv2.THRESH_BINARY)[1]
    return np.asarray(cv2.bitwise_and(cv2.add(counts, one), mask), np.uint8)


def drivable_share(mask: MaskImage) -> float:
    """The share of the image that is drivable, 0 to 1."""
    return float(cv2.countNonZero(mask)) / mask.size


class DrivableMasker:
    """Turns the segmentations of one camera into drivable masks. Holds that camera's recent past.

    Args:
        settings: what is drivable.
        label_set: the model card's classes.

    Raises:
        SettingsError: a class that the label set does not have, no drivable class at all, or an
            ignore mask that is not an 8-bit gray PNG.
        OSError: the ignore mask cannot be read.
    """

    def __init__(self, settings: DrivableSettings, label_set: LabelSet) -> None:
        self._settings = settings
        self._class_ids = drivable_class_ids(settings, label_set)
        self._ignore_image = _ignore_image(settings)
        self._size: Size | None = None
        self._ignored: MaskImage | None = None
        self._ego: MaskImage | None = None
        self._counts: MaskImage | None = None
        self._stamp_ns: int | None = None
        self._counts_this = True
        self._uncounted = 0  # frames in a row that did not count, or began anew, because of their times
        self.stalled: str | None = None
        """Why no further pixel reaches `appear_frames`; None: the filter works."""

    def reset(self) -> None:
        """Forget the past: the temporal filter starts to count anew."""
        self._counts = None
        self._stamp_ns = None

    def mask(self, segmentation: Segmentation, stamp_ns: int | None = None) -> MaskImage:
        """The drivable mask, uint8 [H, W], 0 or 255.

        Args:
            segmentation: of the camera's next frame.
            stamp_ns: the frame's time in nanoseconds; None or 0, a stamp that nobody set: not known. Frames
                without a time are counted one by one.
        """
        settings = self._settings
        self._follow(Size.of(segmentation.labels), stamp_ns)
        mask = mask_of_classes(segmentation.labels, self._class_ids)
        if settings.min_confidence > 0.0:
            mask = keep_confident(mask, segmentation.confidence, settings.min_confidence)
        if self._ignored is not None:
            mask &= ~self._ignored
        if self._ego is not None:
            mask = keep_connected(mask, self._ego)
        if settings.appear_frames > 1:
            mask = self._long_enough(mask)
            if self._ego is not None:  # area that waits may have been the bridge to area that is sure
                mask = keep_connected(mask, self._ego)
        return mask

    @property
    def ignored(self) -> MaskImage | None:
        """255 where the last frame's image is never drivable (the bonnet); None: nowhere."""
        return self._ignored

    def _follow(self, size: Size, stamp_ns: int | None) -> None:
        """Prepare for the frame's size and time."""
        if size != self._size:
            self.reset()
            self._size = size
            self._ignored = self.ignored_in(size)
            if self._settings.connected_to_ego:
                nothing = np.zeros((size.height, size.width), np.uint8)
                self._ego = ego_region(nothing if self._ignored is None else self._ignored)
        self._counts_this = True
        if stamp_ns:
            self._follow_time(stamp_ns)

    def _follow_time(self, stamp_ns: int) -> None:
        before, self._stamp_ns = self._stamp_ns, stamp_ns
        step = 0.0 if before is None else (stamp_ns - before) * 1e-9
        reason = None
        if before is not None and step == 0.0:
            self._counts_this = False
            reason = "all have the same stamp"
        elif step > self._settings.max_gap_s:
            self.reset()
            reason = f"the last came {step:.3g} s apart, longer than max_gap_s {self._settings.max_gap_s:g}"
        elif step < 0.0:
            self.reset()
            reason = "each has an earlier stamp than the one before"
        self._stamp_ns = stamp_ns
        self._uncounted = self._uncounted + 1 if reason else 0
        if reason is None or self._settings.appear_frames == 1 or self._uncounted < _STALLED_AFTER:
            self.stalled = None
            return
        said = self.stalled is not None
        self.stalled = (
            f"nothing appears in the drivable mask: {self._uncounted} frames in a row did not count for "
            f"appear_frames {self._settings.appear_frames}, because {reason}"
        )
        if not said:
            log.warning("%s", self.stalled)

    def ignored_in(self, size: Size) -> MaskImage | None:
        """255 where an image of a size is never drivable; None: nowhere."""
        if not self._settings.ignore_polygons and self._ignore_image is None:
            return None
        ignored = polygons_mask(self._settings.ignore_polygons, size)
        if self._ignore_image is not None:
            ignored[resize_labels(self._ignore_image, size) >= 128] = 255
        return ignored

    def _long_enough(self, mask: MaskImage) -> MaskImage:
        if self._counts is None:
            self._counts = count_frames_in_a_row(np.zeros_like(mask), mask)
        elif self._counts_this:
            self._counts = count_frames_in_a_row(self._counts, mask)
        else:
            self._counts = np.asarray(cv2.bitwise_and(self._counts, mask), np.uint8)
        return at_least(self._counts, self._settings.appear_frames)


class SourceMasker:
    """Masks of what comes from files: a film's frames have a past, single pictures and the next film have none.

    Args:
        settings, label_set: as `DrivableMasker`. Of a single picture `appear_frames` is 1: what waits for several
            frames in a row would never come.

    Raises:
        SettingsError, OSError: as `DrivableMasker`.
    """

    def __init__(self, settings: DrivableSettings, label_set: LabelSet) -> None:
        self._film = DrivableMasker(settings, label_set)
        self._still = DrivableMasker(replace(settings, appear_frames=1), label_set)
        self._film_of = ""

    def mask(self, segmentation: Segmentation, stamp_ns: int | None = None, source: str = "") -> MaskImage:
        """The drivable mask, uint8 [H, W], 0 or 255.

        Args:
            segmentation: of the next frame.
            stamp_ns: its time in a film; None: it is a single picture.
            source: the film that it is of.
        """
        if stamp_ns is None:
            return self._still.mask(segmentation)
        if source != self._film_of:
            self._film.reset()
            self._film_of = source
        return self._film.mask(segmentation, stamp_ns)


def drivable_class_ids(settings: DrivableSettings, label_set: LabelSet) -> tuple[int, ...]:
    """The ids of the classes that settings, or else the label set, call drivable.

    Raises:
        SettingsError: a class that the label set does not have, or none at all.
    """
    if settings.classes is None:
        if not label_set.drivable_ids:
            raise SettingsError(
                f"drivable: label set {label_set.name!r} marks no class as drivable; name them in classes, "
                f"known: {', '.join(label_set.names)}"
            )
        return label_set.drivable_ids
    if unknown := [name for name in settings.classes if name not in label_set.names]:
        raise SettingsError(
            f"drivable: label set {label_set.name!r} has no class {', '.join(map(repr, unknown))}; "
            f"known: {', '.join(label_set.names)}"
        )
    return tuple(label_set.id_of(name) for name in settings.classes)


def _ignore_image(settings: DrivableSettings) -> MaskImage | None:
    if settings.ignore_mask is None:
        return None
    try:
        return read_labels(settings.ignore_mask)
    except InputError as error:
        raise SettingsError(f"drivable: ignore_mask {error}") from error
