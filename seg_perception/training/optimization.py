"""Optimizer, learning-rate schedule and the averaged copy of the weights."""

from __future__ import annotations

import copy

import torch
from torch import nn

from seg_perception.networks.base import SegmentationNetwork
from seg_perception.training.settings import OptimizerSettings


def build_optimizer(network: SegmentationNetwork, settings: OptimizerSettings) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, https://arxiv.org/abs/1711.05101) over trainable parameters.

    Weight decay acts on convolution kernels only; encoder parameters have their own rate factor,
    kept in each group as "factor".
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            factor = settings.encoder_factor if name.startswith("encoder.") else 1.0
            decay = settings.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((factor, decay), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": p, "weight_decay": decay, "factor": factor} for (factor, decay), p in groups.items()],
        lr=settings.learning_rate,
        fused=True,  # one pass over all weights, and nothing that waits for the device
    )


def learning_rate(step: int, steps: int, settings: OptimizerSettings) -> float:
    """Linear warm-up, then (1 - progress)^power down to zero at `steps`."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    progress = (step - settings.warmup_steps) / max(1, steps - settings.warmup_steps)
    return float(settings.learning_rate * (1 - progress) ** settings.decay_power)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


class AveragedNetwork:
    """An exponential moving average of a network's weights and statistics.

    The decay rises with the steps taken, (1 + t) / (10 + t), up to its setting, so that the first
    steps do not linger. With decay 0 it is the network itself.
    """

    def __init__(self, network: SegmentationNetwork, decay: float) -> None:
        self._decay = decay
        self.network = copy.deepcopy(network).requires_grad_(False).eval() if decay else network
        pairs = list(zip(self.network.state_dict().values(), network.state_dict().values(), strict=True))
        self._floats = [pair for pair in pairs if pair[0].is_floating_point()]
        self._counts = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the network's weights; the whole list at once, which a GPU does in a few kernels."""
        if not self._decay:
            return
        weight = 1 - min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_([a for a, _ in self._floats], [c for _, c in self._floats], weight)
        if self._counts:
            torch._foreach_copy_([a for a, _ in self._counts], [c for _, c in self._counts])
