"""What every segmentation network offers: to training and export its layers, to validation an Engine that runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from seg_perception.core.errors import ModelError, SettingsError
from seg_perception.core.model_card import ModelCard
from seg_perception.core.resizing import check_multiple
from seg_perception.engines.base import CheckedEngine, EngineInfo


@dataclass(frozen=True, slots=True)
class ChannelGroup:
    """Channels that are kept or left out together; names are those of submodules.

    Attributes:
        made_by: convolutions whose outputs they are; sums of several, where they are added.
        normed_by: the batch normalizations of those outputs.
        taken_by: convolutions whose inputs they are; several times over, one after another, where a concatenation
            of copies is taken.
    """

    made_by: tuple[str, ...]
    normed_by: tuple[str, ...]
    taken_by: tuple[str, ...]


def narrowed(
    weights: Mapping[str, Tensor], groups: Sequence[ChannelGroup], narrow: Mapping[str, Tensor], source: str
) -> dict[str, Tensor]:
    """A narrow network's start from a wider one of its kind: its weights, of which the strongest channels are kept.

    Filter pruning by magnitude (Li et al., "Pruning Filters for Efficient ConvNets",
    https://arxiv.org/abs/1608.08710), with the scale of the normalization that follows taken into account. What comes
    out scores poorly until it is trained on, and far better then than from random weights.

    Args:
        weights: the wider network's `state_dict`.
        groups: of the network; each channel is in one at most.
        narrow: the narrower network's `state_dict`; its shapes count.
        source: of the weights, for the error.

    Raises:
        ModelError: a group has fewer channels in the wider network, or one of its layers is missing there.
    """
    cut = dict(weights)
    for group in groups:
        first = f"{group.made_by[0]}.weight"
        if missing := [name for name in (*group.made_by, *group.taken_by) if f"{name}.weight" not in weights]:
            raise ModelError(f"{source}: no layer {missing[0]} to take channels from")
        there, wanted = weights[first].shape[0], narrow[first].shape[0]
        if wanted > there:
            raise ModelError(f"{source}: {group.made_by[0]} has {there} channels, and {wanted} are wanted of it")
        if wanted == there:
            continue
        kept = _strength(weights, group).topk(wanted).indices.sort().values
        for name in group.made_by:
            cut[f"{name}.weight"] = cut[f"{name}.weight"][kept]
        for name in group.normed_by:
            for part in ("weight", "bias", "running_mean", "running_var"):
                cut[f"{name}.{part}"] = cut[f"{name}.{part}"][kept]
        for name in group.taken_by:
            key = f"{name}.weight"
            copies = weights[key].shape[1] // there
            cut[key] = cut[key][:, torch.cat([kept + there * copy for copy in range(copies)])]
    return cut


def _strength(weights: Mapping[str, Tensor], group: ChannelGroup) -> Tensor:
    """Of each channel: how much of it its normalizations let through, times how much is made of it."""
    through = torch.stack([weights[f"{name}.weight"] for name in group.normed_by]).square().sum(dim=0).sqrt()
    channels = len(through)
    taken = [
        weights[f"{name}.weight"].square().sum(dim=(0, 2, 3)).reshape(-1, channels).sum(dim=0)
        for name in group.taken_by
    ]
    return through * torch.stack(taken).sum(dim=0).sqrt()


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
        """Turn uint8 RGB [N, H, W, 3] into normalized float [N, 3, H, W].

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


class TorchEngine(CheckedEngine):
    """Runs a network in PyTorch under the Engine contract.

    Args:
        network: put into evaluation mode by this engine.
        card: describes it.
        autocast: to this type, as in training; None for parity checks.
    """

    def __init__(self, network: SegmentationNetwork, card: ModelCard, autocast: torch.dtype | None = None) -> None:
        self._network = network.eval()
        self._card = card
        self._autocast = autocast
        self._device = next(network.parameters()).device
        precision = f"{autocast} autocast".removeprefix("torch.") if autocast else "fp32"
        self._info = EngineInfo("torch", torch.__version__, str(self._device), precision, None, None)

    @torch.inference_mode()
    def _run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        pixels = torch.from_numpy(images).to(self._device)
        x = self._network.normalize(pixels).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self._device.type, self._autocast, enabled=self._autocast is not None):
            scores = self._network(x).float()
        if self._network.score_stride > 1:
            scores = F.interpolate(scores, images.shape[1:3], mode="bilinear", align_corners=False)
        confidence, labels = scores.softmax(dim=1).max(dim=1)
        return labels.to(torch.uint8).cpu().numpy(), (confidence * 255).round().to(torch.uint8).cpu().numpy()

    def _release(self) -> None:
        """Nothing to release: the network belongs to the caller."""
