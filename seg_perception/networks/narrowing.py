"""A narrow network's start from the weights of a wider one of its kind: the strongest channels are kept.

Filter pruning by magnitude (Li et al., "Pruning Filters for Efficient ConvNets", https://arxiv.org/abs/1608.08710),
with the scale of the normalization that follows taken into account. What comes out scores poorly until it is trained
on, and far better then than from random weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seg_perception.core.errors import ModelError


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
    """Weights of the wider network, cut to the shapes of the narrower one.

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
