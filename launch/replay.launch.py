"""Replay a bag into the segmentation node and look at it in RViz.

    ros2 launch seg_perception replay.launch.py bag:=drive.mcap image:=/camera/image_raw

Every argument of segmentation.launch.py is accepted too and passed on.
"""

from __future__ import annotations

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess, IncludeLaunchDescription
from launch.conditions import IfCondition, UnlessCondition
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare

PLAY = [
    *("ros2", "bag", "play", LaunchConfiguration("bag")),
    *("--rate", LaunchConfiguration("rate")),
    *("--delay", LaunchConfiguration("delay")),
    "--clock",
]


def generate_launch_description() -> LaunchDescription:
    segmentation = PathJoinSubstitution([FindPackageShare("seg_perception"), "launch", "segmentation.launch.py"])
    return LaunchDescription(
        [
            DeclareLaunchArgument("bag", description="rosbag2 folder or MCAP file"),
            DeclareLaunchArgument("rate", default_value="1.0", description="speed: 0.5 is half the recorded one"),
            DeclareLaunchArgument("loop", default_value="false", description="true: start again at the end"),
            DeclareLaunchArgument(
                "delay", default_value="5.0", description="seconds before the first frame, for the node to be ready"
            ),
            DeclareLaunchArgument("node", default_value="true", description="false: only replay, start no node"),
            DeclareLaunchArgument("rviz", default_value="true", description="true: also start RViz"),
            DeclareLaunchArgument("use_sim_time", default_value="true", description="take the time from the bag"),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(segmentation),
                launch_arguments={
                    "rviz": LaunchConfiguration("rviz"),
                    "use_sim_time": LaunchConfiguration("use_sim_time"),
                }.items(),
                condition=IfCondition(LaunchConfiguration("node")),
            ),
            ExecuteProcess(cmd=PLAY, output="screen", condition=UnlessCondition(LaunchConfiguration("loop"))),
            ExecuteProcess(cmd=[*PLAY, "--loop"], output="screen", condition=IfCondition(LaunchConfiguration("loop"))),
        ]
    )
