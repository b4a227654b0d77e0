"""Cityscapes training images (Cordts et al. 2016, arXiv:1604.01685) as reduced for pix2pix: 256x256.

Layout: ROOT/train/{images/NAME.jpg, labels/NAME.png}, Cityscapes ids decoded from colors, 255
where unsure. The images were squeezed 2:1 to a square; by default they are stretched back to
512x256. The last 300 images (whole cities) are held out. Non-commercial use.
"""

from __future__ import annotations

from pathlib import Path

from seg_perception.core.label_set import load_label_mapping
from seg_perception.core.types import Size
from seg_perception.datasets.base import Dataset
from seg_perception.datasets.folder_pairs import folder_pairs

MAPPING = "cityscapes"
SPLITS = ("train", "val")
_HELD_OUT = 300
_PROPORTIONS = Size(512, 256)


def open_dataset(root: Path, split: str, mapping: str = MAPPING, size: Size | None = None) -> Dataset:
    """All but the last 300 images ("train") or those ("val"), at 512x256 unless told otherwise."""
    folder = root / "train"
    keep = slice(None, -_HELD_OUT) if split == "train" else slice(-_HELD_OUT, None)
    mapped = load_label_mapping(mapping)
    name = f"cityscapes256/{split}"
    return folder_pairs(folder / "images", folder / "labels", mapped, name, size or _PROPORTIONS, keep)
