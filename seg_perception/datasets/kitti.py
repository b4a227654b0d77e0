"""KITTI semantics (Alhaija et al. 2018, arXiv:1708.01566), Cityscapes ids, about 1242x375.

Frames 120 to 139 are held out as one block, since neighboring frames can be from one drive.
"""

from __future__ import annotations

from seg_perception.datasets.pairs import pair_dataset

_FIRST_HELD_OUT = 120

DATASET = pair_dataset(
    name="kitti",
    summary="KITTI semantics, label ids; CC BY-NC-SA 3.0",
    images="images/*",
    labels="labels/*.png",
    mapping="cityscapes",
    splits={"train": "", "val": ""},
    keep={"train": slice(None, _FIRST_HELD_OUT), "val": slice(_FIRST_HELD_OUT, None)},
)
