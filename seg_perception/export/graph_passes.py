"""Small rewrites of an exported ONNX graph: older operator versions, plain names, no leftovers."""

from __future__ import annotations

from collections import Counter
from typing import Any

import onnx
from onnx import numpy_helper

from seg_perception.core.errors import ModelError

OPSET = 17
"""What TensorRT 8.5 (JetPack 5) up to 11 and every ONNX Runtime since 1.12 read."""

ALLOWED_OPERATORS = frozenset(
    {
        "Add", "ArgMax", "AveragePool", "Cast", "Clip", "Concat", "Conv", "ConvTranspose", "DequantizeLinear", "Exp",
        "GlobalAveragePool", "HardSigmoid", "HardSwish", "LeakyRelu", "MaxPool", "Mul", "PRelu", "Pad",
        "QuantizeLinear", "Reciprocal", "ReduceMax", "ReduceSum", "Relu", "Resize", "Round", "Sigmoid", "Slice",
        "Softmax", "Sub", "Transpose",
    }
)  # fmt: skip
"""Operators that every engine fuses or runs well; no shape arithmetic among them."""


def lower_to_opset_17(model: onnx.ModelProto) -> None:
    """Rewrite an opset 18 graph to opset 17, in place.

    ReduceMax took its axes as an attribute before 18; Resize, Pad and ReduceSum gained options that
    are left at their old meaning.

    Raises:
        ModelError: another opset, or an option of opset 18 is in use.
    """
    found = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if found == [OPSET]:
        return
    if found != [18]:
        raise ModelError(f"the exporter wrote opset {found}; this code lowers opset 18 to {OPSET}")
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("ReduceMax", "ReduceMin", "ReduceMean") and len(node.input) == 2:
            axes = numpy_helper.to_array(constants[node.input.pop()])
            node.attribute.append(onnx.helper.make_attribute("axes", [int(axis) for axis in axes]))
            _drop_attributes(node, {"noop_with_empty_axes": 0})
        elif node.op_type == "Resize":
            _drop_attributes(node, {"antialias": 0, "keep_aspect_ratio_policy": b"stretch"})
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", OPSET))
    model.ir_version = 8  # what came with opset 17: older runtimes refuse newer ones


def _drop_attributes(node: onnx.NodeProto, defaults: dict[str, object]) -> None:
    for attribute in [a for a in node.attribute if a.name in defaults]:
        if onnx.helper.get_attribute_value(attribute) != defaults[attribute.name]:
            raise ModelError(f"{node.op_type} {node.name!r} uses {attribute.name}, which opset {OPSET} lacks")
        node.attribute.remove(attribute)


def drop_leftovers(model: onnx.ModelProto) -> None:
    """Remove unused constants, inner shapes and the exporter's notes (they hold paths of this machine)."""
    graph = model.graph
    used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    del graph.value_info[:]
    del model.functions[:]
    items: list[Any] = [model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer]
    for item in items:
        item.doc_string = ""
        del item.metadata_props[:]


def name_nodes(model: onnx.ModelProto) -> None:
    """Call every node after its operator and its weights, so that a compiler's error can be placed."""
    seen: Counter[str] = Counter()
    for node in model.graph.node:
        weights = next((name.rpartition(".")[0] for name in node.input[1:] if "." in name), "")
        label = f"{node.op_type}:{weights}" if weights else node.op_type
        seen[label] += 1
        node.name = label if weights and seen[label] == 1 else f"{label}:{seen[label]}"


def check_operators(model: onnx.ModelProto) -> None:
    """Refuse a graph with operators outside ALLOWED_OPERATORS.

    Raises:
        ModelError: names each operator and how often it occurs.
    """
    found = Counter(node.op_type for node in model.graph.node)
    foreign = {name: count for name, count in sorted(found.items()) if name not in ALLOWED_OPERATORS}
    if foreign:
        listed = ", ".join(f"{name} ({count})" for name, count in foreign.items())
        raise ModelError(
            f"the exported graph holds operators that slow or break engines: {listed}; "
            "shape arithmetic comes from sizes computed at run time: use constant scale factors and pads"
        )
