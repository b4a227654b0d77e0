"""The node's topics by name, before and after remapping, and names that a remapping has made one.

rcl lets any number of topics have one name. On one that two outputs share, nobody can tell labels from confidence, or
one camera's from another's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from seg_perception.core.errors import SettingsError
from seg_perception.node_outputs import DIAGNOSTICS, OUTPUTS, GridOutput, LatchedOutput

if TYPE_CHECKING:  # the command reads its arguments before ROS is there
    from rclpy.node import Node

    from seg_perception.node_settings import NodeSettings


class InputTopics(NamedTuple):
    """What a camera may subscribe to: the image as one would remap it, what follows it as full names."""

    image: str
    compressed: str
    camera_info: str

    @classmethod
    def of(cls, camera: str, node: Node) -> InputTopics:
        image = f"{camera}/image" if camera else "image"
        topic = node.resolve_topic_name(image)
        return cls(image, f"{topic}/compressed", f"{topic.rpartition('/')[0]}/camera_info")


def check_topics(settings: NodeSettings, node: Node) -> list[str]:
    """Whether each topic has a name of its own.

    Returns:
        what may be meant, but hardly is: cameras with the same image, or with meters and the same camera_info, or of
        an image that is called rectified.

    Raises:
        SettingsError: what cannot be: two outputs of one name, an input of an output's name, or an image of a
            camera_info's.
    """
    taken: dict[str, str] = {}  # full name -> what has it
    faults, doubts = [], []
    for name in _outputs(settings):
        full = node.resolve_topic_name(name)
        if full in taken:
            faults.append(f"{taken[full]} and {name} are both {full}: remap each to a name of its own")
        taken.setdefault(full, name)
    images: dict[str, str] = {}
    infos: dict[str, str] = {}
    for camera, own in settings.camera_settings.items():
        topics = InputTopics.of(camera, node)
        name = topics.image if own.input == "raw" else topics.compressed
        full, info = node.resolve_topic_name(name), node.resolve_topic_name(topics.camera_info)
        if own_output := next((topic for topic in (full, info) if topic in taken), ""):
            faults.append(
                f"{topics.image} listens to {own_output}, which is the node's own {taken[own_output]}: "
                "remap it to the camera's topic"
            )
        elif full == info:
            faults.append(f"{topics.image} and its camera_info are both {full}: remap it to the image's topic")
        if full in images:
            doubts.append(f"{images[full]} and {topics.image} are the same image, {full}: remap each to its camera's")
        images.setdefault(full, topics.image)
        if own.ground.source != "off":
            if info in infos:
                doubts.append(f"the camera_info of {infos[info]} and of {topics.image} are both {info}: {_FOLDERS}")
            infos.setdefault(info, topics.image)
            if "image_rect" in full and not own.ground.rectified:
                doubts.append(
                    f"{topics.image} is {full}, which is called rectified, and {f'{camera}.' if camera else ''}"
                    "ground.rectified is false: the lens's distortion is taken out twice; set it to true"
                )
    if faults:
        raise SettingsError("\n  ".join([f"topics of {node.get_fully_qualified_name()}:", *dict.fromkeys(faults)]))
    return doubts


_FOLDERS = "give each camera a folder of its own, or one gets the other's lens where their stamps are equal"


def _outputs(settings: NodeSettings) -> Iterator[str]:
    for row in OUTPUTS:
        of_node = (
            row is DIAGNOSTICS or isinstance(row, GridOutput) or (isinstance(row, LatchedOutput) and not row.per_camera)
        )
        yield from [row.topic()] if of_node else [row.topic(camera) for camera in settings.cameras]
