"""Find the softmax temperature at which a checkpoint's confidence means what it says, for `export --temperature`.

Labels do not depend on the temperature. Use labeled data that the network was not trained on; the validation
sets of the training's settings (--config) are what they are for.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from seg_perception.cli._options import add_dataset_arguments, wanted_datasets

HELP = "fit the temperature of a checkpoint's confidence"
EXAMPLES = ("--checkpoint runs/my_run/best.safetensors --config config/train/folder.yaml",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", type=Path, required=True, help="weights from 'seg-perception train'")
    add_dataset_arguments(parser, several=True)
    parser.add_argument("--pixels", type=int, default=2000, metavar="N", help="drawn from each image (default: 2000)")


def run(arguments: argparse.Namespace) -> int:
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
