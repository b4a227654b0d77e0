"""Training batches as a pure function of (seed, step): resuming needs no sampler state."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, default_collate
from torch.utils.data import Dataset as TorchDataset

from seg_perception.core.errors import SegPerceptionError, SettingsError
from seg_perception.datasets.base import Dataset, Sample
from seg_perception.training.augmentation import augment_and_tell
from seg_perception.training.run_data import shared_memory_text
from seg_perception.training.settings import TrainSettings
from seg_perception.training.teacher_answers import TeacherAnswers, answer_of_crop


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
        image, labels, cut = augment_and_tell(sample, changes, deployed, rng, self._rare_ids)
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


def _one_thread_each(_worker: int) -> None:
    cv2.setNumThreads(1)


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
        worker_init_fn=_one_thread_each,
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
