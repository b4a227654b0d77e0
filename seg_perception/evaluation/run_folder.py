"""What a training run left in its folder: settings and curves, read without torch."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from seg_perception.core.errors import InputError
from seg_perception.core.files import read_regular_file
from seg_perception.core.settings import read_yaml

SETTINGS, STEPS, VALIDATION = "settings.yaml", "steps.csv", "validation.csv"
_MAX_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ValidationPoint:
    """Scores on one dataset after so many steps, as fractions; NaN for a class that is not there."""

    step: int
    mean_iou: float
    pixel_accuracy: float
    iou: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """Curves of one run.

    Attributes:
        name: of the folder.
        settings: the text of settings.yaml, which is YAML, or nothing.
        steps, loss: the training loss after each step.
        validation: dataset -> points, in order.
    """

    name: str
    settings: str
    steps: tuple[int, ...]
    loss: tuple[float, ...]
    validation: Mapping[str, tuple[ValidationPoint, ...]]

    def best_step(self) -> int | None:
        """The step with the highest mean over the datasets' mean IoU; None without validation."""
        sums: dict[int, list[float]] = {}
        for points in self.validation.values():
            for point in points:
                sums.setdefault(point.step, []).append(point.mean_iou)
        whole = {step: sum(values) for step, values in sums.items() if len(values) == len(self.validation)}
        return max(whole, key=lambda step: (whole[step], -step)) if whole else None


def is_run_folder(folder: Path) -> bool:
    return (folder / STEPS).is_file()


def read_run(folder: Path) -> TrainingRun:
    """Read a run's folder; a run may still be going on.

    Raises:
        FileNotFoundError: no steps.csv there.
        InputError: logs that do not look like a run's.
        SettingsError: its settings are no YAML.
    """
    try:
        steps = _rows(folder / STEPS)
        validation: dict[str, list[ValidationPoint]] = {}
        if (folder / VALIDATION).is_file():
            for row in _rows(folder / VALIDATION):
                fixed = {key: row.pop(key) for key in ("step", "dataset", "mean_iou", "pixel_accuracy")}
                point = ValidationPoint(
                    _step(fixed["step"]),
                    float(fixed["mean_iou"]),
                    float(fixed["pixel_accuracy"]),
                    {name: float(value) for name, value in row.items()},
                )
                validation.setdefault(fixed["dataset"], []).append(point)
        settings = folder / SETTINGS
        if settings.is_file():
            read_yaml(settings)  # so that whoever parses the text need not expect faults
        return TrainingRun(
            folder.resolve().name,
            settings.read_text(encoding="utf-8") if settings.is_file() else "",
            tuple(_step(row["step"]) for row in steps),
            tuple(float(row["loss"]) for row in steps),
            {name: tuple(points) for name, points in validation.items()},
        )
    except (KeyError, ValueError, csv.Error) as error:
        raise InputError(f"{folder}: its logs cannot be read: {type(error).__name__}: {error}") from error


def _step(text: str) -> int:
    if re.fullmatch("[0-9]{1,13}", text) is None:
        raise ValueError(f"{text[:40]!r} is no step")
    return int(text)


def _rows(path: Path) -> list[dict[str, str]]:
    """Whole rows only: a run that is going on, or was killed, can leave half a row at the end."""
    content = read_regular_file(path, _MAX_BYTES).decode("utf-8")
    table = list(csv.reader(io.StringIO(content, newline="")))
    header = table[0] if table else []
    return [dict(zip(header, row, strict=True)) for row in table[1:] if len(row) == len(header) and all(row)]
