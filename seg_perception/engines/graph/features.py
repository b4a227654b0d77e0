"""Adds an output with the network's own features: what its classifier saw, in a few fields of the image.

A classifier is the last layer with weights on a way back from the labels: a convolution (or a product with a matrix)
whose output channels are the classes. What it takes in is averaged in each field of a grid, and brought to length 1.
Distances between such vectors tell how alike two images are to the network, as in core-set selection (Sener and
Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set Approach", ICLR 2018,
https://arxiv.org/abs/1708.00489, which takes the activations of the last hidden layer).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from seg_perception.core.errors import ModelError
from seg_perception.core.model_card import ModelCard
from seg_perception.engines.base import OUTPUT_NAMES
from seg_perception.engines.graph import DECISION, card_of, fixed_batch, fixed_size, pin_shapes

FEATURES = "seg_perception.features"
"""The output: float32 [N, channels, rows, columns], a vector of length 1 in each field for each classifier."""

_OLDEST_OPSET = 13  # ReduceSum and Unsqueeze take their axes as inputs since
_WEIGHTED = {"Conv": 0, "ConvTranspose": 1, "MatMul": 1, "Gemm": 1}  # the axis of the weights that are the outputs
_KEEPS_CLASSES = frozenset(
    {
        "Add", "ArgMax", "Cast", "Ceil", "Clip", "Concat", "DepthToSpace", "DequantizeLinear", "Div", "Equal", "Exp",
        "Expand", "Flatten", "Floor", "Gather", "Greater", "GreaterOrEqual", "Identity", "Less", "LogSoftmax", "Max",
        "Min", "Mul", "Neg", "Not", "Pad", "QuantizeLinear", "Reciprocal", "ReduceMax", "ReduceSum", "Reshape",
        "Resize", "Round", "Sigmoid", "Slice", "Softmax", "Split", "Squeeze", "Sub", "Sum", "TopK", "Transpose",
        "Unsqueeze", "Upsample", "Where",
    }
)  # fmt: skip
"""What lies between a classifier and the labels. A way that meets anything else ends without a classifier."""


class NoFeaturesError(ModelError):
    """A graph that is in order, but whose features cannot be found."""


def with_features(model: onnx.ModelProto, rows: int, columns: int) -> onnx.ModelProto:
    """The same graph with one more output, FEATURES; the argument is not changed.

    Args:
        model: a graph of the contract (`engines.graph.model_file`).
        rows, columns: of the grid; a map with fewer leaves fields at zero.

    Raises:
        NoFeaturesError: no classifier can be found; says what the way back from the labels met.
    """
    card = card_of(model)
    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)
    if opset < _OLDEST_OPSET:
        raise NoFeaturesError(f"{card.id} is of opset {opset}; features need {_OLDEST_OPSET} or later")
    found = _classifiers(model.graph, card)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    build = _Builder(result.graph)
    kinds = _kinds(model, card) if any(node.op_type == "MatMul" for node in found) else {}
    parts = []
    for number, node in enumerate(found):
        value = build.add("Cast", [node.input[0]], f"{number}.float", to=TensorProto.FLOAT)
        if node.op_type == "MatMul":  # channels last
            if kinds.get(node.input[0]) != 4:
                raise NoFeaturesError(f"{card.id}: its classifier {node.name!r} sees no rows and columns")
            value = build.add("Transpose", [value], f"{number}.nchw", perm=[0, 3, 1, 2])
        across = build.pooling(value, 3, columns, f"{number}.columns")  # [w, columns]
        down = build.add("Transpose", [build.pooling(value, 2, rows, f"{number}.rows")], f"{number}.down")  # [rows, h]
        pooled = build.add("MatMul", [down, build.add("MatMul", [value, across], f"{number}.across")], f"{number}.grid")
        parts.append(build.add("LpNormalization", [pooled], f"{number}.unit", axis=1, p=2))
    result.graph.node.append(helper.make_node("Concat", parts, [FEATURES], name=FEATURES, axis=1))
    shape = [fixed_batch(model) or "N", None, rows, columns]
    result.graph.output.append(helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, shape))
    return result


def _classifiers(graph: onnx.GraphProto, card: ModelCard) -> list[onnx.NodeProto]:
    """The layers whose outputs are the scores, the nearest to the labels first; one for each of several added up."""
    makers = {name: node for node in graph.node for name in node.output}
    constants = _Constants(graph, makers)
    found: list[tuple[onnx.NodeProto, int]] = []
    met: set[str] = set()
    waiting, seen = deque([OUTPUT_NAMES[0]]), set()
    while waiting:
        name = waiting.popleft()
        node = makers.get(name)
        if node is None or name in seen or constants.shape(name) is not None:
            continue
        seen.add(name)
        weights = constants.shape(node.input[1]) if node.op_type in _WEIGHTED and len(node.input) > 1 else None
        if weights is not None and not node.domain:
            outputs, inputs = _channels(node, weights)
            if len(weights) != (2 if node.op_type in ("MatMul", "Gemm") else 4) or node.op_type == "Gemm":
                met.add(node.op_type)
            elif node.name.startswith(f"Conv:{DECISION}/") or inputs == outputs:
                waiting.append(node.input[0])  # sums or enlarges the scores of a layer before
            else:
                found.append((node, outputs))
        elif node.op_type in _KEEPS_CLASSES and not node.domain:
            waiting.extend(node.input)
        else:
            met.add(node.op_type)
    if not found:
        way = f"the way back from the labels ends at {', '.join(sorted(met)) or 'the image'}"
        raise NoFeaturesError(f"{card.id} has no layer in which a classifier can be recognized: {way}")
    classes = next((outputs for _, outputs in found if outputs > 1), 1)  # one channel beside several is a gate's
    return [node for node, outputs in found if outputs == classes]


def _channels(node: onnx.NodeProto, weights: Sequence[int]) -> tuple[int, int]:
    """(outputs, inputs) of a layer, by the shape of its weights; equal where each channel stays by itself."""
    groups = next((int(a.i) for a in node.attribute if a.name == "group"), 1)
    axis = _WEIGHTED[node.op_type]
    given, other = int(weights[axis]), int(weights[1 - axis])
    if node.op_type == "Conv":
        return given, other * groups
    return given * groups, other


class _Constants:
    """Shapes of what a graph holds fixed, also where it is stored quantized, in half or transposed."""

    def __init__(self, graph: onnx.GraphProto, makers: dict[str, onnx.NodeProto]) -> None:
        self._stored = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
        self._makers = makers

    def shape(self, name: str) -> tuple[int, ...] | None:
        order: list[list[int] | None] = []
        while name not in self._stored:
            node = self._makers.get(name)
            if node is None:
                return None
            if node.op_type == "Constant":
                value = next((a.t for a in node.attribute if a.name == "value"), None)
                return None if value is None else _permuted(tuple(value.dims), order)
            if node.op_type not in ("DequantizeLinear", "Cast", "Identity", "Transpose"):
                return None
            if node.op_type == "Transpose":
                order.append(next((list(a.ints) for a in node.attribute if a.name == "perm"), None))
            name = node.input[0]
        return _permuted(self._stored[name], order)


def _permuted(shape: tuple[int, ...], orders: list[list[int] | None]) -> tuple[int, ...]:
    for order in reversed(orders):
        shape = shape[::-1] if order is None else tuple(shape[axis] for axis in order)
    return shape


def _kinds(model: onnx.ModelProto, card: ModelCard) -> dict[str, int]:
    """The number of axes of each tensor, as far as it can be inferred."""
    pinned = onnx.ModelProto()
    pinned.CopyFrom(model)
    pin_shapes(pinned, 1, fixed_size(model) or card.input_size)
    try:
        inferred = onnx.shape_inference.infer_shapes(pinned)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return {}
    return {value.name: len(value.type.tensor_type.shape.dim) for value in inferred.graph.value_info}


class _Builder:
    """Appends nodes whose names no graph of others has."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph

    def add(self, operator: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        full = f"{FEATURES}.{name}"
        self._graph.node.append(helper.make_node(operator, inputs, [full], name=full, **attributes))
        return full

    def number(self, values: object, name: str, kind: type = np.int64) -> str:
        self._graph.initializer.append(numpy_helper.from_array(np.array(values, kind), f"{FEATURES}.{name}"))
        return f"{FEATURES}.{name}"

    def pooling(self, value: str, axis: int, fields: int, name: str) -> str:
        """A matrix [length of the axis, fields]: a product with it averages each of so many parts of the axis."""
        shape = self.add("Shape", [value], f"{name}.shape")
        length = self.add("Gather", [shape, self.number(axis, f"{name}.axis")], f"{name}.length", axis=0)
        zero, one = self.number(0, f"{name}.zero"), self.number(1, f"{name}.one")
        places = self.add("Range", [zero, length, one], f"{name}.places")
        scaled = self.add("Mul", [places, self.number(fields, f"{name}.fields")], f"{name}.scaled")
        field = self.add("Div", [scaled, length], f"{name}.field")  # whole numbers: rounded down
        column = self.add("Unsqueeze", [field, self.number([1], f"{name}.last")], f"{name}.column")
        same = self.add("Equal", [column, self.number(np.arange(fields), f"{name}.all")], f"{name}.same")
        hot = self.add("Cast", [same], f"{name}.hot", to=TensorProto.FLOAT)
        count = self.add("ReduceSum", [hot, self.number([0], f"{name}.first")], f"{name}.count", keepdims=1)
        least = self.add("Max", [count, self.number(1.0, f"{name}.least", np.float32)], f"{name}.divisor")
        return self.add("Div", [hot, least], f"{name}.matrix")
