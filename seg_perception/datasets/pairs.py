"""Datasets of image and label files with one mapping: what all readers of files build."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from seg_perception.core.errors import DatasetError
from seg_perception.core.image_file import IMAGE_SUFFIXES
from seg_perception.core.label_mapping import LabelMapping, load_label_mapping
from seg_perception.core.label_set import LabelSet
from seg_perception.core.resizing import resize_image, resize_labels
from seg_perception.core.types import UNLABELED, Size
from seg_perception.datasets.base import DatasetInfo, LeftOut, OpenRequest, Sample, read_rgb
from seg_perception.datasets.masks import Mask, read_mask
from seg_perception.datasets.patterns import FilePair, Pattern, find_pairs


class PairedFiles:
    """A dataset of image and label files with one mapping.

    Args:
        name: for reports.
        pairs: the files, in order.
        mapping: from the label files' values or colors to the label set's ids.
        size: resize every sample to this; None keeps the files' size.
        read: reads a label file.
        left_out: files of its folders that it does not use.
        labeled: whether there are label files; if not, every pixel is unlabeled.

    Raises:
        DatasetError: no pairs.
    """

    def __init__(
        self,
        name: str,
        pairs: Sequence[FilePair],
        mapping: LabelMapping,
        size: Size | None = None,
        read: Callable[[Path], Mask] = read_mask,
        left_out: Sequence[LeftOut] = (),
        labeled: bool = True,
    ) -> None:
        if not pairs:
            raise DatasetError(f"dataset {name!r} has no images")
        self.name = name
        self.pairs = tuple(pairs)
        self.mapping = mapping
        self.size = size
        self.read = read
        self.left_out = tuple(left_out)
        self.labeled = labeled

    def part(self, keep: slice, name: str | None = None) -> PairedFiles:
        """Some of its pairs."""
        kept = self.pairs[keep]
        return PairedFiles(name or self.name, kept, self.mapping, self.size, self.read, self.left_out, self.labeled)

    def demand_labels(self) -> PairedFiles:
        """Itself, if every image has its label file.

        Raises:
            MissingLabelsError: some label files are not there.
        """
        missing = tuple(pair for pair in self.pairs if not pair.labels.is_file())
        if missing:
            raise MissingLabelsError(self, missing)
        return self

    @property
    def label_set(self) -> LabelSet:
        return self.mapping.target

    def __len__(self) -> int:
        return len(self.pairs)

    def load(self, index: int) -> Sample:
        pair = self.pairs[index]
        image = read_rgb(pair.image)
        if self.labeled:
            labels = self.read(pair.labels).labels(self.mapping, pair.labels)
        else:
            labels = np.full(image.shape[:2], UNLABELED, np.uint8)
        if image.shape[:2] != labels.shape:
            turned = "; image files are read upright, as their EXIF orientation says" * (
                image.shape[:2] == labels.shape[::-1]
            )
            sizes = f"size {Size.of(labels)} differs from its image's, {Size.of(image)}"
            raise DatasetError(f"{pair.labels}: {sizes}{turned}")
        if self.size is not None and Size.of(image) != self.size:
            image, labels = resize_image(image, self.size), resize_labels(labels, self.size)
        return Sample(pair.name, image, labels)


class MissingLabelsError(DatasetError):
    """Images without a label file; `dataset` has them all the same, so that the rest can be looked at."""

    def __init__(self, dataset: PairedFiles, missing: Sequence[FilePair]) -> None:
        count = f"{len(missing)} of {len(dataset)} images"
        first = missing[0]
        super().__init__(f"{dataset.name}: no label image for {count}, for example {first.labels}{first.instead}")
        self.dataset = dataset
        self.missing = tuple(missing)


def paired(
    name: str,
    images: tuple[Path, str],
    labels: tuple[Path, str],
    mapping: LabelMapping,
    size: Size | None = None,
    read: Callable[[Path], Mask] = read_mask,
    keep: slice = slice(None),
    suffixes: Sequence[str] = IMAGE_SUFFIXES,
) -> PairedFiles:
    """The dataset of two patterns, each below its root.

    Raises:
        SettingsError, DatasetError: as `find_pairs`; or no images.
        MissingLabelsError: an image has no label file.
    """
    pairs, left_out = find_pairs((images[0], Pattern(images[1])), (labels[0], Pattern(labels[1])), name, suffixes)
    if not pairs and left_out:
        raise DatasetError(f"dataset {name!r} has no images; {left_out[0].path}: {left_out[0].reason}")
    return PairedFiles(name, pairs, mapping, size, read, left_out).part(keep).demand_labels()


def pair_dataset(
    name: str,
    summary: str,
    images: str,
    labels: str | Iterable[str],
    mapping: str,
    splits: dict[str, str],
    keep: dict[str, slice] | None = None,
    size: Size | None = None,
    read: Callable[[Path], Mask] = read_mask,
) -> DatasetInfo:
    """A published dataset of image and label files.

    Args:
        name, summary, mapping, splits: see DatasetInfo.
        images, labels: patterns; `{split}` stands for the split's folder.
        keep: split -> which of its images, for a held-out block.
        size: of the samples, unless another is asked for.
        read: reads a label file.
    """
    patterns = (labels,) if isinstance(labels, str) else tuple(labels)

    def open_dataset(request: OpenRequest) -> PairedFiles:
        assert request.mapping is not None
        folder = splits[request.split]
        filled = [pattern.replace("{split}", folder) for pattern in patterns]
        image_pattern = images.replace("{split}", folder)
        there = [p for p in filled if (request.root / Pattern(p).folder).is_dir()]
        if not there and (request.root / Pattern(image_pattern).folder).is_dir():
            named = " or ".join(f"{Pattern(p).folder}/" for p in filled)
            raise DatasetError(f"{request.root}: the label files' folder {named} is not there")
        return paired(
            f"{name}/{request.split}",
            (request.root, image_pattern),
            (request.root, there[0] if there else filled[0]),
            load_label_mapping(request.mapping),
            request.size or size,
            read,
            (keep or {}).get(request.split, slice(None)),
        )

    return DatasetInfo(name, summary, open_dataset, splits, mapping, images=images, labels=patterns)
