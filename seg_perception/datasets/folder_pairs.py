"""Any folder of images beside a folder of label images, paired by file name.

Also how CamVid, KITTI semantics and the reduced Cityscapes of the project's data folder are laid
out: images/NAME.jpg with labels/NAME.png.
"""

from __future__ import annotations

import itertools
from pathlib import Path

from seg_perception.core.errors import DatasetError
from seg_perception.core.label_set import LabelMapping
from seg_perception.core.types import Size
from seg_perception.datasets.base import FilePair, PairedFiles, files_in

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


def folder_pairs(
    images: Path,
    labels: Path,
    mapping: LabelMapping,
    name: str = "",
    size: Size | None = None,
    keep: slice = slice(None),
) -> PairedFiles:
    """Pair images/NAME.* with labels/NAME.png.

    Args:
        images: folder of JPEG and PNG images.
        labels: folder of 8-bit PNG label images.
        mapping: from the label files' values to class ids.
        name: for reports; the images folder's name by default.
        size: resize every sample to this.
        keep: which of the sorted names to keep, for a held-out block.

    Raises:
        DatasetError: a folder is missing or empty, an image has no label file, or two images share one.
    """
    pairs = [FilePair(p.stem, p, labels / f"{p.stem}.png") for p in files_in(images, _IMAGE_SUFFIXES)]
    twice = [after for before, after in itertools.pairwise(pairs) if before.name == after.name]
    if twice:
        raise DatasetError(f"{twice[0].image}: another image of that name differs only in its suffix; keep one of them")
    return PairedFiles(name or images.parent.name, pairs, mapping, size).demand_labels(keep)
