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
from seg_perception.engines.graph import card_of, write_card

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

    Only float tensors change: sizes, indices and masks, as other exporters leave them, keep their types.

    Raises:
        ModelError: no convolution, a weight that half cannot hold, or an operator that cannot be half.
    """
    card = card_of(model)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    if card.precision is Precision.FP16:
        return result
    others = _other_types(result)
    del result.graph.value_info[:]  # the types of inner tensors change
    region = _region(result.graph)
    _round_scales(result.graph)
    _convert_constants(result.graph, region)
    _insert_casts(result.graph, region, others)
    if any(node.op_type in _QUANTIZERS for node in result.graph.node):
        _raise_opset(result)
    else:
        write_card(result, dataclasses.replace(card, precision=Precision.FP16))
    try:
        onnx.checker.check_model(result, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"{card.id}: half precision cannot be made of this graph, take fp32 (--precision fp32): {reason}"
        ) from error
    return result


def _other_types(model: onnx.ModelProto) -> frozenset[str]:
    """Names of the inner tensors that are not float, such as sizes and indices."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.input, *inferred.output)}
    kinds |= {t.name: t.data_type for t in inferred.initializer}
    return frozenset(name for name, kind in kinds.items() if kind not in (TensorProto.FLOAT, TensorProto.UNDEFINED))


def _raise_opset(model: onnx.ModelProto) -> None:
    """To opset 19, for half scales of quantizers; reductions take their axes as an input since 18."""
    version = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    if version >= _HALF_QUANTIZER_OPSET:
        return
    for node in model.graph.node:
        axes = next((a for a in node.attribute if a.name == "axes"), None)
        if node.op_type.startswith("Reduce") and axes is not None:
            name = f"{node.output[0]}.axes"
            model.graph.initializer.append(numpy_helper.from_array(np.array(axes.ints, np.int64), name))
            node.input.append(name)
            node.attribute.remove(axes)
        elif (
            node.op_type == "Split"
            and len(node.input) == 1
            and not any(a.name == "num_outputs" for a in node.attribute)
        ):
            node.attribute.append(helper.make_attribute("num_outputs", len(node.output)))
    others = [o for o in model.opset_import if o.domain not in ("", "ai.onnx")]
    del model.opset_import[:]
    model.opset_import.extend([helper.make_opsetid("", _HALF_QUANTIZER_OPSET), *others])
    model.ir_version = max(model.ir_version, 9)  # what came with opset 19


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
        if node.input[1] not in constants:
            raise ModelError(f"{node.op_type} {node.name!r} has no constant scale, so it cannot be rounded to half")
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
        inside = [(i, p) for i, p in users[tensor.name] if i in region and not _stays_float(graph.node[i], p)]
        if not inside:
            continue
        name = f"{tensor.name}.half"
        graph.initializer.append(numpy_helper.from_array(_half(tensor), name))
        for i, p in inside:
            graph.node[i].input[p] = name
        if len(inside) == len(users[tensor.name]):
            graph.initializer.remove(tensor)


def _stays_float(node: onnx.NodeProto, position: int) -> bool:
    """Regions and factors of a resize are float, whatever the image is."""
    return node.op_type in ("Resize", "Upsample") and position > 0


def _half(tensor: TensorProto) -> np.ndarray[tuple[int, ...], np.dtype[np.float16]]:
    values = numpy_helper.to_array(tensor)
    largest = float(np.abs(values).max()) if values.size else 0.0
    if largest > _LARGEST_HALF or not np.isfinite(largest):
        raise ModelError(f"weights {tensor.name!r} reach {largest:g}; half precision holds up to {_LARGEST_HALF:g}")
    return values.astype(np.float16)


def _insert_casts(graph: onnx.GraphProto, region: set[int], others: frozenset[str]) -> None:
    """Cast what enters the region to half and what leaves it to float; `others` are not float and stay."""
    produced = {name for i in region for name in graph.node[i].output} - others
    untouched = others | {tensor.name for tensor in graph.initializer} | {""}
    nodes: list[onnx.NodeProto] = []
    halved: dict[str, str] = {}
    floated: dict[str, str] = {}
    for index, node in enumerate(graph.node):
        for position, name in enumerate(node.input):
            if index in region and not _stays_float(node, position):
                if name not in produced and name not in untouched:
                    if name not in halved:
                        halved[name] = f"{name}.half"
                        nodes.append(_cast(name, halved[name], TensorProto.FLOAT16))
                    node.input[position] = halved[name]
            elif name in produced:
                if name not in floated:
                    floated[name] = f"{name}.float"
                    nodes.append(_cast(name, floated[name], TensorProto.FLOAT))
                node.input[position] = floated[name]
        if index in region and node.op_type == "Cast" and node.attribute[0].i == TensorProto.FLOAT:
            node.attribute[0].i = TensorProto.FLOAT16
        nodes.append(node)
    copied = [onnx.NodeProto() for _ in nodes]
    for target, source in zip(copied, nodes, strict=True):
        target.CopyFrom(source)
    del graph.node[:]
    graph.node.extend(copied)


def _cast(source: str, target: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"Cast:{target}", to=kind)
