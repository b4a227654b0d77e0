"""The data of a run: opened, looked at, remembered with it, and drawn in batches that follow from seed and step."""

from __future__ import annotations

import hashlib
import os
import re
import signal
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, default_collate
from torch.utils.data import Dataset as TorchDataset
from tqdm import tqdm

from seg_perception.core.errors import DatasetError, SegPerceptionError, SettingsError
from seg_perception.core.label_set import LabelSet
from seg_perception.core.settings import from_mapping
from seg_perception.datasets.base import Dataset, Sample
from seg_perception.datasets.check import look_at
from seg_perception.datasets.pairs import PairedFiles
from seg_perception.datasets.registry import DatasetSettings, open_dataset, rename_repeated
from seg_perception.training.augmentation import augment
from seg_perception.training.distillation import TeacherAnswers, answer_of_crop
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

    @property
    def all(self) -> tuple[Dataset, ...]:
        return (*self.train, *self.validation)

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


def trained_on_too(data: RunData) -> Iterator[str]:
    """A line for each validation set with images that are trained on, under whatever names: its scores flatter.

    Raises:
        OSError: a file is gone.
    """

    def images(datasets: Sequence[Dataset]) -> list[Path]:
        return [pair.image for dataset in datasets if isinstance(dataset, PairedFiles) for pair in dataset.pairs]

    sizes = {path.stat().st_size for path in images(data.validation)}
    trained = {_sha256(path): path for path in images(data.train) if path.stat().st_size in sizes}
    for dataset in data.validation:
        validated = images([dataset]) if trained else []
        if again := [(path, trained[digest]) for path in validated if (digest := _sha256(path)) in trained]:
            yield (
                f"{dataset.name}: {len(again)} of {len(dataset)} images are trained on, too ({again[0][0]} is "
                f"{again[0][1]}): its scores do not tell how the network does on images that it has not seen"
            )


def _sha256(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def look_at_all(datasets: Sequence[Dataset]) -> None:
    """Read every file once, and say what is left out or hardly meant.

    Raises:
        DatasetError: all faults of all datasets; or nothing of one is labeled.
    """
    faults = []
    for dataset in datasets:
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


@dataclass(frozen=True, slots=True)
class CropKey:
    """Names one crop of the run: the step and its place in the global batch."""

    step: int
    place: int


Crop: TypeAlias = tuple[Tensor, ...] | SegPerceptionError | OSError
Batches: TypeAlias = Generator[tuple[Tensor, ...], None, None]


class TrainingCrops(TorchDataset[Crop]):
    """Random crops of the weighted training datasets, drawn anew for each key.

    A key gives the same crop in any process: uint8 [h, w, 3] RGB and uint8 [h, w] labels, and what the teachers
    answered there if that is kept, float16 [C, h / 4, w / 4]; or what went wrong with its file.
    """

    def __init__(
        self, settings: TrainSettings, datasets: Sequence[Dataset], answers: TeacherAnswers | None = None
    ) -> None:
        self._answers = answers
        self.datasets = datasets
        label_set = self.datasets[0].label_set
        self._rare_ids = [label_set.id_of(name) for name in settings.augmentation.rare_classes]
        weights = np.array([s.weight for s in settings.train])
        self._shares = weights / weights.sum()
        self._settings = settings
        self._cache: dict[tuple[int, int], Sample] = {}
        self._cache_bytes = settings.cache_gigabytes * 1e9 if settings.cache else 0.0

    def __getitem__(self, key: CropKey) -> Crop:
        try:
            return self._crop(key)
        except (SegPerceptionError, OSError) as error:
            return error  # a worker's exception would come as a traceback of its own

    def _crop(self, key: CropKey) -> tuple[Tensor, ...]:
        rng = np.random.default_rng([self._settings.seed, key.step, key.place])
        which = int(rng.choice(len(self.datasets), p=self._shares))
        index = int(rng.integers(len(self.datasets[which])))
        sample = self._load(which, index)
        changes, deployed = self._settings.augmentation, self._settings.deployed_size
        image, labels, cut = augment(sample, changes, deployed, rng, self._rare_ids)
        crop = torch.from_numpy(image), torch.from_numpy(labels)
        if self._answers is None:
            return crop
        answer = answer_of_crop(self._answers.load(sample.image), cut, changes.crop)
        return *crop, torch.from_numpy(answer)

    def _load(self, which: int, index: int) -> Sample:
        kept = self._cache.get((which, index))
        if kept is not None:
            return kept
        sample = self.datasets[which].load(index)
        size = sample.image.nbytes + sample.labels.nbytes
        if size <= self._cache_bytes:
            self._cache_bytes -= size
            self._cache[which, index] = sample
        return sample


class _StepSampler(Sampler[list[CropKey]]):
    """This process's part of the global batch, one micro-batch after another, step after step."""

    def __init__(self, first_step: int, settings: TrainSettings, rank: int, world: int) -> None:
        self._steps = range(first_step, settings.steps)
        self._rounds = settings.accumulation
        self._size = micro_batch_size(settings, world)
        self._rank, self._world = rank, world

    def __iter__(self) -> Iterator[list[CropKey]]:
        for step in self._steps:
            for turn in range(self._rounds):
                first = (turn * self._world + self._rank) * self._size
                yield [CropKey(step, place) for place in range(first, first + self._size)]


def micro_batch_size(settings: TrainSettings, world: int) -> int:
    """Crops of one forward pass in one process.

    Raises:
        SettingsError: the batch does not divide evenly.
    """
    parts = settings.accumulation * world
    if settings.batch_size % parts:
        raise SettingsError(
            f"batch_size {settings.batch_size} does not divide into {settings.accumulation} accumulation rounds "
            f"x {world} processes; take a multiple of {parts}"
        )
    return settings.batch_size // parts


def _begin_worker(_worker: int) -> None:
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the process that trains says when to end


def _collate(crops: list[Crop]) -> tuple[Tensor, ...] | Exception:
    """A batch; or the first fault among its crops."""
    for crop in crops:
        if isinstance(crop, Exception):
            return crop
    return tuple(default_collate(crops))


def training_batches(crops: TrainingCrops, settings: TrainSettings, first_step: int, rank: int, world: int) -> Batches:
    """Micro-batches of `TrainingCrops` from `first_step` on: uint8 [n, h, w, 3], uint8 [n, h, w], any answers.

    OpenCV is left with one thread in this process, too: its thread pool does not survive the fork
    of the workers, which would wait for it for ever.

    Raises:
        DatasetError, OSError: a file that was sound at the start cannot be read any more; names it.
        RuntimeError: PyTorch's own, see `worker_fault`.
    """
    cv2.setNumThreads(1)
    loader = DataLoader(
        crops,
        batch_sampler=_StepSampler(first_step, settings, rank, world),
        num_workers=settings.workers,
        prefetch_factor=4 if settings.workers else None,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_begin_worker,
        collate_fn=_collate,
    )
    for batch in loader:
        if isinstance(batch, Exception):
            raise batch
        yield batch


def worker_fault(text: str, workers: int) -> str | None:
    """What PyTorch's errors about its workers mean; None for any other error.

    They can strike anywhere in this process: PyTorch raises them as soon as the system reports a worker's end.
    """
    if re.search(r"shared memory|/torch_\w+|Bus error|No space left on device", text):
        return shared_memory_text(workers, "is full")
    if re.search(r"DataLoader worker .*(is killed by signal|exited unexpectedly)", text):
        return (
            f"workers: one of the {workers} processes that read the data was killed, as the system does when memory "
            "runs out; lower cache_gigabytes or workers. The run goes on from its last checkpoint"
        )
    return None
