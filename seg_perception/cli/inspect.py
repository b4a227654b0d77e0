"""Show what a network, a checkpoint or an ONNX file is; without a file, the shipped model.

Of another project's ONNX file: inputs, outputs, opset, size, operators that TensorRT does not take, and the
'import' command to try. For that it is run once, on a drawn picture.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from seg_perception.cli._options import LazyChoices

HELP = "show a network's table, or what a checkpoint or ONNX file says of itself"
EXAMPLES = ("", "my.onnx", "segformer.onnx", "--network resnet_ladder --size 480x352")


_NETWORKS = LazyChoices("networks.registry:network_names", judged_later=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "file",
        type=Path,
        nargs="?",
        help="an exported MODEL.onnx or a CHECKPOINT.safetensors (default: the shipped model)",
    )
    help_ = "a network's stages, parameters and GFLOP: %(choices)s"
    what.add_argument("--network", metavar="NAME", choices=_NETWORKS, help=help_)
    parser.add_argument("--size", metavar="WxH", help="image size for the network's table (default: 480x352)")
    parser.add_argument("--classes", type=int, default=10, help="classes of the network (default: %(default)s)")
    parser.add_argument(
        "--options",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="options of the network, for example width=0.5 convolutions=[1,1,1,1]",
    )


def run(arguments: argparse.Namespace) -> int:
    from seg_perception.export.inspecting import inspect_file, inspect_network

    if arguments.network is None:
        print(inspect_file(arguments.file))
    else:
        options = _parse_options(arguments.options)
        print(inspect_network(arguments.network, arguments.size or "480x352", arguments.classes, **options))
    return 0


def _parse_options(texts: list[str]) -> dict[str, Any]:
    import yaml

    from seg_perception.core.errors import SettingsError

    options: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise SettingsError(f"--options {text!r}: {value!r} is not a YAML value") from error
        if not equals or not name.isidentifier():
            raise SettingsError(f"--options {text!r} is not accepted: write NAME=VALUE, for example width=0.5")
        options[name] = parsed
    return options
