"""Average the weights of runs that went on from the same weights: often better than each of them.

Evaluate the result: for runs that are far apart it is worse. Its description is the first file's, without scores.
"""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "average the weights of several runs"
EXAMPLES = ("a/best.safetensors b/best.safetensors --shares 0.4 0.6 --out both.safetensors",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoints", type=Path, nargs="+", metavar="FILE.safetensors", help="two or more, of one network"
    )
    parser.add_argument("--shares", type=float, nargs="+", metavar="SHARE", help="one for each (default: equal)")
    parser.add_argument(
        "--from-first", nargs="+", default=[], metavar="LAYER", help="layers to take from the first file alone"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.safetensors")


def run(arguments: argparse.Namespace) -> int:
    from seg_perception.commands.training import average

    average(arguments.checkpoints, arguments.out, arguments.shares, arguments.from_first)
    print(f"wrote {arguments.out}\nnext: seg-perception export --checkpoint {arguments.out} --out FILE.onnx")
    return 0
