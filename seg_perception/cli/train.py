"""From data to weights: `train`, `average`, `calibrate`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from seg_perception.cli._command import Command, add_dataset_arguments, wanted_datasets


def _add_train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", required=True, metavar="FILE", help="settings: a YAML file, or the name of a shipped one (folder)"
    )
    parser.add_argument("--data-root", type=Path, help="folder of the datasets (overrides the settings)")
    parser.add_argument("--output", type=Path, help="folder of the runs (overrides the settings)")
    parser.add_argument("--steps", type=int, help="optimizer steps (overrides the settings)")

    parser.add_argument(
        "--minutes",
        type=float,
        help="probe the rate of this machine and train so many steps as fit, validation included",
    )


def _train(arguments: argparse.Namespace) -> int:
    """Train a network, or go on with a run that was stopped."""
    from seg_perception.commands.training import train

    overrides = {name: getattr(arguments, name) for name in ("data_root", "output", "steps")}
    given = {name: value for name, value in overrides.items() if value is not None}
    weights = train(arguments.config, minutes=arguments.minutes, **given)
    if os.environ.get("RANK", "0") == "0":  # under torchrun every process comes here
        onnx = weights.with_suffix(".onnx")
        print(f"weights: {weights}\nnext: seg-perception export --checkpoint {weights} --out {onnx}")
    return 0


def _add_average_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoints", type=Path, nargs="+", metavar="FILE.safetensors", help="two or more, of one network"
    )
    parser.add_argument("--shares", type=float, nargs="+", metavar="SHARE", help="one for each (default: equal)")
    parser.add_argument(
        "--from-first", nargs="+", default=[], metavar="LAYER", help="layers to take from the first file alone"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.safetensors")


def _average(arguments: argparse.Namespace) -> int:
    """Average the weights of runs that went on from the same weights: often better than each of them.

    Evaluate the result: for runs that are far apart it is worse. Its description is the first file's, without
    scores; data and licenses are those of all.
    """
    from seg_perception.commands.training import average

    average(arguments.checkpoints, arguments.out, arguments.shares, arguments.from_first)
    print(f"wrote {arguments.out}\nnext: seg-perception export --checkpoint {arguments.out} --out FILE.onnx")
    return 0


def _add_calibrate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", type=Path, required=True, help="weights from 'seg-perception train'")
    add_dataset_arguments(parser, several=True)
    parser.add_argument("--pixels", type=int, default=2000, metavar="N", help="drawn from each image (default: 2000)")


def _calibrate(arguments: argparse.Namespace) -> int:
    """Find the softmax temperature at which a checkpoint's confidence means what it says, for `export --temperature`.

    Labels do not depend on the temperature. Use labeled data that the network was not trained on; the validation
    sets of the training's settings (--config) are what they are for.
    """
    from seg_perception.commands.training import calibrate

    datasets = wanted_datasets(arguments)
    fit = calibrate(arguments.checkpoint, datasets, pixels=arguments.pixels, progress=True)
    print(f"{fit.pixels} pixels of {sum(map(len, datasets))} images")
    print(f"{'':<16}{'temperature':>12}{'loss':>9}{'ECE':>9}{'mean confidence':>17}{'accuracy':>10}")
    rows = (("before", 1.0, fit.loss_before, fit.before), ("after", fit.temperature, fit.loss_after, fit.after))
    for name, temperature, loss, result in rows:
        print(
            f"{name:<16}{temperature:>12.4f}{loss:>9.4f}{100 * result.expected_error:>8.2f}%"
            f"{100 * result.mean_confidence:>16.2f}%{100 * result.accuracy:>9.2f}%"
        )
    command = f"seg-perception export --checkpoint {arguments.checkpoint} --temperature {fit.temperature:.4f}"
    print(f"next: {command} --out FILE.onnx")
    return 0


COMMANDS = (
    Command(
        "train",
        "train a network from a settings file; run again to resume",
        (
            "--config folder --data-root .",
            "--config config/train/folder.yaml --data-root my_data --steps 4000 --output runs",
        ),
        _add_train_arguments,
        _train,
    ),
    Command(
        "average",
        "average the weights of several runs",
        ("a/best.safetensors b/best.safetensors --shares 0.4 0.6 --out both.safetensors",),
        _add_average_arguments,
        _average,
    ),
    Command(
        "calibrate",
        "fit the temperature of a checkpoint's confidence",
        ("--checkpoint runs/my_run/best.safetensors --config config/train/folder.yaml",),
        _add_calibrate_arguments,
        _calibrate,
    ),
)
