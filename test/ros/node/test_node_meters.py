"""Meters from the real node over real DDS: grid, points, outline, distance; and what is said when they cannot be."""

from __future__ import annotations

import itertools
import math
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import PolygonStamped
from meters_harness import IDS, START, STEP, Driver, cells_of, info_message, parameters, road_below_300
from nav_msgs.msg import OccupancyGrid
from node_harness import RELIABLE_INPUT, Running, level, running, stamp, stamp_of, values, wait_until
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import Float64, Header
from waiting import PATIENCE_S

from seg_perception.core.grid_table import GridTable
from seg_perception.core.ground import PixelRays
from seg_perception.core.meters import CameraMeters
from seg_perception.ros.messages import why_not_installed
from seg_perception.ros.node.transforms import TF_MESSAGE


def publications(run: Running, topic: str) -> list[Any]:
    """What the node publishes on a topic from now on, noted where it leaves: nothing is still on its way."""
    published: list[Any] = []
    (publisher,) = (p for p in run.node.publishers if p.topic_name == topic)
    publish = publisher.publish
    publisher.publish = lambda message: (published.append(message), publish(message))
    return published


def grid_status(run: Running, camera: str = "camera") -> dict[str, str]:
    return values(run.peer.status(f": {camera}"))


def test_everything_in_meters_with_the_frames_own_stamp(tiny_model: Path) -> None:
    with running(parameters(tiny_model, **{"costmap.size": "64x48"})) as run:
        run.wait_state("active")
        driver = Driver(run)
        node = "/segmentation_node"
        grids = run.peer.subscribe(OccupancyGrid, f"{node}/drivable_grid")
        distances = run.peer.subscribe(Float64, f"{node}/free_distance")
        outlines = run.peer.subscribe(PolygonStamped, f"{node}/free_space")
        clouds = run.peer.subscribe(PointCloud2, f"{node}/ground_points")
        labels = run.peer.subscribe(Image, f"{node}/costmap/labels")
        confidences = run.peer.subscribe(Image, f"{node}/costmap/confidence")
        stamped = (grids, outlines, clouds, labels, confidences)

        def of_one_frame() -> tuple[Any, ...]:
            common = set.intersection(*({stamp_of(m) for m in messages} for messages in stamped))
            return tuple(next(m for m in messages if stamp_of(m) in common) for messages in stamped if common)

        found = driver.send_until(of_one_frame, "all outputs of one frame", confidence=200)
        grid, outline, cloud, label, confidence = found
        # it has no stamp; on a busy machine the only camera may become too old in between
        wait_until(lambda: any(d.data == 12.5 for d in distances), "the distance", lambda: distances)
        assert grid.header.frame_id == outline.header.frame_id == cloud.header.frame_id == "base_footprint"
        assert label.header.frame_id == "camera_optical"
        assert (grid.info.width, grid.info.height) == (400, 200)
        assert grid.info.resolution == pytest.approx(0.1)
        assert (grid.info.origin.position.x, grid.info.origin.position.y) == (0.0, -10.0)
        assert grid.info.origin.orientation.w == 1.0
        row = cells_of(grid)[100]
        assert (np.flatnonzero(row == 0)[[0, -1]] == (31, 124)).all()  # free from 3.1 to 12.5 m
        assert row[125] == 100
        corners = outline.polygon.points
        assert 4 <= len(corners) <= 180
        assert max(p.x for p in corners) <= 12.5 + 1e-3
        check_cloud(cloud, label, confidence)


def check_cloud(cloud: PointCloud2, labels: Image, confidence: Image) -> None:
    assert (cloud.width, cloud.height) == (labels.width, labels.height) == (confidence.width, confidence.height)
    assert labels.encoding == confidence.encoding == "mono8"
    assert [f.name for f in cloud.fields] == ["x", "y", "z", "label", "confidence"]
    kinds = {7: "<f4", 2: "u1"}
    dtype = np.dtype(
        {
            "names": [f.name for f in cloud.fields],
            "formats": [kinds[f.datatype] for f in cloud.fields],
            "offsets": [f.offset for f in cloud.fields],
            "itemsize": cloud.point_step,
        }
    )
    assert cloud.row_step == cloud.point_step * cloud.width
    points = np.frombuffer(bytes(cloud.data), dtype).reshape(cloud.height, cloud.width)
    # row 45, column 10 of 64x48 stand for row 455, column 105 of 640x480
    x = 750 / (455 - 240)
    assert points["x"][45, 10] == pytest.approx(x, abs=1e-4)
    assert points["y"][45, 10] == pytest.approx((320 - 105) / 500 * x, abs=1e-4)
    assert points["z"][45, 10] == 0.0
    assert np.isnan(points["x"][:28]).all()
    np.testing.assert_array_equal(points["label"], np.frombuffer(labels.data, np.uint8).reshape(48, 64))
    np.testing.assert_array_equal(points["confidence"], np.full((48, 64), 200, np.uint8))


def test_nothing_is_computed_without_a_subscriber(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for computed in (GridTable, PixelRays):  # what the grid and the points are made with
        monkeypatch.setattr(
            f"seg_perception.core.meters.{computed.__name__}",
            lambda *arguments, computed=computed: made.append(computed) or computed(*arguments),
        )
    with running(parameters(tiny_model)) as run:
        run.wait_state("active")
        driver = Driver(run)
        driver.send_until(lambda: int(values(run.report(": camera"))["grid_frames"]) >= 2, "frames with a place")
        assert made == []
        grids = run.peer.subscribe(OccupancyGrid, "/segmentation_node/drivable_grid")
        driver.send_until(lambda: grids, "a grid")
        assert made == [GridTable]
        clouds = run.peer.subscribe(PointCloud2, "/segmentation_node/ground_points")
        driver.send_until(lambda: clouds, "points")
        assert made == [GridTable, PixelRays]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"k": [0.0] * 9}, "not calibrated: K of its camera_info is all zero"),
        ({"width": 1280, "height": 960}, "camera_info is of 1280x960 images and the image is 640x480"),
        ({"distortion_model": "pinhole_equi", "d": [0.1]}, "distortion model 'pinhole_equi' is not known"),
        ({"header": Header(stamp=stamp(START - 7_000_000))}, "has the image's stamp, the nearest is"),
        (None, "no camera_info has come on /camera_info"),
    ],
)
def test_a_camera_info_that_does_not_fit_is_said_and_counted(
    tiny_model: Path, changes: dict[str, Any] | None, words: str
) -> None:
    with running(parameters(tiny_model)) as run:
        run.wait_state("active")
        driver = Driver(run)
        grids = run.peer.subscribe(OccupancyGrid, "/segmentation_node/drivable_grid")
        info = None if changes is None else (lambda stamp_ns: info_message(stamp_ns, **changes))

        def said() -> bool:
            told = run.peer.statuses(": camera")
            return bool(told) and level(told[-1]) == 1 and "frames without grid" in told[-1].message

        driver.send_until(said, "a warning", info=info)
        status = run.peer.status(": camera")
        assert words in status.message
        assert words in values(status)["no_grid_because"]
        assert int(values(status)["frames_without_grid"]) > 0
        assert any(words in line for line in run.peer.lines("no grid, "))
        assert not grids
        driver.send_until(lambda: grids, "the grid once it is right")


def test_three_cameras_fill_one_grid_and_one_that_dies_leaves_its_part_unknown(tiny_model: Path) -> None:
    around = {"grid.x_min": -15.0, "grid.x_max": 15.0, "grid.y_min": -15.0, "grid.y_max": 15.0}
    # long beside what a busy machine needs for a frame of each
    views = {"left.ground.yaw": 90.0, "right.ground.yaw": -90.0, "diagnostics.frame_timeout_s": 3.0}
    with running(parameters(tiny_model, cameras=["front", "left", "right"], **around, **views)) as run:
        run.wait_state("active")
        drivers = {name: Driver(run, name) for name in ("front", "left", "right")}
        drivers["left"].sent = -3  # its clock is behind
        stamps: list[int] = run.peer.subscribe(OccupancyGrid, "/segmentation_node/drivable_grid", keep=stamp_of)
        grids: list[np.ndarray] = run.peer.subscribe(OccupancyGrid, "/segmentation_node/drivable_grid", keep=cells_of)
        places = {"front": (230, 150), "left": (150, 230), "right": (150, 70)}  # 8 m away, [x, y] cells

        def known() -> dict[str, int]:
            return {name: int(grids[-1][y, x]) for name, (x, y) in places.items()}

        def all_free() -> bool:
            for driver in drivers.values():
                driver.send()
            time.sleep(0.1)
            return bool(grids) and set(known().values()) == {0}

        wait_until(all_free, "all three in one grid", lambda: grids and known())
        del drivers["left"]  # it died

        def only_left_unknown() -> bool:
            for driver in drivers.values():
                driver.send()
            time.sleep(0.1)
            return known() == {"front": 0, "left": -1, "right": 0}

        wait_until(only_left_unknown, "the dead one's part to become unknown", known)
        assert stamps == sorted(stamps)  # each is that of the newest frame in it


def test_a_grid_without_its_only_camera_is_unknown_in_the_frames_own_time(tiny_model: Path) -> None:
    began = time.monotonic()
    with running(parameters(tiny_model, **{"diagnostics.frame_timeout_s": 0.5})) as run:
        run.wait_state("active")
        driver = Driver(run)
        grids = run.peer.subscribe(OccupancyGrid, "/segmentation_node/drivable_grid")
        outlines = run.peer.subscribe(PolygonStamped, "/segmentation_node/free_space")
        distances = run.peer.subscribe(Float64, "/segmentation_node/free_distance")
        driver.send_until(lambda: grids and (cells_of(grids[-1]) == 0).any(), "a grid")
        reports = len(run.peer.diagnostics)
        wait_until(lambda: len(run.peer.diagnostics) > reports + 2, "time to pass")
        run.settled()
        wait_until(lambda: bool((cells_of(grids[-1]) == -1).all()), "all unknown")
        wait_until(lambda: math.isnan(distances[-1].data) and not outlines[-1].polygon.points, "nothing known")
        last = max(stamp_of(grid) for grid in grids if (cells_of(grid) == 0).any())
        assert last + 450_000_000 < stamp_of(grids[-1]) < last + (time.monotonic() - began) * 1e9
        unknown = [(cells_of(grid) == -1).all() for grid in grids]
        assert not any(first and second for first, second in itertools.pairwise(unknown))  # each time said once


def test_live_changes_count_from_the_next_frame(tiny_model: Path) -> None:
    labels = road_below_300()
    labels[350:380] = IDS["sidewalk"]
    with running(parameters(tiny_model, **{"grid.costs.terrain": 80})) as run:
        run.wait_state("active")
        driver = Driver(run, labels=labels)
        grids = run.peer.subscribe(OccupancyGrid, "/segmentation_node/drivable_grid", keep=cells_of)

        def at_six_meters() -> int:
            return int(grids[-1][100, 60]) if grids else -2

        driver.send_until(lambda: at_six_meters() == 100, "a sidewalk blocks")
        assert run.set("grid.costs", ["sidewalk: 60"]) == ""
        driver.send_until(lambda: at_six_meters() == 60, "a sidewalk costs")
        assert "known: road" in run.set("grid.costs", ["pavement: 60"])
        assert "a class and its cost" in run.set("grid.costs", ["sidewalk=60"])
        assert "one cost for sidewalk, not two" in run.set("grid.costs", ["sidewalk: 60", "sidewalk: 80"])
        assert run.set("ground.pitch", 2.0) == ""
        driver.send_until(lambda: at_six_meters() == 0, "the road comes nearer")
        assert "height 0 is not accepted with source 'fixed'" in run.set("ground.height", 0.0)
        assert "read when the node is configured" in run.set("grid.resolution", 0.2)


def test_nothing_goes_out_after_deactivation_and_meters_come_back(tiny_model: Path) -> None:
    with running(parameters(tiny_model, **{"diagnostics.frame_timeout_s": 0.3})) as run:
        run.wait_state("active")
        driver = Driver(run)
        grids = run.peer.subscribe(OccupancyGrid, "/segmentation_node/drivable_grid")
        driver.send_until(lambda: grids, "a grid")
        published = publications(run, "/segmentation_node/drivable_grid")
        run.call(run.node.trigger_deactivate)
        count, reports = len(published), len(run.peer.diagnostics)
        assert (cells_of(published[-1]) == -1).all()  # who keeps it, as Nav2's static layer does, keeps nothing free
        wait_until(lambda: len(run.peer.diagnostics) > reports + 2, "time to pass")
        assert len(published) == count
        run.call(run.node.trigger_activate)
        driver.send_until(lambda: len(published) > count, "a grid again")


def test_every_frame_is_accounted_for_also_where_a_bag_begins_anew(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seg_perception.ros.node.meters.PATIENCE_S", 2 * PATIENCE_S)
    with running(parameters(tiny_model, **RELIABLE_INPUT)) as run:
        run.wait_state("active")
        driver = Driver(run)

        def account() -> tuple[int, ...]:
            assert run.node.meters is not None
            report = run.node.meters.report("")
            return report.placed, report.superseded, report.without

        def answered(frames: int) -> None:
            wait_until(lambda: run.counts().published == frames, "an answer", run.counts)

        for k in range(3):
            driver.send(info=None)
            answered(k + 1)
        driver.send()
        wait_until(lambda: account() == (1, 3, 0), "the newest to be taken", account)
        for k in range(2):
            driver.send(info=None)
            answered(k + 5)
        driver.sent = 0
        driver.send()
        wait_until(lambda: account() == (2, 3, 2), "those of before to be counted", account)
        answered(7)
        assert "stamps went back" in values(run.report(": camera"))["no_grid_because"]
        assert run.peer.lines("no grid, 1 frames so far: stamps went back (a looping bag?) while they waited")


def test_what_is_under_way_at_a_deactivation_never_goes_out(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held, go_on, blocked, free = (threading.Event() for _ in range(4))
    look = CameraMeters.look

    def look_late(of: CameraMeters, *arguments: Any) -> None:
        held.set()
        assert go_on.wait(PATIENCE_S)
        look(of, *arguments)

    with running(parameters(tiny_model, **RELIABLE_INPUT)) as run:
        run.wait_state("active")
        driver = Driver(run)
        run.peer.subscribe(PointCloud2, "/segmentation_node/ground_points")
        published = publications(run, "/segmentation_node/ground_points")
        monkeypatch.setattr(CameraMeters, "look", look_late)
        monkeypatch.setattr("seg_perception.ros.node.meters.PUBLISHING_TIMEOUT_S", 0.05)
        driver.send_until(held.is_set, "a frame to be worked on")
        before = START + STEP * driver.sent
        run.call(run.node.trigger_deactivate)
        run.call(run.node.trigger_activate)
        go_on.set()
        driver.send_until(lambda: published, "points again")
        assert min(stamp_of(cloud) for cloud in published) >= before

        # and a subscriber that blocks the middleware, here a publisher that does, holds no transition up
        (publisher,) = (p for p in run.node.publishers if p.topic_name == "/segmentation_node/ground_points")
        publisher.publish = lambda _: (blocked.set(), free.wait(PATIENCE_S))
        driver.send_until(blocked.is_set, "points that block")
        run.call(run.node.trigger_deactivate)
        assert not free.is_set()
        assert run.node.state == "inactive"
        assert run.peer.lines("the middleware has blocked the publishing of a grid or of points")
        free.set()


def test_a_defect_of_meters_is_counted_with_its_reason(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("a defect")

    with running(parameters(tiny_model)) as run:
        run.wait_state("active")
        driver = Driver(run)
        grids = run.peer.subscribe(OccupancyGrid, "/segmentation_node/drivable_grid")
        driver.send_until(lambda: grid_status(run).get("free_distance_m"), "a grid")
        assert grid_status(run)["free_distance_m"] == "12.5000"
        monkeypatch.setattr(CameraMeters, "look", fail)
        words = "unexpected RuntimeError: a defect"
        driver.send_until(lambda: words in values(run.report(": camera"))["no_grid_because"], "the reason")
        assert int(values(run.report(": camera"))["frames_without_grid"]) > 0
        monkeypatch.undo()
        grids.clear()
        driver.send_until(lambda: grids, "a grid again")
        run.call(run.node.trigger_deactivate)
        assert "free_distance_m" not in values(run.report(": camera"))  # what was free is no news of now


def test_a_subscriber_of_meters_that_are_off_is_told(tiny_model: Path) -> None:
    with running({"model": str(tiny_model), "engine": "onnxruntime"}) as run:
        run.wait_state("active")
        run.peer.subscribe(OccupancyGrid, "/segmentation_node/drivable_grid")
        lines = wait_until(lambda: run.peer.lines("ground.source is 'off'"), "a warning")
        assert "/segmentation_node/drivable_grid is subscribed to" in lines[0]
        wait_until(lambda: grid_status(run).get("ground_source") == "off", "diagnostics")


@pytest.mark.skipif(not why_not_installed(TF_MESSAGE), reason="tf2_msgs is installed")
def test_transforms_that_cannot_be_heard_are_said(tiny_model: Path) -> None:
    with running(parameters(tiny_model, **{"ground.source": "tf"})) as run:
        run.wait_state("active")
        driver = Driver(run)
        words = "no transform names the frame 'camera_optical'"
        driver.send_until(
            lambda: run.peer.statuses(": camera") and "frames_without_grid" in grid_status(run), "diagnostics"
        )
        driver.send_until(lambda: int(grid_status(run)["frames_without_grid"]) > 0, "a frame without grid")
        assert "needs the ROS package 'tf2_msgs': install it" in grid_status(run)["no_grid_because"]
        assert run.peer.lines("/tf cannot be read")
        assert any(words in line for line in run.peer.lines("no grid, "))


def test_a_source_fixed_without_a_height_is_refused(tiny_model: Path) -> None:
    with running({"model": str(tiny_model), "engine": "onnxruntime", "ground.source": "fixed"}) as run:
        lines = wait_until(lambda: run.peer.lines("configure failed"), "a refusal")
        assert "ground.height 0 is not accepted with source 'fixed'" in lines[0]
