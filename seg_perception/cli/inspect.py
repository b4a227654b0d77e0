"""Show what a network, a checkpoint or an ONNX file is; without a file, the shipped model.

Of another project's ONNX file: inputs, outputs, opset, size, operators that TensorRT does not take, and the
'import' command to try. For that it is run once, on a drawn picture.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

    from seg_perception.core.label_set import LabelSet
    from seg_perception.core.types import Size

HELP = "show a network's table, or what a checkpoint or ONNX file says of itself"
EXAMPLES = ("", "my.onnx", "segformer.onnx", "--network resnet_ladder --size 480x352")

_CHECKPOINT = ".safetensors"


_ALL_TAKEN = "all operators are known to it; 'compile' says whether it takes the graph"


class _Networks:
    """The known networks, looked for only when they are asked about: they need PyTorch."""

    def __iter__(self) -> Iterator[str]:
        try:
            from seg_perception.networks.registry import network_names
        except ModuleNotFoundError:
            return iter(("any of seg_perception/networks, with the extra 'train'",))
        return iter(network_names())

    def __contains__(self, name: object) -> bool:
        return True  # build_network judges it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "file",
        type=Path,
        nargs="?",
        help="an exported MODEL.onnx or a CHECKPOINT.safetensors (default: the shipped model)",
    )
    help_ = "a network's stages, parameters and GFLOP: %(choices)s"
    what.add_argument("--network", metavar="NAME", choices=_Networks(), help=help_)
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
    from seg_perception.core.errors import InputError
    from seg_perception.core.resources import DEFAULT_MODEL
    from seg_perception.core.types import UNKNOWN, Size

    if arguments.network is not None:
        size = Size.parse(arguments.size or "480x352")
        if not 1 <= arguments.classes <= UNKNOWN:
            raise InputError(f"--classes {arguments.classes} is not accepted: 1 to {UNKNOWN} are")
        print(_network(arguments.network, size, arguments.classes, arguments.options))
        return 0
    file = arguments.file or DEFAULT_MODEL
    if not file.exists():
        raise FileNotFoundError(2, "no such file", str(file))
    if not file.is_file():
        raise InputError(f"{file}: not a regular file")
    print(_checkpoint(file) if file.suffix.lower() == _CHECKPOINT else _model(file))
    return 0


def _network(name: str, size: Size, classes: int, options: list[str]) -> str:
    from seg_perception.networks.inspection import inspect_network
    from seg_perception.networks.registry import build_network

    network = build_network(name, classes, **_parse_options(options))
    return f"network {name}, {classes} classes\n{inspect_network(network, size).table()}"


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


def _model(path: Path) -> str:
    from seg_perception.core.model_card import METADATA_KEY
    from seg_perception.engines.graph.model_file import load_model, read_onnx_bytes
    from seg_perception.export.importing.model import parse_foreign

    content = read_onnx_bytes(path)
    foreign = parse_foreign(content, path)
    if METADATA_KEY not in {entry.key for entry in foreign.metadata_props}:
        return _foreign(path, content, foreign)
    checked = load_model(path)
    model, card = checked.graph, checked.card
    operators: dict[str, int] = {}
    for node in model.graph.node:
        operators[node.op_type] = operators.get(node.op_type, 0) + 1
    lines = [
        f"{path}: {path.stat().st_size / 1e6:.1f} MB",
        *_row("model", card.id),
        *_row("network", card.network),
        *_row("precision", card.precision),
        *_row("input size", f"{card.input_size}, multiples of {card.size_multiple}"),
        *_row("weights", f"SHA-256 {card.weights_sha256}"),
        *_described(card.label_set, card.data, card.data_license, card.run, card.scores, card.limits),
        *_row("input", *map(_tensor, model.graph.input)),
        *_row("outputs", *map(_tensor, model.graph.output)),
        *_row("operators", ", ".join(f"{count} {name}" for name, count in sorted(operators.items()))),
        *_row("opset", ", ".join(f"{o.domain or 'ai.onnx'} {o.version}" for o in model.opset_import)),
    ]
    return "\n".join(lines)


def _foreign(path: Path, content: bytes, model: onnx.ModelProto) -> str:
    from seg_perception.export.importing.describing import describe_model

    found = describe_model(model, content, path)
    count = sum(found.operators.values())
    lines = [
        f"{path}: {len(content) / 1e6:.1f} MB, another project's model (it has no model card of ours)",
        *_row("inputs", *found.inputs),
        *_row("outputs", *found.outputs),
        *_row("opset", ", ".join(found.opsets)),
        *_row("made by", found.producer),
        *_row("parameters", f"{found.parameters / 1e6:.2f} M"),
        *_row("metadata", ", ".join(found.metadata)),
        *_row("classes", ", ".join(found.classes[:20]) + (", ..." if len(found.classes) > 20 else "")),
        *_row("operators", f"{count}: " + ", ".join(f"{n} {name}" for name, n in found.operators.items())),
        *_row("TensorRT", ", ".join(found.not_in_tensorrt) + " are not taken" if found.not_in_tensorrt else _ALL_TAKEN),
    ]
    if found.trial.command is None:
        return "\n".join([*lines, *_row("import", "not possible:", *found.trial.reasons)])
    lines += _row("guessed", *found.trial.reasons)
    return "\n".join([*lines, "import it with:", f"    {found.trial.command}"])


def _checkpoint(path: Path) -> str:
    from seg_perception.training.checkpoint import read_info

    info = read_info(path)
    options = ", ".join(f"{name}={value}" for name, value in info.options.items())
    lines = [
        f"{path}: {path.stat().st_size / 1e6:.1f} MB",
        *_row("run", f"{info.name}, step {info.step}"),
        *_row("network", f"{info.network} {f'({options})' if options else ''}".rstrip()),
        *_row("input size", str(info.deployed_size)),
        *_row("settings", f"SHA-256 {info.settings_sha256}"),
        *_described(info.label_set, info.data_notes, info.license, {}, info.scores, info.limits),
    ]
    return "\n".join(lines)


def _described(
    label_set: LabelSet,
    data: tuple[str, ...],
    data_license: str,
    run: Mapping[str, Any],
    scores: Mapping[str, Mapping[str, float]],
    limits: tuple[str, ...],
) -> list[str]:
    lines = _row("classes", f"{label_set.name}: {len(label_set)}")
    for c in label_set.classes:
        red, green, blue = c.color
        lines.append(f"    {c.id:>3}  {c.name:<16} #{red:02x}{green:02x}{blue:02x}{'  drivable' if c.drivable else ''}")
    lines += _row("data", *data) + _row("license", data_license)
    lines += _row("training", ", ".join(f"{name} {value}" for name, value in run.items()))
    for evaluation, values in scores.items():
        lines += _row("scores", f"{evaluation} (percent)")
        lines += [f"    {metric:<24} {value:6.2f}" for metric, value in values.items()]
    return lines + _row("limits", *limits)


def _row(name: str, *values: str) -> list[str]:
    """One line for each value, the name before the first; "not stated" where there is none."""
    shown = [value for value in values if value] or ["not stated"]
    return [f"  {name if index == 0 else '':<11} {value}" for index, value in enumerate(shown)]


def _tensor(tensor: Any) -> str:
    import onnx

    shape = [d.dim_param or str(d.dim_value) for d in tensor.type.tensor_type.shape.dim]
    kind = onnx.TensorProto.DataType.Name(tensor.type.tensor_type.elem_type).lower()
    return f"{tensor.name}: {kind} [{', '.join(shape)}]"
