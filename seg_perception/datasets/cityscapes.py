"""Cityscapes (Cordts et al. 2016, arXiv:1604.01685) as it is distributed, 2048x1024, label ids.

Train 2975, val 500 images. Annotations of the test split are withheld: its label files hold no classes, so it is
not offered.
"""

from __future__ import annotations

from seg_perception.datasets.pairs import pair_dataset

DATASET = pair_dataset(
    name="cityscapes",
    summary="Cityscapes as distributed, label ids; non-commercial license",
    images="leftImg8bit/{split}/*/*_leftImg8bit.png",
    labels="gtFine/{split}/*/*_gtFine_labelIds.png",
    mapping="cityscapes",
    splits={"train": "train", "val": "val"},
)
