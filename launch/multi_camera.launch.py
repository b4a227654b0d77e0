"""An example: three cameras, one node, one engine. Copy it and put your own topics in.

It also shows how to build segmentation.launch.py into the launch file of a whole car: SetRemap
connects the cameras' topics, and arguments given here reach the node as parameters.
"""

from __future__ import annotations

from launch import LaunchDescription
from launch.actions import GroupAction, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import PathJoinSubstitution
from launch_ros.actions import SetRemap
from launch_ros.substitutions import FindPackageShare

CAMERAS = {
    "front": "/sensing/camera/front/image_raw",
    "left": "/sensing/camera/left/image_raw",
    "right": "/sensing/camera/right/image_raw",
}


def generate_launch_description() -> LaunchDescription:
    segmentation = PathJoinSubstitution([FindPackageShare("seg_perception"), "launch", "segmentation.launch.py"])
    return LaunchDescription(
        [
            GroupAction(
                [
                    *(SetRemap(f"{camera}/image", topic) for camera, topic in CAMERAS.items()),
                    IncludeLaunchDescription(
                        PythonLaunchDescriptionSource(segmentation),
                        launch_arguments={"cameras": f"[{', '.join(CAMERAS)}]"}.items(),
                    ),
                ]
            )
        ]
    )
