"""What any ONNX file is: inputs, outputs, operators, and the command that would import it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from seg_perception.core.errors import InputError, ModelError, SettingsError
from seg_perception.export.importing.guesses import choose_input, class_names
from seg_perception.export.importing.importer import decide
from seg_perception.export.importing.model import (
    ForeignModel,
    ImportRequest,
    check_foreign,
    count_operators,
    not_in_tensorrt,
)
from seg_perception.export.importing.original import OriginalModel

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
