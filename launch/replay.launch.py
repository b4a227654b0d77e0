"""Replay a bag into the segmentation node and look at it in RViz.

    ros2 launch seg_perception replay.launch.py bag:=drive.mcap image:=/camera/image_raw
    ros2 launch seg_perception replay.launch.py bag:=out/demo.mcap node:=false   # look at recorded answers

Every argument of segmentation.launch.py is accepted too and passed on.

A bag may hold answers of an earlier run. While the node runs, those are not played: a topic with two
publishers would mix old masks with new ones. The player is this package's own: it reads MCAP and SQLite
bags whatever ROS has installed, and runs in the Python that this package was built for.

Large images need config/fastdds_large_images.xml on both sides, so it is set for the player, the node
and RViz. A FASTRTPS_DEFAULT_PROFILES_FILE of the environment wins, also an empty one, which means none.
"""

from __future__ import annotations

from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    LogInfo,
    OpaqueFunction,
    SetEnvironmentVariable,
    Shutdown,
)
from launch.conditions import evaluate_condition_expression
from launch.events.process import ProcessExited
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import EnvironmentVariable, LaunchConfiguration, PathJoinSubstitution
from launch_ros.substitutions import ExecutableInPackage, FindPackageShare

SHARE = FindPackageShare("seg_perception")
PLAYER = ExecutableInPackage("seg-perception", "seg_perception")
PROFILE = PathJoinSubstitution([SHARE, "config", "fastdds_large_images.xml"])

ARGUMENTS = [
    DeclareLaunchArgument("bag", description="rosbag2 folder or MCAP file"),
    DeclareLaunchArgument(
        "topics",
        default_value="",
        description="topics to play, separated by spaces; empty: all, without the node's own if it runs",
    ),
    DeclareLaunchArgument("rate", default_value="1.0", description="speed: 0.5 is half the recorded one"),
    DeclareLaunchArgument("loop", default_value="false", description="true: start again at the end"),
    DeclareLaunchArgument(
        "delay", default_value="5.0", description="seconds before the first frame, for the node to be ready"
    ),
    DeclareLaunchArgument("node", default_value="true", description="false: only replay, start no node"),
    DeclareLaunchArgument("rviz", default_value="true", description="true: also start RViz"),
    DeclareLaunchArgument("use_sim_time", default_value="true", description="take the time from the bag"),
]


def check_bag(context: LaunchContext) -> None:
    """Before anything starts: what launch is starting when it fails stays behind, alive."""
    bag = Path(LaunchConfiguration("bag").perform(context)).expanduser()
    if not bag.exists():
        raise RuntimeError(f"bag: {bag} does not exist")
    PLAYER.perform(context)


def player(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """`seg-perception bag play`; if it fails, everything ends."""

    def value(name: str, default: str = "") -> str:
        return LaunchConfiguration(name, default=default).perform(context)

    def is_true(name: str) -> bool:
        return evaluate_condition_expression(context, [LaunchConfiguration(name)])

    def end_after_failure(event: ProcessExited, _context: LaunchContext) -> list[LaunchDescriptionEntity]:
        reason = f"the player ended with status {event.returncode}: everything ends"
        return [LogInfo(msg=reason), Shutdown(reason=reason)] if event.returncode else []

    bag = str(Path(value("bag")).expanduser().absolute())  # a name may begin with a dash
    command = [PLAYER, "bag", "play", bag, "--rate", value("rate"), "--delay", value("delay"), "--clock"]
    if is_true("loop"):
        command.append("--loop")
    if topics := value("topics").split():
        command += ["--topics", *topics]
    elif is_true("node"):
        node = "/".join(["", *filter(None, value("namespace").split("/")), "segmentation_node", ""])
        command += ["--leave-out", node, "/diagnostics"]
    return [ExecuteProcess(cmd=command, output="screen", on_exit=end_after_failure)]


def generate_launch_description() -> LaunchDescription:
    segmentation = PathJoinSubstitution([SHARE, "launch", "segmentation.launch.py"])
    newer_name = EnvironmentVariable("FASTDDS_DEFAULT_PROFILES_FILE", default_value=[PROFILE])
    passed_on = ("node", "rviz", "use_sim_time")
    return LaunchDescription(
        [
            *ARGUMENTS,
            SetEnvironmentVariable(
                "FASTRTPS_DEFAULT_PROFILES_FILE",
                EnvironmentVariable("FASTRTPS_DEFAULT_PROFILES_FILE", default_value=[newer_name]),
            ),
            OpaqueFunction(function=check_bag),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(segmentation),
                launch_arguments={name: LaunchConfiguration(name) for name in passed_on}.items(),
            ),
            OpaqueFunction(function=player),
        ]
    )
