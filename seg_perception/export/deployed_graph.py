"""The graph that runs on the robot, as a torch module: bytes in, bytes out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seg_perception.core.errors import ModelError
from seg_perception.networks.base import SegmentationNetwork


class DeployedGraph(nn.Module):
    """A network with its normalization before it and its decision after it.

    Takes uint8 RGB [N, H, W, 3]; returns (labels, confidence), each uint8 [N, H, W]; confidence is
    the winning class's softmax probability x 255, rounded to the nearest integer.

    Args:
        network: the network; its mode is not changed, so put it into eval mode first.
        temperature: scores are divided by it before the softmax (Guo et al., "On Calibration of
            Modern Neural Networks", https://arxiv.org/abs/1706.04599); labels do not depend on it.

    Raises:
        ModelError: the temperature is not positive.
    """

    def __init__(self, network: SegmentationNetwork, temperature: float = 1.0) -> None:
        super().__init__()
        if not temperature > 0.0:
            raise ModelError(f"temperature {temperature} is not accepted: it must be positive")
        self.network = network
        self.temperature = temperature

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.network(self.network.normalize(image))  # [N, C, H/s, W/s]
        if self.temperature != 1.0:
            scores = scores * (1.0 / self.temperature)  # before the upsampling, where it is cheap
        stride = float(self.network.score_stride)
        if stride != 1.0:
            scores = F.interpolate(scores, scale_factor=stride, mode="bilinear", align_corners=False)  # [N, C, H, W]
        # The winner's probability is exp(top - top) / sum(exp(s - top)): no full softmax is needed.
        top = torch.amax(scores, dim=1, keepdim=True)
        probability = torch.reciprocal(torch.exp(scores - top).sum(dim=1))  # [N, H, W], 1/C to 1
        labels = scores.argmax(dim=1).to(torch.int32).to(torch.uint8)  # TensorRT casts no int64 to uint8
        return labels, torch.round(probability * 255.0).to(torch.uint8)
