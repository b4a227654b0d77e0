"""Train a network, or go on with a run that was stopped."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

HELP = "train a network from a settings file; run again to resume"
EXAMPLES = (
    "--config folder --data-root .",
    "--config config/train/folder.yaml --data-root my_data --steps 4000 --output runs",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
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


def run(arguments: argparse.Namespace) -> int:
    from seg_perception.commands.training import train

    overrides = {name: getattr(arguments, name) for name in ("data_root", "output", "steps")}
    given = {name: value for name, value in overrides.items() if value is not None}
    weights = train(arguments.config, minutes=arguments.minutes, **given)
    if os.environ.get("RANK", "0") == "0":  # under torchrun every process comes here
        onnx = weights.with_suffix(".onnx")
        print(f"weights: {weights}\nnext: seg-perception export --checkpoint {weights} --out {onnx}")
    return 0
