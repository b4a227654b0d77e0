"""Edits of an exported ONNX graph that need no torch, so that a robot can make them, too."""

from __future__ import annotations

import json

import onnx

from seg_perception.core.errors import InputError
from seg_perception.core.model_card import METADATA_KEY, ModelCard
from seg_perception.core.types import CameraEncoding, Size

EDITS_VERSION = 2
"""Part of every built engine's key: raise it when an edit in this folder makes another graph than before."""

DECISION = "decision"
"""Begins the names of what an import puts behind the model's own answer."""

FIRST_PERMUTATION = [0, 3, 1, 2]
"""Normalization begins with this transposition, NHWC to NCHW: see `networks.base`."""


def load_graph(content: bytes) -> onnx.ModelProto:
    """A graph that `engines.graph.model_file.read_model` has already checked."""
    model = onnx.ModelProto()
    model.ParseFromString(content)
    return model


def card_of(model: onnx.ModelProto) -> ModelCard:
    """The model card inside a checked graph."""
    return ModelCard.from_json(next(p.value for p in model.metadata_props if p.key == METADATA_KEY))


def write_card(model: onnx.ModelProto, card: ModelCard) -> None:
    """Replace the model card; other metadata stays."""
    kept = {p.key: p.value for p in model.metadata_props} | {METADATA_KEY: card.to_json()}
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, kept)


def pin_shapes(model: onnx.ModelProto, batch: int | None, size: Size | None) -> None:
    """Write the shapes of inputs and outputs, as the model card's encoding has them; None leaves an axis open.

    The graph holds no shape arithmetic, so that the inner shapes follow by themselves.
    """
    encoding = encoding_of(model)
    count = batch or "N"
    pixels = (size.height, size.width) if size else ("H", "W")
    image = encoding.array_shape(size) if size else ("H", "W", 3)
    for tensors, shape in ((model.graph.input, (count, *image)), (model.graph.output, (count, *pixels))):
        for tensor in tensors:
            kind = tensor.type.tensor_type.elem_type
            tensor.type.CopyFrom(onnx.helper.make_tensor_type_proto(kind, list(shape)))


def encoding_of(model: onnx.ModelProto) -> CameraEncoding:
    """How the images that a graph takes are encoded; RGB where no readable card says otherwise."""
    cards = [p.value for p in model.metadata_props if p.key == METADATA_KEY]
    try:
        return CameraEncoding.parse(json.loads(cards[0])["camera_encoding"])
    except (IndexError, KeyError, TypeError, ValueError, RecursionError, InputError):
        return CameraEncoding.RGB  # what is wrong with a card is told where it is read


def fixed_batch(model: onnx.ModelProto) -> int | None:
    """The batch size pinned in the graph; None where it is open."""
    return int(model.graph.input[0].type.tensor_type.shape.dim[0].dim_value) or None


def fixed_size(model: onnx.ModelProto) -> Size | None:
    """The image size pinned in the graph; None where it is open."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    rows, width = int(dims[1].dim_value), int(dims[2].dim_value)
    height = rows * 2 // 3 if encoding_of(model) is CameraEncoding.NV12 else rows
    return Size(width, height) if height and width else None
