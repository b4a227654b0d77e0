"""Do two forms of one model say the same? Measured on real images: noise hides ties and resize errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from seg_perception.core.errors import InputError
from seg_perception.core.types import RgbImage
from seg_perception.engines.onnxruntime import Answerer
from seg_perception.export.deployed_graph import DeployedGraph
from seg_perception.networks.base import SegmentationNetwork


@dataclass(frozen=True, slots=True)
class ImageParity:
    """One image."""

    name: str
    agreement: float  # share of pixels with the same label, 0 to 1
    largest_confidence_difference: int  # of 255


@dataclass(frozen=True, slots=True)
class ParityReport:
    """All images; every image counts the same."""

    reference: str
    candidate: str
    images: tuple[ImageParity, ...]

    @property
    def agreement(self) -> float:
        return float(np.mean([image.agreement for image in self.images]))

    @property
    def worst(self) -> ImageParity:
        """The image with the least agreement."""
        return min(self.images, key=lambda image: image.agreement)

    @property
    def largest_confidence_difference(self) -> int:
        return max(image.largest_confidence_difference for image in self.images)

    def table(self) -> str:
        worst = self.worst
        return "\n".join(
            (
                f"parity of {self.candidate} with {self.reference}",
                f"  images                         {len(self.images)}",
                f"  equal labels                   {self.agreement:.4%}",
                f"  equal labels, worst image      {worst.agreement:.4%}  {worst.name}",
                f"  largest confidence difference  {self.largest_confidence_difference} of 255",
            )
        )


def compare(
    reference: Answerer,
    candidate: Answerer,
    images: Sequence[tuple[str, RgbImage]],
    names: tuple[str, str] = ("reference", "candidate"),
) -> ParityReport:
    """Run both on the same images, one at a time.

    Args:
        reference: what is right.
        candidate: what is judged.
        images: name and uint8 [H, W, 3] RGB at the size that both take.
        names: of the two, for the report.

    Raises:
        InputError: no images.
    """
    if not images:
        raise InputError("a parity check needs at least one image")
    rows: list[ImageParity] = []
    for name, image in images:
        labels, confidence = reference(image[np.newaxis])
        other_labels, other_confidence = candidate(image[np.newaxis])
        difference = np.abs(confidence.astype(np.int16) - other_confidence)
        rows.append(ImageParity(name, float(np.mean(labels == other_labels)), int(difference.max())))
    return ParityReport(*names, tuple(rows))


def torch_answerer(network: SegmentationNetwork, temperature: float = 1.0) -> Answerer:
    """The network in torch, in evaluation mode, with the deployed graph's normalization and decision."""
    graph = DeployedGraph(network.eval(), temperature)

    def answer(images: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        with torch.inference_mode():
            labels, confidence = graph(torch.from_numpy(images))
        return labels.numpy(), confidence.numpy()

    return answer
