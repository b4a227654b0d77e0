"""BDD100K semantic segmentation (Yu et al. 2020, arXiv:1805.04687), 1280x720, Cityscapes train ids.

Train 7000, val 1000 images. The test split has no labels, so it is not offered. The data's own license applies.
"""

from __future__ import annotations

from seg_perception.datasets.pairs import pair_dataset

DATASET = pair_dataset(
    name="bdd100k",
    summary="BDD100K semantic segmentation, train ids; its own license",
    images="images/10k/{split}/*.jpg",
    labels="labels/sem_seg/masks/{split}/*.png",
    mapping="bdd100k",
    splits={"train": "train", "val": "val"},
)
