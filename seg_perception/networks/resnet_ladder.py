"""Residual encoder with a ladder decoder: dense 3x3 convolutions throughout.

The encoder is ResNet-18 (He et al., https://arxiv.org/abs/1512.03385) at a fraction of its width, with a
3x3 first convolution. No public weights have its shape: it trains from scratch.

3.2 M parameters and 4.4 GFLOP at 480x352 and half width (counted by `seg-perception inspect`).
Scores: see docs/results.md.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from seg_perception.networks.base import InputScaling, NetworkInfo, scaled_channels
from seg_perception.networks.ladder import LadderEncoder, LadderNetwork

_CHANNELS = (64, 128, 256, 512)  # at strides 4, 8, 16 and 32
_BLOCKS = 2


class _ResidualBlock(nn.Module):
    """Two 3x3 convolutions and the identity (He et al., https://arxiv.org/abs/1512.03385).

    The identity is a 1x1 convolution where the shape changes.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
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

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + (x if self.identity is None else self.identity(x)))


class ResNet(LadderEncoder):
    """Feature extractor: returns maps at strides 2 (of the stem), 4, 8, 16 and 32 with the given channels."""

    def __init__(self, channels: tuple[int, int, int, int]) -> None:
        super().__init__()
        first = channels[0]
        self.stem = nn.Sequential(
            nn.Conv2d(3, first, 3, 2, 1, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(inplace=True),
        )
        self.pool = nn.MaxPool2d(3, 2, 1)
        stages: list[nn.Module] = []
        before = first
        for index, after in enumerate(channels):
            blocks = [_ResidualBlock(before, after, 1 if index == 0 else 2)]
            blocks += [_ResidualBlock(after, after) for _ in range(_BLOCKS - 1)]
            stages.append(nn.Sequential(*blocks))
            before = after
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)  # [N, C, H/2, W/2]
        maps: list[Tensor] = [x]
        x = self.pool(x)
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class ResNetLadder(LadderNetwork):
    """ResNet-18 at a fraction of its width, with a ladder decoder; scores at stride 4, or 2 with a detail rung.

    Args:
        num_classes: number of output classes.
        width: multiplies the encoder's channels 64, 128, 256, 512; each is rounded to a multiple of 8.
        decoder_channels: channels of the ladder; the last two rungs have half.
        detail_channels: of a rung at stride 2; 0: without it.

    Raises:
        SettingsError: width is not positive, decoder_channels is not even and positive, or
            detail_channels is negative.
    """

    scaling = InputScaling(mean=(127.0, 127.0, 127.0), std=(64.0, 64.0, 64.0))

    def __init__(
        self, num_classes: int, width: float = 0.5, decoder_channels: int = 128, detail_channels: int = 0
    ) -> None:
        at4, at8, at16, at32 = scaled_channels(_CHANNELS, width, "resnet_ladder")
        encoder = ResNet((at4, at8, at16, at32))
        super().__init__(num_classes, encoder, (at4, at4, at8, at16, at32), decoder_channels, detail_channels)


NETWORK = NetworkInfo(
    name="resnet_ladder",
    build=ResNetLadder,
    summary="half-width ResNet-18 encoder, ladder decoder, scores at stride 4; dense convolutions, no public weights",
)
