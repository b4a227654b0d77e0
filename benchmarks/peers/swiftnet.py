"""SwiftNet-RN18, single scale (Orsic et al., "In Defense of Pre-trained ImageNet Architectures ...", CVPR 2019).

https://arxiv.org/abs/1903.08469. ResNet-18, a small pooling pyramid, and three upsampling modules of 128
channels with lateral connections from before each stage's last ReLU. Scores at stride 4.
Compared with the authors' orsic/swiftnet (2b88990): the pyramid's grids of 8, 4 and 2 rows stand here as windows
of 3, 5 and 7 cells (see `same_size_average`), 2 of 8351 million multiply-adds at 480x352 more; and the laterals are
the paper's, where that code's in-place ReLU clips them too.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peers.parts import (
    LooseNorm,
    Peer,
    PeerNetwork,
    basic_blocks,
    conv_norm_relu,
    enlarged,
    norm_relu_conv,
    same_size_average,
)
from seg_perception.core.types import Size

_DEPTHS = (64, 128, 256, 512)  # of ResNet-18's four stages, at strides 4 to 32
_LADDER = 128
_WINDOWS = (3, 5, 7)


class _PoolingPyramid(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        level = _LADDER // len(_WINDOWS)
        self.enter = norm_relu_conv(_DEPTHS[-1], _LADDER)
        self.levels = nn.ModuleList(
            nn.Sequential(same_size_average(window), norm_relu_conv(_LADDER, level)) for window in _WINDOWS
        )
        self.fuse = norm_relu_conv(_LADDER + level * len(_WINDOWS), _LADDER)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        fused: Tensor = self.fuse(torch.cat([x, *(level(x) for level in self.levels)], 1))
        return fused


class _Upsampling(nn.Module):
    def __init__(self, lateral_channels: int) -> None:
        super().__init__()
        self.lateral = norm_relu_conv(lateral_channels, _LADDER)
        self.blend = norm_relu_conv(_LADDER, _LADDER, 3)

    def forward(self, deep: Tensor, lateral: Tensor) -> Tensor:
        blended: Tensor = self.blend(enlarged(deep, 2) + self.lateral(lateral))
        return blended


class SwiftNetRn18(PeerNetwork):
    size_multiple = 32
    score_stride = 4

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_norm_relu(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1))
        self.stages = nn.ModuleList(
            basic_blocks(before, depth, 2, 1 if index == 0 else 2)
            for index, (before, depth) in enumerate(zip((64, *_DEPTHS[:-1]), _DEPTHS, strict=True))
        )
        self.pyramid = _PoolingPyramid()
        self.upsampling = nn.ModuleList(_Upsampling(depth) for depth in reversed(_DEPTHS[:-1]))
        self.head = nn.Sequential(LooseNorm(_LADDER), nn.ReLU(), nn.Conv2d(_LADDER, num_classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        maps: list[Tensor] = []
        for stage in self.stages:
            before_relu = stage(x)
            maps.append(before_relu)
            x = F.relu(before_relu)
        y = self.pyramid(maps.pop())  # [N, 128, H/32, W/32]
        for upsampling in self.upsampling:
            y = upsampling(y, maps.pop())
        scores: Tensor = self.head(y)
        return scores


PEER = Peer("SwiftNet-RN18", SwiftNetRn18, "https://arxiv.org/abs/1903.08469", 11.8, 104.0, Size(2048, 1024))
