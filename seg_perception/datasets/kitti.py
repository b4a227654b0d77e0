"""KITTI semantics (Alhaija et al. 2018, arXiv:1708.01566), Cityscapes ids, about 1242x375.

Layout: ROOT/{images/NAME.jpg, labels/NAME.png}. Frames 120 to 139 are held out as one block,
since neighboring frames can be from one drive. Licence CC BY-NC-SA 3.0.
"""

from __future__ import annotations

from pathlib import Path

from seg_perception.core.label_set import load_label_mapping
from seg_perception.core.types import Size
from seg_perception.datasets.base import Dataset
from seg_perception.datasets.folder_pairs import folder_pairs

MAPPING = "cityscapes"
SPLITS = ("train", "val")
_FIRST_HELD_OUT = 120


def open_dataset(root: Path, split: str, mapping: str = MAPPING, size: Size | None = None) -> Dataset:
    """Frames 0 to 119 ("train") or 120 to the end ("val")."""
    keep = slice(None, _FIRST_HELD_OUT) if split == "train" else slice(_FIRST_HELD_OUT, None)
    return folder_pairs(root / "images", root / "labels", load_label_mapping(mapping), f"kitti/{split}", size, keep)
