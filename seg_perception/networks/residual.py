"""The residual block shared by the networks of dense convolutions."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and the identity (He et al., https://arxiv.org/abs/1512.03385).

    The identity is a 1x1 convolution where the shape changes. With `activated=False` the last ReLU is left
    out, for a map that another one is added to.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, activated: bool = True) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.identity = (
            nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))
            if stride != 1 or in_channels != out_channels
            else None
        )
        self.activated = activated

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x) + (x if self.identity is None else self.identity(x))
        return F.relu(y) if self.activated else y
