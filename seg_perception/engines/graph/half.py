"""Rewrites an exported graph to half precision, strongly typed: every tensor says its own type.

The convolutions and what lies between them are half; normalization, the last upsampling, softmax
and argmax stay fp32. Inputs and outputs stay uint8.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from seg_perception.core.errors import ModelError
from seg_perception.core.types import Precision
from seg_perception.engines.graph.edits import card_of, write_card

_CONVOLUTIONS = ("Conv", "ConvTranspose")
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
_HALF_QUANTIZER_OPSET = 19  # half scales of (De)QuantizeLinear
_LARGEST_HALF = 65504.0
_SMALLEST_SCALE = 2.0**-20
"""In half: smaller ones would round to zero, and such values (below 127 x 2^-20 = 1.2e-4) to a coarse step."""


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with a half-precision network inside; the argument is not changed.

    An fp32 graph becomes an fp16 one. In an int8 graph the layers that were left unquantized
    become half, and the card keeps saying int8; an fp16 graph comes back as it is.

    Raises:
        ModelError: no convolution, or a weight that half cannot hold.
    """
    card = card_of(model)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    if card.precision is Precision.FP16:
        return result
    del result.graph.value_info[:]  # the types of inner tensors change
    region = _region(result.graph)
    _round_scales(result.graph)
    _convert_constants(result.graph, region)
    _insert_casts(result.graph, region)
    if any(node.op_type in _QUANTIZERS for node in result.graph.node):
        _raise_opset(result)
    else:
        write_card(result, dataclasses.replace(card, precision=Precision.FP16))
    onnx.checker.check_model(result, full_check=True)
    return result


def _raise_opset(model: onnx.ModelProto) -> None:
    """Opset 17 to 19: half scales for quantizers; reductions take their axes as an input since 18."""
    for node in model.graph.node:
        if node.op_type == "ReduceMax":
            axes = next(a for a in node.attribute if a.name == "axes")
            name = f"{node.output[0]}.axes"
            model.graph.initializer.append(numpy_helper.from_array(np.array(axes.ints, np.int64), name))
            node.input.append(name)
            node.attribute.remove(axes)
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", _HALF_QUANTIZER_OPSET))
    model.ir_version = 9  # what came with opset 19


def _region(graph: onnx.GraphProto) -> set[int]:
    """Indices of the nodes on any path from the first convolution's input to another convolution."""
    convolutions = [i for i, node in enumerate(graph.node) if node.op_type in _CONVOLUTIONS]
    if not convolutions:
        raise ModelError("the graph holds no convolution, so there is nothing to make half")
    producer = {name: i for i, node in enumerate(graph.node) for name in node.output}
    ancestors: set[int] = set()
    stack = list(convolutions)
    while stack:
        index = stack.pop()
        if index not in ancestors:
            ancestors.add(index)
            stack += [producer[name] for name in graph.node[index].input if name in producer]
    first = graph.node[convolutions[0]].input[0]
    start = producer.get(first)
    if start is not None and graph.node[start].op_type == "DequantizeLinear":  # image quantized before the first one
        first = graph.node[producer[graph.node[start].input[0]]].input[0]
    reached = {first}
    region: set[int] = set()
    constants = {tensor.name for tensor in graph.initializer}
    for index, node in enumerate(graph.node):
        fed_by_constants = bool(node.input) and all(name in constants for name in node.input)
        if index in ancestors and (fed_by_constants or any(name in reached for name in node.input)):
            region.add(index)
            reached.update(node.output)
    _add_trailing_quantizers(graph, region, reached)
    return region


def _add_trailing_quantizers(graph: onnx.GraphProto, region: set[int], reached: set[str]) -> None:
    """A quantizer pair right after the last convolution belongs to it."""
    for index, node in enumerate(graph.node):
        if node.op_type in _QUANTIZERS and index not in region and node.input[0] in reached:
            region.add(index)
            reached.update(node.output)


def _round_scales(graph: onnx.GraphProto) -> None:
    """Make every scale a half-precision number above zero, and round the int8 weights anew to fit it."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type not in _QUANTIZERS:
            continue
        if node.input[0] not in constants:  # an activation: a dead map's scale must not become zero, either
            scale_tensor = constants[node.input[1]]
            scale = np.asarray(np.maximum(numpy_helper.to_array(scale_tensor), _SMALLEST_SCALE), np.float32)
            scale_tensor.CopyFrom(numpy_helper.from_array(scale, scale_tensor.name))
            continue
        weights_tensor, scale_tensor = constants[node.input[0]], constants[node.input[1]]
        weights, scale = numpy_helper.to_array(weights_tensor), numpy_helper.to_array(scale_tensor)
        if weights.dtype != np.int8:
            raise ModelError(f"quantized constant {weights_tensor.name!r} is {weights.dtype}; accepted: int8")
        rounded = np.maximum(scale, _SMALLEST_SCALE).astype(np.float16).astype(np.float32)
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        shape = [-1 if i == axis and scale.ndim else 1 for i in range(weights.ndim)]
        adjusted = np.clip(np.rint(weights * (scale / rounded).reshape(shape)), -128, 127).astype(np.int8)
        weights_tensor.CopyFrom(numpy_helper.from_array(adjusted, weights_tensor.name))
        scale_tensor.CopyFrom(numpy_helper.from_array(rounded, scale_tensor.name))


def _convert_constants(graph: onnx.GraphProto, region: set[int]) -> None:
    users: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for index, node in enumerate(graph.node):
        for position, name in enumerate(node.input):
            users[name].append((index, position))
    for tensor in list(graph.initializer):
        if tensor.data_type != TensorProto.FLOAT:
            continue
        inside = [
            (i, p) for i, p in users[tensor.name] if i in region and not (graph.node[i].op_type == "Resize" and p > 0)
        ]
        if not inside:
            continue
        name = f"{tensor.name}.half"
        graph.initializer.append(numpy_helper.from_array(_half(tensor), name))
        for i, p in inside:
            graph.node[i].input[p] = name
        if len(inside) == len(users[tensor.name]):
            graph.initializer.remove(tensor)


def _half(tensor: TensorProto) -> np.ndarray[tuple[int, ...], np.dtype[np.float16]]:
    values = numpy_helper.to_array(tensor)
    largest = float(np.abs(values).max()) if values.size else 0.0
    if largest > _LARGEST_HALF or not np.isfinite(largest):
        raise ModelError(f"weights {tensor.name!r} reach {largest:g}; half precision holds up to {_LARGEST_HALF:g}")
    return values.astype(np.float16)


def _insert_casts(graph: onnx.GraphProto, region: set[int]) -> None:
    """Cast what enters the region to half and what leaves it to float."""
    produced = {name for i in region for name in graph.node[i].output}
    constants = {tensor.name for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    halved: dict[str, str] = {}
    floated: dict[str, str] = {}
    for index, node in enumerate(graph.node):
        if index in region:
            for position, name in enumerate(node.input):
                if name and name not in produced and name not in constants:
                    if name not in halved:
                        halved[name] = f"{name}.half"
                        nodes.append(_cast(name, halved[name], TensorProto.FLOAT16))
                    node.input[position] = halved[name]
        else:
            for position, name in enumerate(node.input):
                if name in produced:
                    if name not in floated:
                        floated[name] = f"{name}.float"
                        nodes.append(_cast(name, floated[name], TensorProto.FLOAT))
                    node.input[position] = floated[name]
        nodes.append(node)
    copied = [onnx.NodeProto() for _ in nodes]
    for target, source in zip(copied, nodes, strict=True):
        target.CopyFrom(source)
    del graph.node[:]
    graph.node.extend(copied)


def _cast(source: str, target: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"Cast:{target}", to=kind)
