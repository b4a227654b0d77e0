"""BDD100K semantic segmentation (Yu et al. 2020, arXiv:1805.04687), 1280x720, Cityscapes train ids.

Layout: ROOT/images/10k/SPLIT/NAME.jpg with ROOT/labels/sem_seg/masks/SPLIT/NAME.png (0 to 18, and
255 for unknown). The test split has no labels, so it is not offered. The data's own licence applies.
"""

from __future__ import annotations

from pathlib import Path

from seg_perception.core.label_set import load_label_mapping
from seg_perception.core.types import Size
from seg_perception.datasets.base import Dataset, FilePair, PairedFiles, files_in

MAPPING = "bdd100k"
SPLITS = ("train", "val")


def open_dataset(root: Path, split: str, mapping: str = MAPPING, size: Size | None = None) -> Dataset:
    """The split as distributed: train 7000, val 1000 images."""
    masks = root / "labels" / "sem_seg" / "masks" / split
    images = files_in(root / "images" / "10k" / split, (".jpg",))
    pairs = [FilePair(image.stem, image, masks / f"{image.stem}.png") for image in images]
    return PairedFiles(f"bdd100k/{split}", pairs, load_label_mapping(mapping), size).demand_labels()
