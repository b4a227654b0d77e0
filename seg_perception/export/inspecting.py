"""What a network, a checkpoint or an ONNX file is, in lines for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from seg_perception.core.errors import InputError, ModelError, SettingsError
from seg_perception.core.files import model_file
from seg_perception.core.label_set import LabelSet
from seg_perception.core.model_card import METADATA_KEY
from seg_perception.core.types import UNKNOWN, Size
from seg_perception.engines.graph.model_file import load_model, read_onnx_bytes
from seg_perception.export.importing import (
    ForeignModel,
    ImportRequest,
    OriginalModel,
    check_foreign,
    count_operators,
    not_in_tensorrt,
    parse_foreign,
)
from seg_perception.export.importing.guesses import choose_input, class_names
from seg_perception.export.importing.importer import decide

_CHECKPOINT = ".safetensors"
_ALL_TAKEN = "all operators are known to it; 'compile' says whether it takes the graph"


def inspect_file(file: str | Path | None = None) -> str:
    """What a model file says of itself: classes, data, scores, limits, inputs and outputs, operators.

    Args:
        file: an ONNX file of ours; one of another project, of which the 'import' command to try is found, too, by
            running it once on a drawn picture; a checkpoint (.safetensors; needs PyTorch); None: the shipped model.

    Raises:
        FileNotFoundError: no such file.
        InputError, ModelError: not a regular file, damaged, or neither of these.
    """
    path = model_file(file)
    if not path.exists():
        raise FileNotFoundError(2, "no such file", str(path))
    if not path.is_file():
        raise InputError(f"{path}: not a regular file")
    return _checkpoint(path) if path.suffix.lower() == _CHECKPOINT else _model(path)


def inspect_network(
    name: str, size: str | Size | tuple[int, int] = "480x352", classes: int = 10, **options: Any
) -> str:
    """A network's stages, parameters and arithmetic, as a table.

    Args:
        name: of a network of `seg_perception.networks`.
        size: of the image.
        classes: of the network.
        **options: of the network: width=0.5, convolutions=[1, 1, 1, 1], ...

    Raises:
        InputError: a size that the network does not take, or a wrong number of classes.
        SettingsError: an unknown network or option.
    """
    from seg_perception.networks import build_network
    from seg_perception.networks import inspect_network as measure

    if not 1 <= classes <= UNKNOWN:
        raise InputError(f"{classes} classes are not accepted: 1 to {UNKNOWN} are")
    network = build_network(name, classes, **options)
    return f"network {name}, {classes} classes\n{measure(network, Size.parse(size)).table()}"


def _model(path: Path) -> str:
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
    shape = [d.dim_param or str(d.dim_value) for d in tensor.type.tensor_type.shape.dim]
    kind = onnx.TensorProto.DataType.Name(tensor.type.tensor_type.elem_type).lower()
    return f"{tensor.name}: {kind} [{', '.join(shape)}]"


CLASSES_FILE = "CLASSES.yaml"
"""Stands in a command for a file that only the user can write."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What an import would do.

    Attributes:
        command: that states every choice; None where the model cannot be imported.
        reasons: what was guessed, or why it cannot be.
    """

    command: str | None
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Description:
    """An ONNX file that is none of ours.

    Attributes:
        inputs, outputs: name, type and shape of each, as the file says; weights are no inputs.
        opsets: with their domains.
        producer: what wrote the file; "" where it does not say.
        parameters: numbers in its weights.
        operators: how often each occurs.
        not_in_tensorrt: those that TensorRT does not take.
        metadata: keys of its metadata.
        classes: names that the metadata holds.
        trial: the import to try.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    opsets: tuple[str, ...]
    producer: str
    parameters: int
    operators: Mapping[str, int]
    not_in_tensorrt: tuple[str, ...]
    metadata: tuple[str, ...]
    classes: tuple[str, ...]
    trial: Trial


def describe_model(model: onnx.ModelProto, content: bytes, path: Path) -> Description:
    """Describe a file, and run it once on a picture where it takes one.

    Args:
        content: the file's bytes.
    """
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    operators = count_operators(model)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    return Description(
        inputs=tuple(_value(value) for value in graph.input if value.name not in weights),
        outputs=tuple(_value(value) for value in graph.output),
        opsets=tuple(f"{entry.domain or 'ai.onnx'} {entry.version}" for entry in model.opset_import),
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        parameters=sum(int(np.prod(tensor.dims, dtype=np.int64)) for tensor in graph.initializer),
        operators=Counter(dict(sorted(operators.items()))),
        not_in_tensorrt=not_in_tensorrt(operators),
        metadata=tuple(sorted(metadata)),
        classes=class_names(metadata),
        trial=_try(model, content, path),
    )


def _value(value: onnx.ValueInfoProto) -> str:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return f"{value.name}: {(kind or 'of no type').removesuffix('_type')}, no tensor"
    tensor = value.type.tensor_type
    known = onnx.TensorProto.DataType.values()
    name = onnx.TensorProto.DataType.Name(tensor.elem_type).lower() if tensor.elem_type in known else "unknown type"
    if not tensor.HasField("shape"):
        return f"{value.name}: {name}, of any shape"
    sides = ", ".join(d.dim_param or (str(d.dim_value) if d.dim_value > 0 else "?") for d in tensor.shape.dim)
    return f"{value.name}: {name} [{sides}]"


def _try(model: onnx.ModelProto, content: bytes, path: Path) -> Trial:
    try:
        foreign = check_foreign(model, content, path)
        choose_input(foreign, ImportRequest())  # before a runtime opens what takes no pictures
        original = OriginalModel(foreign)
        try:
            return _trial(foreign, original, ImportRequest(), ())
        except ModelError as error:
            why = f"{error}; {CLASSES_FILE}: a label set, or a mapping of its ids (docs/your_model.md)"
            return _trial(foreign, original, ImportRequest(classes=CLASSES_FILE), (why,))
    except (ModelError, InputError, SettingsError) as error:
        return Trial(None, tuple(str(error).splitlines()))


def _trial(foreign: ForeignModel, original: OriginalModel, request: ImportRequest, why: tuple[str, ...]) -> Trial:
    decision = decide(foreign, request, original)
    return Trial(decision.command(foreign.path, foreign.path.with_suffix(".imported.onnx")), (*decision.reasons, *why))
