"""Frames over time, computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from seg_perception.core.errors import InputError
from seg_perception.core.transforms import TransformBuffer, TransformNotYetError

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
