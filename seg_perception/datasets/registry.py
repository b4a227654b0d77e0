"""Opens datasets from settings: every module of this folder with a DATASET is one kind."""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import seg_perception.datasets
from seg_perception.core.errors import SettingsError
from seg_perception.core.files import real_path
from seg_perception.core.types import Size, parse_fields
from seg_perception.datasets.base import Dataset, DatasetInfo, LeftOut, OpenRequest, Sample
from seg_perception.datasets.pairs import MissingLabelsError, PairedFiles, pattern_fault


def datasets() -> Mapping[str, DatasetInfo]:
    """Every known dataset by name, read-only."""
    names = sorted(found.name for found in pkgutil.iter_modules(seg_perception.datasets.__path__))
    modules = (importlib.import_module(f"{seg_perception.datasets.__name__}.{name}") for name in names)
    infos = [module.DATASET for module in modules if hasattr(module, "DATASET")]
    return MappingProxyType({info.name: info for info in infos})


def dataset_kinds() -> tuple[str, ...]:
    return tuple(datasets())


def datasets_table() -> str:
    """The known datasets as a Markdown table, as docs/datasets.md shows it."""
    lines = ["| kind | splits | layout under `root` | its own mapping | what |", "|---|---|---|---|---|"]
    for info in datasets().values():
        layout = ", ".join(f"`{pattern}`" for pattern in (info.images, " or ".join(info.labels)) if pattern)
        own = f"`{info.mapping}`" if info.mapping else ("name one" if info.needs_mapping else "none needed")
        splits = ", ".join(info.splits) or "none"
        lines.append(f"| `{info.name}` | {splits} | {layout or 'nothing'} | {own} | {info.summary} |")
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class DatasetSettings:
    """One dataset of a training or an evaluation.

    Attributes:
        kind: "camvid", "cityscapes256", "kitti", ...; "folder" for your own files; "scenes".
        root: its folder, relative to the data root; for "folder" the one that holds images/ and labels/.
        split: as the kind names them; not used by "folder".
        mapping: label mapping (shipped name or YAML file); None takes the kind's own. A "folder" must name one.
        size: resize samples to this on reading.
        weight: share of the training crops, relative to the other datasets.
        every: keep one sample of this many (quick validation).
        count: how many scenes (kind "scenes" only).
        images, labels: where the files lie below the root, as patterns (kind "folder" only): images/*/*.jpg
            and labels/*/*_ids.png.
        unlabeled: there are images only (kind "folder" only), in images/ or in the root: for training with teachers,
            who say what is on them. The mapping still names the classes.

    Raises:
        SettingsError: values that do not fit together or are out of range; all of them are listed.
        InputError: a malformed size.
    """

    kind: str
    root: Path = Path()
    split: str = "train"
    mapping: str | None = None
    size: Size | None = None
    weight: float = 1.0
    every: int = 1
    count: int = 500
    images: str | None = None
    labels: str | None = None
    unlabeled: bool = False

    def __post_init__(self) -> None:
        parse_fields(self, root=Path, size=Size.parse)
        faults = []
        info = datasets().get(self.kind)
        if info is None:
            faults.append(f"kind: no dataset {self.kind!r}; known: {', '.join(dataset_kinds())}")
        else:
            if info.needs_mapping and self.mapping is None:
                faults.append(f"mapping: a {self.kind} dataset needs one (a shipped name or a YAML file)")
            if self.mapping is not None and info.mapping is None and not info.needs_mapping:
                faults.append(f"mapping: {self.kind} is labeled with its own classes and takes none")
            if info.splits and self.split not in info.splits:
                faults.append(f"split: {self.kind} has no {self.split!r}; known: {', '.join(info.splits)}")
            faults += self._pattern_faults(info)
        if not self.weight > 0:
            faults.append(f"weight: {self.weight} must be above 0")
        if self.every < 1:
            faults.append(f"every: {self.every} must be at least 1")
        if self.count < 1:
            faults.append(f"count: {self.count} must be at least 1")
        if faults:
            raise SettingsError("\n".join(faults))

    def _pattern_faults(self, info: DatasetInfo) -> Iterable[str]:
        if self.unlabeled and not info.takes_patterns:
            yield f"unlabeled: {self.kind} has labels; images without are of kind: folder"
        if self.unlabeled and (self.images or self.labels):
            yield "unlabeled: takes no patterns; its images are in images/ below the root, or in the root"
        given = {name: text for name in ("images", "labels") if (text := getattr(self, name)) is not None}
        if not given:
            return
        if not info.takes_patterns:
            yield f"{next(iter(given))}: {self.kind} has a layout of its own; patterns are for kind: folder"
        elif len(given) == 1:
            (other,) = {"images", "labels"} - set(given)
            yield f"{other}: a pattern for {next(iter(given))} needs one for {other}, too"
        yield from (f"{name}: {fault}" for name, text in given.items() if (fault := pattern_fault(text)))


class _Thinned:
    """One sample of every `step`."""

    def __init__(self, dataset: Dataset, step: int) -> None:
        self.name = f"{dataset.name} (1 of {step})"
        self.label_set = dataset.label_set
        self.left_out: tuple[LeftOut, ...] = dataset.left_out
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
        SettingsError: an unknown mapping, or patterns that do not fit.
    """
    info = datasets()[settings.kind]
    request = OpenRequest(
        data_root / settings.root,
        settings.split,
        settings.mapping or info.mapping,
        settings.size,
        settings.count,
        settings.images,
        settings.labels,
        settings.unlabeled,
    )
    try:
        dataset = info.open(request)
    except MissingLabelsError as error:
        kept = _thinned(error.dataset, settings.every)
        if isinstance(kept, PairedFiles):
            return kept.demand_labels()
        raise
    return _thinned(dataset, settings.every)


def _thinned(dataset: Dataset, every: int) -> Dataset:
    if every == 1:
        return dataset
    if isinstance(dataset, PairedFiles):
        return dataset.part(slice(None, None, every), f"{dataset.name} (1 of {every})")
    return _Thinned(dataset, every)


def open_datasets(settings: Sequence[DatasetSettings], data_root: Path = Path()) -> list[Dataset]:
    """Open several, each under a name of its own: two folders `val` become `siteA/val` and `siteB/val`.

    Raises:
        DatasetError, SettingsError: as `open_dataset`.
    """
    opened = [open_dataset(one, data_root) for one in settings]
    rename_repeated(opened, settings, data_root)
    return opened


def rename_repeated(opened: Sequence[Dataset | None], settings: Sequence[DatasetSettings], data_root: Path) -> None:
    """Give datasets of one name names of their own; None is one that could not be opened."""
    there = [
        (dataset, real_path(data_root / one.root)) for dataset, one in zip(opened, settings, strict=True) if dataset
    ]
    names = unique_names([dataset.name for dataset, _ in there], [root for _, root in there])
    for (dataset, _), name in zip(there, names, strict=True):
        if dataset.name != name:
            dataset.name = name  # type: ignore[misc]


def unique_names(names: Sequence[str], roots: Sequence[Path]) -> list[str]:
    """The names, with as much of their folder in front of those that repeat as tells them apart."""
    unique = list(names)
    for name in [name for name, count in Counter(names).items() if count > 1]:
        places = [index for index, other in enumerate(names) if other == name]
        parts = [roots[index].parts for index in places]
        depth = 1
        while len({p[-depth:] for p in parts}) < len(set(parts)):
            depth += 1
        seen: Counter[str] = Counter()
        for index, path in zip(places, parts, strict=True):
            folder = "/".join(path[-depth:])
            first, _, rest = name.partition(" ")
            same = folder.split("/")[-1] == first  # a folder's own name
            longer = f"{folder}{' ' * bool(rest)}{rest}" if same else f"{name} ({folder})"
            seen[longer] += 1
            unique[index] = longer if seen[longer] == 1 else f"{longer} ({seen[longer]})"
    return unique
