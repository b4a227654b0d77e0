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

import numpy as np
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
    """A prefix such as colcon makes, for this source tree; RViz and Nav2's manager only print how they were called."""
    prefix = tmp_path_factory.mktemp("prefix")
    share = prefix / "share" / "seg_perception"
    share.mkdir(parents=True)
    for name in ("package.xml", "launch", "config"):
        (share / name).symlink_to(ROOT / name)
    for package in ("seg_perception", "rviz2", "nav2_lifecycle_manager"):
        marker = prefix / "share" / "ament_index" / "resource_index" / "packages" / package
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
    node = f'exec "{sys.executable}" -m seg_perception.ros.node.segmentation_node "$@"'
    _script(prefix / "lib" / "seg_perception" / "segmentation_node", node)
    _script(prefix / "lib" / "rviz2" / "rviz2", 'echo "called: rviz2 $*"')
    manager = 'echo "called: lifecycle_manager $*"'
    _script(prefix / "lib" / "nav2_lifecycle_manager" / "lifecycle_manager", manager)
    player = f'exec "{sys.executable}" -m seg_perception.cli.main "$@"'
    shown = 'echo "profile: $FASTRTPS_DEFAULT_PROFILES_FILE"; echo "called: seg-perception $*"'
    _script(prefix / "lib" / "seg_perception" / "seg-perception", f"{shown}\n{player}")
    without_profile = {k: v for k, v in os.environ.items() if not k.endswith("_DEFAULT_PROFILES_FILE")}
    return without_profile | {
        "AMENT_PREFIX_PATH": os.pathsep.join(
            filter(None, [str(prefix), os.environ.get("AMENT_PREFIX_PATH", ""), sys.prefix])
        ),
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

    def publisher_of(self, topic: str) -> str:
        found = [i for i in self.node.get_publishers_info_by_topic(topic) if "_UNKNOWN_" not in i.node_name]
        return f"{found[0].node_namespace.rstrip('/')}/{found[0].node_name}" if len(found) == 1 else ""


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
    "model": ("/models/a #1: 'b' ~.onnx", "/models/a #1: 'b' ~.onnx"),  # as it is, and not as YAML
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
    tables = re.findall(r"^(?:TEXTS|VALUES) = \{.*?$(.*?)^\}$", source, flags=re.MULTILINE | re.DOTALL)
    assert len(tables) == 2
    assert {name for table in tables for name in re.findall(r'^    "(\w+)":', table, flags=re.MULTILINE)} == set(
        FORWARDED
    )
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
    """A bag with images and what an earlier run answered, as the demo writes it; its name needs care."""
    from seg_perception.bags import messages
    from seg_perception.bags.writer import BagWriter

    path = tmp_path_factory.mktemp("bag") / "run #3 & more.mcap"
    pixels = np.zeros((48, 64, 3), np.uint8)
    with BagWriter(path) as writer:
        for topic in ("/front/image", "/truth", "/segmentation_node/labels", "/segmentation_node/front/overlay"):
            writer.add_topic(topic, messages.IMAGE)
            writer.write(topic, 10**18, messages.image(pixels, messages.header(10**18, "")))
        writer.add_topic("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray")
    return path


def text_of(log: Path) -> str:
    return log.read_text(errors="replace")


def test_replay_plays_the_bag_into_the_node_without_an_earlier_node_s_answers(
    environment: dict[str, str], observer: Observer, answered_bag: Path, tmp_path: Path
) -> None:
    arguments = [f"bag:={answered_bag}", "rate:=0.5", "loop:=true", "delay:=0.5", "image:=/front/image"]
    with launched(environment, tmp_path / "log", "replay.launch.py", *arguments) as log:
        played = (
            f"bag play {answered_bag} --rate 0.5 --delay 0.5 --clock --loop --leave-out /segmentation_node/ /diagnost"
        )
        wait_for(lambda: f"called: seg-perception {played}" in text_of(log), log)
        wait_for(lambda: "called: rviz2 -d" in text_of(log), log)
        assert observer.parameters("/segmentation_node", ["use_sim_time"], log) == {"use_sim_time": True}
        assert wait_for(lambda: observer.subscriber_of("/front/image"), log) == "/segmentation_node"
        assert wait_for(lambda: observer.publisher_of("/front/image"), log) == "/seg_perception_player"
        assert wait_for(lambda: observer.publisher_of("/segmentation_node/labels"), log) == "/segmentation_node"


@pytest.mark.parametrize("rviz", [True, False])
def test_replay_without_the_node_plays_everything(
    environment: dict[str, str], answered_bag: Path, tmp_path: Path, rviz: bool
) -> None:
    arguments = [f"bag:={answered_bag}", "node:=false", f"rviz:={rviz}", "delay:=0.0"]
    with launched(environment, tmp_path / "log", "replay.launch.py", *arguments) as log:
        finished = "process has finished cleanly"  # the player waits ten seconds for somebody to listen
        wait_for(lambda: text_of(log).count(finished) == 1 + rviz, log)
    assert f"called: seg-perception bag play {answered_bag} --rate 1.0 --delay 0.0 --clock\n" in text_of(log)
    assert ("called: rviz2 -d" in text_of(log)) == rviz
    assert "segmentation_node-" not in text_of(log)  # the process of a node


def test_replay_plays_the_topics_it_is_told(environment: dict[str, str], answered_bag: Path, tmp_path: Path) -> None:
    arguments = [f"bag:={answered_bag}", "topics:=/front/image /truth", "node:=false", "rviz:=false"]
    with launched(environment, tmp_path / "log", "replay.launch.py", *arguments) as log:
        wait_for(lambda: "--clock --topics /front/image /truth\n" in text_of(log), log)


@pytest.mark.parametrize(
    "file, arguments, said",
    [
        ("replay.launch.py", ["bag:=nowhere.mcap"], "bag: nowhere.mcap does not exist"),
        (
            "replay.launch.py",
            ["bag:={bag}", "params_file:=~/nowhere.yaml"],
            "params_file: {home}/nowhere.yaml is not a file",
        ),
        ("segmentation.launch.py", ["params_file:=/tmp"], "params_file: /tmp is not a file"),
        (
            "segmentation.launch.py",
            ["rviz:=true", "rviz_config:=nowhere.rviz"],
            "rviz_config: nowhere.rviz is not a file",
        ),
        ("multi_camera.launch.py", ["params_file:=none.yaml"], "params_file: none.yaml is not a file"),
    ],
)
def test_what_is_not_there_is_refused_before_anything_starts(
    environment: dict[str, str], answered_bag: Path, tmp_path: Path, file: str, arguments: list[str], said: str
) -> None:
    given = [argument.format(bag=answered_bag) for argument in arguments]
    status = launched_to_its_end(environment, tmp_path / "log", file, *given)
    assert status == 1
    assert said.format(home=Path.home()) in text_of(tmp_path / "log")
    assert "process started with pid" not in text_of(tmp_path / "log")


@pytest.mark.parametrize(
    "file, of_its_own", [("segmentation.launch.py", []), ("replay.launch.py", ["bag:={bag}", "rate:=50.0", "delay:=0"])]
)
def test_an_argument_that_is_almost_one_is_named(
    environment: dict[str, str], answered_bag: Path, tmp_path: Path, file: str, of_its_own: list[str]
) -> None:
    given = [argument.format(bag=answered_bag) for argument in of_its_own]
    arguments = ["modle:=mine.onnx", "image_topic:=/cam", "other:=1", "node:=false", *given]
    launched_to_its_end(environment, tmp_path / "log", file, *arguments)
    text = text_of(tmp_path / "log")
    assert text.count("WARNING: no argument") == 2
    assert "WARNING: no argument 'image_topic' is known; did you mean 'image'?" in text
    assert "WARNING: no argument 'modle' is known; did you mean 'model'?" in text


@pytest.mark.parametrize(
    "program, file, arguments, said",
    [
        ("rviz2/rviz2", "segmentation.launch.py", ["rviz:=true"], "rviz:=true needs rviz2"),
        ("nav2_lifecycle_manager/lifecycle_manager", "nav2_semantic.launch.py", [], "needs Nav2"),
    ],
)
def test_a_missing_program_is_refused_before_anything_starts(
    environment: dict[str, str], tmp_path: Path, program: str, file: str, arguments: list[str], said: str
) -> None:
    path = Path(environment["AMENT_PREFIX_PATH"].split(os.pathsep)[0]) / "lib" / program
    path.rename(tmp_path / "away")
    try:
        assert launched_to_its_end(environment, tmp_path / "log", file, *arguments) == 1
    finally:
        (tmp_path / "away").rename(path)
    assert said in text_of(tmp_path / "log")
    assert "process started with pid" not in text_of(tmp_path / "log")


def test_nav2_s_manager_gets_a_node_that_waits_for_it(
    environment: dict[str, str], observer: Observer, tmp_path: Path
) -> None:
    arguments = ["image:=/front/image", "threads:=1"]
    with launched(environment, tmp_path / "log", "nav2_semantic.launch.py", *arguments) as log:
        wait_for(lambda: "called: lifecycle_manager" in text_of(log), log)
        read = observer.parameters("/segmentation_node", ["autostart", "threads"], log)
        assert read == {"autostart": False, "threads": 1}
        assert "nav2_semantic.yaml" in text_of(log)


def test_a_bag_that_cannot_be_played_ends_everything(environment: dict[str, str], tmp_path: Path) -> None:
    bag = tmp_path / "no bag.mcap"
    bag.write_bytes(b"nothing of the kind")
    launched_to_its_end(environment, tmp_path / "log", "replay.launch.py", f"bag:={bag}", "rviz:=false")
    text = text_of(tmp_path / "log")
    assert "the player ended with status 2" in text
    (pid,) = re.findall(r"\[segmentation_node-\d+\]: process started with pid \[(\d+)\]", text)
    assert not Path(f"/proc/{pid}").exists()


def launched_to_its_end(environment: dict[str, str], log: Path, file: str, *arguments: str) -> int:
    """Run a launch file that ends by itself; its exit status."""
    with log.open("wb") as output:
        command = [sys.executable, "-c", LAUNCH, file, *arguments]
        return subprocess.run(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, timeout=90, check=False
        ).returncode


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
    environment: dict[str, str], answered_bag: Path, tmp_path: Path, variables: dict[str, str], expected: str
) -> None:
    arguments = [f"bag:={answered_bag}", "node:=false", "rviz:=false"]
    with launched(environment | variables, tmp_path / "log", "replay.launch.py", *arguments) as log:
        wait_for(lambda: "called: seg-perception" in log.read_text(errors="replace"), log)
        (profile,) = re.findall(r"profile: ?(.*)", log.read_text(errors="replace"))
    assert profile.endswith(expected)
    assert bool(profile) == bool(expected)


def test_every_launch_file_is_tried_here() -> None:
    tried = {"segmentation.launch.py", "replay.launch.py", "multi_camera.launch.py", "nav2_semantic.launch.py"}
    assert {path.name for path in (ROOT / "launch").iterdir() if path.suffix == ".py"} == tried
