"""PIDNet-S (Xu et al., "A Real-time Semantic Segmentation Network Inspired by PID Controllers", CVPR 2023).

https://arxiv.org/abs/2206.02066. Three branches: details (P) take from the context (I) where both agree
(Pag), a thin branch (D) finds borders, and the borders choose between details and context (Bag).
Scores at stride 8. Compared with the authors' XuJiacong/PIDNet (4c158cf): the pyramid's (PAPPM) pools with strides
stand here at stride 1 (see `same_size_average`), 5 of 3877 million multiply-adds at 448x384 more.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peers.parts import (
    BasicBlock,
    Bottleneck,
    Peer,
    PeerNetwork,
    basic_blocks,
    conv_norm,
    enlarged,
    norm_relu_conv,
    pooled_views,
    pre_activated_head,
    residual_start,
)
from seg_perception.core.types import Size

_PYRAMID = 96
_HEAD = 128


class _PixelAttention(nn.Module):
    """Pag: takes the context's vector where it resembles the detail's."""

    def __init__(self, channels: int, keys: int) -> None:
        super().__init__()
        self.detail_key = conv_norm(channels, keys, 1)
        self.context_key = conv_norm(channels, keys, 1)

    def forward(self, detail: Tensor, context: Tensor, factor: int) -> Tensor:
        key = enlarged(self.context_key(context), factor)
        alike = torch.sigmoid((self.detail_key(detail) * key).sum(dim=1, keepdim=True))  # [N, 1, h, w]
        return detail + alike * (enlarged(context, factor) - detail)


class _ParallelPyramid(nn.Module):
    """PAPPM: all views are blended by one grouped convolution."""

    def __init__(self, in_channels: int, channels: int, out_channels: int) -> None:
        super().__init__()
        self.view0 = norm_relu_conv(in_channels, channels)
        self.views = pooled_views(in_channels, channels)
        self.blend = norm_relu_conv(channels * 4, channels * 4, 3, groups=4)
        self.compress = norm_relu_conv(channels * 5, out_channels)
        self.shortcut = norm_relu_conv(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        near = self.view0(x)
        blended = self.blend(torch.cat([near + view(x) for view in self.views], 1))
        total: Tensor = self.compress(torch.cat([near, blended], 1)) + self.shortcut(x)
        return total


class _BoundaryAttention(nn.Module):
    """Bag, the light form: details at borders, context inside."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.detail = conv_norm(channels, channels, 1)
        self.context = conv_norm(channels, channels, 1)

    def forward(self, detail: Tensor, context: Tensor, border: Tensor) -> Tensor:
        edge = torch.sigmoid(border)
        total: Tensor = self.detail((1.0 - edge) * context + detail) + self.context(context + edge * detail)
        return total


class PidNetS(PeerNetwork):
    size_multiple = 64
    score_stride = 8

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.start = residual_start()
        self.context16, self.context32 = basic_blocks(64, 128, 3, 2), basic_blocks(128, 256, 3, 2)
        self.context64 = nn.Sequential(Bottleneck(256, 256, 2), Bottleneck(512, 256))  # no ReLU between
        self.detail = nn.ModuleList([basic_blocks(64, 64, 2), basic_blocks(64, 64, 2), Bottleneck(64, 64)])
        self.border = nn.ModuleList([BasicBlock(64, 32), Bottleneck(32, 32), Bottleneck(64, 64)])
        self.to_detail16, self.to_detail32 = conv_norm(128, 64, 1), conv_norm(256, 64, 1)
        self.to_border16, self.to_border32 = conv_norm(128, 32), conv_norm(256, 64)
        self.attention16, self.attention32 = _PixelAttention(64, 32), _PixelAttention(64, 32)
        self.pyramid = _ParallelPyramid(512, _PYRAMID, 128)
        self.fuse = _BoundaryAttention(128)
        self.head = pre_activated_head(128, _HEAD, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(x)  # [N, 64, H/8, W/8]
        context = F.relu(self.context16(x))
        detail = self.attention16(self.detail[0](x), self.to_detail16(context), 2)
        border = self.border[0](x) + enlarged(self.to_border16(context), 2)  # [N, 32, H/8, W/8]
        context = F.relu(self.context32(context))
        detail = self.attention32(self.detail[1](F.relu(detail)), self.to_detail32(context), 4)
        border = self.border[1](F.relu(border)) + enlarged(self.to_border32(context), 4)  # [N, 64, H/8, W/8]
        detail, border = self.detail[2](F.relu(detail)), self.border[2](F.relu(border))  # [N, 128, H/8, W/8] both
        deep = enlarged(self.pyramid(self.context64(context)), 8)  # from [N, 512, H/64, W/64]
        scores: Tensor = self.head(self.fuse(detail, deep, border))
        return scores


PEER = Peer("PIDNet-S", PidNetS, "https://arxiv.org/abs/2206.02066", 7.6, 47.6, Size(2048, 1024))
