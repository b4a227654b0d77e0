"""Cityscapes training images (Cordts et al. 2016, arXiv:1604.01685) as reduced for pix2pix: 256x256.

Cityscapes ids decoded from colors, 255 where unsure. The images were squeezed 2:1 to a square; by default they are
stretched back to 512x256. The last 300 images (whole cities) are held out.
"""

from __future__ import annotations

from seg_perception.core.types import Size
from seg_perception.datasets.pairs import pair_dataset

_HELD_OUT = 300

DATASET = pair_dataset(
    name="cityscapes256",
    summary="2:1 Cityscapes images squeezed to squares, label ids, read at 512x256; non-commercial license",
    images="train/images/*",
    labels="train/labels/*.png",
    mapping="cityscapes",
    splits={"train": "train", "val": "train"},
    keep={"train": slice(None, -_HELD_OUT), "val": slice(-_HELD_OUT, None)},
    size=Size(512, 256),
)
