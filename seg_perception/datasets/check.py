"""Reads a whole dataset and tells everything that is wrong with it, not only the first fault."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from enum import Enum

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from seg_perception.core.errors import DatasetError, SegPerceptionError, SettingsError, first_of
from seg_perception.core.label_set import IGNORE, TRAIN_IDS, LabelMapping, LabelSet
from seg_perception.core.types import UNLABELED, LabelImage, RgbImage, Size
from seg_perception.datasets.base import Dataset, LeftOut, describe_left_out, read_rgb
from seg_perception.datasets.masks import Mask
from seg_perception.datasets.pairs import FilePair, MissingLabelsError, PairedFiles
from seg_perception.datasets.registry import DatasetSettings, open_dataset
from seg_perception.engines.processor import usable_cores


class FaultKind(Enum):
    """What can be wrong with a sample."""

    MISSING_LABELS = "no label file"
    UNREADABLE_IMAGE = "unreadable image"
    UNREADABLE_LABELS = "unreadable labels"
    UNKNOWN_VALUES = "unknown label values"
    SIZES_DIFFER = "image and labels differ in size"
    OTHER = "cannot be loaded"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of one sample; the text names the file."""

    kind: FaultKind
    text: str


@dataclass(frozen=True, slots=True)
class SampleCheck:
    """What one sample holds.

    Attributes:
        faults: empty for a sound sample.
        size: of the image; None where it cannot be read.
        pixels: int64 [256], pixels of each class id (255 unlabeled); zeros where labels cannot be used.
        values: which values the label file stores; None where it stores colors.
    """

    faults: tuple[Fault, ...]
    size: Size | None
    pixels: NDArray[np.int64]
    values: frozenset[int] | None = None


@dataclass(frozen=True, slots=True)
class DatasetCheck:
    """What a whole dataset holds.

    Attributes:
        name: the dataset's.
        label_set: the classes.
        samples: how many were looked at.
        faults: all of them, in the dataset's order.
        pixels: int64 [256], pixels of each class id (255 unlabeled).
        images: int64 [256], images in which each id occurs.
        sizes: image size -> images.
        values: the values that the label files store; None where one stores colors.
        mapping: what reads them; None for a dataset that is not of files.
        left_out: files in its folders that it does not use.
    """

    name: str
    label_set: LabelSet
    samples: int
    faults: tuple[Fault, ...]
    pixels: NDArray[np.int64]
    images: NDArray[np.int64]
    sizes: Counter[Size]
    values: frozenset[int] | None = None
    mapping: LabelMapping | None = None
    left_out: tuple[LeftOut, ...] = ()

    def doubts(self) -> tuple[str, ...]:
        """What can be read, and is hardly what was meant; empty if nothing is doubtful."""
        if not self.samples or self.faults:
            return ()
        found = []
        classes = [c.name for c in self.label_set.classes if self.pixels[c.id]]
        if not classes:
            found.append("nothing is labeled: the mapping leaves out every pixel" + self._values_seen())
        elif len(classes) == 1:
            found.append(f"one class only: every labeled pixel is {classes[0]!r}" + self._values_seen())
        if self.mapping is not None and self.values and (doubt := _doubtful_values(self.values, self.mapping)):
            found.append(doubt)
        return tuple(found)

    def _values_seen(self) -> str:
        if not self.values:
            return ""
        return f" (the label files hold {first_of(sorted(self.values))})"

    def shares(self) -> NDArray[np.float64]:
        """Each class's share of the labeled pixels, float64 [classes]; zeros if nothing is labeled."""
        labeled = self.pixels[: len(self.label_set)]
        return np.asarray(labeled / max(int(labeled.sum()), 1), np.float64)

    def table(self) -> str:
        """Sizes and class balance, for a terminal."""
        lines = [f"{self.name}: {self.samples} images"]
        lines += [f"  {line}" for line in describe_left_out(self.left_out).splitlines()]
        for size, count in self.sizes.most_common(5):
            lines.append(f"  {count} of {size}")
        if len(self.sizes) > 5:
            lines.append(f"  and {len(self.sizes) - 5} more sizes")
        lines.append(f"  {'class':<16}{'pixels':>9}{'images':>9}")
        for c, share in zip(self.label_set.classes, self.shares(), strict=True):
            lines.append(f"  {c.name:<16}{100 * share:>8.3f}%{self.images[c.id]:>9}")
        unlabeled = self.pixels[UNLABELED] / max(int(self.pixels.sum()), 1)
        lines.append(f"  {'(unlabeled)':<16}{100 * unlabeled:>8.3f}%{self.images[UNLABELED]:>9}   of all pixels")
        return "\n".join(lines)

    def fault_list(self, shown: int = 10) -> str:
        """All faults by kind, the first `shown` (0: none) of each in words; empty for a sound dataset."""
        shown = max(shown, 0)
        lines: list[str] = []
        for kind in FaultKind:
            texts = [fault.text for fault in self.faults if fault.kind is kind]
            if texts:
                lines.append(f"{kind.value}: {len(texts)}")
                lines += [f"  {text}" for text in texts[:shown]]
                if len(texts) > shown:
                    lines.append(f"  and {len(texts) - shown} more")
        return "\n".join(lines)


def _doubtful_values(values: frozenset[int], mapping: LabelMapping) -> str | None:
    read = mapping.classes_of_values
    if values == {0, 1, 255} and IGNORE not in (read[0], read[1]) and (read[255] != IGNORE or len(read) > 3):
        return (
            f"values {{0, 1, 255}} only, as in a binary mask whose 255 is not labeled: the mapping {mapping.name!r} "
            f"reads 0 as {read[0]!r}, 1 as {read[1]!r} and 255 as {read[255]!r}. If they mean so, write a mapping of "
            "your own (values: {0: background, 1: road, 255: ignore})"
        )
    if len(values) == 2 and values <= {0, 1, 255} and 0 in values:
        high = max(values)
        if read[high] == IGNORE or (high == 1 and read[0] != IGNORE and not set(read) <= {0, 1, 255}):
            return (
                f"values {{0, {high}}} only, as in a binary mask: the mapping {mapping.name!r} reads 0 as {read[0]!r} "
                f"and {high} as {read[high]!r}. If {high} marks the road, take the mapping 'binary_road' "
                f"(0: background, {high}: road), or write your own"
            )
    largest = max((value for value in read if value != 255), default=0)
    if values <= TRAIN_IDS and 255 in values and len(values) > 3 and largest > 18:
        return (
            f"values in 0 to 18 and 255 only look like Cityscapes train ids, and the mapping {mapping.name!r} reads "
            f"values up to {largest}: take the mapping 'cityscapes_train_ids' if they are"
        )
    return None


def check_sample(dataset: Dataset, index: int) -> SampleCheck:
    """Look at one sample; never raises for what is wrong with it."""
    if isinstance(dataset, PairedFiles):
        return _check_pair(dataset, dataset.pairs[index])
    try:
        sample = dataset.load(index)
    except (SegPerceptionError, OSError) as error:
        return SampleCheck((Fault(FaultKind.OTHER, str(error)),), None, _no_pixels())
    return SampleCheck((), Size.of(sample.image), _pixels(sample.labels))


def _check_pair(dataset: PairedFiles, pair: FilePair) -> SampleCheck:
    faults: list[Fault] = []
    image: RgbImage | None = None
    labels: LabelImage | None = None
    mask: Mask | None = None
    try:
        image = read_rgb(pair.image)
    except (SegPerceptionError, OSError) as error:
        faults.append(Fault(FaultKind.UNREADABLE_IMAGE, str(error)))
    try:
        mask = dataset.read(pair.labels)
    except FileNotFoundError:
        faults.append(Fault(FaultKind.MISSING_LABELS, f"{pair.labels}, for {pair.image}{pair.instead}"))
    except (SegPerceptionError, OSError) as error:
        faults.append(Fault(FaultKind.UNREADABLE_LABELS, str(error)))
    if mask is not None:
        try:
            labels = mask.labels(dataset.mapping, pair.labels)
        except SegPerceptionError as error:
            faults.append(Fault(FaultKind.UNKNOWN_VALUES, str(error)))
    if image is not None and mask is not None and image.shape[:2] != mask.pixels.shape[:2]:
        text = f"{pair.labels}: {Size.of(mask.pixels)}, its image {Size.of(image)}"
        faults.append(Fault(FaultKind.SIZES_DIFFER, text))
    return SampleCheck(
        tuple(faults),
        None if image is None else Size.of(image),
        _no_pixels() if labels is None else _pixels(labels),
        _values(mask, dataset.mapping),
    )


def _values(mask: Mask | None, mapping: LabelMapping) -> frozenset[int] | None:
    """The values that a file stores, in gray, as a palette's indices, or as R=G=B; None where it is read by colors."""
    if mask is None or (mask.pixels.ndim == 3 and mapping.classes_of_colors):
        return None
    values = mask.values()
    return None if values is None else frozenset(np.flatnonzero(np.bincount(values.reshape(-1))).tolist())


def _pixels(labels: LabelImage) -> NDArray[np.int64]:
    return np.bincount(labels.reshape(-1), minlength=256)


def _no_pixels() -> NDArray[np.int64]:
    return np.zeros(256, np.int64)


def check_dataset(
    dataset: Dataset | DatasetSettings,
    workers: int | None = None,
    progress: bool = False,
    stopped: Callable[[], bool] = lambda: False,
) -> DatasetCheck:
    """Read every file of a dataset, in several threads: all that is wrong, and the class balance.

    Args:
        dataset: what to look at, or what names it; one whose label files are missing is looked at, too.
        workers: threads; None takes one for each core.
        progress: show a bar.
        stopped: asked after each sample; once it is true, the check ends with KeyboardInterrupt.

    Raises:
        SettingsError: a wrong value.
        DatasetError: the dataset cannot be opened.
    """
    if workers is not None and workers < 1:
        raise SettingsError(f"workers {workers} is not accepted: 1 or more are")
    if isinstance(dataset, DatasetSettings):
        try:
            dataset = open_dataset(dataset)
        except MissingLabelsError as error:
            dataset = error.dataset
    faults: list[Fault] = []
    pixels, images = _no_pixels(), _no_pixels()
    sizes: Counter[Size] = Counter()
    values: frozenset[int] | None = frozenset()
    count = len(dataset)
    checks = _checks(dataset, min(usable_cores(), 16) if workers is None else workers)
    with closing(checks):  # ends the threads at once when this loop is left by Ctrl-C
        for check in tqdm(checks, f"check {dataset.name}", count, unit="image", disable=not progress, leave=False):
            if stopped():
                raise KeyboardInterrupt
            faults += check.faults
            pixels += check.pixels
            images += check.pixels > 0
            values = None if values is None or check.values is None else values | check.values
            if check.size is not None:
                sizes[check.size] += 1
    mapping = dataset.mapping if isinstance(dataset, PairedFiles) else None
    found = tuple(faults)
    return DatasetCheck(
        dataset.name, dataset.label_set, count, found, pixels, images, sizes, values, mapping, dataset.left_out
    )


def look_at(dataset: Dataset, progress: bool = False) -> list[str]:
    """Look at every file of a dataset before long work depends on it; one that is not of files is left alone.

    Returns:
        Remarks, a line each: files that are left out, and labels that are hardly meant so.

    Raises:
        DatasetError: all faults; or nothing is labeled.
    """
    if not isinstance(dataset, PairedFiles):
        return []
    if not dataset.labeled:
        return _look_at_images(dataset, progress)
    check = check_dataset(dataset, progress=progress)
    if check.faults:
        count = "1 fault" if len(check.faults) == 1 else f"{len(check.faults)} faults"
        raise DatasetError(f"{dataset.name}: {count}; mend or remove these files:\n{check.fault_list(shown=5)}")
    doubts = check.doubts()
    if not check.pixels[: len(check.label_set)].any():
        raise DatasetError(f"{dataset.name}: {doubts[0]}; choose another mapping or other files")
    remarks = (*describe_left_out(dataset.left_out).splitlines(), *(f"is this meant? {doubt}" for doubt in doubts))
    return [f"{dataset.name}: {remark}" for remark in remarks]


def _look_at_images(dataset: PairedFiles, progress: bool) -> list[str]:
    faults = []
    for pair in tqdm(dataset.pairs, f"check {dataset.name}", unit="image", leave=False, disable=not progress):
        try:
            read_rgb(pair.image)
        except (SegPerceptionError, OSError) as error:  # noqa: PERF203  all are told
            faults.append(str(error))
    if faults:
        raise DatasetError(f"{dataset.name}: {len(faults)} unreadable images:\n" + "\n".join(faults[:5]))
    return [f"{dataset.name}: {len(dataset)} images without labels, for teachers alone"]


def _checks(dataset: Dataset, threads: int) -> Generator[SampleCheck, None, None]:
    """In the dataset's order. Threads: decoders release Python's lock, and a caller's script starts no process."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)  # the threads are the parallelism
    pool = ThreadPoolExecutor(threads, "check")
    try:
        yield from pool.map(lambda index: check_sample(dataset, index), range(len(dataset)))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        cv2.setNumThreads(before)
