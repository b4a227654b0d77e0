"""What somebody else's ONNX file is, and how it is taken.

Nothing here needs torch. `guesses` fills what the user leaves out of an `ImportRequest` and says why;
`importer` builds the deployed graph from the `Decision`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from seg_perception.core.errors import InputError, ModelError
from seg_perception.core.types import Size
from seg_perception.engines.graph.model_file import has_external_data, read_onnx_bytes

REFUSED_OPERATORS = frozenset({"Loop", "Scan", "SequenceMap"})
"""Control flow whose length nobody can bound by looking at it."""

NOT_IN_TENSORRT = frozenset(
    {
        *("AffineGrid", "Bernoulli", "BitCast", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor"),
        *("CenterCropPad", "Col2Im", "Compress", "ConcatFromSequence", "ConvInteger", "CumProd", "DFT", "DeformConv"),
        *("Det", "DynamicQuantizeLinear", "ImageDecoder", "MatMulInteger", "MaxRoiPool", "MaxUnpool"),
        *("MelWeightMatrix", "Multinomial", "NegativeLogLikelihoodLoss", "Optional", "OptionalGetElement"),
        *("OptionalHasElement", "QLinearConv", "QLinearMatMul", "RegexFullMatch", "SequenceAt", "SequenceConstruct"),
        *("SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength", "SequenceMap"),
        *("SoftmaxCrossEntropyLoss", "SplitToSequence", "StringConcat", "StringNormalizer", "StringSplit", "SwiGLU"),
        *("TfIdfVectorizer", "Unique"),
    }
)
"""Operators that NVIDIA's ONNX parser says it does not take (TensorRT-RTX 1.7; a test asks it)."""


class Layout(str, Enum):
    """Where the channels are."""

    NCHW = "nchw"
    NHWC = "nhwc"


class Color(str, Enum):
    """Order of the channels that the network was trained with."""

    RGB = "rgb"
    BGR = "bgr"


class Kind(str, Enum):
    """What the chosen output holds.

    SCORES: unnormalized scores (logits) of C classes; PROBABILITIES: their softmax, or a sigmoid of each (then
    they are divided by their sum); LABELS: class ids, of any whole type, bool or as floats; SIGMOID: one channel, how
    likely a pixel is road.
    """

    SCORES = "scores"
    PROBABILITIES = "probabilities"
    LABELS = "labels"
    SIGMOID = "sigmoid"


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One input or output; an open axis is None."""

    name: str
    type: int  # onnx.TensorProto.*
    shape: tuple[int | None, ...]

    @property
    def type_name(self) -> str:
        return str(onnx.TensorProto.DataType.Name(self.type)).lower()

    def __str__(self) -> str:
        return f"{self.name}: {self.type_name} [{', '.join('?' if d is None else str(d) for d in self.shape)}]"


@dataclass(frozen=True, slots=True)
class ForeignModel:
    """An ONNX file as it is."""

    path: Path
    content: bytes
    model: onnx.ModelProto
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    metadata: Mapping[str, str]

    @property
    def opset(self) -> int:
        return max((entry.version for entry in self.model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """What the user says of a model; None: to be found out. Names are those of the command's options."""

    input: str | None = None
    layout: Layout | None = None
    color: Color | None = None
    scale: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    output: str | None = None
    kind: Kind | None = None
    classes: str | None = None
    to: str | None = None
    size: Size | None = None

    def __post_init__(self) -> None:
        faults = []
        if self.scale is not None and not (np.isfinite(self.scale) and self.scale > 0):
            faults.append(f"--scale {self.scale} is not accepted: pixels are divided by it, so it must be above 0")
        for name, values in (("--mean", self.mean), ("--std", self.std)):
            if values is not None and (len(values) not in (1, 3) or not np.isfinite(values).all()):
                faults.append(f"{name} {','.join(map(str, values))} is not accepted: one or three numbers are")
        if self.std is not None and not all(value > 0 for value in self.std):
            faults.append(f"--std {','.join(map(str, self.std))} is not accepted: each must be above 0")
        if faults:
            raise InputError("\n".join(faults))


@dataclass(frozen=True, slots=True)
class Decision:
    """How a model is taken, everything decided.

    A pixel becomes (pixel / scale - mean) / std, in `color` order.

    Attributes:
        input_size: the one size that the model takes; None where height and width are open.
        batch: the one batch that it takes; None where it is open.
        channels_last: the output holds the classes in its last axis.
        reasons: a line for each thing that was guessed.
    """

    input: TensorInfo
    layout: Layout
    color: Color
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    output: TensorInfo
    kind: Kind
    classes: str
    to: str | None
    input_size: Size | None
    batch: int | None
    reasons: tuple[str, ...] = field(default=(), compare=False)

    def command(self, path: Path, out: Path) -> str:
        """The command that states what was guessed."""
        from shlex import quote

        parts = [
            f"seg-perception import {quote(str(path))} --out {quote(str(out))}",
            f"--input {quote(self.input.name)} --layout {self.layout.value} --color {self.color.value}",
            f"--scale {self.scale:g} --mean {_numbers(self.mean)} --std {_numbers(self.std)}",
            f"--output {quote(self.output.name)} --kind {self.kind.value} --classes {quote(self.classes)}",
        ]
        if self.to is not None:
            parts.append(f"--to {quote(self.to)}")
        return " \\\n    ".join(parts)


def _numbers(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)


def nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Every node, those of subgraphs and functions included."""
    found: list[onnx.NodeProto] = []
    waiting = [list(model.graph.node), *(list(function.node) for function in model.functions)]
    while waiting:
        for node in waiting.pop():
            found.append(node)
            for attribute in node.attribute:
                waiting += [list(graph.node) for graph in (attribute.g, *attribute.graphs) if graph.node]
    return found


def count_operators(model: onnx.ModelProto) -> Counter[str]:
    """How often each operator occurs, subgraphs included; those of foreign domains as DOMAIN.NAME."""
    return Counter(
        node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}" for node in nodes(model)
    )


def not_in_tensorrt(operators: Iterable[str]) -> tuple[str, ...]:
    """Those that TensorRT does not take: by the list, and all of foreign domains."""
    return tuple(sorted(name for name in operators if name in NOT_IN_TENSORRT or "." in name))


def parse_foreign(content: bytes, path: Path) -> onnx.ModelProto:
    """The graph of a file that must be ONNX.

    Raises:
        ModelError: it is none.
    """
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except (DecodeError, RecursionError) as error:
        raise ModelError(f"{path}: not an ONNX file, or truncated ({error})") from error
    if not model.graph.node:
        raise ModelError(f"{path}: not an ONNX file: there is no graph in it")
    return model


def read_foreign(path: Path) -> ForeignModel:
    """Read any ONNX file.

    Raises:
        FileNotFoundError: no such file.
        ModelError: no ONNX file (says what it is, where its first bytes tell), or over a gigabyte; and as
            `check_foreign`.
    """
    content = read_onnx_bytes(path)
    return check_foreign(parse_foreign(content, path), content, path)


def check_foreign(model: onnx.ModelProto, content: bytes, path: Path) -> ForeignModel:
    """An ONNX graph that can be imported as far as a look at it tells.

    Raises:
        ModelError: weights in other files; control flow of unknown length; an input or output without a type.
    """
    names = {tensor.name for tensor in model.graph.initializer}
    faults = []
    if has_external_data(model):
        faults.append(
            "it keeps weights in other files; save it as one file: "
            "onnx.save(onnx.load(PATH), NEW, save_as_external_data=False)"
        )
    if loops := sorted({node.op_type for node in nodes(model)} & REFUSED_OPERATORS):
        faults.append(f"it has control flow ({', '.join(loops)}), whose length nobody can bound; export it without")
    if faults:
        raise ModelError(f"{path} cannot be imported:\n  " + "\n  ".join(faults))
    inputs = tuple(_tensor(value, path) for value in model.graph.input if value.name not in names)
    outputs = tuple(_tensor(value, path) for value in model.graph.output)
    return ForeignModel(path, content, model, inputs, outputs, {p.key: p.value for p in model.metadata_props})


def _tensor(value: onnx.ValueInfoProto, path: Path) -> TensorInfo:
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or kind.elem_type not in onnx.TensorProto.DataType.values():
        raise ModelError(f"{path}: {value.name!r} is no tensor of a type that ONNX knows")
    shape = tuple(int(d.dim_value) if d.dim_value > 0 else None for d in kind.shape.dim)
    return TensorInfo(value.name, kind.elem_type, shape)
