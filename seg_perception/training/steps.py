"""What keeps a step from waiting for the device: losses that are read late, and kernels that are launched together."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from tqdm import tqdm

from seg_perception.core.errors import SegPerceptionError
from seg_perception.training.run_folder import RunFolder

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

    On CUDA with its CUDA graphs, which launch a step's many small kernels at once.
    """

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        super().__init__()
        self._plain = module
        mode = "reduce-overhead" if device.type == "cuda" else None
        self._chosen: Callable[..., Tensor] = torch.compile(module, mode=mode)
        self._proven = False

    def forward(self, *batch: Tensor) -> Tensor:
        if self._proven:
            return self._chosen(*batch)
        try:
            loss = self._chosen(*batch)
        except Exception as error:  # noqa: BLE001  a compiler's: there is no common class
            tqdm.write(f"compile: without it, since it failed here ({type(error).__name__}: {str(error)[:200]})")
            self._chosen = self._plain
            loss = self._plain(*batch)
        self._proven = True
        return loss
