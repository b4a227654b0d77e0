"""Parameters: one table, one YAML that says the same, all faults at once, live changes or a reason."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
import yaml
from node_harness import RELIABLE_INPUT, Running, image_message, level, running, wait_until
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterType, ParameterValue
from rcl_interfaces.srv import GetParameters, ListParameters, SetParameters, SetParametersAtomically
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from waiting import until_answered

from seg_perception.core.drivable import DrivableSettings
from seg_perception.core.errors import SettingsError
from seg_perception.core.files import share_path
from seg_perception.core.types import Size
from seg_perception.node_parameters import (
    parse_settings,
    read_parameter_file,
    unknown_parameters,
    unused_parameter_files,
)
from seg_perception.node_settings import PARAMETERS
from seg_perception.ros.compat import parameter_overrides
from seg_perception.ros.node.arguments import RosArguments
from seg_perception.ros.node.parameters import spec_descriptor

START = 1_700_000_000_000_000_000
REFUSED = "{}: read when the node is configured; deactivate and clean up the node, set it, and configure again"
DEFAULTS: dict[str, Any] = {spec.name: spec.default for spec in PARAMETERS}


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def yaml_parameters(name: str) -> dict[str, Any]:
    document = yaml.safe_load(share_path(f"config/{name}").read_text(encoding="utf-8"))
    return flatten(document["/**"]["ros__parameters"])


def test_the_yaml_has_every_parameter_with_its_default_and_no_other() -> None:
    written = yaml_parameters("segmentation.yaml")
    assert list(written) == list(DEFAULTS)
    for name, default in DEFAULTS.items():
        value = tuple(written[name]) if isinstance(default, tuple) else written[name]
        assert value == default, name
        assert type(value) is type(default), name  # 5 is not 5.0 to ROS


def test_the_page_names_the_live_parameters(repository: Path) -> None:
    page = (repository / "docs" / "node.md").read_text(encoding="utf-8")
    (sentence,) = re.findall(r"^- (`drivable\.\*[^:]*?) may change while the node runs", page, re.MULTILINE)
    named, folder = set(), ""
    for word in re.findall(r"`([^`]+)`", sentence):
        folder = word.rpartition(".")[0] or folder  # `ground.height`, `pitch`
        named.add(f"{folder}.{word.rpartition('.')[2]}")
    live = {spec.name for spec in PARAMETERS if spec.live}
    whole = {f"{name.partition('.')[0]}.*" for name in live} & named
    assert named == whole | {name for name in live if f"{name.partition('.')[0]}.*" not in whole}
    assert not [s.name for s in PARAMETERS if f"{s.name.partition('.')[0]}.*" in whole and not s.live]


def test_the_default_drivable_settings_are_the_library_s() -> None:
    settings = parse_settings(DEFAULTS, "test")
    assert settings.camera_settings[""].drivable == DrivableSettings()
    assert settings.model is None
    assert settings.network_size is None


def test_the_multi_camera_example_is_valid() -> None:
    written = yaml_parameters("multi_camera.yaml")
    settings = parse_settings(DEFAULTS | written, "test")
    assert settings.cameras == ("front", "left", "right")
    assert settings.camera_settings["left"].input == "compressed"
    assert settings.camera_settings["front"].input == "raw"
    assert settings.camera_settings["front"].drivable.ignore_polygons == ((0.0, 1.0, 0.15, 0.9, 0.85, 0.9, 1.0, 1.0),)
    assert settings.camera_settings["front"].drivable.connected_to_ego
    assert not settings.camera_settings["right"].drivable.connected_to_ego
    assert settings.camera_settings["right"].drivable.appear_frames == 3
    known = set(DEFAULTS) | {f"{c}.{s.name}" for c in settings.cameras for s in PARAMETERS if s.per_camera}
    assert set(written) <= known


def test_all_faults_are_reported_at_once() -> None:
    wrong = DEFAULTS | {
        "network_size": "large",
        "cameras": ("front", "front", "2nd"),
        "input": "jpeg",
        "drivable.ignore_polygons": ("0.1 0.2", "corner"),
        "diagnostics.error_rate_hz": 6.0,
    }
    with pytest.raises(SettingsError) as raised:
        parse_settings(wrong, "parameters of /segmentation_node")
    text = str(raised.value)
    corner = "drivable.ignore_polygons[1]: 'corner' is not accepted; accepted: a text of numbers, such as '0.2, 1.0, "
    for part in ("network_size", "'large'", "'jpeg'", corner, "error_rate_hz 6.0 must not be above"):
        assert part in text, part


def test_descriptors_carry_meaning_and_range() -> None:
    specs = {spec.name: spec for spec in PARAMETERS}
    threads = spec_descriptor(specs["threads"])
    assert (threads.integer_range[0].from_value, threads.integer_range[0].to_value) == (0, 256)
    opacity = spec_descriptor(specs["overlay.opacity"])
    assert (opacity.floating_point_range[0].from_value, opacity.floating_point_range[0].to_value) == (0.0, 1.0)
    assert "next frame" in opacity.additional_constraints
    assert all(spec.description.endswith(".") for spec in PARAMETERS)
    assert spec_descriptor(specs["autostart"]).read_only


def test_wrong_overrides_leave_the_node_unconfigured_and_can_be_fixed(tiny_model: Path) -> None:
    wrong = {
        "model": str(tiny_model),
        "overlay.opacity": 1.5,  # out of range
        "threads": "two",  # wrong type
        "modle": "x.onnx",  # misspelt: no fault of its own, see below, but named with the faults
        "network_size": "64",
        "diagnostics.frame_timeout_s": 2,  # an integer where a number is meant: accepted
    }
    with running(wrong) as run:
        log = wait_until(lambda: run.peer.lines("configure failed"), "the reason in the log")
        for part in (
            "overlay.opacity: 1.5",
            "threads: 'two'",
            "modle: no such parameter; did you mean model?",
            "network_size",
        ):
            assert part in log[0], part
        assert run.node.state == "unconfigured"
        status = run.peer.status(": engine")
        assert status.level == b"\x02"
        assert "overlay.opacity" in status.message
        assert run.node.get_parameter("diagnostics.frame_timeout_s").value == 2.0


def test_a_quality_of_service_that_is_none_is_named(tiny_model: Path) -> None:
    image = "qos_overrides./image.subscription"
    with running({"model": str(tiny_model), f"{image}.depth": -5, f"{image}.reliability": "sure"}) as run:
        log = wait_until(lambda: run.peer.lines("configure failed"), "the reason")[0]
        assert f"{image}.depth: -5 is not accepted; accepted: an integer from 1 to 10000" in log
        assert f"{image}.reliability: 'sure' is not accepted; accepted: system_default, reliable, best_effort" in log


def test_a_camera_name_that_is_none_does_not_end_the_process(tiny_model: Path) -> None:
    with running({"model": str(tiny_model), "cameras": ["fr-ont", "c" * 300]}) as run:
        assert "'fr-ont' is not accepted" in wait_until(lambda: run.peer.lines("configure failed"), "the reason")[0]
        run.node.warn_of_unused(RosArguments.of(["--ros-args", "-r", "image:=/x"]))  # as the command does


def test_parameters_of_other_nodes_are_named_and_do_not_stop_this_one(tiny_model: Path) -> None:
    outer = {"vehicle_info.wheel_base": 2.79, "drivable.min_confidense": 0.75}  # `/**:` gives them to every node
    with running({"model": str(tiny_model), **outer}) as run:
        run.wait_state("active")
        (near, far) = run.peer.lines("no such parameter")
        assert near == "parameter drivable.min_confidense: no such parameter; did you mean drivable.min_confidence?"
        status = wait_until(
            lambda: [s for s in run.peer.statuses(": engine") if f"active; {near}" == s.message], "WARN"
        )[-1]
        assert level(status) == 1  # and not a word of the other node's parameter
        assert far == "parameter vehicle_info.wheel_base: no such parameter; see config/segmentation.yaml"


@pytest.mark.parametrize(
    "section, node, used",
    [
        ("segmentation_nod", "/segmentation_node", False),
        ("segmentation_node", "/segmentation_node", True),
        ("/segmentation_node", "/segmentation_node", True),
        ("segmentation_node", "/car/segmentation_node", False),
        ("car: {segmentation_node", "/car/segmentation_node", True),  # nested, see below
        ("/**", "/car/segmentation_node", True),
        ("/*", "/car/segmentation_node", False),
        ("/*/segmentation_node", "/car/segmentation_node", True),
        ("/**/segmentation_node", "/segmentation_node", True),
        ("segmentation_node", "/front", False),  # renamed, the file was not
    ],
)
def test_a_parameter_file_for_another_node_is_named(tmp_path: Path, section: str, node: str, used: bool) -> None:
    (path := tmp_path / "own.yaml").write_text(
        f"{section}: {{ros__parameters: {{model: x.onnx}}}}{'}' * section.count('{')}\n"
    )
    found = unused_parameter_files([str(path)], node)
    name = "/" + section.replace(": {", "/").strip("/")
    line = f"{path} sets nothing here: no section is for {node} or '/**'; its sections: {name}"
    assert found == ([] if used else [line])


@pytest.mark.parametrize("second", ["view.port: 2", "view: {port: 2}"])
def test_a_key_twice_is_said_as_ros_takes_the_last_without_a_word(tmp_path: Path, second: str) -> None:
    (path := tmp_path / "own.yaml").write_text(f"/**:\n  ros__parameters:\n    view.port: 1\n    {second}\n")
    (found,) = unused_parameter_files([str(path)], "/segmentation_node")
    assert found.startswith(f"{path}")
    assert "'view.port' is given twice" in found
    assert found.endswith("; ROS takes the last")
    with pytest.raises(SettingsError, match=r"'view\.port' is given twice"):
        read_parameter_file(path)


def test_a_file_says_to_the_commands_what_it_says_to_ros(tmp_path: Path) -> None:
    """YAML itself, and PyYAML's, would read many of these otherwise: 1e-1 as a text, 1_0 as 10, 12:30 as 750."""
    texts = """1e-1 1E3 1.5e3 1_0 12:30 y Y yes on off n NO 0o17 010 08 -010 0x1F +5 .5 5. .inf -.inf inf ~ null Null
        2026-01-01 0b101 '1' 1.0.0 = << tRUE 1e400 99999999999999999999 -9223372036854775808 00 1,2 ''"""
    written = texts.split()
    lines = "".join(f"    v{i}: {text}\n" for i, text in enumerate(written))
    (path := tmp_path / "own.yaml").write_text(f"/**:\n  ros__parameters:\n    y: [1e-1, 08]\n{lines}")
    context = Context()
    rclpy.init(context=context, args=["--ros-args", "--params-file", str(path)])
    node = Node("segmentation_node", context=context)
    taken = {name: parameter.value for name, parameter in parameter_overrides(node).items()}
    node.destroy_node()
    rclpy.shutdown(context=context)
    read = read_parameter_file(path)
    assert read.pop("y") == [0.1, 8.0] == list(taken.pop("y"))
    assert len(read) == len(written)
    assert {name: repr(value) for name, value in read.items()} == {name: repr(value) for name, value in taken.items()}


def test_the_files_that_launch_writes_are_sound(tmp_path: Path) -> None:
    """It writes lists with a tag of Python's, which ROS reads and a safe loader does not."""
    (path := tmp_path / "launch_params").write_text(
        "/**:\n  ros__parameters:\n    cameras: !!python/tuple\n    - front\n"
    )
    assert unused_parameter_files([str(path)], "/segmentation_node") == []


def test_parameters_that_rclpy_and_cameras_have_are_near_ones_too() -> None:
    names = ["use_sim_tme", "front.drivable.min_confidense", "frnt.drivable.min_confidence", "use_sim_time"]
    near = [line.partition("; ")[2] for line in unknown_parameters(names, ("front", "rear"))]
    assert near == [
        "did you mean front.drivable.min_confidence?",
        "did you mean front.drivable.min_confidence?",
        "did you mean use_sim_time?",
    ]


def test_an_empty_list_is_what_it_says() -> None:
    arguments = ["--ros-args", "-p", "cameras:=[]", "-p", "drivable.classes:=[]", "-p", "threads:=[]"]
    with running({}, cli_args=arguments) as run:
        (log,) = wait_until(lambda: run.peer.lines("configure failed"), "the reason in the log")
        assert "cameras: the list is empty; name at least one" in log
        assert "threads: [] is not accepted; accepted: an integer from 0 to 256" in log
        assert "classes" not in log  # none named: the model card's
        assert run.set("cameras", []).startswith("cameras: the list is empty")
        assert run.set("cameras", [""]) == run.set("threads", 0) == ""
        run.call(run.node.trigger_configure)
        assert run.node.state == "inactive"


@pytest.mark.parametrize(
    "values, fault",
    [
        ({"drivable.ignore_polygons": ("0 0 1",)}, "  drivable.ignore_polygons[0] has 3 numbers"),
        ({"front.drivable.ignore_polygons": ("0 0 1",)}, "  front.drivable.ignore_polygons[0] has 3 numbers"),
        ({"drivable.ignore_polygons": ("x",)}, "  drivable.ignore_polygons[0]: 'x' is not accepted"),
        ({"front.input": "jpeg"}, "  front.input: 'jpeg' is not accepted; accepted: one of 'raw', 'compressed'"),
        ({"front.drivable.max_gap_s": 0.0}, "  front.drivable.max_gap_s: 0.0 is not accepted"),
        ({"threads": True}, "  threads: True is not accepted; accepted: an integer from 0 to 256"),
        ({"engine": "cpu"}, "  engine: 'cpu' is not accepted; accepted: one of 'auto', "),
    ],
)
def test_a_fault_is_named_once_as_the_parameter_that_was_set(values: dict[str, Any], fault: str) -> None:
    with pytest.raises(SettingsError) as raised:
        parse_settings({"cameras": ("front", "rear"), **values}, "test")
    assert len(str(raised.value).splitlines()) == 2
    assert str(raised.value).splitlines()[1].startswith(fault)


def test_a_fault_of_any_size_stays_a_line() -> None:
    with pytest.raises(SettingsError) as raised:
        parse_settings({"engine": "x" * 10**6, "threads": tuple("y" * 10**5)}, "test")
    assert len(str(raised.value)) < 1500
    assert "(1000002 characters)" in str(raised.value)


def service(run: Running, name: str, service_type: Any, request: Any) -> Any:
    """What `ros2 param` does: calls one of the node's parameter services over DDS."""
    client = run.peer.node.create_client(service_type, f"/segmentation_node/{name}")
    assert client.wait_for_service(20.0)
    return until_answered(client, request, f"an answer of {name}")


def set_over_dds(run: Running, *parameters: Parameter) -> list[str]:
    request = SetParameters.Request(parameters=[parameter.to_parameter_msg() for parameter in parameters])
    return [result.reason for result in service(run, "set_parameters", SetParameters, request).results]


def test_live_changes_over_dds_are_forgiving_where_it_is_safe(tiny_model: Path) -> None:
    with running({"model": str(tiny_model), "cameras": ["front"]}) as run:
        run.wait_state("active")
        assert set_over_dds(run, Parameter("overlay.opacity", value=1)) == [""]  # an integer is a number
        assert run.node.get_parameter("overlay.opacity").value == 1.0
        assert set_over_dds(run, Parameter("drivable.min_confidense", value=0.9)) == [
            "drivable.min_confidense: no such parameter; did you mean drivable.min_confidence?"
        ]
        assert "True is not accepted" in set_over_dds(run, Parameter("overlay.opacity", value=True))[0]  # though == 1.0
        assert "Wrong parameter type" in set_over_dds(run, Parameter("use_sim_time", value=0))[0]  # though == False
        no_type = ParameterMessage(name="threads", value=ParameterValue(type=99))  # rclpy's own callback raises
        request = SetParameters.Request(parameters=[Parameter("threads", value=0).to_parameter_msg(), no_type, no_type])
        results = service(run, "set_parameters", SetParameters, request).results
        assert [result.successful for result in results] == [True, False, False]
        assert results[1].reason == "the request cannot be answered: ValueError: 99 is not a valid Parameter.Type"
        at_once = SetParametersAtomically.Request(parameters=[no_type])
        assert not service(run, "set_parameters_atomically", SetParametersAtomically, at_once).result.successful
        for value, expected in ((0.75, 0.75), (None, 0.5), (0.25, 0.25)):  # unset: the common value, and set anew
            assert set_over_dds(run, Parameter("front.drivable.min_confidence", value=value)) == [""]
            assert run.node.settings is not None
            assert run.node.settings.camera_settings["front"].drivable.min_confidence == expected


def test_the_node_takes_back_its_own_dump(tiny_model: Path) -> None:
    with running({"model": str(tiny_model), "cameras": ["front", "rear"]}) as run:
        run.wait_state("active")
        names = service(run, "list_parameters", ListParameters, ListParameters.Request()).result.names
        values = service(run, "get_parameters", GetParameters, GetParameters.Request(names=names)).values
        dumped = [
            Parameter.from_parameter_msg(ParameterMessage(name=n, value=v)) for n, v in zip(names, values, strict=True)
        ]
        assert len(dumped) > len(PARAMETERS)
        assert set(set_over_dds(run, *dumped)) == {""}
        assert set(service(run, "list_parameters", ListParameters, ListParameters.Request()).result.names) == set(names)


def test_a_fault_goes_away_when_the_parameter_is_set(tiny_model: Path) -> None:
    with running({"model": str(tiny_model), "threads": 1000, "autostart": False}) as run:
        run.call(run.node.trigger_configure)
        assert run.node.state == "unconfigured"
        assert run.set("threads", 1) == ""
        run.call(run.node.trigger_configure)
        assert run.node.state == "inactive"


def test_live_parameters_change_and_others_are_refused_with_the_reason(tiny_model: Path) -> None:
    with running({"model": str(tiny_model)}) as run:
        run.wait_state("active")
        for name, value in (("model", "other.onnx"), ("cameras", ["front"])):
            assert run.set(name, value) == REFUSED.format(name)
        assert run.node.get_parameter("model").value == str(tiny_model)
        assert run.set("overlay.opacity", 0.25) == ""
        assert run.node.settings is not None
        assert run.node.settings.overlay.opacity == 0.25
        assert "no class 'river'" in run.set("drivable.classes", ["river"])
        assert "1.5 is not accepted; accepted: a number from 0 to 1" in run.set("drivable.min_confidence", 1.5)
        assert "must not be above warn_rate_hz" in run.set("diagnostics.error_rate_hz", 50.0)
        assert run.node.settings.camera_settings[""].drivable == DrivableSettings()
        assert run.set("drivable.classes", ["road", "sidewalk"]) == ""
        assert run.node.settings.camera_settings[""].drivable.classes == ("road", "sidewalk")


def test_a_live_change_shows_in_the_next_published_frame(tiny_model: Path) -> None:
    pixels = np.zeros((48, 64, 3), np.uint8)  # red 0: class 0, road
    pixels[..., 1] = 150  # green is the tiny model's confidence: 150 / 255 = 0.59
    with running({"model": str(tiny_model), "overlay.opacity": 1.0, **RELIABLE_INPUT}) as run:
        run.wait_state("active")
        names = ("overlay", "drivable")
        seen = {name: run.peer.subscribe(Image, f"/segmentation_node/{name}") for name in names}
        images = run.peer.publisher(Image, "/image")

        def answer(index: int, name: str) -> np.ndarray:
            images.publish(image_message(pixels, START + index))
            wait_until(lambda: all(len(messages) == index + 1 for messages in seen.values()), "the answer")
            return np.frombuffer(seen[name][index].data, np.uint8).reshape(48, 64, -1)

        assert (answer(0, "overlay") == (128, 64, 128)).all()  # opacity 1: nothing but road's color
        assert run.set("overlay.opacity", 0.0) == ""
        assert (answer(1, "overlay") == pixels).all()
        assert (answer(2, "drivable") == 255).all()
        assert run.set("drivable.min_confidence", 0.75) == ""
        assert (answer(3, "drivable") == 0).all()


def test_while_unconfigured_everything_may_be_set(tiny_model: Path) -> None:
    with running({"autostart": False}) as run:
        assert run.set("network_size", "96x64") == ""
        assert run.set("cameras", ["front", "rear"]) == ""
        assert "'x'" in run.set("network_size", "x")
        assert run.set("model", str(tiny_model)) == ""
        run.call(run.node.trigger_configure)
        assert run.node.state == "inactive"
        assert run.node.settings is not None
        assert run.node.settings.network_size == Size(96, 64)
        assert run.set("rear.drivable.min_confidence", 0.75) == ""
        assert run.node.settings.camera_settings["rear"].drivable.min_confidence == 0.75
        assert run.node.settings.camera_settings["front"].drivable.min_confidence == 0.5


def test_parameter_types_are_what_ros_tools_expect(tiny_model: Path) -> None:
    with running({"autostart": False}) as run:
        expected = {bool: 1, int: 2, float: 3, str: 4, tuple: ParameterType.PARAMETER_STRING_ARRAY}
        for spec in PARAMETERS:
            described = run.node.describe_parameter(spec.name)
            assert described.type == expected[type(spec.default)], spec.name
        assert run.node.get_parameter("cameras").type_ == Parameter.Type.STRING_ARRAY


@pytest.mark.parametrize("name", ["segmentation.yaml", "multi_camera.yaml"])
def test_the_shipped_files_reach_a_real_node(tiny_model: Path, name: str) -> None:
    path = share_path(f"config/{name}")
    arguments = ["--ros-args", "--params-file", str(path), "-p", f"model:={tiny_model}"]
    with running({"autostart": False}, cli_args=arguments) as run:
        run.call(run.node.trigger_configure)
        assert run.node.state == "inactive", run.peer.lines("configure failed")
        assert run.node.settings == parse_settings(
            DEFAULTS | yaml_parameters(name) | {"model": str(tiny_model), "autostart": False}, "test"
        )
