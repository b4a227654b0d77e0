"""What a GPU engine is made for: its precision and the sizes it takes, from the wish and the graph."""

from __future__ import annotations

import math
from dataclasses import dataclass

from seg_perception.core.errors import ModelError
from seg_perception.core.resizing import check_multiple
from seg_perception.core.types import Precision, Size
from seg_perception.engines.graph.edits import fixed_size
from seg_perception.engines.graph.model_file import CheckedModel

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
