"""From data to weights: train, average, calibrate."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seg_perception.commands.judging import open_datasets
from seg_perception.core.errors import SettingsError
from seg_perception.core.files import shipped_file

if TYPE_CHECKING:
    from seg_perception.commands.judging import AnyDatasets
    from seg_perception.training.calibration import TemperatureFit
    from seg_perception.training.settings import TrainSettings


def train(
    settings: TrainSettings | Mapping[str, Any] | str | Path,
    minutes: float | None = None,
    most_steps: int | None = None,
    **overrides: Any,
) -> Path:
    """Train a network; where the run's folder holds an unfinished run of the same settings, go on with it.

    Args:
        settings: `training.settings.TrainSettings`, the same as a table, a YAML file, or the name of one that
            ships in config/train ("folder").
        minutes: train so many steps as fit into this time on this machine, the last validation included.
        most_steps: with minutes, no more than these, even if more would fit.
        **overrides: fields of it to replace: steps=2000, output="runs", ...

    Returns:
        The weights file, for `export`: the best on validation data, or the last where there is none.

    Raises:
        FileNotFoundError: no such settings file.
        SettingsError, DatasetError: before anything is written.
        ModelError: the weights to start from, or those of the run to go on with, are damaged or do not fit.
        TrainingDivergedError: the loss became infinite or NaN.
        KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP; the step at hand was ended and saved.
    """
    from seg_perception.core.settings import from_mapping, load_settings, to_mapping
    from seg_perception.training.settings import TrainSettings
    from seg_perception.training.train import run_training

    if isinstance(settings, (str, Path)):
        settings = load_settings(TrainSettings, shipped_file("config/train", settings, "settings"))
    elif not isinstance(settings, TrainSettings):
        settings = from_mapping(TrainSettings, settings, "the training's settings")
    if overrides:
        settings = from_mapping(TrainSettings, {**to_mapping(settings), **overrides}, "the training's settings")
    if minutes is not None:
        if "steps" in overrides:
            raise SettingsError("minutes and steps were both given: one of them says how long to train")
        from seg_perception.training.resident import kept_between_runs
        from seg_perception.training.train import plan_run

        with kept_between_runs():
            plan = plan_run(settings, minutes, most_steps=most_steps)
            logging.getLogger(__name__).warning("%s", plan)
            return run_training(plan.settings)
    return run_training(settings)


def calibrate(
    checkpoint: str | Path,
    datasets: AnyDatasets,
    data_root: str | Path | None = None,
    pixels: int = 2000,
    progress: bool = False,
) -> TemperatureFit:
    """Find the softmax temperature at which a checkpoint's confidence means what it says, for `export`.

    Args:
        checkpoint: weights that `train` wrote.
        datasets: labeled data that it was not trained on, as `evaluate`.
        data_root: as `evaluate`.
        pixels: drawn from each image.
        progress: show a bar.

    Raises:
        FileNotFoundError: no such checkpoint.
        ModelError: not a weights file of ours.
        SettingsError, DatasetError: the data cannot be opened, or no temperature fits it.
    """
    from seg_perception.training.calibration import calibrate as fit
    from seg_perception.training.checkpoint import load_network, weights_sha256

    opened = open_datasets(datasets, data_root)
    network, info = load_network(Path(checkpoint))
    card = info.model_card(network, "calibration", weights_sha256(Path(checkpoint)))
    return fit(network, card, opened, pixels, progress=progress)


def average(
    checkpoints: Sequence[str | Path],
    out: str | Path,
    shares: Sequence[float] | None = None,
    from_first: Sequence[str] = (),
) -> None:
    """Average the weights of runs that went on from the same weights: often better than each of them. Evaluate it.

    Args:
        checkpoints: two or more weights files of one network; the description of the first is kept, without scores,
            and with the data and licenses of all.
        out: the weights file to write.
        shares: one for each, above 0; only their proportions count; None: equal ones.
        from_first: layers that are taken from the first file alone, such as one that the others never trained.

    Raises:
        OSError: a file is missing or cannot be read or written.
        InputError: `out` is one of them.
        ModelError: not a weights file of ours; or another network, other options or other classes than the first's.
        SettingsError: the shares do not fit the files, or a layer is not known.
    """
    from seg_perception.training.checkpoint import average_weights

    if shares is None:
        shares = [1.0] * len(checkpoints)
    average_weights([Path(path) for path in checkpoints], shares, Path(out), from_first)
