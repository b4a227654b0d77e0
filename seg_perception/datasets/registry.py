"""Opens datasets from settings: every module of this folder with `open_dataset` is one kind."""

from __future__ import annotations

import importlib
import math
import pkgutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import seg_perception.datasets
from seg_perception.core.errors import SettingsError
from seg_perception.core.label_set import load_label_mapping
from seg_perception.core.types import Size
from seg_perception.datasets import scenes
from seg_perception.datasets.base import Dataset, Sample
from seg_perception.datasets.folder_pairs import folder_pairs

FOLDER, SCENES = "folder", "scenes"


@dataclass(frozen=True, slots=True)
class DatasetSettings:
    """One dataset of a training or an evaluation.

    Attributes:
        kind: "camvid", "cityscapes256", "kitti", ...; "folder" for any folder pair; "scenes".
        root: its folder, relative to the data root; for "folder" the one that holds images/ and labels/.
        split: as the kind names them; not used by "folder".
        mapping: label mapping (shipped name or YAML file); None takes the kind's own. A "folder" must name one.
        size: resize samples to this on reading.
        weight: share of the training crops, relative to the other datasets.
        every: keep one sample of this many (quick validation).
        count: how many scenes (kind "scenes" only).
    """

    kind: str
    root: Path = Path()
    split: str = "train"
    mapping: str | None = None
    size: Size | None = None
    weight: float = 1.0
    every: int = 1
    count: int = 500

    def __post_init__(self) -> None:
        faults = []
        if self.kind not in dataset_kinds():
            faults.append(f"kind: no dataset {self.kind!r}; known: {', '.join(dataset_kinds())}")
        elif self.kind == FOLDER and self.mapping is None:
            faults.append("mapping: a folder dataset needs one (a shipped name or a YAML file)")
        elif self.kind != FOLDER and self.split not in _splits(self.kind):
            faults.append(f"split: {self.kind} has no {self.split!r}; known: {', '.join(_splits(self.kind))}")
        if not self.weight > 0:
            faults.append(f"weight: {self.weight} must be above 0")
        if self.every < 1:
            faults.append(f"every: {self.every} must be at least 1")
        if self.count < 1:
            faults.append(f"count: {self.count} must be at least 1")
        if faults:
            raise SettingsError("\n".join(faults))


@cache
def _modules() -> dict[str, ModuleType]:
    found = (
        importlib.import_module(f"{seg_perception.datasets.__name__}.{m.name}")
        for m in pkgutil.iter_modules(seg_perception.datasets.__path__)
        if m.name != "registry"
    )
    return {m.__name__.rpartition(".")[2]: m for m in found if hasattr(m, "open_dataset")}


def dataset_kinds() -> tuple[str, ...]:
    return (*_modules(), FOLDER, SCENES)


def _splits(kind: str) -> tuple[str, ...]:
    return scenes.SPLITS if kind == SCENES else tuple(_modules()[kind].SPLITS)


class _Thinned:
    """One sample of every `step`."""

    def __init__(self, dataset: Dataset, step: int) -> None:
        self.name = f"{dataset.name} (1 of {step})"
        self.label_set = dataset.label_set
        self._dataset = dataset
        self._step = step

    def __len__(self) -> int:
        return math.ceil(len(self._dataset) / self._step)

    def load(self, index: int) -> Sample:
        return self._dataset.load(index * self._step)


def open_dataset(settings: DatasetSettings, data_root: Path = Path()) -> Dataset:
    """Open a dataset; files are listed now and read on demand.

    Raises:
        DatasetError: folders or files are missing.
        SettingsError: an unknown mapping.
    """
    root = data_root / settings.root
    dataset: Dataset
    if settings.kind == SCENES:
        dataset = scenes.ScenesDataset(settings.split, settings.count, settings.size or Size(480, 352))
    elif settings.kind == FOLDER:
        assert settings.mapping is not None
        mapping = load_label_mapping(settings.mapping)
        dataset = folder_pairs(root / "images", root / "labels", mapping, root.name, settings.size)
    else:
        module = _modules()[settings.kind]
        dataset = module.open_dataset(root, settings.split, settings.mapping or module.MAPPING, settings.size)
    return dataset if settings.every == 1 else _Thinned(dataset, settings.every)
