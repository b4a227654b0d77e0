"""The ladder decoder, shared by the networks that differ in their encoder.

A ladder of lateral connections (Orsic et al., "In Defense of Pre-trained ImageNet Architectures for
Real-time Semantic Segmentation", https://arxiv.org/abs/1903.08469): dense 3x3 convolutions, additions
and bilinear doublings only, which every engine fuses well.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seg_perception.core.errors import SettingsError
from seg_perception.networks.base import ChannelGroup, SegmentationNetwork


def _conv_norm(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class _PyramidContext(nn.Module):
    """Pyramid pooling (Zhao et al., https://arxiv.org/abs/1612.01105) with fixed-size windows.

    Average pools of 5 and 9 cells at stride 1 keep every shape, so the graph holds no size
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


class LadderEncoder(nn.Module):
    """A feature extractor; `forward` returns maps at strides 2, 4, 8, 16 and 32."""

    stem: nn.Sequential
    stages: nn.ModuleList

    def channel_groups(self) -> tuple[ChannelGroup, ...]:
        """Channels that a narrower encoder of this kind may lack, by their names in the network; none unless told."""
        return ()


class LadderNetwork(SegmentationNetwork):
    """An encoder with a ladder decoder; scores at stride 4, or at stride 2 with a detail rung.

    Args:
        num_classes: number of output classes.
        encoder: the feature extractor.
        channels: depths of its five maps.
        decoder_channels: channels of the ladder; the last two rungs have half.
        detail_channels: of one more, narrow rung at stride 2, which corrects the scores where thin
            things (poles, signs) still show; 0: without it.

    Raises:
        SettingsError: decoder_channels is not even and positive, or detail_channels is negative.
    """

    size_multiple = 32

    def __init__(
        self,
        num_classes: int,
        encoder: LadderEncoder,
        channels: tuple[int, int, int, int, int],
        decoder_channels: int,
        detail_channels: int,
    ) -> None:
        super().__init__()
        if decoder_channels < 2 or decoder_channels % 2:
            raise SettingsError(f"decoder_channels {decoder_channels} must be even and positive")
        if detail_channels < 0:
            raise SettingsError(f"detail_channels {detail_channels} must not be negative")
        half = decoder_channels // 2
        at2, at4, at8, at16, at32 = channels
        self.encoder: LadderEncoder = encoder
        self.context = _PyramidContext(at32, decoder_channels)
        self.rung16 = _Rung(at16, decoder_channels, decoder_channels)
        self.rung8 = _Rung(at8, decoder_channels, half)
        self.rung4 = _Rung(at4, half, half)
        self.head = nn.Conv2d(half, num_classes, 1)
        self.auxiliary = nn.Conv2d(decoder_channels, num_classes, 1)  # scores at stride 16, training only
        self.score_stride, self.score_layers = 4, ("head", "auxiliary")
        self.has_detail = detail_channels > 0
        if self.has_detail:
            self.score_stride, self.score_layers = 2, ("head", "auxiliary", "correction")
            self.narrow = _conv_norm(half, detail_channels, 1)
            self.rung2 = _Rung(at2, detail_channels, detail_channels)
            self.correction = nn.Conv2d(detail_channels, num_classes, 1)
            nn.init.zeros_(self.correction.weight)  # it begins as no correction at all
            assert self.correction.bias is not None
            nn.init.zeros_(self.correction.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self._scores(x)[0]

    def first_stages(self, count: int) -> list[nn.Module]:
        stages = self.encoder.stages
        if not 0 <= count <= len(stages):
            raise SettingsError(f"{count} is not in 0 to {len(stages)}")
        return [self.encoder.stem, *stages[:count]] if count else []

    def channel_groups(self) -> tuple[ChannelGroup, ...]:
        """Those of the decoder; the encoder's are its own to tell."""

        def rung(deep: str, name: str, *others: str) -> ChannelGroup:
            """What comes up into a rung, with the lateral map that is added to it."""
            made, norms = (f"{deep}.0", f"{name}.lateral.0"), (f"{deep}.1", f"{name}.lateral.1")
            return ChannelGroup(made, norms, (f"{name}.blend.0", *others))

        groups = [
            ChannelGroup(("context.reduce.0",), ("context.reduce.1",), ("context.fuse.0",)),
            rung("context.fuse", "rung16"),
            rung("rung16.blend", "rung8", "auxiliary"),
            rung("rung8.blend", "rung4"),
            ChannelGroup(("rung4.blend.0",), ("rung4.blend.1",), ("head", *(["narrow.0"] if self.has_detail else []))),
        ]
        if self.has_detail:
            groups += [
                rung("narrow", "rung2"),
                ChannelGroup(("rung2.blend.0",), ("rung2.blend.1",), ("correction",)),
            ]
        return (*self.encoder.channel_groups(), *groups)

    def scores_with_auxiliary(self, x: Tensor) -> tuple[Tensor, ...]:
        scores, y16 = self._scores(x)
        return scores, self.auxiliary(y16)

    def _scores(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The scores, and the map at stride 16."""
        at2, at4, at8, at16, at32 = self.encoder(x)
        y16 = self.rung16(self.context(at32), at16)  # [N, D, H/16, W/16]
        y4 = self.rung4(self.rung8(y16, at8), at4)  # [N, D/2, H/4, W/4]
        scores: Tensor = self.head(y4)
        if self.has_detail:
            scores = F.interpolate(scores, scale_factor=2.0, mode="bilinear", align_corners=False)
            scores = scores + self.correction(self.rung2(self.narrow(y4), at2))  # [N, C, H/2, W/2]
        return scores, y16
