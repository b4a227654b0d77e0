"""The reference encoder-decoder, stage by stage as specified for the package.

For an image of M x N pixels and width 1.0 the maps are:

    Conv1   M/2  x N/2  x 64      Deconv1 M/8 x N/8 x 512
    Conv2   M/4  x N/4  x 128     Deconv2 M/4 x N/4 x 256
    Conv3   M/8  x N/8  x 256     Deconv3 M/2 x N/2 x 128
    Conv4   M/16 x N/16 x 512     Deconv4 M   x N   x 64

then a score for each class at each pixel; the softmax is in the loss and in the exported graph.
Sizes that 16 does not divide are refused with the size to pad to.

17.6 M parameters and 256 GFLOP at 480x352 with convolutions (2, 2, 3, 3), mirrored in the decoder,
and width 1.0 (counted by `seg-perception inspect`).
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

import torch.nn.functional as F
from torch import Tensor, nn

from seg_perception.core.errors import SettingsError
from seg_perception.core.resizing import check_multiple
from seg_perception.networks.base import (
    InputScaling,
    NetworkInfo,
    SegmentationNetwork,
    scaled_channels,
)

_ENCODER_CHANNELS = (64, 128, 256, 512)
_DECODER_CHANNELS = (512, 256, 128, 64)


class Upsampling(nn.Module):
    """Multiplies width and height by S, bilinearly; the depth stays: W_out = S W_in, H_out = S H_in."""

    def __init__(self, multiplier: int = 2) -> None:
        super().__init__()
        self.multiplier = multiplier

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=float(self.multiplier), mode="bilinear", align_corners=False)


def _convolutions(in_channels: int, out_channels: int, count: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index in range(count):
        layers += [
            nn.Conv2d(in_channels if index == 0 else out_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


class ReferenceNetwork(SegmentationNetwork):
    """Four encoder stages (convolutions, then halving), four decoder stages (doubling, then convolutions).

    Args:
        num_classes: number of output classes.
        width: multiplies every depth of the table; each is rounded to a multiple of 8.
        convolutions: 3x3 convolutions in the encoder stages 1 to 4; the decoder mirrors them.

    Raises:
        SettingsError: width not positive, or not four counts of at least one convolution.
    """

    size_multiple = 16
    score_stride = 1
    scaling = InputScaling(mean=(127.0, 127.0, 127.0), std=(64.0, 64.0, 64.0))
    stage_names = MappingProxyType(
        {f"encoder.{i}": f"Conv{i + 1}" for i in range(4)}
        | {f"decoder.{i}": f"Deconv{i + 1}" for i in range(4)}
        | {"head": "scores"}
    )

    def __init__(self, num_classes: int, width: float = 1.0, convolutions: Sequence[int] = (2, 2, 3, 3)) -> None:
        super().__init__()
        encoder = scaled_channels(_ENCODER_CHANNELS, width, "reference network")
        decoder = scaled_channels(_DECODER_CHANNELS, width, "reference network")
        if len(convolutions) != 4 or min(convolutions) < 1:
            raise SettingsError(
                f"reference network: convolutions {list(convolutions)} must be four counts of at least 1"
            )
        self.encoder = nn.ModuleList(
            nn.Sequential(_convolutions(before, after, count), nn.MaxPool2d(2))
            for before, after, count in zip([3, *encoder[:-1]], encoder, convolutions, strict=True)
        )
        self.decoder = nn.ModuleList(
            nn.Sequential(Upsampling(2), _convolutions(before, after, count))
            for before, after, count in zip(
                [encoder[-1], *decoder[:-1]], decoder, tuple(reversed(tuple(convolutions))), strict=True
            )
        )
        self.head = nn.Conv2d(decoder[-1], num_classes, 1)

    def stage_maps(self, x: Tensor) -> dict[str, Tensor]:
        """Every row of the table in the module's docstring, by name: float [N, C, h, w].

        Raises:
            InputError: a size that 16 does not divide.
        """
        check_multiple((x.shape[3], x.shape[2]), self.size_multiple, "the network")
        maps: dict[str, Tensor] = {}
        for index, stage in enumerate(self.encoder, start=1):
            maps[f"Conv{index}"] = x = stage(x)
        for index, stage in enumerate(self.decoder, start=1):
            maps[f"Deconv{index}"] = x = stage(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stage_maps(x)["Deconv4"])  # type: ignore[no-any-return]


NETWORK = NetworkInfo(
    name="reference",
    build=ReferenceNetwork,
    summary="the specified encoder-decoder: four stages down to M/16 x N/16 x 512, four up, full-resolution scores",
)
