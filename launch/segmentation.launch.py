"""Start the segmentation node, and RViz if asked.

    ros2 launch seg_perception segmentation.launch.py image:=/camera/image_raw
    ros2 launch seg_perception segmentation.launch.py cameras:="[front, rear]" namespace:=car

Parameters come from `params_file`; an argument of TEXTS or VALUES that is given wins over the file, one
that is left empty is not passed at all. So every default is in one place: the node's own.
To play a bag into the node use replay.launch.py: it has `bag`, and takes all of these arguments too.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import ExecutableInPackage, FindPackageShare

CONFIG = PathJoinSubstitution([FindPackageShare("seg_perception"), "config"])

TEXTS = {  # taken as they are written; launch would read "1" as a number, and "a #1.onnx" as "a"
    "model": "ONNX file with a model card",
    "engine": "what runs the model: auto, or an engine's name (docs/deploy.md, Engines)",
    "precision": "of an engine on the GPU: fp32, fp16 or int8",
    "build_engine": "whether a missing TensorRT engine may be built at start (minutes): if_missing or never",
    "network_size": "WIDTHxHEIGHT the network runs at",
    "input": "raw (sensor_msgs/Image) or compressed (sensor_msgs/CompressedImage)",
}
VALUES = {  # read as YAML
    "threads": "CPU threads of one inference",
    "cameras": 'camera names as a list, "[front, left]"; then the topics are <camera>/image',
    "autostart": "false leaves configuring and activating to a lifecycle manager",
    "use_sim_time": "take the time from /clock",
}

ARGUMENTS = [
    DeclareLaunchArgument(
        "params_file",
        default_value=PathJoinSubstitution([CONFIG, "segmentation.yaml"]),
        description="YAML file with the node's parameters",
    ),
    *(
        DeclareLaunchArgument(name, default_value="", description=f"{meaning}; empty: as in params_file")
        for name, meaning in (TEXTS | VALUES).items()
    ),
    DeclareLaunchArgument("namespace", default_value="", description="namespace of the node and its topics"),
    DeclareLaunchArgument("image", default_value="image", description="image topic of a single camera"),
    DeclareLaunchArgument("log_level", default_value="info", description="debug, info, warn, error or fatal"),
    DeclareLaunchArgument("node", default_value="true", description="false: start no node (only RViz, if asked)"),
    DeclareLaunchArgument("rviz", default_value="false", description="true: also start RViz"),
    DeclareLaunchArgument(
        "rviz_config",
        default_value=PathJoinSubstitution([CONFIG, "segmentation.rviz"]),
        description="RViz layout; the default shows the camera without a name, for others see multi_camera.rviz",
    ),
]


def existing(context: LaunchContext, argument: str) -> str:
    """The file that an argument names, with ~ for the home folder; launch itself would go on without it."""
    path = Path(LaunchConfiguration(argument).perform(context)).expanduser()
    if not path.is_file():
        raise RuntimeError(f"{argument}: {path} is not a file")
    return str(path)


def near_misses(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """What is hardly meant: an argument that nobody declares, named almost as one of these. Launch passes it over."""
    known = [argument.name for argument in ARGUMENTS]
    meant = {name: get_close_matches(name, known, 1, 0.62) for name in context.launch_configurations}
    return [
        LogInfo(msg=f"WARNING: no argument {name!r} is known; did you mean {near[0]!r}?")
        for name, near in meant.items()
        if near and name not in known
    ]


def check_rviz(context: LaunchContext) -> None:
    """Before anything starts: what launch is starting when it fails stays behind, alive."""
    existing(context, "rviz_config")
    try:
        ExecutableInPackage("rviz2", "rviz2").perform(context)
    except Exception as error:
        raise RuntimeError(f"rviz:=true needs rviz2 (apt install ros-$ROS_DISTRO-rviz2): {error}") from error


def segmentation_node(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The node; only arguments that were given are passed on as parameters."""
    given = {
        name: LaunchConfiguration(name) for name in (*TEXTS, *VALUES) if LaunchConfiguration(name).perform(context)
    }
    parameters = {
        name: ParameterValue(value, value_type=str) if name in TEXTS else value for name, value in given.items()
    }
    return [
        Node(
            package="seg_perception",
            executable="segmentation_node",
            name="segmentation_node",
            namespace=LaunchConfiguration("namespace"),
            parameters=[existing(context, "params_file"), *([parameters] if parameters else [])],
            remappings=[("image", LaunchConfiguration("image"))],  # image/compressed and camera_info follow
            ros_arguments=["--log-level", LaunchConfiguration("log_level")],
            output="screen",
        )
    ]


def generate_launch_description() -> LaunchDescription:
    shown = ("overlay", "color", "drivable", "confidence", "labels", "drivable_grid", "free_space")
    with_rviz = IfCondition(LaunchConfiguration("rviz"))
    rviz = Node(
        package="rviz2",
        executable="rviz2",
        namespace=LaunchConfiguration("namespace"),
        arguments=["-d", LaunchConfiguration("rviz_config")],
        remappings=[
            ("/image", LaunchConfiguration("image")),
            *((f"/segmentation_node/{topic}", f"segmentation_node/{topic}") for topic in shown),
        ],
        output="screen",
        condition=with_rviz,
    )
    node = OpaqueFunction(function=segmentation_node, condition=IfCondition(LaunchConfiguration("node")))
    checks = [OpaqueFunction(function=near_misses), OpaqueFunction(function=check_rviz, condition=with_rviz)]
    return LaunchDescription([*ARGUMENTS, *checks, node, rviz])
