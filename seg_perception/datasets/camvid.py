"""CamVid (Brostow et al. 2009, doi:10.1016/j.patrec.2008.04.005), 11 classes plus void, 480x360.

Layout: ROOT/{train,val,test}/{images/NAME.jpg, labels/NAME.png}, ids 0 to 11 as packaged with
SegNet. Licence CC BY-NC 4.0.
"""

from __future__ import annotations

from pathlib import Path

from seg_perception.core.label_set import load_label_mapping
from seg_perception.core.types import Size
from seg_perception.datasets.base import Dataset
from seg_perception.datasets.folder_pairs import folder_pairs

MAPPING = "camvid"
SPLITS = ("train", "val", "test")


def open_dataset(root: Path, split: str, mapping: str = MAPPING, size: Size | None = None) -> Dataset:
    """The split as packaged: train 367, val 101 (one drive at 15 Hz), test 233 images."""
    folder = root / split
    return folder_pairs(folder / "images", folder / "labels", load_label_mapping(mapping), f"camvid/{split}", size)
