"""Replay a bag into the segmentation node and look at it in RViz.

    ros2 launch seg_perception replay.launch.py bag:=drive.mcap image:=/camera/image_raw
    ros2 launch seg_perception replay.launch.py bag:=out/demo.mcap node:=false   # look at recorded answers

Every argument of segmentation.launch.py is accepted too and passed on.

A bag may hold answers of an earlier run. While the node runs, those are not played: a topic with two
publishers would mix old masks with new ones. `ros2 bag play` of Humble cannot exclude topics, so the
topics to play are read from the bag and given to it one by one.

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
)
from launch.conditions import evaluate_condition_expression
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import EnvironmentVariable, LaunchConfiguration, PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare

SHARE = FindPackageShare("seg_perception")
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


def topics_beside_the_nodes(bag: str, namespace: str) -> tuple[list[str], list[str]]:
    """The bag's topics without those that a running node publishes, and the latter.

    /diagnostics would show the state of back then as today's; /clock comes from the player.
    """
    try:
        from seg_perception.bags.reader import BagReader  # needs rosbags
    except ImportError as error:
        raise RuntimeError(f"{error}, needed to list the bag's topics: install it, or give topics:=") from error
    with BagReader(Path(bag)) as reader:
        found = sorted(topic.name for topic in reader.topics)
    own = "/".join(["", *filter(None, namespace.split("/")), "segmentation_node", ""])
    left_out = [name for name in found if name.startswith(own) or name in ("/diagnostics", "/clock")]
    return [name for name in found if name not in left_out], left_out


def player(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """`ros2 bag play`, and what it leaves out."""

    def value(name: str, default: str = "") -> str:
        return LaunchConfiguration(name, default=default).perform(context)

    def is_true(name: str) -> bool:
        return evaluate_condition_expression(context, [LaunchConfiguration(name)])

    command = ["ros2", "bag", "play", value("bag"), "--rate", value("rate"), "--delay", value("delay"), "--clock"]
    if is_true("loop"):
        command.append("--loop")
    topics, left_out = value("topics").split(), []
    if not topics and is_true("node"):
        topics, left_out = topics_beside_the_nodes(value("bag"), value("namespace"))
        if not topics:
            raise RuntimeError(f"{value('bag')} has nothing to play but the node's own topics: {', '.join(left_out)}")
    said = [LogInfo(msg=f"not played, because the node publishes it: {', '.join(left_out)}")] if left_out else []
    return [*said, ExecuteProcess(cmd=[*command, *(["--topics", *topics] if topics else [])], output="screen")]


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
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(segmentation),
                launch_arguments={name: LaunchConfiguration(name) for name in passed_on}.items(),
            ),
            OpaqueFunction(function=player),
        ]
    )
