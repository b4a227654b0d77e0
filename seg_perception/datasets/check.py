"""Reads a whole dataset and tells everything that is wrong with it, not only the first fault."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from enum import Enum
from multiprocessing.synchronize import Event

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from seg_perception.core.errors import SegPerceptionError
from seg_perception.core.label_set import LabelSet
from seg_perception.core.types import UNLABELED, LabelImage, RgbImage, Size
from seg_perception.datasets.base import Dataset, FilePair, PairedFiles, read_rgb


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
    """

    faults: tuple[Fault, ...]
    size: Size | None
    pixels: NDArray[np.int64]


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
    """

    name: str
    label_set: LabelSet
    samples: int
    faults: tuple[Fault, ...]
    pixels: NDArray[np.int64]
    images: NDArray[np.int64]
    sizes: Counter[Size]

    def shares(self) -> NDArray[np.float64]:
        """Each class's share of the labeled pixels, float64 [classes]; zeros if nothing is labeled."""
        labeled = self.pixels[: len(self.label_set)]
        return np.asarray(labeled / max(int(labeled.sum()), 1), np.float64)

    def table(self) -> str:
        """Sizes and class balance, for a terminal."""
        lines = [f"{self.name}: {self.samples} images"]
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
        """All faults by kind, the first `shown` of each in words; empty for a sound dataset."""
        lines: list[str] = []
        for kind in FaultKind:
            texts = [fault.text for fault in self.faults if fault.kind is kind]
            if texts:
                lines.append(f"{kind.value}: {len(texts)}")
                lines += [f"  {text}" for text in texts[:shown]]
                if len(texts) > shown:
                    lines.append(f"  and {len(texts) - shown} more")
        return "\n".join(lines)


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
    values: NDArray[np.uint8] | None = None
    try:
        image = read_rgb(pair.image)
    except (SegPerceptionError, OSError) as error:
        faults.append(Fault(FaultKind.UNREADABLE_IMAGE, str(error)))
    try:
        values = dataset.read_values(pair.labels)
    except FileNotFoundError:
        faults.append(Fault(FaultKind.MISSING_LABELS, f"{pair.labels}, for {pair.image}"))
    except (SegPerceptionError, OSError) as error:
        faults.append(Fault(FaultKind.UNREADABLE_LABELS, str(error)))
    if values is not None:
        try:
            labels = dataset.mapping.apply(values, pair.labels)
        except SegPerceptionError as error:
            faults.append(Fault(FaultKind.UNKNOWN_VALUES, str(error)))
    if image is not None and values is not None and image.shape[:2] != values.shape:
        text = f"{pair.labels}: {Size.of(values)}, its image {Size.of(image)}"
        faults.append(Fault(FaultKind.SIZES_DIFFER, text))
    return SampleCheck(
        tuple(faults),
        None if image is None else Size.of(image),
        _no_pixels() if labels is None else _pixels(labels),
    )


def _pixels(labels: LabelImage) -> NDArray[np.int64]:
    return np.bincount(labels.reshape(-1), minlength=256)


def _no_pixels() -> NDArray[np.int64]:
    return np.zeros(256, np.int64)


def check_dataset(
    dataset: Dataset,
    workers: int | None = None,
    progress: bool = False,
    stopped: Callable[[], bool] = lambda: False,
) -> DatasetCheck:
    """Look at every sample, in several processes.

    Args:
        dataset: picklable; it is handed to each process once.
        workers: processes; 0 works in this one; None takes one for each core.
        progress: show a bar.
        stopped: asked after each sample; once it is true, the check ends with KeyboardInterrupt. Let Ctrl-C set
            it: an exception that strikes while this process waits for the others can leave their lock broken.
    """
    faults: list[Fault] = []
    pixels, images = _no_pixels(), _no_pixels()
    sizes: Counter[Size] = Counter()
    count = len(dataset)
    processes = min(os.cpu_count() or 1, 16) if workers is None else workers
    checks = _checks_here(dataset) if processes == 0 else _checks_in_processes(dataset, processes)
    with closing(checks):  # ends the processes at once when this loop is left by Ctrl-C
        for check in tqdm(checks, dataset.name, count, unit="image", disable=not progress):
            if stopped():
                raise KeyboardInterrupt
            faults += check.faults
            pixels += check.pixels
            images += check.pixels > 0
            if check.size is not None:
                sizes[check.size] += 1
    return DatasetCheck(dataset.name, dataset.label_set, count, tuple(faults), pixels, images, sizes)


def _checks_here(dataset: Dataset) -> Generator[SampleCheck, None, None]:
    return (check_sample(dataset, index) for index in range(len(dataset)))


def _checks_in_processes(dataset: Dataset, processes: int) -> Generator[SampleCheck, None, None]:
    # new interpreters, not forks: a fork while OpenCV's threads hold a lock would hang
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    with ProcessPoolExecutor(processes, context, _start_worker, (dataset, stop)) as pool:
        try:
            # a terminal's Ctrl-C reaches every process; the workers, which inherit the mask, leave it to this one
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            checks = pool.map(_check_in_worker, range(len(dataset)), chunksize=8)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            yield from checks
        finally:
            stop.set()


_work_of_worker: tuple[Dataset, Event] | None = None


def _start_worker(dataset: Dataset, stop: Event) -> None:
    global _work_of_worker  # noqa: PLW0603  what a worker process keeps
    _work_of_worker = dataset, stop
    cv2.setNumThreads(1)  # the processes are the parallelism


def _check_in_worker(index: int) -> SampleCheck:
    assert _work_of_worker is not None
    dataset, stop = _work_of_worker
    if stop.is_set():
        raise InterruptedError("the check was ended; nobody waits for the rest")
    return check_sample(dataset, index)
