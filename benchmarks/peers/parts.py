"""What several peers are made of, and what their papers say of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seg_perception.core.types import Size
from seg_perception.networks.base import InputScaling, SegmentationNetwork


@dataclass(frozen=True, slots=True)
class Peer:
    """A public network beside the figures its authors give for 19 classes (Cityscapes).

    Attributes:
        name: as its authors call it.
        build: the network for so many classes.
        source: its paper.
        parameters: millions, as printed; None: the paper prints none.
        multiply_adds: billions for one image of `size`, as printed (papers write "FLOPs").
        size: of that image.
    """

    name: str
    build: Callable[[int], SegmentationNetwork]
    source: str
    parameters: float | None
    multiply_adds: float
    size: Size


class PeerNetwork(SegmentationNetwork):
    """The normalization of ImageNet for all; some authors take other constants, which costs the same."""

    scaling: ClassVar[InputScaling] = InputScaling(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))


class LooseNorm(nn.BatchNorm2d):
    """A batch normalization that no convolution precedes, so none can absorb it.

    In the deployed graph it is a depthwise 1x1 convolution, the form that ONNX Runtime gives it anyway:
    our export accepts no normalization that is left over.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        shift = self.bias - self.running_mean * scale
        return F.conv2d(x, scale[:, None, None, None], shift, groups=self.num_features)


def convolution(
    in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1, groups: int = 1, bias: bool = False
) -> nn.Conv2d:
    """Padded so that only the stride changes the size."""
    return nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=bias)


def conv_norm(
    in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1, groups: int = 1, bias: bool = False
) -> nn.Sequential:
    """Convolution and batch normalization."""
    return nn.Sequential(
        convolution(in_channels, out_channels, kernel, stride, groups, bias), nn.BatchNorm2d(out_channels)
    )


def conv_norm_relu(
    in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1, bias: bool = False
) -> nn.Sequential:
    """Convolution, batch normalization, ReLU."""
    return nn.Sequential(*conv_norm(in_channels, out_channels, kernel, stride, bias=bias), nn.ReLU())


def norm_relu_conv(in_channels: int, out_channels: int, kernel: int = 1, groups: int = 1) -> nn.Sequential:
    """Batch normalization, ReLU, convolution: the order of pre-activated networks."""
    return nn.Sequential(LooseNorm(in_channels), nn.ReLU(), convolution(in_channels, out_channels, kernel, 1, groups))


def enlarged(x: Tensor, factor: int) -> Tensor:
    """Bilinear, by a constant factor, so that the graph holds no size."""
    return F.interpolate(x, scale_factor=float(factor), mode="bilinear", align_corners=False)


def same_size_average(window: int) -> nn.AvgPool2d:
    """Stands for "pool with a stride, enlarge to the old size", whose graph depends on the image size."""
    return nn.AvgPool2d(window, 1, window // 2, count_include_pad=False)


class GlobalAverage(nn.Module):
    """The mean of the whole map, [N, C, 1, 1], in operators whose graph does not depend on the size."""

    def forward(self, x: Tensor) -> Tensor:
        cells = (x[:, :1] * 0.0 + 1.0).sum(dim=(2, 3), keepdim=True)
        return x.sum(dim=(2, 3), keepdim=True) * torch.reciprocal(cells)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around an identity (He et al., https://arxiv.org/abs/1512.03385).

    `forward` leaves the last ReLU to the caller: several peers use the sum before it.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.first = conv_norm_relu(in_channels, out_channels, 3, stride)
        self.second = conv_norm(out_channels, out_channels)
        changes = stride != 1 or in_channels != out_channels
        self.identity = conv_norm(in_channels, out_channels, 1, stride) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.second(self.first(x)) + self.identity(x)
        return total


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, the last to twice the channels; the last ReLU is the caller's."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        out_channels = 2 * channels
        self.body = nn.Sequential(
            conv_norm_relu(in_channels, channels, 1),
            conv_norm_relu(channels, channels, 3, stride),
            conv_norm(channels, out_channels, 1),
        )
        changes = stride != 1 or in_channels != out_channels
        self.identity = conv_norm(in_channels, out_channels, 1, stride) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.body(x) + self.identity(x)
        return total


def pooled_views(in_channels: int, channels: int) -> nn.ModuleList:
    """The wider and wider views of a pooling pyramid, the last of them the whole map."""
    return nn.ModuleList(
        nn.Sequential(pool, norm_relu_conv(in_channels, channels))
        for pool in (*map(same_size_average, (5, 9, 17)), GlobalAverage())
    )


def residual_start() -> nn.Sequential:
    """What DDRNet and PIDNet begin with: [N, 64, H/8, W/8] from an image."""
    return nn.Sequential(
        conv_norm_relu(3, 32, 3, 2, bias=True),
        conv_norm_relu(32, 32, 3, 2, bias=True),
        basic_blocks(32, 32, 2),
        nn.ReLU(),
        basic_blocks(32, 64, 2, 2),
        nn.ReLU(),
    )


def pre_activated_head(in_channels: int, channels: int, num_classes: int) -> nn.Sequential:
    """Scores from a map that has no normalization and ReLU behind it yet."""
    return nn.Sequential(
        norm_relu_conv(in_channels, channels, 3),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, num_classes, 1),
    )


def basic_blocks(in_channels: int, out_channels: int, count: int, stride: int = 1) -> nn.Sequential:
    """Blocks with a ReLU between them and none at the end."""
    layers: list[nn.Module] = [BasicBlock(in_channels, out_channels, stride)]
    for _ in range(count - 1):
        layers += [nn.ReLU(), BasicBlock(out_channels, out_channels)]
    return nn.Sequential(*layers)
