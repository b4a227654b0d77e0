"""Ground points and the shared grid."""

from __future__ import annotations

import math

import numpy as np
import pytest

from seg_perception.core.drivable import DrivableMasker, DrivableSettings
from seg_perception.core.errors import SettingsError
from seg_perception.core.grid import GridRules, GridSettings
from seg_perception.core.ground import CameraPose
from seg_perception.core.label_set import load_label_set
from seg_perception.core.meters import CameraMeters, MountSettings, SharedGrid, costmap_size
from seg_perception.core.optics import CameraModel
from seg_perception.core.types import Segmentation, Size

LABELS = load_label_set("driving")
CAMERA = CameraModel(Size(640, 480), 500.0, 500.0, 320.0, 240.0)
POSE = CameraPose.mounted(1.5)
SETTINGS = GridSettings()
RULES = GridRules(SETTINGS, LABELS)


def scene() -> tuple[Segmentation, np.ndarray]:
    """Road below row 300 with a post from row 350 to 399, columns 300 to 339."""
    labels = np.full((480, 640), LABELS.id_of("background"), np.uint8)
    labels[300:] = LABELS.id_of("road")
    labels[350:400, 300:340] = LABELS.id_of("pole")
    confidence = np.full_like(labels, 200)
    answer = Segmentation(labels, confidence)
    return answer, DrivableMasker(DrivableSettings(), LABELS).mask(answer)


def looked(size: Size | None = None) -> tuple[CameraMeters, Segmentation]:
    meters = CameraMeters(SETTINGS, size)
    assert meters.place(CAMERA, POSE)
    answer, mask = scene()
    meters.look(answer, mask, RULES)
    return meters, answer


def test_points_lie_where_their_pixels_show_the_ground() -> None:
    meters, answer = looked(Size(64, 48))
    cloud = meters.ground_points(answer)
    assert cloud.points.shape == (48, 64, 3)
    # small pixel (row 45, column 10) stands for (455, 105)
    x = 750 / (455 - 240)
    np.testing.assert_allclose(cloud.points[45, 10], [x, (320 - 105) / 500 * x, 0.0], atol=1e-4)
    assert cloud.labels[45, 10] == LABELS.id_of("road")
    assert cloud.confidence[45, 10] == 200
    assert cloud.packed[45, 10, 12:].tolist() == [LABELS.id_of("road"), 200, 0, 0]
    assert cloud.packed[45, 10, :12].tobytes() == cloud.points[45, 10].tobytes()


def test_there_are_no_points_above_the_horizon_and_behind_obstacles() -> None:
    meters, answer = looked(Size(64, 48))
    cloud = meters.ground_points(answer)
    known = np.isfinite(cloud.points).all(axis=2)
    assert (known == np.isfinite(cloud.points).any(axis=2)).all()
    assert not known[:25].any()  # rows 5 to 245
    post = cloud.labels == LABELS.id_of("pole")
    # of the post one row is left, where it stands; row 39 stands for 395, 4.84 m ahead
    assert known[39, 31:34].all()
    assert not known[30:39, 31:34].any()
    assert (known & post).sum() == 4
    assert known[33:, 10].all()  # beside it, road up to row 305
    assert not known[:28, 10].any()


def test_the_points_show_what_is_thinner_than_they_and_what_stands_on_wheels() -> None:
    meters, _ = looked(Size(64, 48))
    labels = np.full((480, 640), LABELS.id_of("road"), np.uint8)
    labels[300:389, 351] = LABELS.id_of("pole")  # one column; small column 35 stands for 355, row 38 for 385
    labels[300:378, 100:261] = LABELS.id_of("car")  # 1.6 m wide; its wheels stand at row 390, 5 m ahead
    labels[300:391, 100:121] = labels[300:391, 240:261] = LABELS.id_of("car")
    confidence = np.full_like(labels, 200)
    confidence[labels == LABELS.id_of("pole")] = 90
    answer = Segmentation(labels, confidence)
    meters.look(answer, DrivableMasker(DrivableSettings(), LABELS).mask(answer), RULES)
    cloud = meters.ground_points(answer)
    known = np.isfinite(cloud.points).all(axis=2)
    assert cloud.labels[38, 35] == LABELS.id_of("pole")
    assert cloud.confidence[38, 35] == 90
    assert known[38, 35]
    # the car is taken to begin 0.6 m before its wheels: 750 / 4.4 = row 410
    assert (cloud.labels[41, 10:26] == LABELS.id_of("car")).all()
    assert known[41, 10:26].all()
    assert not known[30:40, 10:26].any()
    assert (cloud.labels[42:, 10:26] == LABELS.id_of("road")).all()
    assert cloud.packed[38, 35, 12:14].tolist() == [LABELS.id_of("pole"), 90]


def test_the_size_of_the_costmaps_images() -> None:
    assert costmap_size(Size(1280, 720), None) == Size(400, 225)
    assert costmap_size(Size(640, 480), Size(320, 240)) == Size(320, 240)
    assert costmap_size(Size(64, 48), None) == Size(64, 48)  # never larger than the image
    meters, answer = looked()
    assert meters.ground_points(answer).labels.shape == (300, 400)


def test_tables_are_made_anew_only_when_the_pose_changes() -> None:
    meters, _ = looked()
    table = meters.table
    assert not meters.place(CAMERA, CameraPose.mounted(1.5, pitch=0.005))
    assert meters.table is table
    assert meters.place(CAMERA, CameraPose.mounted(1.5, pitch=0.5))
    assert meters.table is not table
    assert meters.table is not None
    assert table is not None
    assert meters.table.level is table.level


def test_a_moving_pitch_moves_the_grid() -> None:
    meters, answer = looked()
    _, mask = scene()
    ends = []
    for degrees in (0.0, 0.5, 1.0, -0.5):
        meters.place(CAMERA, CameraPose.mounted(1.5, pitch=degrees))
        meters.look(answer, mask, RULES)
        cells = meters.cells(answer, RULES)
        ends.append(float(np.flatnonzero(cells[130] == 0)[-1] + 1) * 0.1)  # 3 m to the left
    expected = [1.5 / math.tan(math.atan(60 / 500) + math.radians(d)) for d in (0.0, 0.5, 1.0, -0.5)]
    np.testing.assert_allclose(ends, expected, atol=0.22)  # a pixel covers 0.21 m there


def test_the_shared_grid() -> None:
    meters, answer = looked()
    shared = SharedGrid(SETTINGS)
    assert meters.table is not None
    grid = shared.merged("base_footprint", {"front": (meters.cells(answer, RULES), meters.table)})
    assert grid.distance == 4.6  # the post: 750 / 160 = 4.69 m
    assert 4 < len(grid.outline) <= 180
    nothing = shared.merged("base_footprint", {})
    assert (nothing.cells == -1).all()
    assert math.isnan(nothing.distance)
    assert nothing.outline.shape == (0, 2)


def test_a_fixed_camera_has_a_height() -> None:
    assert MountSettings("fixed", height=1.5, pitch=2.0).pose().pitch == pytest.approx(2.0)
    with pytest.raises(SettingsError, match="height 0 is not accepted with source 'fixed'"):
        MountSettings("fixed")
