"""What a dataset is: named samples of an RGB image and its label image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from seg_perception.core import image_file
from seg_perception.core.errors import DatasetError, InputError, first_of
from seg_perception.core.image_file import is_hidden
from seg_perception.core.label_set import LabelSet
from seg_perception.core.types import LabelImage, RgbImage, Size


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One image with its truth, equal in height and width."""

    name: str
    image: RgbImage
    labels: LabelImage


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file of a dataset's folders that is not used, and why."""

    path: Path
    reason: str


class Dataset(Protocol):
    """A fixed list of samples, read on demand; safe to read from several processes.

    Raises (load):
        DatasetError: a file is unreadable, sizes differ, or a label value is unknown.
    """

    @property
    def name(self) -> str: ...

    @property
    def label_set(self) -> LabelSet: ...

    @property
    def left_out(self) -> tuple[LeftOut, ...]: ...

    def __len__(self) -> int: ...

    def load(self, index: int) -> Sample: ...


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """What a dataset is opened with.

    Attributes:
        root: its folder.
        split: one of the dataset's splits; empty where it has none.
        mapping: label mapping (shipped name or YAML file); None where the dataset needs none.
        size: resize samples to this on reading; None keeps the files' size.
        count: how many, for datasets that are made on demand.
        images, labels: patterns below the root, for datasets that take them.
        unlabeled: whether there are no label files, for datasets that may have none.
    """

    root: Path
    split: str
    mapping: str | None = None
    size: Size | None = None
    count: int = 500
    images: str | None = None
    labels: str | None = None
    unlabeled: bool = False


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """A dataset as the registry knows it: a module of this folder holds one as DATASET.

    Attributes:
        name: the `kind` of settings and commands.
        summary: one line: what it is, and its license.
        open: opens it.
        splits: name -> what `{split}` stands for in the patterns; empty: it has no splits.
        mapping: its own label mapping; None: one must be named, or none is needed.
        needs_mapping: whether one must be named.
        takes_patterns: whether settings may give image and label patterns.
        images, labels: patterns below the root (pairs.py); of labels, the first whose folder is there.
    """

    name: str
    summary: str
    open: Callable[[OpenRequest], Dataset]
    splits: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    mapping: str | None = None
    needs_mapping: bool = False
    takes_patterns: bool = False
    images: str = ""
    labels: tuple[str, ...] = ()


def read_rgb(path: Path) -> RgbImage:
    """Read an image file as upright RGB, uint8 [H, W, 3]: labels are drawn on the upright view.

    Raises:
        FileNotFoundError: no such file.
        DatasetError: not an image that is read, or a truncated one.
    """
    try:
        return image_file.read_rgb(path)
    except InputError as error:
        raise DatasetError(str(error)) from error


def files_in(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """The folder's files with one of the suffixes in upper or lower case, by name; dot files are no data.

    Raises:
        DatasetError: no such folder, or no such files in it.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder")
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in suffixes and not is_hidden(p))
    if not found:
        raise DatasetError(f"{folder}: no files that end in {', '.join(suffixes)}")
    return found


def describe_left_out(left_out: Iterable[LeftOut], shown: int = 3) -> str:
    """Lines that count the files left out by reason, and name some; empty if there are none."""
    reasons: dict[str, list[Path]] = {}
    for one in left_out:
        reasons.setdefault(one.reason, []).append(one.path)
    lines = []
    for reason, paths in reasons.items():
        lines.append(f"left out, {reason}: {len(paths)}: {first_of(paths, shown)}")
    return "\n".join(lines)
