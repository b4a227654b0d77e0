"""The command line is read as rcl reads it, which itself says what it took; what changes nothing is named."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import rclpy
from rclpy.context import Context
from rclpy.node import Node
from rclpy.utilities import remove_ros_args

from seg_perception.core.errors import SettingsError
from seg_perception.node_parameters import parse_settings
from seg_perception.ros.compat import parameter_overrides
from seg_perception.ros.node.arguments import RosArguments, unused_rules
from seg_perception.ros.node.topics import check_topics


@pytest.fixture(scope="module")
def context() -> Iterator[Context]:
    context = Context()
    rclpy.init(context=context)
    yield context
    rclpy.shutdown(context=context)


@contextmanager
def a_node(
    name: str, context: Context, arguments: list[str] | None = None, namespace: str | None = None
) -> Iterator[Node]:
    node = Node(name, namespace=namespace, context=context, cli_args=arguments, start_parameter_services=False)
    try:
        yield node
    finally:
        node.destroy_node()


@pytest.mark.parametrize(
    "line, options, others",
    [
        ("", "", ""),
        ("x --ros-args -r a:=b -- y --ros-args -p n:=1", "-r a:=b, -p n:=1", "x y"),
        ("--ros-args -p n:=1 -- -- y", "-p n:=1", "-- y"),
        ("-- --ros-args -p n:=1", "-p n:=1", "--"),
        ("--ros-args --ros-args --remap a:=b --param n:=1", "--remap a:=b, --param n:=1", ""),
        ("--ros-args -p other:n:=1 -r other:a:=b", "-p other:n:=1, -r other:a:=b", ""),
        ("--ros-args --log-file-name -r -p n:=1", "--log-file-name -r, -p n:=1", ""),
        ("--ros-args --disable-rosout-logs --log-level info -e /e -p n:=1", "--log-level info, -e /e, -p n:=1", ""),
        ("-p n:=1 --params-file x.yaml", "", "-p n:=1 --params-file x.yaml"),
    ],
)
def test_a_command_line_is_divided_as_rcl_does(line: str, options: str, others: str) -> None:
    read = RosArguments.of(line.split())
    assert ", ".join(map(" ".join, read.options)) == options
    assert " ".join(read.others) == others
    context = Context()
    rclpy.init(args=line.split(), context=context)
    try:
        with a_node("segmentation", context) as node:
            assert remove_ros_args(["program", *line.split()]) == ["program", *read.others]
            assert (node.resolve_topic_name("a") == "/b") == ("a:=b" in [rule for _, rule in read.rules])
            assert ("n" in parameter_overrides(node)) == ("n:=1" in [rule for _, rule in read.rules])
    finally:
        rclpy.shutdown(context=context)


@pytest.mark.parametrize(
    "line",
    [
        "-p",
        "-r",
        "--params-file",
        "-p --",
        "-r --ros-args",
        "-p n",
        "-p=n:=1",
        "--param=n:=1",
        "--params-file=x.yaml",
        "-ra:=b",
        "a:=b",
        "x",
    ],
)
def test_what_has_no_value_or_an_equals_sign_rcl_refuses(line: str) -> None:
    arguments = ["--ros-args", *line.split()]
    with pytest.raises(RuntimeError):  # main turns it into words
        rclpy.init(args=arguments, context=Context())
    read = RosArguments.of(arguments)
    assert read.others == ()
    assert len(read.options) == len(line.split()) // 2


def test_every_parameter_file_is_found() -> None:
    line = "--ros-args --params-file a.yaml -p --params-file -- --params-file b.yaml --ros-args --params-file c.yaml"
    assert RosArguments.of(line.split()).parameter_files == ["a.yaml", "c.yaml"]


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
    with a_node("segmentation", context, arguments, "/car") as node:
        assert {name: node.resolve_topic_name(name) for name in names} == names
        (unused,) = unused_rules(RosArguments.of(arguments).rules, node, ("", "front")) or [""]
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
    with a_node("segmentation_node", context, arguments) as node:
        (unused,) = unused_rules(RosArguments.of(arguments).rules, node, ("",))
    assert unused == (
        "-p segmentation_nod:threads:=1 changes nothing: it is for a node named segmentation_nod, "
        "this one is segmentation_node"
    )


@pytest.mark.parametrize(
    "rules, fault, doubt",
    [
        ("front/image:=/front/image_raw rear/image:=/rear/image_raw ~/front/labels:=/x ~/rear/labels:=/y", "", ""),
        ("~/front/labels:=/x ~/rear/labels:=/x", "~/front/labels and ~/rear/labels are both /x: remap each", ""),
        ("~/front/labels:=/x ~/palette:=/x", "~/front/labels and ~/palette are both /x: remap each", ""),
        ("~/front/overlay:=~/drivable_grid", "~/front/overlay and ~/drivable_grid are both /n/drivable_grid", ""),
        (
            "front/image:=~/front/labels",
            "front/image listens to /n/front/labels, which is the node's own ~/front/l",
            "",
        ),
        (
            "~/front/overlay:=/front/image",
            "front/image listens to /front/image, which is the node's own ~/front/ov",
            "",
        ),
        ("~/front/overlay:=/front/camera_info", "front/image listens to /front/camera_info, which is", ""),
        ("front/image:=/front/camera_info", "front/image and its camera_info are both /front/camera_info", ""),
        ("front/image:=/cam rear/image:=/cam", "", "front/image and rear/image are the same image, /cam: remap each"),
        (
            "front/image:=/f rear/image:=/r",
            "",
            "the camera_info of front/image and of rear/image are both /camera_info",
        ),
        (
            "rear/image:=/rear/image_rect_color",
            "",
            "rear/image is /rear/image_rect_color, which is called rectified, and rear.ground.rectified is false",
        ),
    ],
)
def test_every_topic_has_a_name_of_its_own(context: Context, rules: str, fault: str, doubt: str) -> None:
    arguments = ["--ros-args", *(part for rule in rules.split() for part in ("-r", rule))]
    values = {"cameras": ("front", "rear"), "ground.source": "fixed", "ground.height": 1.5}
    settings = parse_settings(values, "test")
    with a_node("n", context, arguments) as node:
        if fault:
            with pytest.raises(SettingsError, match=re.escape(fault)) as refused:
                check_topics(settings, node)
            assert len(str(refused.value).splitlines()) == 2
        else:
            doubts = check_topics(settings, node)
            assert [line[: len(doubt)] for line in doubts[:1]] == ([doubt] if doubt else [])
