"""The data of a run: opened and looked at before the first step, remembered with it, compared when it goes on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from seg_perception.core.errors import DatasetError, SegPerceptionError, SettingsError
from seg_perception.core.label_set import LabelSet
from seg_perception.core.settings import from_mapping
from seg_perception.datasets.base import Dataset
from seg_perception.datasets.check import look_at
from seg_perception.datasets.pairs import PairedFiles
from seg_perception.datasets.registry import DatasetSettings, open_dataset, rename_repeated
from seg_perception.training.settings import TrainSettings

_BATCHES_AHEAD = 4  # of each worker: torch keeps so many ready
_LEAST_SHARED = 16 * 1024 * 1024  # bytes that are never missed


@dataclass(frozen=True, slots=True)
class DataRecord:
    """What one dataset was when a run began.

    Attributes:
        name: the dataset's.
        purpose: "train" or "validation".
        samples: how many.
        files_sha256: of the names and sizes of its files; empty for a dataset that is not of files.
        labels: the classes in order, and the class of each label value and color.
    """

    name: str
    purpose: str
    samples: int
    files_sha256: str
    labels: Mapping[str, Any]

    @classmethod
    def of(cls, dataset: Dataset, purpose: str) -> DataRecord:
        if not isinstance(dataset, PairedFiles):
            return cls(dataset.name, purpose, len(dataset), "", {"classes": list(dataset.label_set.names)})
        listing = hashlib.sha256()
        for pair in dataset.pairs:
            sizes = f"{os.stat(pair.image).st_size} {os.stat(pair.labels).st_size}"  # noqa: PTH116  twice as fast
            listing.update(f"{pair.name}\0{pair.image.name}\0{pair.labels.name}\0{sizes}\n".encode())
        return cls(dataset.name, purpose, len(dataset), listing.hexdigest(), dataset.mapping.content())

    def to_plain(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class RunData:
    """The opened datasets of a run; all of one label set."""

    train: tuple[Dataset, ...]
    validation: tuple[Dataset, ...]

    @property
    def label_set(self) -> LabelSet:
        return self.train[0].label_set

    def records(self) -> tuple[DataRecord, ...]:
        """What the data is now.

        Raises:
            OSError: a file is gone.
        """
        purposes = (("train", self.train), ("validation", self.validation))
        return tuple(DataRecord.of(dataset, purpose) for purpose, datasets in purposes for dataset in datasets)


def open_run_data(settings: TrainSettings) -> RunData:
    """Open all datasets, and find every fault of settings that depends on them.

    Raises:
        SettingsError, DatasetError: all faults at once.
    """
    faults: list[Exception] = []
    train = _opened(settings.train, settings.data_root, faults)
    validation = _opened(settings.validation, settings.data_root, faults)
    label_set = next((dataset.label_set for dataset in train if dataset), None)
    if label_set is not None:
        faults += _label_set_faults([d for d in train if d], label_set, "train")
        faults += _label_set_faults([d for d in validation if d], label_set, "validation")
        named = {"augmentation.rare_classes": settings.augmentation.rare_classes}
        named["loss.class_weights"] = tuple(settings.loss.class_weights)
        known = ", ".join(label_set.names)
        faults += [
            SettingsError(f"{where}: label set {label_set.name!r} has no class {name!r}; known: {known}")
            for where, names in named.items()
            for name in names
            if name not in label_set.names
        ]
    if len(faults) == 1:
        raise faults[0]
    if faults:
        raise SettingsError(f"{len(faults)} faults:\n  " + "\n  ".join(str(fault) for fault in faults))
    return RunData(tuple(d for d in train if d), tuple(d for d in validation if d))


def _opened(wanted: Sequence[DatasetSettings], root: Path, faults: list[Exception]) -> list[Dataset | None]:
    opened: list[Dataset | None] = []
    for one in wanted:
        try:
            opened.append(open_dataset(one, root))
        except (SegPerceptionError, OSError) as error:  # noqa: PERF203  each is told
            opened.append(None)
            faults.append(error)
    rename_repeated(opened, wanted, root)
    return opened


def _label_set_faults(datasets: Sequence[Dataset], label_set: LabelSet, purpose: str) -> Iterator[Exception]:
    for dataset in datasets:
        if dataset.label_set != label_set:
            yield SettingsError(
                f"{purpose}: {dataset.name} maps to the label set {dataset.label_set.name!r}, "
                f"but the training data to {label_set.name!r}"
            )


def look_at_all(data: RunData) -> None:
    """Read every file once, and say what is left out or hardly meant.

    Raises:
        DatasetError: all faults of all datasets; or nothing of one is labeled.
    """
    faults = []
    for dataset in (*data.train, *data.validation):
        try:
            for remark in look_at(dataset, progress=True):
                tqdm.write(remark)
        except DatasetError as error:  # noqa: PERF203  all are told
            faults.append(str(error))
    if faults:
        raise DatasetError("\n".join(faults))


def differences(then: Sequence[Mapping[str, Any]], now: Sequence[DataRecord], source: str) -> Iterator[str]:
    """How the data of now differs from that of a run's beginning, in words.

    Raises:
        SettingsError: the records of then cannot be read.
    """
    earlier = [from_mapping(DataRecord, record, source) for record in then]
    if [(r.purpose, r.name) for r in earlier] != [(r.purpose, r.name) for r in now]:
        names = ("; ".join(f"{r.purpose} {r.name}" for r in records) for records in (earlier, now))
        yield "datasets: {} then, {} now".format(*names)
        return
    for before, after in zip(earlier, now, strict=True):
        where = f"{after.purpose} {after.name}"
        if before.samples != after.samples:
            yield f"{where}: {before.samples} samples then, {after.samples} now"
        elif before.files_sha256 != after.files_sha256:
            yield f"{where}: as many files, but other names or sizes"
        yield from _label_differences(before.labels, after.labels, where)


def _label_differences(then: Mapping[str, Any], now: Mapping[str, Any], where: str) -> Iterator[str]:
    if then.get("classes") != now.get("classes"):
        listed = (", ".join(labels.get("classes") or ()) for labels in (then, now))
        yield "{}: classes {} then, {} now".format(where, *listed)
    for table, one in (("values", "label value"), ("colors", "label color")):
        before, after = then.get(table) or {}, now.get(table) or {}
        for key in sorted({*before, *after}, key=lambda key: (len(key), key)):
            if before.get(key) != after.get(key):
                yield f"{where}: {one} {key}: {before.get(key, 'unknown')!r} then, {after.get(key, 'unknown')!r} now"


def demand_shared_memory(settings: TrainSettings, micro_batch: int, free: int | None = None) -> None:
    """Refuse to start workers whose batches do not fit into shared memory, through which they come.

    Args:
        settings: of the run.
        micro_batch: crops of one batch.
        free: bytes; None asks the system.

    Raises:
        SettingsError: what is there, what is needed, and the remedies.
    """
    if not settings.workers:
        return
    if free is None:
        if not Path("/dev/shm").is_dir():  # noqa: S108  no file is made there
            return
        status = os.statvfs("/dev/shm")  # noqa: S108
        free = status.f_bavail * status.f_frsize
    crop = settings.augmentation.crop
    needed = settings.workers * _BATCHES_AHEAD * micro_batch * crop.width * crop.height * 4 + _LEAST_SHARED
    if free < needed:
        raise SettingsError(
            shared_memory_text(settings.workers, f"has {free >> 20} MB free, {needed >> 20} are needed")
        )


def shared_memory_text(workers: int, what: str) -> str:
    return (
        f"workers: /dev/shm, through which {workers} workers hand over their batches, {what}; give the container more "
        "(docker run --shm-size=2g, or --ipc=host), or take fewer workers, a smaller batch, or workers: 0"
    )
