"""Draw procedural driving scenes with exact labels into a folder that `train` and `evaluate` read as folder pairs.

Writes images/NNNNNN.jpg (or .png), labels/NNNNNN.png (8-bit class ids 0 to 9) and contact_sheet.png.
"""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "draw procedural driving scenes with exact labels into a folder"
EXAMPLES = ("--out scenes --frames 200 --random",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write; must not hold scenes")
    parser.add_argument("--frames", type=int, default=100, metavar="N", help="how many pictures (default: 100)")
    parser.add_argument("--size", default="480x360", metavar="WxH", help="of the pictures (default: 480x360)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="chooses the drive (default: 0)")
    parser.add_argument("--fps", type=float, default=15.0, help="pictures a second of the drive (default: 15)")
    parser.add_argument("--random", action="store_true", help="every picture from another drive, for training")
    parser.add_argument("--png", action="store_true", help="images without compression losses")


def run(arguments: argparse.Namespace) -> int:
    from seg_perception.scenes.drawing import draw_scenes

    shares = draw_scenes(
        arguments.out,
        arguments.frames,
        arguments.size,
        arguments.seed,
        arguments.fps,
        arguments.random,
        arguments.png,
        progress=True,
    )
    for name, share in shares.items():
        print(f"{name:14} {100 * share:6.2f} %")
    drawn = f"{arguments.frames} pictures of {arguments.size} in {arguments.out}"
    print(f"{drawn}; labels are ids of the label set 'driving'")
    return 0
