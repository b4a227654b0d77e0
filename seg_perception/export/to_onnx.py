"""A network and its model card become one ONNX file that keeps the graph contract.

The contract: one input `image`, uint8 RGB [N, H, W, 3]; two outputs, `labels` and `confidence`, uint8 [N, H, W].
Normalization, network, softmax and argmax are inside.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections import Counter
from itertools import zip_longest
from pathlib import Path
from typing import Any

import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor, nn
from torch.export import ExportedProgram

from seg_perception.core.errors import ModelError
from seg_perception.core.files import write_atomically
from seg_perception.core.model_card import METADATA_KEY, ModelCard
from seg_perception.core.resizing import check_multiple
from seg_perception.core.types import Precision, Size
from seg_perception.engines.base import INPUT_NAME, OUTPUT_NAMES
from seg_perception.engines.graph import pin_shapes
from seg_perception.engines.graph.model_file import check_model
from seg_perception.networks.base import SegmentationNetwork


class DeployedGraph(nn.Module):
    """The graph that runs on the robot: a network with its normalization before it and its decision after it.

    Takes uint8 RGB [N, H, W, 3]; returns (labels, confidence), each uint8 [N, H, W]; confidence is
    the winning class's softmax probability x 255, rounded to the nearest integer.

    Args:
        network: the network; its mode is not changed, so put it into eval mode first.
        temperature: scores are divided by it before the softmax (Guo et al., "On Calibration of
            Modern Neural Networks", https://arxiv.org/abs/1706.04599); labels do not depend on it.

    Raises:
        ModelError: the temperature is not in 0.01 to 100; far outside, scores vanish and labels with them.
    """

    def __init__(self, network: SegmentationNetwork, temperature: float = 1.0) -> None:
        super().__init__()
        if not 0.01 <= temperature <= 100.0:
            raise ModelError(f"temperature {temperature} is not accepted: 0.01 to 100 is; 'calibrate' finds it")
        self.network = network
        self.temperature = temperature

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.network(self.network.normalize(image))  # [N, C, H/s, W/s]
        if self.temperature != 1.0:
            scores = scores * (1.0 / self.temperature)  # before the upsampling, where it is cheap
        stride = float(self.network.score_stride)
        if stride != 1.0:
            scores = F.interpolate(scores, scale_factor=stride, mode="bilinear", align_corners=False)  # [N, C, H, W]
        # The winner's probability is exp(top - top) / sum(exp(s - top)): no full softmax is needed.
        top = torch.amax(scores, dim=1, keepdim=True)
        probability = torch.reciprocal(torch.exp(scores - top).sum(dim=1))  # [N, H, W], 1/C to 1
        labels = scores.argmax(dim=1).to(torch.int32).to(torch.uint8)  # TensorRT casts no int64 to uint8
        return labels, torch.round(probability * 255.0).to(torch.uint8)


_TRACED_SHAPES = ((2, 3, 4), (3, 5, 2))
"""Batch, rows and columns (in size_multiple) of the examples that the network is traced with."""


def export_onnx(
    network: SegmentationNetwork,
    card: ModelCard,
    path: Path,
    batch: int | None = None,
    size: Size | None = None,
    temperature: float = 1.0,
) -> None:
    """Write a network as an fp32 ONNX file with its model card inside.

    Args:
        network: trained network; it is copied, so its mode and device stay as they are.
        card: what the model is; its precision must be fp32 (see `engines.graph.half` and `export.quantize`).
        path: the file to write, whole or not at all.
        batch: fixed batch size; None leaves it open.
        size: fixed input size; None leaves height and width open.
        temperature: of the softmax that makes the confidence.

    Raises:
        InputError: the size does not fit the network.
        ModelError: the card does not describe this network, or the graph holds foreign operators.
        OSError: the file cannot be written.
    """
    model = build_onnx(network, card, batch, size, temperature)
    write_atomically(path, model.SerializeToString())


def build_onnx(
    network: SegmentationNetwork,
    card: ModelCard,
    batch: int | None = None,
    size: Size | None = None,
    temperature: float = 1.0,
) -> onnx.ModelProto:
    """What `export_onnx` writes, in memory."""
    if card.precision is not Precision.FP32 or card.size_multiple != network.size_multiple:
        raise ModelError(
            f"model card {card.id} says {card.precision} and size_multiple {card.size_multiple}; "
            f"an fp32 export of this network needs fp32 and {network.size_multiple}"
        )
    if batch is not None and batch < 1:
        raise ModelError(f"batch {batch} is not accepted: it must be at least 1")
    if size is not None:
        check_multiple(size, network.size_multiple, "the network")
    graph = DeployedGraph(copy.deepcopy(network).cpu().eval(), temperature)
    program, other = (_trace(graph, *shape) for shape in _TRACED_SHAPES)
    _check_free_of_sizes(program, other)
    model = _translate(program)
    pin_shapes(model, batch, size)
    onnx.helper.set_model_props(model, {METADATA_KEY: card.to_json()})
    model.producer_name, model.producer_version = "seg_perception", ""
    check_operators(model)
    onnx.checker.check_model(model, full_check=True)
    check_model(model, card.id)
    return model


def _trace(graph: DeployedGraph, batch: int, rows: int, columns: int) -> ExportedProgram:
    """The operations that an example of this shape goes through."""
    multiple = graph.network.size_multiple
    example = torch.zeros((batch, rows * multiple, columns * multiple, 3), dtype=torch.uint8)
    with torch.no_grad():
        return torch.export.export(graph, (example,), strict=False)


def _check_free_of_sizes(program: ExportedProgram, other: ExportedProgram) -> None:
    """Two traces with other sizes must give one graph: then no size is baked into it, and any will do.

    That is several times faster than a trace with symbolic sizes, and says the same.

    Raises:
        ModelError: they differ; names the first node that does.
    """
    place = None
    for mine, theirs in zip_longest(program.graph.nodes, other.graph.nodes):
        if mine is None or theirs is None or _written(mine) != _written(theirs):
            place = "their number of nodes" if mine is None else f"node '{mine.name}' ({mine.target})"
            break
    for name, value in program.constants.items():
        if place is None and not (isinstance(value, Tensor) and value.equal(other.constants[name])):
            place = f"constant '{name}'"
    if place is not None:
        raise ModelError(
            f"the network's graph depends on the image size: traces at two sizes differ in {place}; "
            "use constant scale factors, pads and windows instead of sizes taken from tensors"
        )


def _written(node: torch.fx.Node) -> str:
    return f"{node.name} {node.op} {node.target} {node.args} {node.kwargs}"


def _translate(program: ExportedProgram) -> onnx.ModelProto:
    """To ONNX, by torch's newer exporter.

    It folds batch normalization and padding into the convolutions and leaves no shape arithmetic; the older one left
    both (docs/adr/0005-tensorrt.md).
    """
    noisy = logging.getLogger("torch.onnx")
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            translated = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=18,
                input_names=[INPUT_NAME],
                output_names=list(OUTPUT_NAMES),
                verbose=False,
            )
    finally:
        noisy.setLevel(level)
    assert translated is not None
    model: onnx.ModelProto = translated.model_proto
    drop_leftovers(model)
    lower_to_opset_17(model)
    drop_leftovers(model)  # the lowering frees constants
    name_nodes(model)
    return model


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
