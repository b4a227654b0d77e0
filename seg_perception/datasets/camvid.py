"""CamVid (Brostow et al. 2009, doi:10.1016/j.patrec.2008.04.005), 11 classes plus void, 480x360.

Ids 0 to 11 as packaged with SegNet: train 367, val 101 (one drive at 15 Hz), test 233 images.
"""

from __future__ import annotations

from seg_perception.datasets.pairs import pair_dataset

DATASET = pair_dataset(
    name="camvid",
    summary="CamVid as packaged with SegNet, ids 0 to 11; CC BY-NC 4.0",
    images="{split}/images/*",
    labels="{split}/labels/*.png",
    mapping="camvid",
    splits={"train": "train", "val": "val", "test": "test"},
)
