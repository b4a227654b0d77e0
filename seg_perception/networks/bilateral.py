"""Two resolutions side by side: a detail branch at stride 8 and a context branch down to stride 32.

After the idea of DDRNet (Hong et al., https://arxiv.org/abs/2101.06085): both branches are residual,
and twice each adds the other's map to its own. Dense 3x3 convolutions throughout, scores at stride 8.
The pooling pyramid has windows of fixed size, so that the graph runs at any input size.

4.0 M parameters and 6.6 GFLOP at 480x352 and width 1.0 (counted by `seg-perception inspect`).
Scores: see docs/results.md.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from seg_perception.core.errors import SettingsError
from seg_perception.networks.base import InputScaling, NetworkInfo, SegmentationNetwork
from seg_perception.networks.ladder import PyramidContext, conv_norm
from seg_perception.networks.residual import ResidualBlock

_CHANNELS = (32, 64, 128, 256)  # at strides 4, 8, 16 and 32


def _halving(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 3, 2, 1, bias=False), nn.BatchNorm2d(out_channels))


def _compression(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels))


def _enlarged(x: Tensor, factor: float) -> Tensor:
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


class BilateralNetwork(SegmentationNetwork):
    """Detail and context branches; scores at stride 8.

    Args:
        num_classes: number of output classes.
        width: multiplies the channels 32, 64, 128, 256; each is rounded to a multiple of 8.

    Raises:
        SettingsError: width is not positive.
    """

    size_multiple = 32
    score_stride = 8
    score_layers = ("head", "auxiliary")
    scaling = InputScaling(mean=(127.0, 127.0, 127.0), std=(64.0, 64.0, 64.0))

    def __init__(self, num_classes: int, width: float = 1.0) -> None:
        super().__init__()
        if width <= 0:
            raise SettingsError(f"bilateral: width {width} must be above 0")
        at4, at8, at16, at32 = (max(8, round(c * width / 8) * 8) for c in _CHANNELS)
        self.encoder = nn.Sequential(
            _halving(3, at4),
            nn.ReLU(inplace=True),
            _halving(at4, at4),
            nn.ReLU(inplace=True),
            ResidualBlock(at4, at4),
            ResidualBlock(at4, at4),
            ResidualBlock(at4, at8, 2),
            ResidualBlock(at8, at8),
        )
        self.context16 = nn.Sequential(ResidualBlock(at8, at16, 2), ResidualBlock(at16, at16, activated=False))
        self.detail16 = nn.Sequential(ResidualBlock(at8, at8), ResidualBlock(at8, at8, activated=False))
        self.down16 = _halving(at8, at16)
        self.up16 = _compression(at16, at8)
        self.context32 = nn.Sequential(ResidualBlock(at16, at32, 2), ResidualBlock(at32, at32, activated=False))
        self.detail32 = nn.Sequential(ResidualBlock(at8, at8), ResidualBlock(at8, at8, activated=False))
        self.down32 = nn.Sequential(_halving(at8, at16), nn.ReLU(inplace=True), _halving(at16, at32))
        self.up32 = _compression(at32, at8)
        self.pyramid = PyramidContext(at32, at16)
        self.last_detail = ResidualBlock(at8, at16, activated=False)
        self.blend = conv_norm(at16, at8, 3)
        self.head = nn.Conv2d(at8, num_classes, 1)
        self.auxiliary = nn.Conv2d(at8, num_classes, 1)  # scores of the detail branch, training only

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self._decode(x)[0])
        return scores

    def scores_with_auxiliary(self, x: Tensor) -> tuple[Tensor, ...]:
        fused, detail = self._decode(x)
        return self.head(fused), self.auxiliary(detail)

    def _decode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.encoder(x)  # [N, 64, H/8, W/8]
        context, detail = self.context16(x), self.detail16(x)
        context, detail = (
            F.relu(context + self.down16(detail)),  # [N, 128, H/16, W/16]
            F.relu(detail + _enlarged(self.up16(context), 2.0)),  # [N, 64, H/8, W/8]
        )
        early = detail
        context, detail = self.context32(context), self.detail32(detail)
        context, detail = (
            F.relu(context + self.down32(detail)),  # [N, 256, H/32, W/32]
            F.relu(detail + _enlarged(self.up32(context), 4.0)),
        )
        fused = self.last_detail(detail) + _enlarged(self.pyramid(context), 4.0)
        return self.blend(F.relu(fused)), early  # [N, 64, H/8, W/8] both


NETWORK = NetworkInfo(
    name="bilateral",
    build=BilateralNetwork,
    summary="detail branch at stride 8, context branch down to 32, scores at stride 8; dense convolutions",
)
