"""Start the segmentation node under a Nav2 lifecycle manager of its own, with its bond.

    ros2 launch seg_perception nav2_semantic.launch.py image:=/camera/image_raw params_file:=my_camera.yaml

`params_file` says where the camera is (ground.source, ground.height, ...); docs/metres.md. The costmaps' own parameters
are in config/nav2_semantic.yaml, for Nav2's bringup.
"""

from __future__ import annotations

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

CONFIG = PathJoinSubstitution([FindPackageShare("seg_perception"), "config"])


def generate_launch_description() -> LaunchDescription:
    nav2 = PathJoinSubstitution([CONFIG, "nav2_semantic.yaml"])
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "params_file",
                default_value=PathJoinSubstitution([CONFIG, "segmentation.yaml"]),
                description="YAML file with the node's parameters",
            ),
            DeclareLaunchArgument("image", default_value="image", description="image topic of a single camera"),
            Node(
                package="seg_perception",
                executable="segmentation_node",
                name="segmentation_node",
                parameters=[LaunchConfiguration("params_file"), nav2],
                remappings=[("image", LaunchConfiguration("image"))],
                output="screen",
            ),
            Node(
                package="nav2_lifecycle_manager",
                executable="lifecycle_manager",
                name="lifecycle_manager_perception",
                parameters=[nav2],
                output="screen",
            ),
        ]
    )
