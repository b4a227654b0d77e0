"""Mapillary Vistas (Neuhold et al. 2017, doi:10.1109/ICCV.2017.534), the 66 classes of version 1.2.

Layout of release 2.0: ROOT/SPLIT/images/NAME.jpg with ROOT/SPLIT/v1.2/instances/NAME.png; of release
1.2: ROOT/SPLIT/instances/NAME.png. Instance files are 16-bit, class id x 256 + instance; they are read
instead of the `labels` files because those are palette PNGs, which OpenCV gives as colors. Release
2.0 carries both taxonomies; its 124 classes add nothing that the ten driving classes tell apart.
The testing split has no labels, so it is not offered. Non-commercial licence.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from seg_perception.core.encoded import Codec, inspect_encoded
from seg_perception.core.errors import DatasetError, InputError
from seg_perception.core.label_set import load_label_mapping
from seg_perception.core.types import Size
from seg_perception.datasets.base import Dataset, FilePair, PairedFiles, files_in

MAPPING = "mapillary"
SPLITS = ("train", "val")
_FOLDERS = {"train": "training", "val": "validation"}
_INSTANCES_PER_CLASS = 256


def open_dataset(root: Path, split: str, mapping: str = MAPPING, size: Size | None = None) -> Dataset:
    """The split as distributed: train 18000, val 2000 images of many sizes."""
    folder = root / _FOLDERS[split]
    old, new = folder / "instances", folder / "v1.2" / "instances"
    instances = new if new.is_dir() else old
    if not instances.is_dir():
        raise DatasetError(f"{folder}: neither v1.2/instances/ (release 2.0) nor instances/ (release 1.2) is there")
    images = files_in(folder / "images", (".jpg",))
    pairs = [FilePair(image.stem, image, instances / f"{image.stem}.png") for image in images]
    name = f"mapillary/{split}"
    return PairedFiles(name, pairs, load_label_mapping(mapping), size, read_instance_classes).demand_labels()


def read_instance_classes(path: Path) -> NDArray[np.uint8]:
    """The class ids of a 16-bit instance file, as uint8 [H, W].

    Raises:
        FileNotFoundError: no such file.
        DatasetError: not a 16-bit gray PNG, or a truncated one.
    """
    content = path.read_bytes()
    try:
        header = inspect_encoded(content, str(path))
    except InputError as error:
        raise DatasetError(str(error)) from error
    if header.codec is not Codec.PNG or (header.channels, header.bit_depth) != (1, 16):
        raise DatasetError(
            f"{path}: {header.bit_depth}-bit {header.channels}-channel {header.codec.value} is not accepted as an "
            "instance file; a 16-bit gray PNG is"
        )
    values = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or Size.of(values) != header.size:
        raise DatasetError(f"{path}: the PNG of {header.size} cannot be decoded")
    return np.asarray(values // _INSTANCES_PER_CLASS, np.uint8)
