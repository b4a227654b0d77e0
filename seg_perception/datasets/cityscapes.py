"""Cityscapes (Cordts et al. 2016, arXiv:1604.01685) as it is distributed, 2048x1024, label ids.

Layout: ROOT/leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png with
ROOT/gtFine/SPLIT/CITY/NAME_gtFine_labelIds.png. Annotations of the test split are withheld: its
label files hold no classes, so it is not offered. Non-commercial licence.
"""

from __future__ import annotations

from pathlib import Path

from seg_perception.core.errors import DatasetError
from seg_perception.core.label_set import load_label_mapping
from seg_perception.core.types import Size
from seg_perception.datasets.base import Dataset, FilePair, PairedFiles, files_in

MAPPING = "cityscapes"
SPLITS = ("train", "val")
_IMAGE_END, _LABEL_END = "_leftImg8bit.png", "_gtFine_labelIds.png"


def open_dataset(root: Path, split: str, mapping: str = MAPPING, size: Size | None = None) -> Dataset:
    """All cities of the split: train 2975, val 500 images."""
    images, labels = root / "leftImg8bit" / split, root / "gtFine" / split
    if not images.is_dir():
        raise DatasetError(f"{images}: no such folder; the root must hold leftImg8bit/ and gtFine/")
    pairs = []
    for city in sorted(folder for folder in images.iterdir() if folder.is_dir()):
        for image in files_in(city, (".png",)):
            if not image.name.endswith(_IMAGE_END):
                raise DatasetError(f"{image}: the name of a Cityscapes image must end in {_IMAGE_END}")
            name = image.name.removesuffix(_IMAGE_END)
            pairs.append(FilePair(name, image, labels / city.name / f"{name}{_LABEL_END}"))
    return PairedFiles(f"cityscapes/{split}", pairs, load_label_mapping(mapping), size).demand_labels()
