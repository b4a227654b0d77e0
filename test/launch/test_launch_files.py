"""The launch files, parsed and run by the real launch and launch_ros.

Those are on no package registry: these tests run where ROS 2 is sourced (or where launch and
launch_ros are on PYTHONPATH, see CONTRIBUTING.md). Elsewhere they are skipped, or fail with
SEG_PERCEPTION_DEMAND_LAUNCH=1.
"""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("rclpy", "launch.launch_service", "launch_ros.actions", "composition_interfaces")


def missing() -> list[str]:
    def found(name: str) -> bool:
        try:
            return importlib.util.find_spec(name) is not None
        except ModuleNotFoundError:
            return False

    return [name for name in NEEDED if not found(name)]


DEMANDED = os.environ.get("SEG_PERCEPTION_DEMAND_LAUNCH") == "1"  # `make verify-launch`: missing is a failure

pytestmark = pytest.mark.skipif(bool(missing()) and not DEMANDED, reason=f"not importable here: {', '.join(missing())}")


@pytest.fixture(scope="module", autouse=True)
def demanded() -> None:
    if missing():
        pytest.fail(f"not importable, and SEG_PERCEPTION_DEMAND_LAUNCH is set: {', '.join(missing())}")


LAUNCH = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare

file, *arguments = sys.argv[1:]
source = PathJoinSubstitution([FindPackageShare("seg_perception"), "launch", file])
service = LaunchService()
service.include_launch_description(LaunchDescription([
    IncludeLaunchDescription(
        PythonLaunchDescriptionSource(source), launch_arguments=[a.split(":=", 1) for a in arguments]
    )
]))
sys.exit(service.run())
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A prefix such as colcon makes, for this source tree; `ros2` and `rviz2` only print how they were called."""
    prefix = tmp_path_factory.mktemp("prefix")
    share = prefix / "share" / "seg_perception"
    share.mkdir(parents=True)
    for name in ("package.xml", "launch", "config"):
        (share / name).symlink_to(ROOT / name)
    for package in ("seg_perception", "rviz2"):
        marker = prefix / "share" / "ament_index" / "resource_index" / "packages" / package
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
    node = f'exec "{sys.executable}" -m seg_perception.ros.node.segmentation_node "$@"'
    _script(prefix / "lib" / "seg_perception" / "segmentation_node", node)
    _script(prefix / "lib" / "rviz2" / "rviz2", 'echo "called: rviz2 $*"')
    _script(prefix / "bin" / "ros2", 'echo "profile: $FASTRTPS_DEFAULT_PROFILES_FILE"; echo "called: ros2 $*"')
    without_profile = {k: v for k, v in os.environ.items() if not k.endswith("_DEFAULT_PROFILES_FILE")}
    return without_profile | {
        "AMENT_PREFIX_PATH": os.pathsep.join(
            filter(None, [str(prefix), os.environ.get("AMENT_PREFIX_PATH", ""), sys.prefix])
        ),
        "PATH": os.pathsep.join([str(prefix / "bin"), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
        "ROS_LOG_DIR": str(prefix / "log"),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    }


def _script(path: Path, command: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{command}\n", encoding="utf-8")
    path.chmod(0o755)


@contextmanager
def launched(environment: dict[str, str], log: Path, file: str, *arguments: str) -> Iterator[Path]:
    """Run a launch file in a process of its own, as `ros2 launch` does; yields its log."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, file, *arguments],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        yield log
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)  # what Ctrl-C does
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise


def wait_for(condition: Callable[[], Any], log: Path, seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    pytest.fail(f"nothing within {seconds} s; the launch said:\n{log.read_text(errors='replace')}")


class Observer:
    """A node beside the launched ones that reads parameters and subscriptions."""

    def __init__(self, context: Any) -> None:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor

        self.node = rclpy.create_node("observer", context=context)
        self.executor = SingleThreadedExecutor(context=context)
        self.executor.add_node(self.node)

    def parameters(self, node: str, names: list[str], log: Path) -> dict[str, Any]:
        from rcl_interfaces.srv import GetParameters
        from rclpy.parameter import parameter_value_to_python

        client = self.node.create_client(GetParameters, f"{node}/get_parameters")
        wait_for(lambda: client.wait_for_service(timeout_sec=0.2), log)
        future = client.call_async(GetParameters.Request(names=names))
        self.executor.spin_until_future_complete(future, timeout_sec=30)
        response = future.result()
        assert response is not None, f"{node} does not answer"
        return dict(zip(names, map(parameter_value_to_python, response.values), strict=True))

    def subscriber_of(self, topic: str) -> str:
        # discovery learns of a subscription before it learns of whose it is
        found = [i for i in self.node.get_subscriptions_info_by_topic(topic) if "_UNKNOWN_" not in i.node_name]
        return f"{found[0].node_namespace.rstrip('/')}/{found[0].node_name}" if found else ""


@pytest.fixture
def observer() -> Iterator[Observer]:
    import rclpy

    context = rclpy.Context()
    rclpy.init(context=context)
    made = Observer(context)
    yield made
    made.executor.shutdown()
    made.node.destroy_node()
    context.try_shutdown()


FORWARDED: dict[str, tuple[str, Any]] = {  # argument -> as written, as the node has it
    "model": ("/models/mine.onnx", "/models/mine.onnx"),
    "engine": ("onnxruntime", "onnxruntime"),
    "precision": ("fp32", "fp32"),
    "build_engine": ("never", "never"),
    "threads": ("1", 1),
    "network_size": ("96x64", "96x64"),
    "cameras": ("[front, rear]", ["front", "rear"]),
    "input": ("compressed", "compressed"),
    "autostart": ("false", False),
    "use_sim_time": ("true", True),
}


def test_every_argument_reaches_the_node(environment: dict[str, str], observer: Observer, tmp_path: Path) -> None:
    source = (ROOT / "launch" / "segmentation.launch.py").read_text(encoding="utf-8")
    table = re.search(r"^PARAMETERS = \{$(.*?)^\}$", source, flags=re.MULTILINE | re.DOTALL)
    assert table is not None
    assert set(re.findall(r'^    "(\w+)":', table[1], flags=re.MULTILINE)) == set(FORWARDED)
    arguments = [f"{name}:={written}" for name, (written, _) in FORWARDED.items()]
    with launched(environment, tmp_path / "log", "segmentation.launch.py", "namespace:=car", *arguments) as log:
        read = observer.parameters("/car/segmentation_node", list(FORWARDED), log)
    assert read == {name: value for name, (_, value) in FORWARDED.items()}


def test_image_topic_and_log_level_reach_the_node(
    environment: dict[str, str], observer: Observer, tmp_path: Path
) -> None:
    arguments = ["namespace:=car", "image:=/camera/image_raw", "log_level:=warn", "rviz:=false"]
    with launched(environment, tmp_path / "log", "segmentation.launch.py", *arguments) as log:
        who = wait_for(lambda: observer.subscriber_of("/camera/image_raw"), log)
        assert who == "/car/segmentation_node"
        wait_for(lambda: "[WARN]" in log.read_text(errors="replace"), log)  # no frame comes
        text = log.read_text(errors="replace")
    assert "[car.segmentation_node]" in text
    assert "now active" not in text
    assert "called: rviz2" not in text


def test_rviz_gets_its_layout_and_the_topics_of_namespace_and_image(
    environment: dict[str, str], tmp_path: Path
) -> None:
    arguments = ["rviz:=true", "node:=false", "namespace:=car", "image:=/camera/image_raw"]
    with launched(environment, tmp_path / "log", "segmentation.launch.py", *arguments) as log:
        wait_for(lambda: "process has finished cleanly" in log.read_text(errors="replace"), log)
        text = log.read_text(errors="replace")
    (called,) = re.findall(r"called: rviz2 (.*)", text)
    assert "-d " in called
    assert "config/segmentation.rviz " in called
    assert "__ns:=/car" in called
    assert "-r /image:=/camera/image_raw" in called
    assert "-r /segmentation_node/overlay:=segmentation_node/overlay" in called
    assert "segmentation_node-" not in text  # the process of a node


def test_arguments_win_over_the_parameter_file_and_absent_ones_do_not(
    environment: dict[str, str], observer: Observer, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "/**:\n  ros__parameters:\n    threads: 3\n    autostart: false\n    overlay: {opacity: 0.25}\n",
        encoding="utf-8",
    )
    arguments = [f"params_file:={file}", "threads:=2"]
    with launched(environment, tmp_path / "log", "segmentation.launch.py", *arguments) as log:
        read = observer.parameters("/segmentation_node", ["threads", "autostart", "overlay.opacity"], log)
        assert read == {"threads": 2, "autostart": False, "overlay.opacity": 0.25}


def test_launch_file_and_bare_node_agree_on_every_default(
    environment: dict[str, str], observer: Observer, tmp_path: Path
) -> None:
    from seg_perception.node_settings import PARAMETERS

    names = [spec.name for spec in PARAMETERS]
    assert len(names) > 10
    with launched(environment, tmp_path / "log", "segmentation.launch.py") as log:
        read = observer.parameters("/segmentation_node", names, log)
    for spec in PARAMETERS:
        assert read[spec.name] == (list(spec.default) if isinstance(spec.default, tuple) else spec.default), spec.name


def test_multi_camera_example_subscribes_to_all_cameras(
    environment: dict[str, str], observer: Observer, tmp_path: Path
) -> None:
    with launched(environment, tmp_path / "log", "multi_camera.launch.py", "rviz:=true") as log:
        wait_for(lambda: "config/multi_camera.rviz" in log.read_text(errors="replace"), log)
        read = observer.parameters("/segmentation_node", ["cameras", "left.input"], log)
        assert read == {"cameras": ["front", "left", "right"], "left.input": "compressed"}
        for camera in ("front/image_raw", "left/image_raw/compressed", "right/image_raw/compressed"):
            topic = f"/sensing/camera/{camera}"
            assert wait_for(lambda topic=topic: observer.subscriber_of(topic), log) == "/segmentation_node"


@pytest.fixture(scope="module")
def answered_bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bag with images and what an earlier run answered, as the demo writes it."""
    from seg_perception.bags.writer import BagWriter

    path = tmp_path_factory.mktemp("bag") / "drive.mcap"
    with BagWriter(path) as writer:
        for topic in ("/front/image", "/truth", "/segmentation_node/labels", "/segmentation_node/front/overlay"):
            writer.add_topic(topic, "sensor_msgs/msg/Image")
        writer.add_topic("/tf", "tf2_msgs/msg/TFMessage")
        writer.add_topic("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray")
    return path


@pytest.mark.parametrize("loop, option", [("false", ""), ("true", " --loop")])
def test_replay_plays_the_bag_into_the_node_without_an_earlier_node_s_answers(
    environment: dict[str, str], observer: Observer, answered_bag: Path, tmp_path: Path, loop: str, option: str
) -> None:
    arguments = [f"bag:={answered_bag}", "rate:=0.5", f"loop:={loop}", "image:=/front/image"]
    with launched(environment, tmp_path / "log", "replay.launch.py", *arguments) as log:
        played = (
            f"called: ros2 bag play {answered_bag} --rate 0.5 --delay 5.0 --clock{option} "
            "--topics /front/image /tf /truth\n"
        )
        wait_for(lambda: played in log.read_text(errors="replace"), log)
        wait_for(lambda: "called: rviz2 -d" in log.read_text(errors="replace"), log)
        assert observer.parameters("/segmentation_node", ["use_sim_time"], log) == {"use_sim_time": True}
        assert wait_for(lambda: observer.subscriber_of("/front/image"), log) == "/segmentation_node"
        text = log.read_text(errors="replace")
    left_out = "/diagnostics, /segmentation_node/front/overlay, /segmentation_node/labels"
    assert f"not played, because the node publishes it: {left_out}\n" in text


@pytest.mark.parametrize("rviz", [True, False])
def test_replay_without_the_node_plays_everything(
    environment: dict[str, str], answered_bag: Path, tmp_path: Path, rviz: bool
) -> None:
    arguments = [f"bag:={answered_bag}", "node:=false", f"rviz:={rviz}"]
    with launched(environment, tmp_path / "log", "replay.launch.py", *arguments) as log:
        finished = "process has finished cleanly"
        wait_for(lambda: log.read_text(errors="replace").count(finished) == 1 + rviz, log)
        text = log.read_text(errors="replace")
    assert f"called: ros2 bag play {answered_bag} --rate 1.0 --delay 5.0 --clock\n" in text
    assert ("called: rviz2 -d" in text) == rviz
    assert "segmentation_node-" not in text  # the process of a node


def test_replay_plays_the_topics_it_is_told(environment: dict[str, str], tmp_path: Path) -> None:
    arguments = ["bag:=nowhere.mcap", "topics:=/front/image /front/camera_info", "node:=false", "rviz:=false"]
    with launched(environment, tmp_path / "log", "replay.launch.py", *arguments) as log:
        wait_for(lambda: "--clock --topics /front/image /front/camera_info\n" in log.read_text(errors="replace"), log)


def test_replay_of_a_bag_that_is_not_there_says_so(environment: dict[str, str], tmp_path: Path) -> None:
    with launched(environment, tmp_path / "log", "replay.launch.py", "bag:=nowhere.mcap", "rviz:=false") as log:
        wait_for(lambda: "nowhere.mcap" in log.read_text(errors="replace"), log)
        assert "called: ros2" not in log.read_text(errors="replace")


@pytest.mark.parametrize(
    "variables, expected",
    [
        ({}, "share/seg_perception/config/fastdds_large_images.xml"),
        ({"FASTRTPS_DEFAULT_PROFILES_FILE": "/mine.xml"}, "/mine.xml"),
        ({"FASTDDS_DEFAULT_PROFILES_FILE": "/newer.xml"}, "/newer.xml"),
        ({"FASTRTPS_DEFAULT_PROFILES_FILE": ""}, ""),
    ],
)
def test_replay_sets_the_profile_for_large_images_unless_there_is_one(
    environment: dict[str, str], tmp_path: Path, variables: dict[str, str], expected: str
) -> None:
    arguments = ["bag:=some.mcap", "node:=false", "rviz:=false"]
    with launched(environment | variables, tmp_path / "log", "replay.launch.py", *arguments) as log:
        wait_for(lambda: "called: ros2" in log.read_text(errors="replace"), log)
        (profile,) = re.findall(r"profile: ?(.*)", log.read_text(errors="replace"))
    assert profile.endswith(expected)
    assert bool(profile) == bool(expected)


def test_every_launch_file_is_tried_here() -> None:
    tried = {"segmentation.launch.py", "replay.launch.py", "multi_camera.launch.py"}
    assert {path.name for path in (ROOT / "launch").iterdir() if path.suffix == ".py"} == tried
