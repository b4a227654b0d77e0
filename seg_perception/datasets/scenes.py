"""Procedural scenes as a dataset: the one that ships, since it is drawn on demand."""

from __future__ import annotations

from seg_perception.core.errors import DatasetError
from seg_perception.core.label_set import LabelSet, load_label_set
from seg_perception.core.types import Size
from seg_perception.datasets.base import DatasetInfo, LeftOut, OpenRequest, Sample

_SPLITS = ("train", "val")
_SIZE = Size(480, 352)
_VALIDATION_SEED = 1_000_000  # far from any training seed


class ScenesDataset:
    """`count` random scenes of one size; scene i of a split is always the same picture."""

    left_out: tuple[LeftOut, ...] = ()

    def __init__(self, split: str, count: int, size: Size) -> None:
        if split not in _SPLITS:
            raise DatasetError(f"scenes have no split {split!r}; known: {', '.join(_SPLITS)}")
        if count < 1:
            raise DatasetError(f"scenes: count {count} must be at least 1")
        self.name = f"scenes/{split}"
        self._first_seed = _VALIDATION_SEED if split == "val" else 0
        self._count = count
        self._size = size

    @property
    def label_set(self) -> LabelSet:
        return load_label_set("driving")

    def __len__(self) -> int:
        return self._count

    def load(self, index: int) -> Sample:
        from seg_perception.scenes import random_scene

        frame = random_scene(self._first_seed + index, self._size)
        return Sample(f"{index:06d}", frame.image, frame.labels)


def _open(request: OpenRequest) -> ScenesDataset:
    return ScenesDataset(request.split, request.count, request.size or _SIZE)


DATASET = DatasetInfo(
    name="scenes",
    summary="procedural scenes, drawn on demand, with the ten classes",
    open=_open,
    splits={split: split for split in _SPLITS},
)
