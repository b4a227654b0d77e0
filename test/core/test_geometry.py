"""From camera size to network size."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seg_perception.core.geometry import network_size
from seg_perception.core.types import Size

sizes = st.builds(Size, st.integers(200, 4000), st.integers(200, 4000)).filter(
    lambda size: 1 / 4 <= size.width / size.height <= 4
)
budgets = st.builds(Size, st.integers(256, 1024), st.integers(256, 1024))


@pytest.mark.parametrize(
    "camera, expected",
    [
        # 480x352 = 168960 pixels; the scale is sqrt(168960 / camera pixels)
        (Size(480, 352), Size(480, 352)),  # scale 1
        (Size(960, 704), Size(480, 352)),  # scale 0.5
        (Size(480, 360), Size(480, 352)),  # 0.9888: 474.6 x 356.0 -> 14.8 x 11.1 multiples of 32 -> 15 x 11
        (Size(1920, 1080), Size(544, 320)),  # 0.28545: 548.1 x 308.3 -> 17.1 x 9.6 -> 17 x 10
        (Size(1242, 375), Size(736, 224)),  # 0.60231: 748.1 x 225.9 -> 23.4 x 7.06 -> 23 x 7
    ],
)
def test_known_cameras(camera: Size, expected: Size) -> None:
    assert network_size(camera, Size(480, 352), 32) == expected


@given(sizes, budgets, st.sampled_from([1, 8, 16, 32]))
def test_sides_are_multiples_and_close_to_the_camera_shape_and_the_budget(
    camera: Size, budget: Size, multiple: int
) -> None:
    size = network_size(camera, budget, multiple)
    assert size.width % multiple == 0
    assert size.height % multiple == 0
    # each side is the exact one rounded to the nearest multiple: off by half a multiple at most
    scale = math.sqrt(budget.width * budget.height / (camera.width * camera.height))
    exact_width, exact_height = camera.width * scale, camera.height * scale
    assert abs(size.width - exact_width) <= multiple / 2 + 1e-6
    assert abs(size.height - exact_height) <= multiple / 2 + 1e-6
    # so the number of pixels is the budget's within the two roundings' product
    tolerance = (1 + multiple / 2 / exact_width) * (1 + multiple / 2 / exact_height)
    ratio = size.width * size.height / (budget.width * budget.height)
    assert 2 - tolerance <= ratio <= tolerance + 1e-9


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([8, 16, 32]))
def test_a_camera_at_the_budgets_own_size_keeps_it(columns: int, rows: int, multiple: int) -> None:
    budget = Size(columns * multiple, rows * multiple)
    assert network_size(budget, budget, multiple) == budget


def test_a_sliver_still_gets_one_multiple() -> None:
    assert network_size(Size(10000, 1), Size(480, 352), 32).height == 32
