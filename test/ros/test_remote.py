"""`seg-perception node`: a real node, spoken to over DDS."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from node_harness import RELIABLE_INPUT, Running, image_message, picture, running, wait_until
from sensor_msgs.msg import Image
from waiting import PATIENCE_S

from seg_perception.cli.main import main
from seg_perception.node_settings import PARAMETERS

START = 1_700_000_000_000_000_000


def ask(*words: str) -> int:
    return main(["node", *words, "--wait", str(PATIENCE_S)])


@pytest.fixture(scope="module")
def run(tiny_model: Path) -> Iterator[Running]:
    with running({"model": str(tiny_model), **RELIABLE_INPUT}) as started:
        started.wait_state("active")
        yield started


def test_parameters_are_listed_read_and_set(run: Running, capfd: pytest.CaptureFixture[str]) -> None:
    assert ask("get") == 0
    listed = yaml.safe_load(capfd.readouterr().out)
    assert {spec.name for spec in PARAMETERS} <= set(listed)
    assert listed["cameras"] == [""]
    assert ask("set", "drivable.min_confidence=1", "drivable.classes=[road, terrain]") == 0
    assert run.node.get_parameter("drivable.min_confidence").value == 1.0
    capfd.readouterr()
    assert ask("get", "drivable.classes", "drivable.min_confidence") == 0
    assert capfd.readouterr().out == "drivable.classes: [road, terrain]\ndrivable.min_confidence: 1.0\n"


def test_refusals_carry_the_reason(run: Running, capfd: pytest.CaptureFixture[str]) -> None:
    assert ask("set", "overlay.opacity=2.5", "overlay.opacty=0.5", "model=x.onnx") == 1
    said = capfd.readouterr().err
    assert "overlay.opacity was not set: overlay.opacity: 2.5 is not accepted" in said
    assert "did you mean overlay.opacity?" in said
    assert "model: read when the node is configured" in said
    assert ask("get", "nonsense") == 2
    assert "has no parameter nonsense" in capfd.readouterr().err
    assert ask("set", "overlay.opacity") == 2
    assert ask("set", "overlay.opacity={a: 1}") == 2
    assert ask("set", "overlay.opacity=0.1", "overlay.opacity=0.2") == 2
    assert ask("set", "overlay.opacity=nan", "drivable.ignore_mask=", "drivable.classes=") == 1  # read as ROS does
    said = capfd.readouterr().err
    assert "overlay.opacity is given twice" in said
    assert said.splitlines()[-1].startswith("overlay.opacity was not set: overlay.opacity: nan is not accepted")
    assert main(["node", "echo", "/x", "--wait", "nan"]) == main(["node", "get", "--wait", "-1"]) == 2
    assert capfd.readouterr().err.count("s is not accepted: 0 or more, below 1e9") == 2
    assert ask("state", "--node", "b ad") == 2
    assert main(["view", "--node", "b ad"]) == 2
    assert capfd.readouterr().err.count("'/b ad' is not accepted as the name of a node") == 2


def test_a_node_that_is_not_there_is_said_with_those_that_are(run: Running, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["node", "state", "--node", "/car/other", "--wait", "1.5"]) == 2
    said = capfd.readouterr().err
    assert "no node /car/other was found within 1.5 s" in said
    assert "Running here: /" in said or "No node at all is seen" in said  # as far as discovery is by then


def test_topics_are_echoed_and_long_arrays_cut(run: Running, capfd: pytest.CaptureFixture[str]) -> None:
    assert ask("echo", "/segmentation_node/palette", "--count", "1") == 0  # latched: sent before
    assert "road" in yaml.safe_load(capfd.readouterr().out.split("---")[0])["data"]
    images = run.peer.publisher(Image, "/image")
    done = threading.Event()

    def drive() -> None:
        for index in itertools.count():
            if done.wait(0.02):
                return
            images.publish(image_message(picture(0), START + index))

    thread = threading.Thread(target=drive)
    thread.start()
    try:
        assert ask("echo", "/segmentation_node/labels", "--count", "2") == 0
    finally:
        done.set()
        thread.join()
    first, second, _ = capfd.readouterr().out.split("---\n")
    message = yaml.safe_load(first)
    assert (message["width"], message["height"], message["encoding"]) == (64, 48, "mono8")
    assert message["data"][-1] == "... 3072 items"
    assert yaml.safe_load(second)["header"]["stamp"]["nanosec"] > message["header"]["stamp"]["nanosec"]
    assert main(["node", "echo", "/nothing", "--wait", "1"]) == 2
    assert "no topic /nothing; there are: " in capfd.readouterr().err


def test_diagnostics_are_shown(run: Running, capfd: pytest.CaptureFixture[str]) -> None:
    assert ask("diagnostics") in (0, 1)  # STALE without frames
    said = capfd.readouterr().out
    assert "OK segmentation_node: engine: active" in said
    assert "    lifecycle_state: active" in said


def test_the_state_is_shown_and_changed(tiny_model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    parameters = {"model": str(tiny_model), "autostart": False, "network_size": "big"}

    def command(*words: str) -> int:
        return ask(*words, "--node", "car/segmentation_node")

    with running(parameters, namespace="/car") as run:
        assert command("state") == 0
        assert capfd.readouterr().out.splitlines()[-1] == "unconfigured"
        assert command("state", "configure") == 2
        said = capfd.readouterr().err
        assert "/car/segmentation_node is unconfigured and did not configure: " in said
        assert "network_size" in said  # the node's own reason
        assert command("set", "network_size=64x48") == 0
        steps = {"configure": "inactive", "activate": "active", "deactivate": "inactive", "shutdown": "finalized"}
        for transition, after in steps.items():
            assert command("state", transition) == 0
            assert capfd.readouterr().out.splitlines()[-1] == after
        wait_until(lambda: run.node.state == "finalized", "the end")
