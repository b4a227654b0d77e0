"""A training that fits a time: probes the machine's own rate, then sets the steps.

For a GPU that one has for ten minutes. Weights are written about twice a minute, so that what was trained is kept
whatever happens.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from seg_perception.core.errors import SettingsError
from seg_perception.training.checkpoint import MAX_STEPS
from seg_perception.training.settings import TrainSettings
from seg_perception.training.train import run_training

_PROBES = (6, 26)  # steps of two short runs: what both share is the start, the rest the rate
_RESERVED = 0.15  # of the time, for the last validation
_SAVE_EVERY_S = 30.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How a run fits its time.

    Attributes:
        settings: with the steps, and when to save.
        start_s: before the first step.
        step_s: one step.
    """

    settings: TrainSettings
    start_s: float
    step_s: float

    def __str__(self) -> str:
        rate = self.settings.batch_size / self.step_s
        return (
            f"{rate:.0f} crops/s, {1 / self.step_s:.1f} steps/s after {self.start_s:.0f} s of start: "
            f"{self.settings.steps} steps, saved every {self.settings.checkpoint_every}"
        )


def plan_run(
    settings: TrainSettings,
    minutes: float,
    clock: Callable[[], float] = time.monotonic,
    spent_s: float = 0.0,
    most_steps: int | None = None,
) -> Plan:
    """Measure and plan; the probes' files are thrown away.

    Args:
        settings: their steps, checkpoint_every and validate_every are replaced.
        minutes: for everything, the probes, the start and the validation included.
        spent_s: of that time already.
        most_steps: no more than these, even if more would fit.

    Raises:
        SettingsError: the time is too short for a run.
    """
    began = clock()
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for steps in _PROBES:
            probe = replace(
                settings, name="probe", output=Path(folder) / str(steps), steps=steps, validation=(),
                checkpoint_every=steps, optimizer=replace(settings.optimizer, warmup_steps=0),
            )  # fmt: skip
            start = clock()
            run_training(probe)
            seconds.append(clock() - start)
    step_s = max(1e-6, (seconds[1] - seconds[0]) / (_PROBES[1] - _PROBES[0]))
    start_s = max(0.0, seconds[0] - _PROBES[0] * step_s)
    left = minutes * 60 - spent_s - (clock() - began)
    steps = min(int((left * (1 - _RESERVED) - start_s) / step_s), most_steps or MAX_STEPS)
    if steps < 1:
        raise SettingsError(
            f"--minutes {minutes:g} is too short here: {start_s + clock() - began:.0f} s go into probing and starting, "
            f"and a step takes {step_s:.2f} s"
        )
    every = max(1, min(steps, round(_SAVE_EVERY_S / step_s)))
    warmup = min(settings.optimizer.warmup_steps, steps // 10)
    planned = replace(
        settings, steps=steps, checkpoint_every=every, validate_every=steps,
        optimizer=replace(settings.optimizer, warmup_steps=warmup),
    )  # fmt: skip
    return Plan(planned, start_s, step_s)
