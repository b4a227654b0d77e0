"""The deployed graph as a file: what is read, written and chosen at it without torch, so that a robot can do it.

Like every package beside the engines it is imported when their names are asked for: ONNX only where it is used.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from seg_perception.core.errors import InputError, ModelError
from seg_perception.core.model_card import METADATA_KEY, ModelCard
from seg_perception.core.resizing import check_multiple
from seg_perception.core.types import CameraEncoding, Precision, Size

if TYPE_CHECKING:
    import onnx

    from seg_perception.engines.graph.model_file import CheckedModel


EDITS_VERSION = 2
"""Part of every built engine's key: raise it when an edit in this folder makes another graph than before."""

DECISION = "decision"
"""Begins the names of what an import puts behind the model's own answer."""

FIRST_PERMUTATION = [0, 3, 1, 2]
"""Normalization begins with this transposition, NHWC to NCHW: see `networks.base`."""


def card_of(model: onnx.ModelProto) -> ModelCard:
    """The model card inside a checked graph."""
    return ModelCard.from_json(next(p.value for p in model.metadata_props if p.key == METADATA_KEY))


def write_card(model: onnx.ModelProto, card: ModelCard) -> None:
    """Replace the model card; other metadata stays."""
    import onnx

    kept = {p.key: p.value for p in model.metadata_props} | {METADATA_KEY: card.to_json()}
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, kept)


def pin_shapes(model: onnx.ModelProto, batch: int | None, size: Size | None) -> None:
    """Write the shapes of inputs and outputs, as the model card's encoding has them; None leaves an axis open.

    The graph holds no shape arithmetic, so that the inner shapes follow by themselves.
    """
    import onnx

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


_ASPECTS = (0.5, 4.0)
"""Width to height of the cameras that an engine of open size must take: portrait phone to KITTI."""


@dataclass(frozen=True, slots=True)
class InputSizes:
    """The image sizes an engine takes; one alone where all three are equal.

    Prints as "480x352" or "up to 832x608".
    """

    smallest: Size
    tuned: Size
    largest: Size

    @property
    def fixed(self) -> Size | None:
        return self.tuned if self.smallest == self.largest else None

    def __str__(self) -> str:
        return str(self.fixed or f"up to {self.largest}")


def resolve_precision(of_graph: Precision, wanted: Precision | None) -> Precision:
    """The engine's precision from the graph's and the wish.

    An fp32 graph makes fp32 and fp16 engines, fp16 and int8 graphs only their own.

    Raises:
        ModelError: the wish cannot be met; says which graph to export.
    """
    default = Precision.FP16 if of_graph is Precision.FP32 else of_graph
    chosen = wanted or default
    if chosen not in {of_graph, default}:
        needed = Precision.FP32 if chosen is Precision.FP16 else chosen
        raise ModelError(
            f"precision {chosen} cannot be made from an {of_graph} graph; "
            f"export one with 'seg-perception export --precision {needed}'"
        )
    return chosen


def input_sizes(
    model: CheckedModel, size: Size | None, camera_size: Size | None = None, one_shape: bool = False
) -> InputSizes:
    """The sizes of the engine that is made of this graph.

    Args:
        model: as read and checked.
        size: the only one wanted; None leaves any shape with about the model card's pixel count.
        camera_size: images come at this size and are resized inside.
        one_shape: the engine can take only one, as a DLA.

    Raises:
        ModelError: the graph is fixed to another size, or the size does not fit it.
    """
    card, of_graph = model.card, fixed_size(model.graph)
    if camera_size is not None:
        return InputSizes(camera_size, camera_size, camera_size)
    if of_graph is not None and size not in (None, of_graph):
        raise ModelError(f"{card.id} is fixed to {of_graph}; an engine for {size} needs open height and width")
    fixed = of_graph or size or (card.input_size if one_shape else None)
    multiple = card.size_multiple
    if fixed is not None:
        check_multiple(fixed, multiple, card.id, "size", ModelError)
        return InputSizes(fixed, fixed, fixed)
    pixels = card.input_size.width * card.input_size.height
    tallest, widest = (
        math.ceil(math.sqrt(length) / multiple) * multiple for length in (pixels / _ASPECTS[0], pixels * _ASPECTS[1])
    )
    return InputSizes(Size(multiple, multiple), card.input_size, Size(widest, tallest))
