"""What every segmentation network offers to training and export."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor, nn

from seg_perception.core.errors import SettingsError
from seg_perception.core.resizing import check_multiple
from seg_perception.networks.narrowing import ChannelGroup


@dataclass(frozen=True, slots=True)
class InputScaling:
    """Per-channel normalization (pixel - mean) / std, in RGB order on the 0 to 255 scale."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class SegmentationNetwork(nn.Module):
    """An encoder-decoder that maps normalized RGB images to class scores.

    `forward` takes float [N, 3, H, W] (RGB, normalized by `scaling`) with H and W multiples of
    `size_multiple`, and returns unnormalized scores, float [N, C, H/score_stride, W/score_stride].
    """

    size_multiple: ClassVar[int]
    score_stride: int
    scaling: ClassVar[InputScaling]
    score_layers: tuple[str, ...] = ("head",)  # submodules whose shape depends on the classes
    stage_names: ClassVar[Mapping[str, str]] = MappingProxyType({})  # submodule -> its name in reports

    def scores_with_auxiliary(self, x: Tensor) -> tuple[Tensor, ...]:
        """Scores first, then any coarser scores that only training looks at."""
        return (self(x),)

    def first_stages(self, count: int) -> list[nn.Module]:
        """The first `count` encoder stages, with the stem; none for 0.

        Raises:
            SettingsError: this network has fewer stages, or cannot say where they end.
        """
        if count == 0:
            return []
        raise SettingsError(f"{type(self).__name__} has no stages to freeze; set network.frozen_stages to 0")

    def channel_groups(self) -> tuple[ChannelGroup, ...]:
        """The channels that a narrower network of this kind may lack.

        Raises:
            SettingsError: this network does not say.
        """
        raise SettingsError(f"{type(self).__name__} cannot be narrowed; set network.narrowed to false")

    def prefixes(self, submodules: Sequence[str], called: str) -> tuple[str, ...]:
        """How the names of these submodules' entries in `state_dict` begin.

        Args:
            submodules: direct children, by name.
            called: the setting and the network, as the error names them.

        Raises:
            SettingsError: names those that this network does not have, and those that it has.
        """
        known = [name for name, _ in self.named_children()]
        if unknown := [name for name in submodules if name not in known]:
            raise SettingsError(f"{called} has no {', '.join(unknown)}; known: {', '.join(known)}")
        return tuple(f"{name}." for name in submodules)

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 RGB [N, H, W, 3] -> normalized float [N, 3, H, W].

        The cast comes before the permutation because TensorRT transposes no uint8; the arithmetic comes
        after it, where ONNX Runtime does it three times faster.

        Raises:
            InputError: H or W is not a multiple of `size_multiple`.
        """
        height, width = images.shape[1], images.shape[2]
        check_multiple((width, height), self.size_multiple, "the network")
        mean, scale = self._scaling(images.device)
        return (images.to(torch.float32).permute(0, 3, 1, 2) - mean) * scale

    def _scaling(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and reciprocal deviation, float [3, 1, 1]; made once on a device, since a copy to it waits for it."""
        kept: dict[torch.device, tuple[Tensor, Tensor]] = self.__dict__.setdefault("_scaling_on", {})
        if device in kept and not torch.compiler.is_compiling():
            return kept[device]
        with torch.inference_mode(False):
            mean, std = (torch.tensor(v, device=device)[:, None, None] for v in (self.scaling.mean, self.scaling.std))
            made = (mean, 1.0 / std)
        if type(mean) is Tensor and not torch.compiler.is_compiling():  # none that a trace has made up
            kept[device] = made
        return made


def scaled_channels(channels: Sequence[int], width: float, network: str) -> list[int]:
    """Depths times a width multiplier, each rounded to a multiple of 8 and at least 8.

    Raises:
        SettingsError: the width is not positive; names the network.
    """
    if width <= 0:
        raise SettingsError(f"{network}: width {width} must be above 0")
    return [max(8, round(c * width / 8) * 8) for c in channels]


@dataclass(frozen=True, slots=True)
class NetworkInfo:
    """A network as the registry knows it.

    `build(num_classes, **options)` returns the module; the options and their defaults are those
    of the class's constructor. `start_weights` maps the name of public weights ("imagenet") to a
    function that loads them into a network of this kind.
    """

    name: str
    build: Callable[..., SegmentationNetwork]
    summary: str
    start_weights: Mapping[str, Callable[[SegmentationNetwork], None]] = field(default_factory=dict)
