"""Train a network, or go on with a run that was stopped."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

HELP = "train a network from a settings file; run again to resume"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, required=True, help="settings file, for example config/train/folder.yaml"
    )
    parser.add_argument("--data-root", type=Path, help="folder of the datasets (overrides the settings)")
    parser.add_argument("--output", type=Path, help="folder of the runs (overrides the settings)")
    parser.add_argument("--steps", type=int, help="optimizer steps (overrides the settings)")


def run(arguments: argparse.Namespace) -> int:
    import dataclasses

    from seg_perception.core.settings import load_settings
    from seg_perception.training.settings import TrainSettings
    from seg_perception.training.train import run_training

    settings = load_settings(TrainSettings, arguments.config)
    overrides = {name: getattr(arguments, name) for name in ("data_root", "output", "steps")}
    settings = dataclasses.replace(settings, **{k: v for k, v in overrides.items() if v is not None})
    weights = run_training(settings)
    if os.environ.get("RANK", "0") == "0":  # under torchrun every process comes here
        onnx = weights.with_suffix(".onnx")
        print(f"weights: {weights}\nnext: seg-perception export --checkpoint {weights} --out {onnx}")
    return 0
