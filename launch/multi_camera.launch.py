"""An example: three cameras, one node, one engine. Copy it and put your own topics in.

The cameras and what differs between them are in config/multi_camera.yaml. This file also shows how
to build segmentation.launch.py into the launch file of a whole car: SetRemap connects the topics.
"""

from __future__ import annotations

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, GroupAction, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import SetRemap
from launch_ros.substitutions import FindPackageShare

SHARE = FindPackageShare("seg_perception")
TOPICS = {  # a camera whose `input` is compressed is read from <topic>/compressed
    "front/image": "/sensing/camera/front/image_raw",
    "left/image": "/sensing/camera/left/image_raw",
    "right/image": "/sensing/camera/right/image_raw",
}


def generate_launch_description() -> LaunchDescription:
    segmentation = PathJoinSubstitution([SHARE, "launch", "segmentation.launch.py"])
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "params_file",
                default_value=PathJoinSubstitution([SHARE, "config", "multi_camera.yaml"]),
                description="YAML file with the node's parameters",
            ),
            DeclareLaunchArgument(
                "rviz_config",
                default_value=PathJoinSubstitution([SHARE, "config", "multi_camera.rviz"]),
                description="RViz layout (rviz:=true)",
            ),
            GroupAction(
                [
                    *(SetRemap(ours, theirs) for ours, theirs in TOPICS.items()),
                    IncludeLaunchDescription(
                        PythonLaunchDescriptionSource(segmentation),
                        launch_arguments={
                            name: LaunchConfiguration(name) for name in ("params_file", "rviz_config")
                        }.items(),
                    ),
                ]
            ),
        ]
    )
