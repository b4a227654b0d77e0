"""Puts pixels before and bytes behind a foreign graph, as ONNX nodes that every engine runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, inliner, numpy_helper

from seg_perception.core.errors import ModelError
from seg_perception.core.types import Size
from seg_perception.engines.base import INPUT_NAME, OUTPUT_NAMES
from seg_perception.engines.graph import DECISION
from seg_perception.export.importing import AnswerLayout, Color, Decision, ForeignModel, Kind, Layout
from seg_perception.export.importing.guesses import ImportedClasses

PREFIX = "model/"
OLDEST_OPSET, NEWEST_OPSET = 13, 25
_RESIZE_WITH_MODES = 11  # the opset that gave Resize its coordinates
LEAST_SUM = 1e-9
"""Of a pixel's probabilities, a sigmoid for each class: where all are 0, their shares are, too, and not 0 / 0."""


class _Builder:
    """Appends nodes; names are ours and cannot meet the model's, which have a prefix."""

    def __init__(self, tag: str) -> None:
        self._tag = tag
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        name = output or f"{self._tag}/{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=f"{operator}:{name}", **attributes))
        return name

    def constant(self, values: Any, dtype: Any) -> str:
        name = f"{self._tag}/constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def cast(self, value: str, to: int, output: str | None = None) -> str:
        return self.add("Cast", value, to=to, output=output)


def wrap(
    foreign: ForeignModel,
    decision: Decision,
    classes: ImportedClasses,
    layout: AnswerLayout,
    size: Size | None,
    needs_more: bool,
) -> onnx.ModelProto:
    """The whole graph.

    Args:
        needs_more: one channel still lacks its sigmoid, or the classes' probabilities do not add up to 1.
    """
    inner = _inner_model(foreign)
    opset = max(entry.version for entry in inner.opset_import if entry.domain in ("", "ai.onnx"))
    before, after = _Builder("pixels"), _Builder(DECISION)
    tensor = next(value for value in inner.graph.input if value.name == PREFIX + decision.input.name)
    given = _pixels_to_model(before, decision, inner, tensor)
    for node in inner.graph.node:
        for index, value in enumerate(node.input):
            if value == tensor.name:
                node.input[index] = given
    answer = PREFIX + decision.output.name
    if decision.kind is Kind.LABELS:
        _labels_to_bytes(after, answer, layout, classes)
    else:
        _scores_to_bytes(after, answer, decision, layout, classes, opset, needs_more)
    kept = _needed(inner.graph, answer)
    batch: Any = decision.batch or "N"
    axes = [batch, size.height if size else "H", size.width if size else "W"]
    graph = helper.make_graph(
        [*before.nodes, *kept, *after.nodes],
        "imported",
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, [*axes, 3])],
        [helper.make_tensor_value_info(name, TensorProto.UINT8, axes) for name in OUTPUT_NAMES],
        [*before.constants, *inner.graph.initializer, *after.constants],
    )
    _drop_unused(graph)
    model = helper.make_model(graph, opset_imports=list(inner.opset_import), functions=list(inner.functions))
    model.ir_version = max(inner.ir_version, 4)  # in a file of version 3 every constant must be an input, too
    model.producer_name = "seg_perception"
    return model


def _inner_model(foreign: ForeignModel) -> onnx.ModelProto:
    """The foreign graph under prefixed names, in an opset whose operators we know."""
    model = onnx.ModelProto()
    model.CopyFrom(foreign.model)
    if foreign.opset < OLDEST_OPSET:
        try:
            model = onnx.version_converter.convert_version(model, 17)
        except Exception as error:  # the converter raises RuntimeError, IndexError, ConvertError ...
            raise ModelError(f"{foreign.path}: opset {foreign.opset} cannot be brought to 17: {error}") from error
        if foreign.opset < _RESIZE_WITH_MODES:
            _keep_old_resizes(model.graph)
    elif foreign.opset > NEWEST_OPSET:
        raise ModelError(f"{foreign.path}: opset {foreign.opset} is not accepted; up to {NEWEST_OPSET} are")
    if model.functions:
        model = inliner.inline_local_functions(model)
    del model.graph.value_info[:]  # shapes of another input
    prefixed = onnx.compose.add_prefix(model, PREFIX)
    prefixed.graph.ClearField("doc_string")
    constants = {t.name for t in prefixed.graph.initializer}
    for value in [v for v in prefixed.graph.input if v.name in constants]:  # old files list weights as inputs
        prefixed.graph.input.remove(value)
    return prefixed


def _keep_old_resizes(graph: onnx.GraphProto) -> None:
    """Say what Upsample and Resize did before they had modes: the converter leaves today's half_pixel in place."""
    scales = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            scales[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        if node.op_type == "Resize":
            shrinks = len(node.input) > 2 and node.input[2] in scales and bool((scales[node.input[2]] < 1).any())
            attributes = {
                "coordinate_transformation_mode": "asymmetric",
                "nearest_mode": "ceil" if shrinks else "floor",
            }
            node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())


def _pixels_to_model(build: _Builder, decision: Decision, inner: onnx.ModelProto, tensor: onnx.ValueInfoProto) -> str:
    """uint8 RGB pixels to what the model takes. The cast comes first: TensorRT transposes no uint8."""
    value = build.cast(INPUT_NAME, TensorProto.FLOAT)  # [N, H, W, 3]
    if decision.layout is Layout.NCHW:
        value = build.add("Transpose", value, perm=[0, 3, 1, 2])  # [N, 3, H, W]
    axis = 1 if decision.layout is Layout.NCHW else 3
    if decision.color is Color.BGR:
        value = build.add("Gather", value, build.constant([2, 1, 0], np.int64), axis=axis)
    shape = (3, 1, 1) if axis == 1 else (3,)
    factor = 1.0 / (decision.scale * np.array(decision.std, np.float64))
    offset = np.array(decision.mean, np.float64) * decision.scale  # (p / scale - mean) / std = (p - offset) * factor
    if offset.any():
        value = build.add("Sub", value, build.constant(offset.reshape(shape), np.float32))
    if (factor != 1.0).any():
        value = build.add("Mul", value, build.constant(factor.reshape(shape), np.float32))
    kind = decision.input.type
    if kind == TensorProto.FLOAT16:
        return build.cast(value, TensorProto.FLOAT16)
    if kind == TensorProto.UINT8 and not _takes_float(inner, tensor.name):
        return build.cast(value, TensorProto.UINT8)
    return value


def _takes_float(inner: onnx.ModelProto, name: str) -> bool:
    """Whether a uint8 input only moves and is then cast, so that float in its place changes nothing."""
    waiting = [name]
    while waiting:
        current = waiting.pop()
        for node in (n for n in inner.graph.node if current in n.input):
            if node.op_type in ("Transpose", "Identity", "Reshape", "Unsqueeze", "Squeeze"):
                waiting.extend(node.output)
            elif node.op_type != "Cast":
                return False
    return True


def _scores_to_bytes(
    build: _Builder,
    value: str,
    decision: Decision,
    layout: AnswerLayout,
    classes: ImportedClasses,
    opset: int,
    needs_more: bool,
) -> None:
    if decision.output.type != TensorProto.FLOAT:
        value = build.cast(value, TensorProto.FLOAT)
    value = _with_batch(build, value, layout)
    if not layout.has_channels:
        value = build.add("Unsqueeze", value, build.constant([1], np.int64))  # [N, 1, h, w]
    elif layout.channels_last:
        value = build.add("Transpose", value, perm=[0, 3, 1, 2])
    if decision.kind is Kind.SIGMOID and needs_more:
        value = build.add("Sigmoid", value)
    if layout.stride != (1.0, 1.0):
        value = build.add(
            "Resize", value, "", _scales(build, layout), mode="linear", coordinate_transformation_mode="half_pixel"
        )  # [N, C, H, W], as torch's bilinear with align_corners=False
    if decision.kind is Kind.PROBABILITIES and needs_more:  # a sigmoid for each class
        axes = build.constant([1], np.int64)
        total = build.add("Max", build.add("ReduceSum", value, axes, keepdims=1), build.constant(LEAST_SUM, np.float32))
        value = build.add("Div", value, total)
    if decision.kind is Kind.SIGMOID:  # background, then road
        rest = build.add("Sub", build.constant([1.0], np.float32), value)
        value = build.add("Concat", rest, value, axis=1)
    if classes.mapped:
        if decision.kind is Kind.SCORES:
            value = build.add("Softmax", value, axis=1)
        weights = build.constant(classes.matrix()[:, :, None, None], np.float32)
        value = build.add("Conv", value, weights)  # [N, classes, H, W]: probabilities summed
    top = _reduce(build, "ReduceMax", value, opset, keep=decision.kind is Kind.SCORES and not classes.mapped)
    if decision.kind is Kind.SCORES and not classes.mapped:
        # the winner's probability is exp(top - top) / sum(exp(s - top)): no full softmax is needed
        exponents = build.add("Exp", build.add("Sub", value, top))
        axes = build.constant([1], np.int64)
        top = build.add("Reciprocal", build.add("ReduceSum", exponents, axes, keepdims=0))
    labels = build.add("ArgMax", value, axis=1, keepdims=0)
    build.cast(build.cast(labels, TensorProto.INT32), TensorProto.UINT8, output=OUTPUT_NAMES[0])
    bounded = build.add("Clip", top, build.constant(0.0, np.float32), build.constant(1.0, np.float32))
    scaled = build.add("Round", build.add("Mul", bounded, build.constant(255.0, np.float32)))
    build.cast(scaled, TensorProto.UINT8, output=OUTPUT_NAMES[1])


def _with_batch(build: _Builder, value: str, layout: AnswerLayout) -> str:
    return value if layout.batched else build.add("Unsqueeze", value, build.constant([0], np.int64))


def _scales(build: _Builder, layout: AnswerLayout) -> str:
    """The strides as factors of Resize, which rounds rows x factor down: 97 x (769 / 97) must not become 768."""
    factors = [stride if stride.is_integer() else stride * (1 + 2e-7) for stride in layout.stride]
    return build.constant([1.0, 1.0, *factors], np.float32)


def _reduce(build: _Builder, operator: str, value: str, opset: int, *, keep: bool) -> str:
    if opset < 18:  # the axes became an input then
        return build.add(operator, value, axes=[1], keepdims=int(keep))
    return build.add(operator, value, build.constant([1], np.int64), keepdims=int(keep))


def _labels_to_bytes(build: _Builder, value: str, layout: AnswerLayout, classes: ImportedClasses) -> None:
    """Ids to uint8 ids; there is no probability, so the confidence is 255 and the card says "none"."""
    value = _with_batch(build, build.cast(value, TensorProto.FLOAT), layout)
    if layout.has_channels:
        axis = build.constant([3 if layout.channels_last else 1], np.int64)
        value = build.add("Squeeze", value, axis)  # [N, h, w]
    if layout.stride != (1.0, 1.0):
        value = build.add("Unsqueeze", value, build.constant([1], np.int64))
        value = build.add(
            "Resize", value, "", _scales(build, layout), mode="nearest", coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )  # fmt: skip
        value = build.add("Squeeze", value, build.constant([1], np.int64))  # [N, H, W]
    if classes.mapped:
        table = build.constant(classes.targets, np.float32)
        value = build.add("Gather", table, build.cast(value, TensorProto.INT32))
    build.cast(value, TensorProto.UINT8, output=OUTPUT_NAMES[0])
    nothing = build.add("Mul", value, build.constant(0.0, np.float32))
    full = build.add("Add", nothing, build.constant(255.0, np.float32))
    build.cast(full, TensorProto.UINT8, output=OUTPUT_NAMES[1])


def _needed(graph: onnx.GraphProto, output: str) -> list[onnx.NodeProto]:
    """The nodes behind one output, in their order: auxiliary heads fall away."""
    wanted, kept = {output}, []
    for node in reversed(graph.node):
        if any(name in wanted for name in node.output):
            kept.append(node)
            wanted.update(node.input)
            for attribute in node.attribute:  # names that a subgraph takes from outside
                for inner in (attribute.g, *attribute.graphs):
                    wanted.update(name for n in inner.node for name in n.input)
    return kept[::-1]


def _drop_unused(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                used.update(name for n in inner.node for name in n.input)
    for tensor in [t for t in graph.initializer if t.name not in used]:
        graph.initializer.remove(tensor)
