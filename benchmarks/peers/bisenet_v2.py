"""BiSeNet V2 (Yu et al., "Bilateral Network with Guided Aggregation", IJCV 2021).

https://arxiv.org/abs/2004.02147. A wide, shallow detail branch at stride 8 beside a thin, deep semantic
branch at stride 32 of depthwise "gather and expansion" blocks; each gates the other before they are
added. Scores at stride 8 from a head of 1024 channels.

The authors publish no code. Compared with CoinCheung/BiSeNet (6b4b67a): as in PaddleSeg, which stays closer to the
paper, no ReLU behind the depthwise expansions and the aggregation, a plain convolution at the end of the context
embedding, and bilinear enlargement.
The paper's 21.15 G multiply-adds lie between the 24.6 G of this head (CoinCheung's) and the 16.0 G of one of 128
channels (PaddleSeg's), and the layers before it have the same shapes in both, so the excess of 16 % comes from the
head's width or from the paper's way of counting.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peers.parts import GlobalAverage, LooseNorm, Peer, PeerNetwork, conv_norm, conv_norm_relu, convolution, enlarged
from seg_perception.core.types import Size

_EXPANSION = 6
_HEAD_CHANNELS = 1024


def _detail_branch() -> nn.Sequential:
    layers: list[nn.Module] = []
    before = 3
    for depth, count in ((64, 2), (64, 3), (128, 3)):
        for index in range(count):
            layers.append(conv_norm_relu(before, depth, 3, 2 if index == 0 else 1))
            before = depth
    return nn.Sequential(*layers)


class _Stem(nn.Module):
    """A quarter of the size at once: a strided convolution beside a pooling, joined."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = conv_norm_relu(3, 16, 3, 2)
        self.convolved = nn.Sequential(conv_norm_relu(16, 8, 1), conv_norm_relu(8, 16, 3, 2))
        self.pooled = nn.MaxPool2d(3, 2, 1)
        self.join = conv_norm_relu(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        joined: Tensor = self.join(torch.cat([self.convolved(x), self.pooled(x)], 1))
        return joined


class _GatherAndExpand(nn.Module):
    """3x3 convolution, depthwise expansion by 6, 1x1 projection; with a stride, two depthwise steps."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        wide = in_channels * _EXPANSION
        layers = [conv_norm_relu(in_channels, in_channels), conv_norm(in_channels, wide, 3, stride, in_channels)]
        if stride == 2:
            layers.append(conv_norm(wide, wide, 3, 1, wide))
        self.body = nn.Sequential(*layers, conv_norm(wide, out_channels, 1))
        self.identity = (
            nn.Sequential(
                conv_norm(in_channels, in_channels, 3, 2, in_channels), conv_norm(in_channels, out_channels, 1)
            )
            if stride == 2
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.identity(x))


class _ContextEmbedding(nn.Module):
    """Adds the mean of the whole map to each of its cells."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.describe = nn.Sequential(GlobalAverage(), LooseNorm(channels), conv_norm_relu(channels, channels, 1))
        self.blend = convolution(channels, channels, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        blended: Tensor = self.blend(x + self.describe(x))
        return blended


class _GuidedAggregation(nn.Module):
    """Each branch is gated by the other, at stride 8 and at stride 32; then both are added at stride 8."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.detail8 = nn.Sequential(conv_norm(channels, channels, 3, 1, channels), convolution(channels, channels, 1))
        self.detail32 = nn.Sequential(conv_norm(channels, channels, 3, 2), nn.AvgPool2d(3, 2, 1))
        self.semantic8 = conv_norm(channels, channels)
        self.semantic32 = nn.Sequential(
            conv_norm(channels, channels, 3, 1, channels), convolution(channels, channels, 1)
        )
        self.blend = conv_norm(channels, channels)

    def forward(self, detail: Tensor, semantic: Tensor) -> Tensor:
        at8 = self.detail8(detail) * torch.sigmoid(enlarged(self.semantic8(semantic), 4))
        at32 = self.detail32(detail) * torch.sigmoid(self.semantic32(semantic))
        blended: Tensor = self.blend(at8 + enlarged(at32, 4))
        return blended


class BiSeNetV2(PeerNetwork):
    size_multiple = 32
    score_stride = 8

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.detail = _detail_branch()
        rows = ((16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2), *((128, 128, 1),) * 3)
        self.semantic = nn.Sequential(_Stem(), *(_GatherAndExpand(*row) for row in rows), _ContextEmbedding(128))
        self.aggregate = _GuidedAggregation(128)
        self.head = nn.Sequential(conv_norm_relu(128, _HEAD_CHANNELS), nn.Conv2d(_HEAD_CHANNELS, num_classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.aggregate(self.detail(x), self.semantic(x)))
        return scores


PEER = Peer("BiSeNetV2", BiSeNetV2, "https://arxiv.org/abs/2004.02147", None, 21.15, Size(1024, 512))
