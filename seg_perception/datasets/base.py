"""What a dataset is: named samples of an RGB image and its label image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from seg_perception.core.encoded import decode_labels, decode_rgb
from seg_perception.core.errors import DatasetError, InputError
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
        read_values: reads a label file's values, uint8 [H, W]; None: `read_ids`.

    Raises:
        DatasetError: no pairs.
    """

    def __init__(
        self,
        name: str,
        pairs: Sequence[FilePair],
        mapping: LabelMapping,
        size: Size | None = None,
        read_values: Callable[[Path], NDArray[np.uint8]] | None = None,
    ) -> None:
        if not pairs:
            raise DatasetError(f"dataset {name!r} has no images")
        self.name = name
        self.pairs = tuple(pairs)
        self.mapping = mapping
        self.size = size
        self.read_values = read_values or read_ids

    def demand_labels(self, keep: slice = slice(None)) -> PairedFiles:
        """Itself, or the kept part of itself, if every image has its label file.

        Raises:
            MissingLabelsError: some label files are not there.
        """
        kept = PairedFiles(self.name, self.pairs[keep], self.mapping, self.size, self.read_values)
        missing = tuple(pair for pair in kept.pairs if not pair.labels.is_file())
        if missing:
            raise MissingLabelsError(kept, missing)
        return kept

    @property
    def label_set(self) -> LabelSet:
        return self.mapping.target

    def __len__(self) -> int:
        return len(self.pairs)

    def load(self, index: int) -> Sample:
        pair = self.pairs[index]
        image = read_rgb(pair.image)
        labels = self.mapping.apply(self.read_values(pair.labels), pair.labels)
        if image.shape[:2] != labels.shape:
            raise DatasetError(f"{pair.labels}: size {Size.of(labels)} differs from its image's, {Size.of(image)}")
        if self.size is not None and Size.of(image) != self.size:
            target = (self.size.width, self.size.height)
            shrinks = target[0] < image.shape[1] and target[1] < image.shape[0]
            image = cv2.resize(image, target, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
            labels = cv2.resize(labels, target, interpolation=cv2.INTER_NEAREST_EXACT)
        return Sample(pair.name, image, labels)


class MissingLabelsError(DatasetError):
    """Images without a label file; `dataset` has them all the same, so that the rest can be looked at."""

    def __init__(self, dataset: PairedFiles, missing: Sequence[FilePair]) -> None:
        count = f"{len(missing)} of {len(dataset)} images"
        super().__init__(f"{dataset.name}: no label image for {count}, for example {missing[0].labels}")
        self.dataset = dataset
        self.missing = tuple(missing)


def read_rgb(path: Path) -> RgbImage:
    """Read an image file as upright RGB, uint8 [H, W, 3]: labels are drawn on the upright view.

    Raises:
        FileNotFoundError: no such file.
        DatasetError: not an image that is read, or a truncated one.
    """
    return _decoded(path, decode_rgb)


def read_ids(path: Path) -> NDArray[np.uint8]:
    """Read an 8-bit gray PNG of label values as uint8 [H, W].

    Palette and color PNGs are refused, and so are those of fewer bits: OpenCV would turn their
    values into other ones without a word.

    Raises:
        FileNotFoundError: no such file.
        DatasetError: not an 8-bit gray PNG, or a truncated one.
    """
    return _decoded(path, decode_labels)


def _decoded(path: Path, decode: Callable[[Any, str], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    try:
        return decode(path.read_bytes(), str(path))
    except InputError as error:
        raise DatasetError(str(error)) from error


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
