"""Bring somebody else's segmentation model (ONNX) to the form that the node, the engines and all commands take.

What the file says is found out, and what was guessed is printed as the command that would state it. The result is
compared with the original on images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from seg_perception.cli._options import LazyChoices

HELP = "make a deployed model of any semantic-segmentation ONNX"
EXAMPLES = (
    "segformer.onnx --out driving.onnx --to driving",
    "pidnet.onnx --out pidnet_ours.onnx --classes cityscapes19 --color rgb --size 1024x512",
    "unet.onnx --out road.onnx --kind sigmoid --scale 255 --mean 0 --std 1",
)


def _choices(enum: str) -> LazyChoices:
    return LazyChoices(f"export.importing.model:{enum}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="IN.onnx", help="the foreign model")
    parser.add_argument("--out", type=Path, required=True, metavar="OUT.onnx", help="the deployed model to write")
    parser.add_argument("--input", metavar="NAME", help="the image input")
    parser.add_argument("--layout", metavar="AXES", choices=_choices("Layout"), help="its axes: %(choices)s")
    help_ = "order of its channels: %(choices)s (default: rgb)"
    parser.add_argument("--color", metavar="ORDER", choices=_choices("Color"), help=help_)
    parser.add_argument("--scale", type=float, help="pixels are divided by this first, for example 255")
    parser.add_argument("--mean", type=_numbers, metavar="A[,B,C]", help="then this is subtracted")
    parser.add_argument("--std", type=_numbers, metavar="A[,B,C]", help="then it is divided by this")
    parser.add_argument("--output", metavar="NAME", help="the output to read; others fall away")
    parser.add_argument("--kind", metavar="KIND", choices=_choices("Kind"), help="what that output holds: %(choices)s")
    parser.add_argument(
        "--classes",
        metavar="PRESET|FILE",
        help="cityscapes19, cityscapes-ids, camvid11, voc21, ade150, binary-road, names (those in the file's "
        "metadata), a label set's or a mapping's .yaml",
    )
    parser.add_argument("--to", metavar="LABEL_SET", help="sum the classes into these: driving")
    parser.add_argument("--size", metavar="WxH", help="the one size that the model shall run at")
    parser.add_argument("--name", help="for the model card (default: the file's name)")
    parser.add_argument(
        "--images", type=Path, metavar="FOLDER", help="pictures for the comparison (default: rendered streets)"
    )


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not accepted: write 0.485,0.456,0.406") from None


def run(arguments: argparse.Namespace) -> int:
    from seg_perception.core.types import Size
    from seg_perception.export.importing.import_file import import_file
    from seg_perception.export.importing.model import Color, ImportRequest, Kind, Layout

    request = ImportRequest(
        input=arguments.input,
        layout=Layout(arguments.layout) if arguments.layout else None,
        color=Color(arguments.color) if arguments.color else None,
        scale=arguments.scale,
        mean=arguments.mean,
        std=arguments.std,
        output=arguments.output,
        kind=Kind(arguments.kind) if arguments.kind else None,
        classes=arguments.classes,
        to=arguments.to,
        size=Size.parse(arguments.size) if arguments.size else None,
    )
    report = import_file(arguments.model, arguments.out, request, name=arguments.name, images=arguments.images)
    print(report)
    return 0
