"""Outline and distance of grids made by hand."""

from __future__ import annotations

import math

import cv2
import numpy as np

from seg_perception.core.free_space import MAX_CORNERS, FreeSpace
from seg_perception.core.grid import GridSpec

SPEC = GridSpec()
X, Y = SPEC.centers()


def camera_fan(half_angle: float = 40.0, near: float = 3.0, far: float = 30.0) -> np.ndarray:
    """What a camera sees: a sector ahead."""
    angle, reach = np.arctan2(Y[:, None], X[None, :]), np.hypot(Y[:, None], X[None, :])
    return (np.abs(angle) < math.radians(half_angle)) & (reach > near) & (reach < far)


VISIBLE = camera_fan()
FREE_SPACE = FreeSpace(SPEC, VISIBLE, corridor_width=2.0)


def all_free() -> np.ndarray:
    return np.where(VISIBLE, 0, -1).astype(np.int8)


def put(cells: np.ndarray, x: float, y: float, value: int, size: int = 1) -> np.ndarray:
    i, j = int(x / 0.1), int((y + 10) / 0.1)
    cells[j : j + size, i : i + size] = value
    return cells


def test_the_distance_to_an_obstacle_in_the_corridor() -> None:
    assert FREE_SPACE.distance(put(all_free(), 12.05, 0.05, 100)) == 12.0
    assert FREE_SPACE.distance(put(all_free(), 12.05, 0.95, 100)) == 12.0  # at its border
    assert FREE_SPACE.distance(put(all_free(), 12.05, 1.15, 100)) == FREE_SPACE.distance(all_free())  # beside it


def test_what_is_not_known_to_be_free_ends_the_corridor() -> None:
    assert FREE_SPACE.distance(put(all_free(), 8.05, 0.05, -1)) == 8.0
    assert FREE_SPACE.distance(put(all_free(), 8.05, 0.05, 60)) == 8.0  # a cost is not drivable
    assert FREE_SPACE.distance(all_free()) == 30.0  # to the end of sight


def test_an_obstacle_where_the_corridor_is_not_yet_seen_whole() -> None:
    narrow = FreeSpace(SPEC, camera_fan(half_angle=10.0), corridor_width=2.0)
    cells = np.where(camera_fan(half_angle=10.0), 0, -1).astype(np.int8)
    assert narrow.distance(put(cells.copy(), 4.05, 0.05, 100)) == 4.0
    assert narrow.distance(cells) > 20.0


def test_nothing_known_is_nan() -> None:
    assert math.isnan(FREE_SPACE.distance(SPEC.unknown()))
    blind = FreeSpace(SPEC, np.zeros_like(VISIBLE), corridor_width=2.0)
    assert math.isnan(blind.distance(all_free()))
    behind = GridSpec(x_min=-20, x_max=-5)
    assert math.isnan(FreeSpace(behind, np.ones((200, 150), bool), 2.0).distance(np.zeros((200, 150), np.int8)))


def filled(outline: np.ndarray) -> np.ndarray:
    """Share of each cell that the outline covers."""
    picture = np.zeros((SPEC.height * 5, SPEC.width * 5), np.uint8)
    corners = (outline - (SPEC.x_min, SPEC.y_min)) / SPEC.resolution * 5
    cv2.fillPoly(picture, [np.rint(corners * 16).astype(np.int32)], 1, shift=4)
    return picture.reshape(SPEC.height, 5, SPEC.width, 5).mean(axis=(1, 3))


def test_the_outline_of_everything() -> None:
    outline = FREE_SPACE.outline(all_free())
    assert 4 <= len(outline) <= MAX_CORNERS
    covered = filled(outline) > 0.5
    assert covered.sum() > 0.9 * VISIBLE.sum()
    assert not (covered & ~VISIBLE).any()


def test_the_outline_never_holds_a_cell_that_is_not_free() -> None:
    rng = np.random.default_rng(3)
    for _ in range(5):
        cells = all_free()
        for _ in range(8):
            put(cells, rng.uniform(4, 28), rng.uniform(-8, 8), int(rng.choice([-1, 100, 60])), int(rng.integers(1, 9)))
        covered = filled(FREE_SPACE.outline(cells)) > 0.5
        assert not (covered & (cells != 0)).any()


def test_only_what_is_connected_to_the_car() -> None:
    cells = all_free()
    cells[:, int(10 / 0.1) : int(10.5 / 0.1)] = -1  # unknown from side to side, 10 m ahead
    outline = FREE_SPACE.outline(cells)
    assert outline[:, 0].max() <= 10.0 + 1e-6


def test_no_free_area_has_no_outline() -> None:
    assert FREE_SPACE.outline(SPEC.unknown()).shape == (0, 2)
    blocked = np.where(VISIBLE, 100, -1).astype(np.int8)
    assert FREE_SPACE.outline(blocked).shape == (0, 2)
    assert FreeSpace(SPEC, np.zeros_like(VISIBLE), 2.0).outline(all_free()).shape == (0, 2)
