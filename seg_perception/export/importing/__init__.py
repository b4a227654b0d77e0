"""Somebody else's ONNX file: what it holds, how it is taken, and what it answers where its users run it.

Nothing in this folder needs torch. `guesses` fills what the user leaves out of an `ImportRequest` and says why;
`importer` builds the deployed graph from the `Decision`, with `wrap`; `import_file` is the whole import in one call.
`OriginalModel` is the slow, obvious reference, in NumPy and ONNX Runtime.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import TensorProto

from seg_perception.core.errors import InputError, ModelError
from seg_perception.core.types import Size, parse_choice, parse_fields
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
    """What the user says of a model; None: to be found out. Names are those of the command's options.

    A pixel becomes (pixel / scale - mean) / std.

    Attributes:
        input: name of the image input.
        layout: its axes, "nchw" or "nhwc".
        color: order of its channels, "rgb" or "bgr".
        scale: pixels, 0 to 255, are divided by it.
        mean: one number or three, in the network's channel order, of pixels after the division.
        std: as mean.
        output: name of the output that holds the classes.
        kind: what it holds, "scores", "probabilities", "labels" or "sigmoid".
        classes: a preset (cityscapes19, ...), "names" (those in the file), or a label set's or mapping's file.
        to: a label set that the classes are summed into, such as "driving".
        size: the one size that the model shall run at.

    Raises:
        InputError: values out of range; all of them are listed.
    """

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
        parse_fields(
            self,
            layout=partial(parse_choice, Layout, name="layout"),
            color=partial(parse_choice, Color, name="color"),
            kind=partial(parse_choice, Kind, name="kind"),
            size=Size.parse,
        )
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


class OriginalModel:
    """The foreign file in ONNX Runtime, run the way its users do: float64 arithmetic around it, in NumPy."""

    def __init__(self, foreign: ForeignModel) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 4
        try:
            self._session = ort.InferenceSession(foreign.content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises several unrelated classes
            raise ModelError(f"{foreign.path}: ONNX Runtime cannot open it: {error}") from error
        self.foreign = foreign

    def run(self, name: str, tensor: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Every output by name.

        Raises:
            ModelError: the runtime failed.
        """
        names = [output.name for output in self._session.get_outputs()]
        try:
            return dict(zip(names, self._session.run(names, {name: tensor})))
        except Exception as error:  # onnxruntime raises several unrelated classes
            raise ModelError(
                f"{self.foreign.path}: it does not run on {tensor.dtype} {list(tensor.shape)}: {error}"
            ) from error


def prepare_pixels(images: NDArray[np.uint8], decision: Decision) -> NDArray[Any]:
    """RGB uint8 [N, H, W, 3] as the original wants it: color order, scaling, layout and type."""
    pixels = images[..., ::-1] if decision.color is Color.BGR else images
    if decision.input.type == TensorProto.UINT8:
        scaled: NDArray[Any] = pixels
    else:
        mean, std = np.array(decision.mean), np.array(decision.std)
        dtype = np.float16 if decision.input.type == TensorProto.FLOAT16 else np.float32
        scaled = ((pixels / decision.scale - mean) / std).astype(dtype)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2) if decision.layout is Layout.NCHW else scaled)


def probe_image(size: Size, batch: int) -> NDArray[np.uint8]:
    """Sky over ground with some texture, uint8 [N, H, W, 3]: every kind of answer shows its range on it."""
    rows = np.linspace(200, 60, size.height)[:, None, None]
    texture = np.random.default_rng(1).integers(-30, 30, (size.height, size.width, 3))
    image = np.clip(rows + texture, 0, 255).astype(np.uint8)
    return np.repeat(image[np.newaxis], batch, axis=0)


@dataclass(frozen=True, slots=True)
class AnswerLayout:
    """Axes of a model's answer: [N, h, w], [N, C, h, w] or [N, h, w, C]; of one image also without the N.

    Attributes:
        batched: the first axis is N.
        has_channels: there is an axis C, of 1 or more.
        channels_last: it is the last one.
        channels: 1 without that axis.
        stride: rows and columns of the image for one of the answer.
    """

    batched: bool
    has_channels: bool
    channels_last: bool
    channels: int
    stride: tuple[float, float]

    @classmethod
    def of(cls, answer: NDArray[Any], size: Size, batch: int) -> AnswerLayout | None:
        """Read them off an answer to `batch` images of a size; None where no two axes are the image's grid."""
        batched = answer.ndim == 4 or (answer.ndim == 3 and answer.shape[0] == batch)
        if not batched and batch != 1:
            return None
        shape = answer.shape[1:] if batched else answer.shape
        if len(shape) == 2:
            grid, channels, last = shape, 1, False
        elif len(shape) == 3:
            first_fits, last_fits = _fits(shape[1:], size), _fits(shape[:2], size)
            last = last_fits and (not first_fits or shape[2] < shape[0])
            grid, channels = (shape[:2], shape[2]) if last else (shape[1:], shape[0])
        else:
            return None
        if not _fits(grid, size) or channels < 1:
            return None
        return cls(batched, len(shape) == 3, last, channels, (size.height / grid[0], size.width / grid[1]))

    def first(self, answer: NDArray[Any]) -> NDArray[np.float64]:
        """The answer to the first image, float64 [C, h, w]."""
        values = np.asarray(answer[0] if self.batched else answer, np.float64)
        if not self.has_channels:
            return values[np.newaxis]
        return values.transpose(2, 0, 1) if self.channels_last else values


def _fits(grid: tuple[int, ...], size: Size) -> bool:
    """Whether h x w is the image's grid at some stride, with at least 16 places."""
    height, width = grid
    if not height or not width or height > size.height or width > size.width or height * width < 16:
        return False
    return abs(size.height / height - size.width / width) < 0.05 * size.height / height
