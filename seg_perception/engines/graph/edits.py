"""Edits of an exported ONNX graph that need no torch, so that a robot can make them, too."""

from __future__ import annotations

import onnx

from seg_perception.core.model_card import METADATA_KEY, ModelCard
from seg_perception.core.types import Size

EDITS_VERSION = 2
"""Part of every built engine's key: raise it when an edit in this folder makes another graph than before."""

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
    """Write [N, H, W(, 3)] into the inputs and outputs; None leaves an axis open.

    The graph holds no shape arithmetic, so that the inner shapes follow by themselves.
    """
    axes = (batch or "N", size.height if size else "H", size.width if size else "W")
    for tensor in (*model.graph.input, *model.graph.output):
        kind = tensor.type.tensor_type
        tail = [3] if len(kind.shape.dim) == 4 else []
        tensor.type.CopyFrom(onnx.helper.make_tensor_type_proto(kind.elem_type, [*axes, *tail]))


def fixed_batch(model: onnx.ModelProto) -> int | None:
    """The batch size pinned in the graph; None where it is open."""
    return int(model.graph.input[0].type.tensor_type.shape.dim[0].dim_value) or None


def fixed_size(model: onnx.ModelProto) -> Size | None:
    """The image size pinned in the graph; None where it is open."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    height, width = int(dims[1].dim_value), int(dims[2].dim_value)
    return Size(width, height) if height and width else None
