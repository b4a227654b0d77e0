"""The best and the worst images of an evaluation, side by side with the truth."""

from __future__ import annotations

import math
import os
import re
import zlib
from pathlib import Path

import cv2
import numpy as np

from seg_perception.core.files import write_atomically
from seg_perception.core.label_set import LabelSet
from seg_perception.core.types import UNLABELED, RgbImage, Segmentation
from seg_perception.core.visual import overlay
from seg_perception.datasets.base import Dataset, Sample
from seg_perception.evaluation.evaluator import Evaluation, ImageScore
from seg_perception.evaluation.files import Example
from seg_perception.segmenter import Segmenter

PANELS = ("image", "truth", "answer", "wrong (red)", "confidence (bright is sure)")
_PANEL_WIDTH = 400
_GAP = 4
_RED = (225, 30, 30)


def best_and_worst(evaluation: Evaluation, best: int, worst: int) -> list[tuple[str, ImageScore]]:
    """The worst images and then the best ones by mean IoU, each with its place ("worst 1")."""
    ranked = sorted((i for i in evaluation.images if not math.isnan(i.mean_iou)), key=lambda i: (i.mean_iou, i.index))
    lowest = [(f"worst {place}", image) for place, image in enumerate(ranked[:worst], 1)]
    rest = ranked[len(lowest) :]
    return lowest + [(f"best {place}", image) for place, image in enumerate(reversed(rest[-best:] if best else []), 1)]


def comparison(sample: Sample, answer: Segmentation, label_set: LabelSet) -> RgbImage:
    """The panels of PANELS in one row, each 400 pixels wide: uint8 [H, W, 3]."""
    image, truth = sample.image, sample.labels
    gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB) // 2 + 96
    gray[truth == UNLABELED] = 40
    gray[(truth != UNLABELED) & (truth != answer.labels)] = _RED
    confidence = cv2.cvtColor(cv2.applyColorMap(answer.confidence, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
    panels = [
        image,
        overlay(image, truth, label_set, 0.75),
        overlay(image, answer.labels, label_set, 0.75),
        gray,
        confidence,
    ]
    size = (_PANEL_WIDTH, max(1, round(_PANEL_WIDTH * image.shape[0] / image.shape[1])))
    gap = np.full((size[1], _GAP, 3), 255, np.uint8)
    row = []
    for panel in panels:
        row += [cv2.resize(np.ascontiguousarray(panel), size, interpolation=cv2.INTER_AREA), gap]
    return np.ascontiguousarray(np.hstack(row[:-1]), np.uint8)


def write_examples(
    folder: Path,
    dataset: Dataset,
    segmenter: Segmenter,
    evaluation: Evaluation,
    best: int = 3,
    worst: int = 5,
) -> list[Example]:
    """Segment the best and the worst images once more and write their pictures under folder/examples/.

    Raises:
        OSError: a picture cannot be written.
    """
    examples = []
    # two names can become one here ("a/b" and "a-b"): the hash keeps their pictures apart
    short = re.sub(r"[^A-Za-z0-9]+", "-", evaluation.dataset).strip("-") or "dataset"
    short += f"-{zlib.crc32(os.fsencode(evaluation.dataset)):08x}"
    (folder / "examples").mkdir(parents=True, exist_ok=True)
    for place, image in best_and_worst(evaluation, best, worst):
        sample = dataset.load(image.index)
        picture = comparison(sample, segmenter.segment(sample.image), evaluation.label_set)
        file = f"examples/{short}-{place.replace(' ', '-')}.jpg"
        write_atomically(folder / file, encode_jpeg(picture))
        caption = f"mean IoU {100 * image.mean_iou:.1f} %, {100 * image.pixel_accuracy:.1f} % of the pixels right"
        examples.append(Example(evaluation.dataset, place, image.name, caption, file))
    return examples


def encode_jpeg(image: RgbImage, quality: int = 85) -> bytes:
    """An RGB image, uint8 [H, W, 3], as JPEG."""
    ok, content = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert ok
    return content.tobytes()
