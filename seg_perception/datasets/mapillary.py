"""Mapillary Vistas (Neuhold et al. 2017, doi:10.1109/ICCV.2017.534), the 66 classes of version 1.2.

Release 2.0 keeps the files of 1.2 in a folder of their own; its 124 classes add nothing that the ten driving
classes tell apart. Instance files are 16-bit, class id x 256 + instance. Train 18000, val 2000 images of many
sizes; the testing split has no labels, so it is not offered.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from seg_perception.core.errors import DatasetError
from seg_perception.datasets.masks import Mask, read_mask
from seg_perception.datasets.pairs import pair_dataset

_INSTANCES_PER_CLASS = 256


def read_instance_classes(path: Path) -> Mask:
    """The class ids of a 16-bit instance file.

    Raises:
        FileNotFoundError: no such file.
        DatasetError: not a 16-bit gray file, or a truncated one.
    """
    mask = read_mask(path)
    if mask.pixels.dtype != np.uint16:
        raise DatasetError(f"{path}: {mask.kind} is not accepted as an instance file; a 16-bit gray PNG is")
    return Mask(mask.kind, np.asarray(mask.pixels // _INSTANCES_PER_CLASS, np.uint8))


DATASET = pair_dataset(
    name="mapillary",
    summary="Mapillary Vistas 1.2 and 2.0, the 66 classes of 1.2; non-commercial license",
    images="{split}/images/*.jpg",
    labels=("{split}/v1.2/instances/*.png", "{split}/instances/*.png"),
    mapping="mapillary",
    splits={"train": "training", "val": "validation"},
    read=read_instance_classes,
)
