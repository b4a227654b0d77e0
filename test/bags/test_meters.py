"""`bag process` writes grids and points from the bag's own /tf, /tf_static and camera_info."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seg_perception.bags import messages
from seg_perception.bags.messages import standard_types
from seg_perception.bags.processing import ProcessSettings, process_bag
from seg_perception.bags.reader import BagReader
from seg_perception.bags.types import OfferedQos
from seg_perception.bags.writer import BagWriter
from seg_perception.core.grid import GridSettings
from seg_perception.core.label_set import load_label_set
from seg_perception.core.meters import MetersSettings, MountSettings

IDS = {name: i for i, name in enumerate(load_label_set("driving").names)}
STEP = 100_000_000
PITCHES = (0.0, 0.5, 1.0, -0.5)


def transform(parent: str, child: str, stamp_ns: int, z: float, quaternion: tuple[float, ...]) -> Any:
    types = standard_types().types
    stamped = types["geometry_msgs/msg/TransformStamped"](
        header=messages.header(stamp_ns, parent),
        child_frame_id=child,
        transform=types["geometry_msgs/msg/Transform"](
            translation=types["geometry_msgs/msg/Vector3"](x=0.0, y=0.0, z=z),
            rotation=types["geometry_msgs/msg/Quaternion"](
                x=quaternion[0], y=quaternion[1], z=quaternion[2], w=quaternion[3]
            ),
        ),
    )
    return types["tf2_msgs/msg/TFMessage"](transforms=[stamped])


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    """Four frames of a road below row 300, of a car that pitches; the last has no camera_info."""
    labels = np.full((480, 640), IDS["background"], np.uint8)
    labels[300:] = IDS["road"]
    image = np.zeros((480, 640, 3), np.uint8)
    image[..., 0], image[..., 1] = labels * 26 + 13, 255  # what the tiny model reads
    path = tmp_path / "drive.mcap"
    with BagWriter(path) as bag:
        bag.add_topic("/front/image", messages.IMAGE, OfferedQos())
        bag.add_topic("/front/camera_info", messages.CAMERA_INFO, OfferedQos())
        bag.add_topic("/tf", "tf2_msgs/msg/TFMessage", OfferedQos())
        bag.add_topic("/tf_static", "tf2_msgs/msg/TFMessage", OfferedQos())
        optical = (-0.5, 0.5, -0.5, 0.5)
        for z in (2.5, 3.5):
            bag.write("/tf_static", 1, transform("base_link", "lidar", 1, 1.5, (0.0, 0.0, 0.0, z)))
        bag.write("/tf_static", 1, transform("base_link", "camera_optical", 1, 1.5, optical))
        for k, pitch in enumerate(PITCHES):
            at = (k + 1) * STEP
            header = messages.header(at, "camera_optical")
            bag.write("/front/image", at, messages.image(image, header))
            if k < 3:
                bag.write("/front/camera_info", at, messages.camera_info(640, 480, 500.0, header, (320.0, 240.0)))
            half = math.radians(pitch) / 2
            turned = (0.0, math.sin(half), 0.0, math.cos(half))
            late = at + STEP // 2  # recorded after the image it is for
            bag.write("/tf", late, transform("base_footprint", "base_link", at, 0.0, turned))
    return path


def test_grids_and_points_of_a_bag(tiny_model: Path, drive: Path, tmp_path: Path) -> None:
    settings = ProcessSettings(
        outputs=("drivable",), meters=MetersSettings(mount=MountSettings("tf"), points_size=None)
    )
    out = tmp_path / "out.mcap"
    report = process_bag(drive, out, settings, model=tiny_model, engine="onnxruntime", size="640x480")
    assert report.segmented == 4
    (reason, count), (refused, twice) = reversed(report.without_meters.items())
    assert count == 1
    assert "no camera_info on /front/camera_info has the image's stamp" in reason
    assert "a transform on /tf_static is refused" in refused
    assert twice == 2  # whatever numbers they have
    with BagReader(out) as bag:
        counts = {topic.name: topic.count for topic in bag.topics}
        for name in ("drivable_grid", "free_space", "free_distance", "ground_points", "costmap/labels"):
            assert counts[f"/segmentation_node/{name}"] == 3, name
        grids = [bag.decode(m) for m in bag.messages(["/segmentation_node/drivable_grid"])]
        distances = [bag.decode(m).data for m in bag.messages(["/segmentation_node/free_distance"])]
        clouds = [bag.decode(m) for m in bag.messages(["/segmentation_node/ground_points"])]
    expected = [1.5 / math.tan(math.atan(60 / 500) + math.radians(p)) for p in PITCHES[:3]]
    np.testing.assert_allclose(distances, expected, atol=0.25)
    for k, grid in enumerate(grids):
        assert grid.header.frame_id == "base_footprint"
        assert messages.stamp_ns_of(grid) == (k + 1) * STEP
        assert (grid.info.width, grid.info.height) == (400, 200)
        assert np.asarray(grid.data).reshape(200, 400)[100, 60] == 0
    assert (clouds[0].width, clouds[0].height, clouds[0].point_step) == (400, 300, 16)


def test_a_place_by_hand_needs_no_transforms(tiny_model: Path, drive: Path, tmp_path: Path) -> None:
    settings = ProcessSettings(outputs=("drivable",), meters=MetersSettings(mount=MountSettings("fixed", height=1.5)))
    out = tmp_path / "out.mcap"
    process_bag(drive, out, settings, model=tiny_model, engine="onnxruntime", size="640x480")
    with BagReader(out) as bag:
        distances = [bag.decode(m).data for m in bag.messages(["/segmentation_node/free_distance"])]
    assert distances == [12.5] * 3


@pytest.mark.parametrize("age, cell", [(0.5, 0), (0.05, -1)])
def test_parts_of_cameras_are_joined_whichever_stamp_is_earlier(
    tiny_model: Path, tmp_path: Path, age: float, cell: int
) -> None:
    """The rear camera's frame is recorded after the front's and was taken 0.1 s before it."""
    image = np.zeros((480, 640, 3), np.uint8)
    image[300:, :, 0], image[:300, :, 0], image[..., 1] = 13 + 26 * IDS["road"], 13 + 26 * IDS["background"], 255
    with BagWriter(tmp_path / "drive.mcap") as bag:
        for name in ("front", "rear"):
            bag.add_topic(f"/{name}/image", messages.IMAGE, OfferedQos())
            bag.add_topic(f"/{name}/camera_info", messages.CAMERA_INFO, OfferedQos())
        for k, name in enumerate(("front", "rear")):
            header = messages.header(10 * STEP - k * 100_000_000, name)
            bag.write(f"/{name}/camera_info", 20 * STEP, messages.camera_info(640, 480, 500.0, header, (320.0, 240.0)))
            bag.write(f"/{name}/image", 20 * STEP + k, messages.image(image, header))
    front, rear = MountSettings("fixed", 1.5), MountSettings("fixed", 1.5, yaw=180.0)
    settings = ProcessSettings(
        outputs=("drivable",), images=("/front/image", "/rear/image"),
        meters=MetersSettings(
            mount=front, camera_mounts={"rear": rear}, grid=GridSettings(x_min=-20, x_max=20), part_max_age_s=age
        ),
    )  # fmt: skip
    out = tmp_path / "out.mcap"
    process_bag(tmp_path / "drive.mcap", out, settings, model=tiny_model, engine="onnxruntime", size="640x480")
    with BagReader(out) as bag:
        grids = [bag.decode(m) for m in bag.messages(["/segmentation_node/drivable_grid"])]
    last = np.asarray(grids[1].data).reshape(200, 400)
    assert (last[100, 140], last[100, 260]) == (0, cell)  # 6 m behind; 6 m ahead
    newest = 10 * STEP if cell == 0 else 9 * STEP  # of the frames in it
    assert [messages.stamp_ns_of(grid) for grid in grids] == [10 * STEP, newest]


def test_without_a_source_nothing_is_added(tiny_model: Path, drive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mcap"
    settings = ProcessSettings(outputs=("drivable",))
    report = process_bag(drive, out, settings, model=tiny_model, engine="onnxruntime", size="640x480")
    assert not report.without_meters
    with BagReader(out) as bag:
        assert {t.name for t in bag.topics} - {"/front/image", "/front/camera_info", "/tf", "/tf_static"} == {
            "/segmentation_node/drivable"
        }
