"""The camera's geometry against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from seg_perception.scenes.camera import Camera, Course, GroundView, Wave

# 1.5 m over a straight, level road, in the lane 1.6 m right of the center line; 400 pixels of focal length.
LEVEL = Camera(Course(), s=100.0, d=1.6, h=1.5, focal=400.0, center_x=240.0, horizon=160.0)


@pytest.mark.parametrize(
    "point, place",
    [
        # 10 m ahead on the ground: 400 x 1.5 / 10 = 60 rows below the horizon, in the middle column
        ((110.0, 1.6, 0.0), (240.0, 220.0)),
        # on the center line, 1.6 m to the left at 20 m: 400 x 1.6 / 20 = 32 columns to the left
        ((120.0, 0.0, 0.0), (208.0, 190.0)),
        # 3 m above the camera at 8 m: 400 x 3 / 8 = 150 rows above the horizon; 2 m right: 100 columns
        ((108.0, 3.6, 4.5), (340.0, 10.0)),
        # at the camera's own height everything lies on the horizon
        ((150.0, 1.6, 1.5), (240.0, 160.0)),
    ],
)
def test_a_world_point_appears_where_computed_by_hand(
    point: tuple[float, float, float], place: tuple[float, float]
) -> None:
    assert LEVEL.project(np.array(point)) == pytest.approx(place)


def test_a_turn_to_the_right_moves_the_picture_to_the_left() -> None:
    turned = Camera(Course(), 100.0, 1.6, 1.5, 400.0, 240.0, 160.0, yaw=0.05)
    # 0.05 x 400 = 20 columns, at any distance
    for s in (105.0, 190.0):
        assert turned.project(np.array([s, 1.6, 0.0]))[0] == pytest.approx(220.0)


def test_the_camera_looks_along_a_bend() -> None:
    # x = 10 sin(2 pi s / 200): at s = 100 the slope is -10 x 2 pi / 200 = -0.31416, the offset is 0
    course = Course(bends=(Wave(10.0, 200.0, 0.0),))
    camera = Camera(course, 100.0, 0.0, 1.5, 400.0, 240.0, 160.0)
    assert camera.heading == pytest.approx(-0.314159, abs=1e-6)
    # at s = 150 the center line is at x = -10; the view's axis is at -0.314159 x 50 = -15.708: 5.708 m right of it
    assert camera.project(np.array([150.0, 0.0, 0.0]))[0] == pytest.approx(240 + 400 * 5.70796 / 50, abs=1e-3)


def test_ground_rows_undo_the_projection() -> None:
    course = Course(bends=(Wave(8.0, 300.0, 0.4),))
    camera = Camera(course, 55.0, -1.5, 1.4, 420.0, 240.0, 150.0, yaw=0.01)
    rows = GroundView(camera, 360).rows()
    # row 200's center, 200.5, is 50.5 rows below the horizon: 420 x 1.4 / 50.5 = 11.644 m away
    assert rows.distance[200 - rows.top] == pytest.approx(11.644, abs=0.02)
    for row in (170, 200, 359):
        k = row - rows.top
        for column in (3, 240, 470):
            d = rows.d_start[k] + rows.d_step[k] * column
            place = camera.project(np.array([camera.s + rows.distance[k], d, 0.0]))
            assert place == pytest.approx((column + 0.5, row + 0.5), abs=0.05)


def test_a_crest_hides_what_lies_behind_it() -> None:
    # a hill whose top is 50 m ahead and whose far side falls 4 m: the valley at 150 m cannot be seen
    course = Course(hills=(Wave(2.0, 200.0, np.pi / 2 - 2 * np.pi * 50 / 200),))
    camera = Camera(course, 0.0, 0.0, 1.4, 400.0, 240.0, 160.0)
    view = GroundView(camera, 360)
    valley_row = camera.project(np.array([150.0, 0.0, 0.0]))[1]
    assert view.crest_before(150.0) < valley_row - 1
    assert view.rows().distance.max() < 100.0
    assert np.all(np.diff(view.rows().distance) < 0)
