"""Remappings and parameters that change nothing are named; rcl itself says which remappings do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import rclpy
from rclpy.context import Context
from rclpy.node import Node

from seg_perception.ros.node.arguments import unused_arguments


@pytest.fixture(scope="module")
def context() -> Iterator[Context]:
    context = Context()
    rclpy.init(context=context)
    yield context
    rclpy.shutdown(context=context)


@pytest.mark.parametrize(
    "rules, names, expected",
    [
        (["image:=/cam"], {"image": "/cam"}, ""),
        (["/car/image:=/cam", "camera_info:=camera_info"], {"image": "/cam"}, ""),
        (["segmentation:rostopic://front/image:=/cam"], {"front/image": "/cam"}, ""),
        (["image:=/cam/raw", "/cam/raw/compressed:=/jpeg"], {"image": "/cam/raw", "/cam/raw/compressed": "/jpeg"}, ""),
        (["~/labels:=/labels", "__ns:=/car", "/tf:=tf"], {"~/labels": "/labels"}, ""),
        (["~/front/labels:=/l", "/scan:=/car/scan"], {"~/front/labels": "/l", "image": "/car/image"}, ""),
        (
            ["other:image:=/a", "image:=/b"],
            {"image": "/b"},
            "other:image:=/a changes nothing: it is for a node named other, this one is segmentation",
        ),
        (["imgae:=/cam"], {"image": "/car/image"}, "imgae:=/cam changes nothing: did you mean image?"),
        (["/image:=/cam"], {"image": "/car/image"}, "/image:=/cam changes nothing: did you mean image?"),
        (["~/lables:=/l"], {"~/labels": "/car/segmentation/labels"}, "nothing: did you mean ~/labels?"),
        (
            ["labels:=/l"],
            {"~/labels": "/car/segmentation/labels"},
            "labels:=/l changes nothing: did you mean ~/labels?",
        ),
        (["fron/image:=/cam"], {"front/image": "/car/front/image"}, "nothing: did you mean front/image?"),
        (["image:=/a", "image:=/b"], {"image": "/a"}, "image:=/b changes nothing: image:=/a came first"),
        (
            ["image:=/cam/raw", "camera_info:=/info"],
            {"/cam/camera_info": "/cam/camera_info"},
            "camera_info:=/info changes nothing: did you mean /cam/camera_info?",
        ),
    ],
)
def test_what_rcl_does_not_use_is_named(
    context: Context, rules: list[str], names: dict[str, str], expected: str
) -> None:
    arguments = ["--ros-args", "-p", "threads:=1", *(part for rule in rules for part in ("-r", rule))]
    node = Node("segmentation", namespace="/car", context=context, cli_args=arguments, start_parameter_services=False)
    try:
        assert {name: node.resolve_topic_name(name) for name in names} == names
        (unused,) = unused_arguments(arguments, node, ("", "front")) or [""]
    finally:
        node.destroy_node()
    assert unused.endswith(expected)
    assert bool(unused) == bool(expected)


def test_a_parameter_of_another_node_is_named(context: Context) -> None:
    arguments = [
        "--ros-args",
        "-p",
        "segmentation_nod:threads:=1",
        "-p",
        "segmentation_node:threads:=1",
        "--",
        "-p",
        "x:y",
    ]
    node = Node("segmentation_node", context=context, cli_args=arguments, start_parameter_services=False)
    try:
        (unused,) = unused_arguments(arguments, node, ("",))
    finally:
        node.destroy_node()
    assert unused == (
        "-p segmentation_nod:threads:=1 changes nothing: it is for a node named segmentation_nod, "
        "this one is segmentation_node"
    )
