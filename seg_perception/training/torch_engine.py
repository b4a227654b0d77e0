"""A network as an Engine, so that validation walks the same path as the deployed graph."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from seg_perception.core.model_card import ModelCard
from seg_perception.engines.base import ClosesItself, EngineInfo, check_batch
from seg_perception.networks.base import SegmentationNetwork


class TorchEngine(ClosesItself):
    """Runs a network in PyTorch under the Engine contract.

    Args:
        network: put into evaluation mode by this engine.
        card: describes it.
        autocast: to this type, as in training; None for parity checks.
    """

    def __init__(self, network: SegmentationNetwork, card: ModelCard, autocast: torch.dtype | None = None) -> None:
        self._network = network.eval()
        self._card = card
        self._autocast = autocast
        self._device = next(network.parameters()).device

    @property
    def card(self) -> ModelCard:
        return self._card

    @property
    def info(self) -> EngineInfo:
        precision = f"{self._autocast} autocast".removeprefix("torch.") if self._autocast else "fp32"
        return EngineInfo("torch", torch.__version__, str(self._device), precision, max_batch=None, fixed_size=None)

    @torch.inference_mode()
    def infer(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        check_batch(images, self._card, self.info)
        pixels = torch.from_numpy(images).to(self._device)
        x = self._network.normalize(pixels).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self._device.type, self._autocast, enabled=self._autocast is not None):
            scores = self._network(x).float()
        if self._network.score_stride > 1:
            scores = F.interpolate(scores, images.shape[1:3], mode="bilinear", align_corners=False)
        confidence, labels = scores.softmax(dim=1).max(dim=1)
        return labels.to(torch.uint8).cpu().numpy(), (confidence * 255).round().to(torch.uint8).cpu().numpy()

    def close(self) -> None:
        """Nothing to release: the network belongs to the caller."""
