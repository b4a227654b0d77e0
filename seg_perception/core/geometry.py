"""From camera size to network size."""

from __future__ import annotations

import math

from seg_perception.core.types import Size


def network_size(camera: Size, budget: Size, multiple: int) -> Size:
    """The network input size for a camera: its shape, the budget's number of pixels.

    Width and height are scaled by one factor so that their product matches the budget's, then each
    is rounded to the nearest multiple. A camera at the budget's size keeps it (up to rounding).

    Args:
        camera: the image's size.
        budget: a size whose pixel count the network should spend (the model card's input size).
        multiple: the divisor that the network demands of width and height.
    """
    scale = math.sqrt(budget.width * budget.height / (camera.width * camera.height))

    def fit(length: int) -> int:
        return max(multiple, round(length * scale / multiple) * multiple)

    return Size(fit(camera.width), fit(camera.height))
