"""What Nav2 demands: its semantic layer, its lifecycle manager with a bond, transforms that move.

The layer and the manager are C++ and on no registry: stand-ins obey them to the letter, and say so in their names. The
messages are real (built by ROS's own generators where no ROS is installed), and so is DDS between the two sides.
"""

from __future__ import annotations

import importlib.util
import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from bond_stand_in import StandInLifecycleManager, bondpy_or_stand_in
from geometry_msgs.msg import TransformStamped
from layer_stand_in import StandInSemanticLayer
from lifecycle_msgs.msg import Transition
from meters_harness import IDS, START, STEP, Driver, cells_of, handled, parameters, road_below_300
from nav_msgs.msg import OccupancyGrid
from node_harness import running, stamp, values, wait_until
from rcl_interfaces.srv import GetParameters
from rclpy.qos import DurabilityPolicy, QoSProfile
from waiting import PATIENCE_S

from seg_perception.core.errors import EngineError
from seg_perception.core.files import share_path
from seg_perception.node_settings import NodeSettings
from seg_perception.ros.messages import message_class
from seg_perception.ros.node.engine_holder import open_configured_engine

pytestmark = pytest.mark.usefixtures("ros_interfaces")


def nav2_yaml() -> Any:
    return yaml.safe_load(share_path("config/nav2_semantic.yaml").read_text(encoding="utf-8"))


def test_the_semantic_layer_gets_all_it_demands(tiny_model: Path) -> None:
    costmap = nav2_yaml()["local_costmap"]["local_costmap"]["ros__parameters"]
    layer_settings = costmap["semantic_layer"]
    assert layer_settings["observation_sources"] == "camera"
    assert layer_settings["use_approximate_time_sync"] is False  # the stricter way
    labels = road_below_300()
    labels[350:400, 300:340] = IDS["pole"]  # 4.69 m ahead
    labels[440:460, 500:600] = IDS["sidewalk"]  # 3.4 to 3.75 m ahead, to the right
    with running(parameters(tiny_model)) as run:
        run.wait_state("active")
        label_info = message_class("vision_msgs/msg/LabelInfo")
        frames = {"base_footprint"}
        layer = StandInSemanticLayer(run.peer.node, layer_settings["camera"], costmap["resolution"], label_info, frames)
        driver = Driver(run, labels=labels)
        wait_until(lambda: layer.knows_classes, "the latched LabelInfo")  # DDS orders no topic before another
        driver.send_until(lambda: layer.frames >= 3, "three frames in the layer")
        assert layer.faults == []
        assert layer.cost(4.05, 0.05) == 0
        assert layer.cost(11.05, 0.45) == 0  # points are sparse there: every third column and second row
        assert layer.cost(4.65, 0.05) == 254 or layer.cost(4.75, 0.05) == 254
        assert layer.cost(3.55, -1.5) == 200
        behind = [layer.cost(x, 0.05) for x in np.arange(5.05, 12.5, 0.1)]
        assert set(behind) == {None}  # nothing is smeared over the ground behind the pole


def transform(parent: str, child: str, at: int, pitch: float = 0.0, z: float = 0.0, optical: bool = False) -> Any:
    message = TransformStamped(child_frame_id=child)
    message.header.frame_id, message.header.stamp = parent, stamp(at)
    message.transform.translation.z = z
    q = message.transform.rotation
    if optical:
        q.x, q.y, q.z, q.w = -0.5, 0.5, -0.5, 0.5
    else:
        q.x, q.y, q.z, q.w = 0.0, math.sin(math.radians(pitch) / 2), 0.0, math.cos(math.radians(pitch) / 2)
    return message


def test_a_moving_transform_is_followed_frame_by_frame(tiny_model: Path) -> None:
    """A car that pitches: the IMU's transforms come at other times than the images, some later than they."""
    tf = message_class("tf2_msgs/msg/TFMessage")
    with running(parameters(tiny_model, **{"ground.source": "tf"})) as run:
        run.wait_state("active")
        driver = Driver(run)
        moving = run.peer.publisher(tf, "/tf", QoSProfile(depth=100))
        latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        static = run.peer.publisher(tf, "/tf_static", latched)
        static.publish(tf(transforms=[transform("base_link", "camera_optical", 0, z=1.2, optical=True)]))
        grids: list[tuple[int, np.ndarray]] = run.peer.subscribe(
            OccupancyGrid,
            "/segmentation_node/drivable_grid",
            keep=lambda g: (g.header.stamp.sec * 10**9 + g.header.stamp.nanosec, cells_of(g)),
        )

        def pitch_at(at: int) -> float:
            return 1.2 * math.sin((at - START) / STEP * 0.7)

        def body(at: int) -> Any:
            return tf(transforms=[transform("base_footprint", "base_link", at, pitch_at(at), z=0.3)])

        sent_until = START - STEP
        told: set[float] = set()

        def moved() -> bool:
            """One frame more, and what its grid says; whether it was seen to move up and down."""
            nonlocal sent_until
            done = handled(run)
            before = run.counts().received
            at = driver.send()
            wait_until(lambda: run.counts().received > before, "the image, which is there first, and waits")
            while sent_until < at + STEP // 2:
                sent_until += STEP // 4 - 3_000_000
                moving.publish(body(sent_until))
            wait_until(lambda: handled(run) > done, "a grid, or the word that there is none")
            told.update(check(*grid) for grid in grids if (grid[1] == 0).any())  # not what is unknown after a pause
            return len(grids) >= 12 and len(told) > 4 and min(told) < 11.5 and max(told) > 13.5

        def check(at: int, cells: np.ndarray) -> float:
            angle = math.radians(pitch_at(at))
            height = 0.3 + 1.2 * math.cos(angle)
            expected = 1.2 * math.sin(angle) + height / math.tan(math.atan(60 / 500) + angle)
            found = (np.flatnonzero(cells[100] == 0)[-1] + 1) * 0.1
            assert found == pytest.approx(expected, abs=0.3), (at, math.degrees(angle))
            return round(float(found), 1)

        wait_until(moved, "a car that pitches", lambda: (len(grids), sorted(told), driver.statuses()[-1:]))


def test_a_transform_that_is_missing_is_said(tiny_model: Path) -> None:
    with running(parameters(tiny_model, **{"ground.source": "tf"})) as run:
        run.wait_state("active")
        driver = Driver(run)

        def said(words: str) -> bool:
            told = run.peer.statuses(": camera")
            return bool(told) and words in values(told[-1]).get("no_grid_because", "")

        driver.send_until(lambda: said("no transform names the frame 'camera_optical'; known: none"), "the reason")
        tf = message_class("tf2_msgs/msg/TFMessage")
        latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        static = run.peer.publisher(tf, "/tf_static", latched)
        static.publish(tf(transforms=[transform("base_link", "camera_optical", 0, z=1.2, optical=True)]))
        driver.send_until(lambda: said("no transform connects 'camera_optical' with 'base_footprint'"), "the reason")
        grids = run.peer.subscribe(OccupancyGrid, "/segmentation_node/drivable_grid")
        static.publish(tf(transforms=[transform("base_footprint", "base_link", 0, z=0.3)]))
        driver.send_until(lambda: grids, "a grid")


class SlowBuild:
    """An engine whose build takes as long as the test wants."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()

    def __call__(self, settings: NodeSettings, opening: Any) -> Any:
        self.begun.set()
        opening.progress = "tactic 3 of 9"
        while not self.go_on.wait(0.02):
            if opening.stop.is_set():
                raise EngineError("the build was stopped")
        return open_configured_engine(settings, opening)


def test_services_answer_while_an_engine_is_being_built(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lifecycle manager configures a node whose engine takes long: nobody gives up, and the bond forms."""
    build = SlowBuild()
    with (
        bondpy_or_stand_in(monkeypatch) as which,
        running(parameters(tiny_model, autostart=False), open_configured=build) as run,
    ):
        manager = StandInLifecycleManager(run.peer.node)
        answered = manager.begin(Transition.TRANSITION_CONFIGURE)
        assert build.begun.wait(PATIENCE_S), answered()
        ask = run.peer.node.create_client(GetParameters, "/segmentation_node/get_parameters")
        for _ in range(20):
            assert manager.state() == "unconfigured"
            future = ask.call_async(GetParameters.Request(names=["engine"]))
            wait_until(future.done, "an answer of get_parameters")
        assert answered() is None  # the manager waits, as it does without a limit
        statuses = wait_until(lambda: run.peer.statuses(": engine")[-1:], "diagnostics")
        assert "opening the engine, for" in statuses[0].message
        assert "tactic 3 of 9" in statuses[0].message
        assert not manager.request(Transition.TRANSITION_CONFIGURE)  # one at a time
        assert run.peer.lines("not possible while the engine is being opened")
        assert "read when the node is configured" in run.set("grid.resolution", 0.2)
        assert run.set("overlay.opacity", 0.25) == ""
        build.go_on.set()
        assert wait_until(lambda: answered() is not None and [answered()], "the answer") == [True]
        assert manager.state() == "inactive"
        assert run.node.settings is not None
        assert run.node.settings.overlay.opacity == 0.25
        assert manager.request(Transition.TRANSITION_ACTIVATE)
        manager.form_bond()
        assert manager.bond_holds
        assert values(run.peer.status(": engine"))["bond"] in ("held", "none while inactive"), which
        beats = manager.bond.beats
        wait_until(lambda: manager.bond.beats > beats + 10, "more heartbeats", lambda: manager.bond.beats)
        assert manager.bond_holds
        assert manager.request(Transition.TRANSITION_DEACTIVATE)
        wait_until(lambda: manager.bond is not None and manager.bond.farewell, "the farewell")
        assert manager.request(Transition.TRANSITION_CLEANUP)
        assert manager.bond is not None
        manager.bond.end()


def test_a_build_can_be_given_up_by_a_shutdown(tiny_model: Path) -> None:
    build = SlowBuild()
    with running(parameters(tiny_model, autostart=False), open_configured=build) as run:
        manager = StandInLifecycleManager(run.peer.node)
        answered = manager.begin(Transition.TRANSITION_CONFIGURE)
        assert build.begun.wait(PATIENCE_S), answered()
        assert manager.request(Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)
        wait_until(lambda: answered() is not None, "the answer of configure")
        assert answered() is False
        run.wait_state("finalized")


def test_without_a_manager_or_without_bondpy_there_is_no_bond(tiny_model: Path) -> None:
    with running(parameters(tiny_model)) as run:
        run.wait_state("active")
        assert values(run.peer.status(": engine"))["bond"] == "none: no manager: autostart is on"
    if importlib.util.find_spec("bondpy") is None:
        with running(parameters(tiny_model, autostart=False)) as run:
            assert "none: bondpy is not installed" in values(run.peer.status(": engine"))["bond"]
