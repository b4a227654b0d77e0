"""Temperature scaling: one number that makes the confidence image mean what it says.

Scores divided by a temperature before the softmax keep their winner, so labels do not change; only the
confidence does. The temperature with the lowest negative log-likelihood on validation data is baked
into the exported graph (Guo et al. 2017, arXiv:1706.04599).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from seg_perception.core.errors import DatasetError
from seg_perception.core.model_card import ModelCard
from seg_perception.core.resizing import resize_labels
from seg_perception.core.types import UNLABELED, LabelImage, RgbImage, Segmentation, Size
from seg_perception.datasets.base import Dataset
from seg_perception.evaluation.counts import Calibration, PixelCounts
from seg_perception.networks.base import SegmentationNetwork, TorchEngine
from seg_perception.segmenter import Segmenter

_LOWEST, _HIGHEST = 0.05, 20.0
_GOLDEN = (math.sqrt(5) - 1) / 2
_PRECISION = 1e-4  # of the logarithm of the temperature


@dataclass(frozen=True, slots=True)
class TemperatureFit:
    """What a temperature does on the pixels it was fitted to.

    Attributes:
        temperature: divide scores by it; above 1 the network was too sure of itself.
        pixels: how many labeled pixels were looked at.
        loss_before, loss_after: mean negative log-likelihood, in nats.
        before, after: calibration with temperature 1 and with this one.
    """

    temperature: float
    pixels: int
    loss_before: float
    loss_after: float
    before: Calibration
    after: Calibration


def calibrate(
    network: SegmentationNetwork,
    card: ModelCard,
    datasets: Sequence[Dataset],
    pixels_per_image: int = 2000,
    progress: bool = False,
) -> TemperatureFit:
    """Fit the temperature on validation data, seen at the size at which the network is deployed.

    Args:
        network: put into evaluation mode.
        card: describes it; gives the deployed size.
        datasets: data that the network was not trained on. Every image weighs the same.
        pixels_per_image: as many labeled pixels are drawn from each image (seeded, so that a fit repeats).
        progress: show a bar.

    Raises:
        DatasetError: no labeled pixel, other classes than the network's, or answers so right or so
            wrong that no temperature fits them.
    """
    for dataset in datasets:
        if dataset.label_set.names != card.label_set.names:
            raise DatasetError(f"{dataset.name} maps to other classes than the network's: choose another mapping")
    scores, truth = _collect(network, card, datasets, pixels_per_image, progress)
    if not len(truth):
        raise DatasetError("there is no labeled pixel to fit a temperature to")
    temperature = best_temperature(scores, truth)
    return TemperatureFit(
        temperature=temperature,
        pixels=len(truth),
        loss_before=mean_loss(scores, truth, 1.0),
        loss_after=mean_loss(scores, truth, temperature),
        before=_calibration(scores, truth, 1.0),
        after=_calibration(scores, truth, temperature),
    )


def best_temperature(scores: Tensor, truth: Tensor) -> float:
    """The temperature with the lowest mean loss, by golden-section search.

    The loss is convex in 1 / temperature, so it has one minimum, also along the logarithm.

    Args:
        scores: float [N, C].
        truth: int64 [N], 0 to C-1.

    Raises:
        DatasetError: the minimum lies outside 0.05 to 20.
    """
    low, high = math.log(_LOWEST), math.log(_HIGHEST)
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = (mean_loss(scores, truth, math.exp(x)) for x in (left, right))
    while high - low > _PRECISION:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = mean_loss(scores, truth, math.exp(left))
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = mean_loss(scores, truth, math.exp(right))
    temperature = math.exp((low + high) / 2)
    if not _LOWEST * 1.01 < temperature < _HIGHEST / 1.01:
        raise DatasetError(
            f"no temperature in {_LOWEST} to {_HIGHEST} fits these answers (nearest {temperature:.3g}): they are all "
            "right or no better than chance; calibrate a trained network on data it was not trained on"
        )
    return temperature


def mean_loss(scores: Tensor, truth: Tensor, temperature: float) -> float:
    """Mean cross-entropy of scores / temperature, in nats."""
    return float(F.cross_entropy(scores.double() / temperature, truth))


def _calibration(scores: Tensor, truth: Tensor, temperature: float) -> Calibration:
    """From the confidence bytes that the deployed graph would give."""
    confidence, labels = (scores / temperature).softmax(dim=1).max(dim=1)
    answer = Segmentation(
        labels.to(torch.uint8).numpy()[None], (confidence * 255).round().to(torch.uint8).numpy()[None]
    )
    counts = PixelCounts(scores.shape[1])
    counts.add(truth.to(torch.uint8).numpy()[None], answer)
    return Calibration.of(counts)


@torch.inference_mode()
def _collect(
    network: SegmentationNetwork, card: ModelCard, datasets: Sequence[Dataset], pixels_per_image: int, progress: bool
) -> tuple[Tensor, Tensor]:
    """Scores [N, C] and truth [N] of randomly drawn labeled pixels."""
    segmenter = Segmenter(TorchEngine(network, card))  # sizes images as the car does, and sets evaluation mode
    random = np.random.default_rng(0)
    scores: list[Tensor] = []
    truth: list[Tensor] = []
    todo = [(dataset, index) for dataset in datasets for index in range(len(dataset))]
    for dataset, index in tqdm(todo, "calibrate", unit="image", disable=not progress):
        sample = dataset.load(index)
        pixels = segmenter.prepare(sample.image).pixels
        labels = resize_labels(sample.labels, Size.of(pixels))
        chosen = _draw(labels, pixels_per_image, random)
        scores.append(_scores(network, pixels).flatten(1)[:, torch.from_numpy(chosen)].T.cpu())
        truth.append(torch.from_numpy(labels.reshape(-1)[chosen].astype(np.int64)))
    if not scores:
        return torch.zeros(0, len(card.label_set)), torch.zeros(0, dtype=torch.int64)
    return torch.cat(scores), torch.cat(truth)


def _draw(labels: LabelImage, count: int, random: np.random.Generator) -> NDArray[np.int64]:
    labeled = np.flatnonzero(labels.reshape(-1) != UNLABELED)
    return random.choice(labeled, min(count, len(labeled)), replace=False) if len(labeled) else labeled


def _scores(network: SegmentationNetwork, pixels: RgbImage) -> Tensor:
    """Scores [C, H, W] of one image at the network's size."""
    batch = torch.from_numpy(pixels[None]).to(next(network.parameters()).device)
    scores: Tensor = network(network.normalize(batch)).float()
    if network.score_stride > 1:
        scores = F.interpolate(scores, pixels.shape[:2], mode="bilinear", align_corners=False)
    return scores[0]
