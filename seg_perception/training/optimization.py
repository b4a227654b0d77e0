"""The steps of a run: optimizer, learning rate, averaged weights, and what keeps a step from waiting for the device."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from tqdm import tqdm

from seg_perception.core.errors import SegPerceptionError
from seg_perception.networks.base import SegmentationNetwork
from seg_perception.training.run_folder import RunFolder
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


_LOSSES_READ_AT_ONCE = 20


class TrainingDivergedError(SegPerceptionError):
    """The loss is not a number any more."""


class LateLosses:
    """Logs the losses of the steps, twenty at a time and twenty late: copying them never waits for the device.

    Reading all of them, as before a checkpoint is written, does wait.
    """

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._new: list[tuple[int, Tensor, float, float]] = []  # step, loss, learning rate, crops a second
        self._copied: list[tuple[list[tuple[int, Tensor, float, float]], Tensor, torch.cuda.Event | None]] = []

    def add(self, done: int, loss: Tensor, rate: float, per_second: float) -> None:
        self._new.append((done, loss, rate, per_second))

    def read(self, all_of_them: bool) -> float | None:
        """Log what is there; the newest loss, if it was time to read any.

        Raises:
            TrainingDivergedError: one is infinite or NaN; no checkpoint has been written since.
        """
        if not all_of_them and len(self._new) < _LOSSES_READ_AT_ONCE:
            return None
        if self._new:
            stacked = torch.stack([loss for _, loss, _, _ in self._new])
            copied = stacked.to("cpu", non_blocking=True)
            event = None
            if stacked.is_cuda:
                event = torch.cuda.Event()  # type: ignore[no-untyped-call]
                event.record()
            self._copied.append((self._new, copied, event))
            self._new = []
        newest = None
        while self._copied and (all_of_them or self._copied[0][2] is None or len(self._copied) > 1):
            rows, values, event = self._copied.pop(0)
            if event is not None:
                event.synchronize()  # twenty steps old, unless all are wanted
            for (done, _, rate, per_second), value in zip(rows, values.tolist(), strict=True):
                if not math.isfinite(value):
                    raise TrainingDivergedError(
                        f"the loss is {value} at step {done - 1}; lower the learning rate or use fp32"
                    )
                self._run.log_step(done, value, rate, per_second)
                newest = float(value)
        return newest


class CompiledOrNot(nn.Module):
    """A module compiled by torch.compile, if that works here; else as it is, and the run says so.

    On CUDA with its CUDA graphs, which launch a step's many small kernels at once, where a step is one pass: each
    pass overwrites the gradients of the one before (https://github.com/pytorch/pytorch/issues/169545).

    Args:
        passes: of a step, whose gradients add up.
    """

    def __init__(self, module: nn.Module, device: torch.device, passes: int = 1) -> None:
        super().__init__()
        self._plain = module
        mode = "reduce-overhead" if device.type == "cuda" and passes == 1 else None
        self._chosen: Callable[..., Tensor] = torch.compile(module, mode=mode)
        self._proven = False

    def forward(self, *batch: Tensor) -> Tensor:
        if not self._proven:
            self._prove(batch)
        return self._chosen(*batch)

    def _prove(self, batch: tuple[Tensor, ...]) -> None:
        """Steps whose gradients and statistics are thrown away: backward passes are compiled late, and fail late; a
        CUDA graph is recorded by the second and replayed by the third.
        """
        kept = [buffer.clone() for buffer in self._plain.buffers()]
        try:
            for _ in range(3):
                self._chosen(*batch).sum().backward()  # type: ignore[no-untyped-call]
                self._plain.zero_grad(set_to_none=True)
        except Exception as error:  # noqa: BLE001  a compiler's: there is no common class
            tqdm.write(f"compile: without it, since it failed here ({type(error).__name__}: {str(error)[:200]})")
            self._chosen = self._plain
        for buffer, value in zip(self._plain.buffers(), kept, strict=True):
            buffer.copy_(value)
        self._plain.zero_grad(set_to_none=True)
        self._proven = True
