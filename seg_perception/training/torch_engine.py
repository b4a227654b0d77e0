"""A network as an Engine, so that validation walks the same path as the deployed graph."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from seg_perception.core.model_card import ModelCard
from seg_perception.engines.base import CheckedEngine, EngineInfo
from seg_perception.networks.base import SegmentationNetwork


class TorchEngine(CheckedEngine):
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
        precision = f"{autocast} autocast".removeprefix("torch.") if autocast else "fp32"
        self._info = EngineInfo("torch", torch.__version__, str(self._device), precision, None, None)

    @torch.inference_mode()
    def _run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        pixels = torch.from_numpy(images).to(self._device)
        x = self._network.normalize(pixels).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self._device.type, self._autocast, enabled=self._autocast is not None):
            scores = self._network(x).float()
        if self._network.score_stride > 1:
            scores = F.interpolate(scores, images.shape[1:3], mode="bilinear", align_corners=False)
        confidence, labels = scores.softmax(dim=1).max(dim=1)
        return labels.to(torch.uint8).cpu().numpy(), (confidence * 255).round().to(torch.uint8).cpu().numpy()

    def _release(self) -> None:
        """Nothing to release: the network belongs to the caller."""
