"""DDRNet-23-slim (Hong et al., "Deep Dual-resolution Networks ... of Road Scenes", 2021).

https://arxiv.org/abs/2101.06085. Two residual branches that exchange maps twice; the deep one goes down to
stride 64 and ends in a pooling pyramid (DAPPM). Scores at stride 8.
Compared with the authors' ydhongHIT/DDRNet (de0db31): the pyramid's pools with strides 2, 4 and 8 stand here at
stride 1 (see `same_size_average`), 7 of 2984 million multiply-adds at 448x384 more.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peers.parts import (
    Bottleneck,
    Peer,
    PeerNetwork,
    basic_blocks,
    conv_norm,
    conv_norm_relu,
    enlarged,
    norm_relu_conv,
    pooled_views,
    pre_activated_head,
    residual_start,
)
from seg_perception.core.types import Size

_PYRAMID = 128
_HEAD = 64


class _DeepPyramid(nn.Module):
    """DAPPM: each wider view is blended with the narrower one before it."""

    def __init__(self, in_channels: int, channels: int, out_channels: int) -> None:
        super().__init__()
        self.view0 = norm_relu_conv(in_channels, channels)
        self.views = pooled_views(in_channels, channels)
        self.blends = nn.ModuleList(norm_relu_conv(channels, channels, 3) for _ in self.views)
        self.compress = norm_relu_conv(channels * 5, out_channels)
        self.shortcut = norm_relu_conv(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.view0(x)]
        for view, blend in zip(self.views, self.blends, strict=True):
            maps.append(blend(view(x) + maps[-1]))
        total: Tensor = self.compress(torch.cat(maps, 1)) + self.shortcut(x)
        return total


class DdrNetSlim(PeerNetwork):
    size_multiple = 64
    score_stride = 8

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.start = residual_start()
        self.low16, self.low32 = basic_blocks(64, 128, 2, 2), basic_blocks(128, 256, 2, 2)
        self.high16, self.high32 = basic_blocks(64, 64, 2), basic_blocks(64, 64, 2)
        self.up16, self.up32 = conv_norm(128, 64, 1), conv_norm(256, 64, 1)
        self.down16 = conv_norm(64, 128, 3, 2)
        self.down32 = nn.Sequential(conv_norm_relu(64, 128, 3, 2), conv_norm(128, 256, 3, 2))
        self.high_last, self.low_last = Bottleneck(64, 64), Bottleneck(256, 256, 2)
        self.pyramid = _DeepPyramid(512, _PYRAMID, 128)
        self.head = pre_activated_head(128, _HEAD, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(x)  # [N, 64, H/8, W/8]
        low, high = self.low16(x), self.high16(x)
        low, high = (
            F.relu(low + self.down16(F.relu(high))),
            F.relu(high + enlarged(self.up16(F.relu(low)), 2)),
        )
        low, high = self.low32(low), self.high32(high)
        low, high = (
            F.relu(low + self.down32(F.relu(high))),
            F.relu(high + enlarged(self.up32(F.relu(low)), 4)),
        )
        deep = enlarged(self.pyramid(self.low_last(low)), 8)  # from [N, 512, H/64, W/64]
        scores: Tensor = self.head(self.high_last(high) + deep)
        return scores


PEER = Peer("DDRNet-23-slim", DdrNetSlim, "https://arxiv.org/abs/2101.06085", 5.7, 36.3, Size(2048, 1024))
