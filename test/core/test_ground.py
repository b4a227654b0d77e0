"""Where pixels meet the ground, computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from seg_perception.core.errors import InputError
from seg_perception.core.ground import CameraPose, PixelRays, SampledPixels
from seg_perception.core.optics import CameraModel
from seg_perception.core.types import Size

CAMERA = CameraModel(Size(640, 480), 500.0, 500.0, 320.0, 240.0)


def test_a_level_camera() -> None:
    points = PixelRays(CAMERA).ground_points(CameraPose.mounted(1.5))
    np.testing.assert_allclose(points[300, 320], [12.5, 0.0, 0.0], atol=1e-5)  # 1.5 x 500 / (300 - 240)
    np.testing.assert_allclose(points[300, 370], [12.5, -1.25, 0.0], atol=1e-5)  # 50 pixels to the right: y is left
    np.testing.assert_allclose(points[479, 320], [1.5 * 500 / 239, 0.0, 0.0], atol=1e-5)
    assert np.isnan(points[:241]).all()  # the horizon and above
    assert np.isfinite(points[241:]).all()


def test_pitch_is_positive_downwards_and_the_camera_may_be_anywhere() -> None:
    # the optical axis, 10 degrees down from 1.5 m, meets the ground 1.5 / tan(10 deg) ahead
    reach = 1.5 / math.tan(math.radians(10))
    pose = CameraPose.mounted(1.5, pitch=10.0, x=2.0, y=0.5, yaw=90.0)  # looks to the left
    np.testing.assert_allclose(PixelRays(CAMERA).ground_points(pose)[240, 320], [2.0, 0.5 + reach, 0.0], atol=1e-4)
    assert pose.pitch == pytest.approx(10.0)


def test_roll_is_positive_to_the_right() -> None:
    # rolled to the right by 90 degrees the image's right edge looks straight down
    points = PixelRays(CAMERA).ground_points(CameraPose.mounted(1.5, roll=90.0))
    np.testing.assert_allclose(points[240, 380], [12.5, 0.0, 0.0], atol=1e-4)
    assert np.isnan(points[240, 300]).all()


def test_a_transform_says_the_same_as_the_angles() -> None:
    # the usual optical frame of a level camera: quaternion (-0.5, 0.5, -0.5, 0.5)
    pose = CameraPose.from_transform((0.3, 0.1, 1.5), (-0.5, 0.5, -0.5, 0.5))
    np.testing.assert_allclose(pose.matrix, CameraPose.mounted(1.5, x=0.3, y=0.1).matrix, atol=1e-12)
    assert pose.position == (0.3, 0.1, 1.5)


@pytest.mark.parametrize(
    "translation, quaternion, words",
    [
        ((0.0, 0.0, 0.0), (-0.5, 0.5, -0.5, 0.5), "0 m above the ground, it must be above 0"),
        ((0.0, 0.0, -1.2), (-0.5, 0.5, -0.5, 0.5), "-1.2 m above the ground"),
        ((0.0, 0.0, 1.5), (0.0, 0.0, 0.0, 0.0), "is not a rotation: its length is 0"),
        ((0.0, float("nan"), 1.5), (-0.5, 0.5, -0.5, 0.5), "not finite"),
    ],
)
def test_a_pose_that_cannot_be_says_why(
    translation: tuple[float, float, float], quaternion: tuple[float, float, float, float], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        CameraPose.from_transform(translation, quaternion)


def test_small_turns_and_moves_are_told() -> None:
    pose = CameraPose.mounted(1.5, pitch=2.0)
    assert pose.near(CameraPose.mounted(1.5, pitch=2.0009), angle=0.001, distance=0.0)
    assert not pose.near(CameraPose.mounted(1.5, pitch=2.002), angle=0.001, distance=0.0)
    assert not pose.near(CameraPose.mounted(1.51, pitch=2.0), angle=1.0, distance=0.009)
    assert not pose.near(CameraPose.mounted(1.5, pitch=2.0, yaw=180.0), angle=10.0, distance=1.0)


def test_a_smaller_image_keeps_labels_and_points_together() -> None:
    smaller = Size(64, 48)
    labels = np.arange(480 * 640, dtype=np.uint32).reshape(480, 640).astype(np.uint8)
    sampled = SampledPixels.of(CAMERA.size, smaller)
    taken = sampled.take(labels)
    assert taken.shape == (48, 64)
    assert taken[30, 32] == labels[305, 325]  # (30.5 x 10, 32.5 x 10)
    points = PixelRays(CAMERA, smaller).ground_points(CameraPose.mounted(1.5))
    assert points.shape == (48, 64, 3)
    x = 1.5 * 500 / (305 - 240)
    np.testing.assert_allclose(points[30, 32], [x, -(325 - 320) / 500 * x, 0.0], atol=1e-5)
