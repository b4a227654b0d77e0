"""Where pixels meet the ground, and where frames are over time, computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from seg_perception.core.errors import InputError
from seg_perception.core.ground import CameraPose, PixelRays, SampledPixels, TransformBuffer, TransformNotYetError
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
        ((0.0, 0.0, 0.0), (-0.5, 0.5, -0.5, 0.5), "0 m above the ground, it must be 0.05 or more"),
        ((0.0, 0.0, 1e-9), (-0.5, 0.5, -0.5, 0.5), "1e-09 m above the ground, it must be 0.05 or more"),
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


LEVEL_OPTICAL = (-0.5, 0.5, -0.5, 0.5)
NONE = (0.0, 0.0, 0.0, 1.0)
SECOND = 10**9


def pitch(degrees: float) -> tuple[float, float, float, float]:
    half = math.radians(degrees) / 2
    return 0.0, math.sin(half), 0.0, math.cos(half)


def car() -> TransformBuffer:
    """A car body that pitches over its footprint, with a camera on it."""
    buffer = TransformBuffer()
    buffer.add("base_link", "camera_link", 0, (1.0, 0.2, 1.2), NONE, static=True)
    buffer.add("camera_link", "camera_optical", 0, (0.0, 0.0, 0.0), LEVEL_OPTICAL, static=True)
    return buffer


def test_static_frames_hold_at_any_time() -> None:
    buffer = car()
    buffer.add("base_footprint", "base_link", 0, (0.0, 0.0, 0.3), NONE, static=True)
    for stamp in (0, 5, 10**18):
        pose = buffer.pose("base_footprint", "camera_optical", stamp)
        np.testing.assert_allclose(pose.position, (1.0, 0.2, 1.5))
        assert pose.pitch == pytest.approx(0.0)


def test_a_moving_pitch_is_followed_between_its_stamps() -> None:
    buffer = car()
    for k in range(11):
        buffer.add("base_footprint", "base_link", k * SECOND // 10, (0.0, 0.0, 0.3), pitch(0.4 * k))
    assert buffer.pose("base_footprint", "camera_optical", SECOND // 2).pitch == pytest.approx(2.0)
    pose = buffer.pose("base_footprint", "camera_optical", SECOND // 2 + SECOND // 40)  # a quarter on
    assert pose.pitch == pytest.approx(2.1, abs=1e-6)
    # the body turns about its own origin: the camera 1 m ahead and 1.2 m above it comes down
    turn = math.radians(2.1)
    assert pose.position[2] == pytest.approx(0.3 + 1.2 * math.cos(turn) - 1.0 * math.sin(turn), abs=1e-6)


def test_the_frames_may_be_on_different_branches() -> None:
    buffer = TransformBuffer()
    buffer.add("odom", "base_link", 0, (5.0, 0.0, 0.0), NONE, static=True)
    buffer.add("base_link", "camera_optical", 0, (1.0, 0.0, 1.5), LEVEL_OPTICAL, static=True)
    buffer.add("base_link", "base_footprint", 0, (0.0, 0.0, -0.3), NONE, static=True)
    np.testing.assert_allclose(buffer.pose("base_footprint", "camera_optical", 1).position, (1.0, 0.0, 1.8))
    np.testing.assert_allclose(buffer.pose("odom", "camera_optical", 1).position, (6.0, 0.0, 1.5))
    np.testing.assert_allclose(buffer.pose("/odom", "/camera_optical", 1).position, (6.0, 0.0, 1.5))


def test_what_is_missing_is_said() -> None:
    buffer = car()
    with pytest.raises(InputError, match=r"no transform connects 'camera_optical' with 'base_footprint'"):
        buffer.pose("base_footprint", "camera_optical", 0)
    with pytest.raises(InputError, match=r"no transform names the frame 'rear'; known: base_link, camera_link, camera"):
        buffer.pose("base_footprint", "rear", 0)
    with pytest.raises(InputError, match="known: none"):
        TransformBuffer().pose("base_footprint", "rear", 0)
    buffer.add("base_footprint", "base_link", SECOND, (0.0, 0.0, 0.3), NONE)
    buffer.add("base_footprint", "base_link", 2 * SECOND, (0.0, 0.0, 0.3), NONE)
    with pytest.raises(TransformNotYetError, match=r"known up to 0\.500 s before the image only"):
        buffer.pose("base_footprint", "camera_optical", 2 * SECOND + SECOND // 2)
    with pytest.raises(InputError, match=r"known from 0\.250 s after the image on only"):
        buffer.pose("base_footprint", "camera_optical", 3 * SECOND // 4)


def test_old_transforms_are_dropped_and_late_ones_put_in_order() -> None:
    buffer = car()
    for at in (0, 20, 12, 11):  # 0 is dropped when 20 comes
        buffer.add("base_footprint", "base_link", at * SECOND, (0.0, 0.0, 0.1 * at), NONE)
    assert buffer.pose("base_footprint", "camera_optical", int(11.5 * SECOND)).position[2] == pytest.approx(2.35)
    with pytest.raises(InputError, match="after the image"):
        buffer.pose("base_footprint", "camera_optical", 5 * SECOND)
    buffer.clear()
    with pytest.raises(InputError, match="no transform connects"):
        buffer.pose("base_footprint", "camera_optical", 12 * SECOND)


def test_frames_that_nobody_moves_any_more_do_not_fill_the_memory() -> None:
    """A tracker may name a frame for each object that it ever saw, and a broken clock stamp at random."""
    buffer = car()
    for k in range(3_000):  # 30 s at 100 Hz: objects of the last 10 s, and what room for 1,000 holds besides
        at = k * SECOND // 100
        buffer.add("base_footprint", f"object_{k}", at, (0.0, 0.0, 1.0), NONE)
        buffer.add("base_footprint", "base_link", at, (0.0, 0.0, 0.3), NONE)
    with pytest.raises(InputError, match="no transform names the frame 'object_0'"):
        buffer.pose("base_footprint", "object_0", 0)
    buffer.pose("base_footprint", "object_2500", 25 * SECOND)
    assert buffer.pose("base_footprint", "camera_optical", 29 * SECOND).position[2] == pytest.approx(1.5)
    for k in range(20_100):
        buffer.add("base_footprint", "base_link", 30 * SECOND + k, (0.0, 0.0, 0.3), NONE)
    with pytest.raises(InputError, match="after the image"):
        buffer.pose("base_footprint", "camera_optical", 30 * SECOND + 50)
    buffer.pose("base_footprint", "camera_optical", 30 * SECOND + 100)


@pytest.mark.parametrize(
    "parent, child, quaternion", [("a", "a", NONE), ("", "b", NONE), ("a", "b", (0.0, 0.0, 0.0, 0.0))]
)
def test_transforms_that_cannot_be(parent: str, child: str, quaternion: tuple[float, float, float, float]) -> None:
    with pytest.raises(InputError):
        TransformBuffer().add(parent, child, 0, (0.0, 0.0, 0.0), quaternion)


def test_a_circle_ends() -> None:
    buffer = TransformBuffer()
    for parent, child in (("a", "b"), ("b", "c"), ("c", "a")):
        buffer.add(parent, child, 0, (0.0, 0.0, 0.0), NONE, static=True)
    with pytest.raises(InputError, match="circle"):
        buffer.pose("a", "c", 0)
