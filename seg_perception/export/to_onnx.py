"""A network and its model card become one ONNX file that keeps the graph contract.

The contract: one input `image`, uint8 RGB [N, H, W, 3]; two outputs, `labels` and `confidence`,
uint8 [N, H, W]. Normalization, network, softmax and argmax are inside.
"""

from __future__ import annotations

import copy
import logging
import warnings
from itertools import zip_longest
from pathlib import Path

import onnx
import torch
from torch import Tensor
from torch.export import ExportedProgram

from seg_perception.core.errors import ModelError
from seg_perception.core.files import write_atomically
from seg_perception.core.model_card import METADATA_KEY, ModelCard
from seg_perception.core.resizing import check_multiple
from seg_perception.core.types import Precision, Size
from seg_perception.engines.base import INPUT_NAME, OUTPUT_NAMES
from seg_perception.engines.graph.edits import pin_shapes
from seg_perception.engines.graph.model_file import check_model
from seg_perception.export.deployed_graph import DeployedGraph
from seg_perception.export.graph_passes import (
    check_operators,
    drop_leftovers,
    lower_to_opset_17,
    name_nodes,
)
from seg_perception.networks.base import SegmentationNetwork

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
