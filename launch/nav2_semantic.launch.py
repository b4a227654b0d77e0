"""Start the segmentation node under a Nav2 lifecycle manager of its own, with its bond.

    ros2 launch seg_perception nav2_semantic.launch.py image:=/camera/image_raw params_file:=my_camera.yaml

`params_file` says where the camera is (ground.source, ground.height, ...); docs/meters.md. The costmaps' own parameters
are in config/nav2_semantic.yaml, for Nav2's bringup. Every other argument of segmentation.launch.py is accepted too.
"""

from __future__ import annotations

from launch import LaunchContext, LaunchDescription
from launch.actions import IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import ExecutableInPackage, FindPackageShare

SHARE = FindPackageShare("seg_perception")


def check_manager(context: LaunchContext) -> None:
    """Before anything starts: what launch is starting when it fails stays behind, alive."""
    try:
        ExecutableInPackage("lifecycle_manager", "nav2_lifecycle_manager").perform(context)
    except Exception as error:
        raise RuntimeError(f"needs Nav2 (apt install ros-$ROS_DISTRO-nav2-lifecycle-manager): {error}") from error


def generate_launch_description() -> LaunchDescription:
    segmentation = PathJoinSubstitution([SHARE, "launch", "segmentation.launch.py"])
    return LaunchDescription(
        [
            OpaqueFunction(function=check_manager),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(segmentation),
                launch_arguments={"autostart": "false"}.items(),  # the manager configures and activates
            ),
            Node(
                package="nav2_lifecycle_manager",
                executable="lifecycle_manager",
                name="lifecycle_manager_perception",
                parameters=[PathJoinSubstitution([SHARE, "config", "nav2_semantic.yaml"])],
                output="screen",
            ),
        ]
    )
