"""DABNet (Li et al., "Depth-wise Asymmetric Bottleneck for Real-time Semantic Segmentation", BMVC 2019).

https://arxiv.org/abs/1907.11357. A thin network without pre-training: dense 3x3 convolutions at half the
depth, each followed by two depthwise branches of 3x1 and 1x3 convolutions, one of them dilated up to 16.
Batch normalization with PReLU before each convolution. Scores at stride 8.
Compared with the authors' Reagan1311/DABNet (b8d62fe): no difference.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peers.parts import LooseNorm, Peer, PeerNetwork, convolution
from seg_perception.core.types import Size

_DILATIONS = ((2, 2, 2), (4, 4, 8, 8, 16, 16))  # of the two blocks' modules, from the paper's table 1


def _norm_prelu(channels: int, after_convolution: bool = False) -> nn.Sequential:
    norm = nn.BatchNorm2d(channels, eps=1e-3) if after_convolution else LooseNorm(channels, eps=1e-3)
    return nn.Sequential(norm, nn.PReLU(channels))


def _conv_norm_prelu(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(convolution(in_channels, out_channels, 3, stride), *_norm_prelu(out_channels, True))


def _asymmetric(channels: int, dilation: int) -> nn.Sequential:
    """A depthwise 3x3 convolution in two steps: down the columns, then along the rows."""
    return nn.Sequential(
        nn.Conv2d(
            channels, channels, (3, 1), padding=(dilation, 0), dilation=(dilation, 1), groups=channels, bias=False
        ),
        *_norm_prelu(channels, True),
        nn.Conv2d(
            channels, channels, (1, 3), padding=(0, dilation), dilation=(1, dilation), groups=channels, bias=False
        ),
        *_norm_prelu(channels, True),
    )


class _DabModule(nn.Module):
    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        half = channels // 2
        self.enter = nn.Sequential(_norm_prelu(channels), _conv_norm_prelu(channels, half))
        self.near = _asymmetric(half, 1)
        self.far = _asymmetric(half, dilation)
        self.leave = nn.Sequential(_norm_prelu(half), nn.Conv2d(half, channels, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x)
        total: Tensor = x + self.leave(self.near(y) + self.far(y))
        return total


class DabNet(PeerNetwork):
    size_multiple = 8
    score_stride = 8

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.start = nn.Sequential(_conv_norm_prelu(3, 32, 2), _conv_norm_prelu(32, 32), _conv_norm_prelu(32, 32))
        self.norm2 = _norm_prelu(32 + 3)
        self.down4 = convolution(35, 64 - 35, 3, 2)  # the pooled input fills up to 64 channels
        self.norm4 = _norm_prelu(64)
        self.block4 = nn.Sequential(*(_DabModule(64, d) for d in _DILATIONS[0]))
        self.norm4_out = _norm_prelu(64 + 64 + 3)
        self.down8 = _conv_norm_prelu(131, 128, 2)
        self.block8 = nn.Sequential(*(_DabModule(128, d) for d in _DILATIONS[1]))
        self.norm8_out = _norm_prelu(128 + 128 + 3)
        self.head = nn.Conv2d(259, num_classes, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        image2 = F.avg_pool2d(x, 3, 2, 1)  # the image itself goes along at every resolution
        image4 = F.avg_pool2d(image2, 3, 2, 1)
        image8 = F.avg_pool2d(image4, 3, 2, 1)
        y = self.norm2(torch.cat([self.start(x), image2], 1))  # [N, 35, H/2, W/2]
        before = self.norm4(torch.cat([self.down4(y), F.max_pool2d(y, 2)], 1))  # [N, 64, H/4, W/4]
        y = self.norm4_out(torch.cat([self.block4(before), before, image4], 1))
        before = self.down8(y)  # [N, 128, H/8, W/8]
        y = self.norm8_out(torch.cat([self.block8(before), before, image8], 1))
        scores: Tensor = self.head(y)
        return scores


PEER = Peer("DABNet", DabNet, "https://arxiv.org/abs/1907.11357", 0.76, 10.4, Size(1024, 512))
