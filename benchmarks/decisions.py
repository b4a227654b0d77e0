"""What other decisions would gain on the same weights: each a mean IoU beside the shipped decision's, no training.

    python benchmarks/decisions.py [--weights FILE.safetensors] [--config config/evaluation/held_out.yaml] [--every 4]

- "shipped": scores enlarged to the network's size, the best class taken, labels enlarged to the camera's size.
- "enlarged first": scores enlarged to the camera's size, then the best class: ten times the work of the host.
- "mirrored", "two sizes", "three sizes, mirrored": probabilities averaged over the mirrored image, and over inputs of
  640x480 and 800x576 pixels: 2, 2.8 and 11 times the arithmetic. What a teacher could know.
- "biases of half, on the rest": a constant for each class is added to its scores, chosen by the mean IoU of every other
  image, one class after the other; scored on the other images, beside "the rest". What better balance could gain.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from seg_perception.core.files import share_path
from seg_perception.core.metrics import ConfusionMatrix
from seg_perception.core.resizing import network_size, resize_image, resize_labels
from seg_perception.core.types import UNLABELED, LabelImage, RgbImage, Size
from seg_perception.datasets.registry import open_dataset
from seg_perception.evaluation import load_evaluation_settings
from seg_perception.networks.base import SegmentationNetwork
from seg_perception.training.checkpoint import load_network

SHIPPED = Path(__file__).resolve().parents[1] / "seg_perception" / "weights" / "driving.safetensors"
SIZES = (Size(480, 352), Size(640, 480), Size(800, 576))
SAMPLED = 8000  # pixels of each image, for the biases
STEPS = (-0.8, -0.4, -0.2, -0.1, 0.1, 0.2, 0.4, 0.8)

Scores = NDArray[np.float32]
Views = dict[tuple[Size, bool], Tensor]  # by pixel budget, and whether mirrored: what the network says
Pixels = tuple[Scores, LabelImage]  # scores [n, C] at some labeled pixels, and the truth there


def scores_of(network: SegmentationNetwork, image: RgbImage, budget: Size, mirrored: bool = False) -> Tensor:
    """[1, C, h, w] at the network's stride."""
    size = network_size(Size.of(image), budget, network.size_multiple)
    pixels = torch.from_numpy(np.array(resize_image(image, size))[np.newaxis])
    with torch.inference_mode():
        scores: Tensor = network(network.normalize(pixels.flip(2) if mirrored else pixels))
    return scores.flip(3) if mirrored else scores


def enlarged(scores: Tensor, height: int, width: int) -> Scores:
    """[C, H, W], bilinear."""
    return F.interpolate(scores, size=(height, width), mode="bilinear", align_corners=False)[0].numpy()


def best(scores: Scores, axis: int = 0) -> LabelImage:
    return np.asarray(scores.argmax(axis=axis), np.uint8)


def decisions(views: Views, stride: int, camera: Size) -> Iterator[tuple[str, LabelImage]]:
    """Name and labels at the camera's size."""
    own = views[SIZES[0], False]
    height, width = own.shape[2] * stride, own.shape[3] * stride
    yield "shipped", resize_labels(best(enlarged(own, height, width)), camera)
    yield "enlarged first", best(enlarged(own, camera.height, camera.width))
    probabilities = {view: enlarged(s.softmax(dim=1), camera.height, camera.width) for view, s in views.items()}
    one, two, _ = SIZES
    chosen = {
        "mirrored": [(one, False), (one, True)],
        "two sizes": [(one, False), (two, False)],
        "three sizes, mirrored": list(views),
    }
    for name, parts in chosen.items():
        yield name, best(np.sum([probabilities[view] for view in parts], axis=0))


def sampled(scores: Tensor, stride: int, truth: LabelImage, random: np.random.Generator) -> Pixels:
    at_network = enlarged(scores, scores.shape[2] * stride, scores.shape[3] * stride)
    rows, columns = np.nonzero(truth != UNLABELED)
    some = random.permutation(len(rows))[:SAMPLED]
    rows, columns = rows[some], columns[some]
    y = (rows + 0.5) * at_network.shape[1] / truth.shape[0]
    x = (columns + 0.5) * at_network.shape[2] / truth.shape[1]
    return at_network[:, y.astype(int), x.astype(int)].T, truth[rows, columns]


def mean_iou(parts: Sequence[Pixels], biases: Scores) -> float:
    counts = ConfusionMatrix(len(biases))
    for scores, truth in parts:
        counts.add(truth[np.newaxis], best(scores + biases, axis=1)[np.newaxis])
    return counts.scores().mean_iou


def chosen_biases(sets: Sequence[Sequence[Pixels]], classes: int) -> Scores:
    """Twice through all classes; what raises the mean of the sets stays."""
    biases = np.zeros(classes, np.float32)
    score = np.mean([mean_iou(parts, biases) for parts in sets])
    for index in [*range(classes)] * 2:
        for step in STEPS:
            tried = biases.copy()
            tried[index] += step
            if (found := np.mean([mean_iou(parts, tried) for parts in sets])) > score:
                biases, score = tried, found
    return biases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=SHIPPED)
    parser.add_argument("--config", type=Path, default=share_path("config/evaluation/held_out.yaml"))
    parser.add_argument("--every", type=int, default=4, help="take one image of N (default: 4)")
    arguments = parser.parse_args()
    network, info = load_network(arguments.weights)
    network.eval()
    settings = load_evaluation_settings(arguments.config)
    random = np.random.default_rng(0)
    halves: list[tuple[str, list[Pixels], list[Pixels]]] = []
    for entry in settings.datasets:
        dataset = open_dataset(entry, settings.data_root)
        counts: dict[str, ConfusionMatrix] = {}
        parts = []
        for index in tqdm(range(0, len(dataset), arguments.every), desc=dataset.name, unit="image"):
            sample = dataset.load(index)
            views = {(s, m): scores_of(network, sample.image, s, m) for s in SIZES for m in (False, True)}
            for name, labels in decisions(views, network.score_stride, Size.of(sample.image)):
                counts.setdefault(name, ConfusionMatrix(len(dataset.label_set))).add(sample.labels, labels)
            parts.append(sampled(views[SIZES[0], False], network.score_stride, sample.labels, random))
        halves.append((dataset.name, parts[::2], parts[1::2]))
        for name, matrix in counts.items():
            print(f"{dataset.name:22} {name:28} {100 * matrix.scores().mean_iou:6.2f}", flush=True)
    biases = chosen_biases([half for _, half, _ in halves], len(info.label_set))
    for name, _, rest in halves:
        for label, added in (("the rest", np.zeros_like(biases)), ("biases of half, on the rest", biases)):
            print(f"{name:22} {label:28} {100 * mean_iou(rest, added):6.2f}")
    print("biases:", ", ".join(f"{c.name} {b:+.1f}" for c, b in zip(info.label_set.classes, biases, strict=True)))


if __name__ == "__main__":
    main()
