"""What a dataset is: named samples of an RGB image and its label image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from seg_perception.core.errors import DatasetError
from seg_perception.core.label_set import LabelMapping, LabelSet
from seg_perception.core.types import LabelImage, RgbImage, Size


@dataclass(frozen=True, slots=True)
class Sample:
    """One image with its truth, equal in height and width."""

    name: str
    image: RgbImage
    labels: LabelImage


class Dataset(Protocol):
    """A fixed list of samples, read on demand; safe to read from several processes.

    Raises (load):
        DatasetError: a file is unreadable, sizes differ, or a label value is unknown.
    """

    @property
    def name(self) -> str: ...

    @property
    def label_set(self) -> LabelSet: ...

    def __len__(self) -> int: ...

    def load(self, index: int) -> Sample: ...


@dataclass(frozen=True, slots=True)
class FilePair:
    """An image file and its label file."""

    name: str
    image: Path
    labels: Path


class PairedFiles:
    """A dataset of image and label files with one mapping: what all the readers build.

    Args:
        name: for reports.
        pairs: the files, in order.
        mapping: from the label files' values to the label set's ids.
        size: resize every sample to this; None keeps the files' size.

    Raises:
        DatasetError: no pairs.
    """

    def __init__(self, name: str, pairs: Sequence[FilePair], mapping: LabelMapping, size: Size | None = None) -> None:
        if not pairs:
            raise DatasetError(f"dataset {name!r} has no images")
        self.name = name
        self.pairs = tuple(pairs)
        self.mapping = mapping
        self.size = size

    @property
    def label_set(self) -> LabelSet:
        return self.mapping.target

    def __len__(self) -> int:
        return len(self.pairs)

    def load(self, index: int) -> Sample:
        pair = self.pairs[index]
        image = read_rgb(pair.image)
        labels = self.mapping.apply(read_ids(pair.labels), pair.labels)
        if image.shape[:2] != labels.shape:
            raise DatasetError(f"{pair.labels}: size {Size.of(labels)} differs from its image's, {Size.of(image)}")
        if self.size is not None and Size.of(image) != self.size:
            target = (self.size.width, self.size.height)
            image = cv2.resize(image, target, interpolation=cv2.INTER_LINEAR)
            labels = cv2.resize(labels, target, interpolation=cv2.INTER_NEAREST_EXACT)
        return Sample(pair.name, image, labels)


def read_rgb(path: Path) -> RgbImage:
    """Read an image file as uint8 [H, W, 3] RGB.

    Raises:
        FileNotFoundError: no such file.
        DatasetError: not a readable image.
    """
    image = _decode(path, cv2.IMREAD_COLOR)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)  # type: ignore[return-value]


def read_ids(path: Path) -> NDArray[np.uint8]:
    """Read an 8-bit single-channel label file as uint8 [H, W].

    Raises:
        FileNotFoundError: no such file.
        DatasetError: not a readable image, or not 8-bit with one channel.
    """
    ids = _decode(path, cv2.IMREAD_UNCHANGED)
    if ids.ndim != 2 or ids.dtype != np.uint8:
        raise DatasetError(
            f"{path}: a label image must be 8-bit with one channel of ids, got {ids.dtype} {list(ids.shape)}; "
            "colour-coded labels must be converted first"
        )
    return ids


def _decode(path: Path, flags: int) -> NDArray[np.uint8]:
    content = np.frombuffer(path.read_bytes(), np.uint8)
    image = cv2.imdecode(content, flags) if content.size else None
    if image is None:
        raise DatasetError(f"{path}: not a readable image")
    return image  # type: ignore[return-value]


def files_in(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """The folder's files with one of the suffixes, by name.

    Raises:
        DatasetError: no such folder, or no such files in it.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder")
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in suffixes)
    if not found:
        raise DatasetError(f"{folder}: no files that end in {', '.join(suffixes)}")
    return found
