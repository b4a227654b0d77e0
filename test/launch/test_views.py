"""The RViz and Foxglove layouts show topics that the demo and the node really have."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from seg_perception.node_outputs import OUTPUTS

CONFIG = Path(__file__).resolve().parents[2] / "config"
LAUNCH = CONFIG.parent / "launch" / "segmentation.launch.py"


@pytest.fixture(scope="module")
def recorded() -> set[str]:
    """The topics of the demo's bag (test/cli/test_demo.py sees that they are in it)."""
    pytest.importorskip("rclpy", reason="rclpy is not installed")
    from seg_perception.ros.demo.session import recorded_outputs

    return {"/image", *recorded_outputs()}


@pytest.fixture(scope="module")
def published() -> set[str]:
    return {row.topic(node="/segmentation_node") for row in OUTPUTS}


def test_the_demo_records_what_the_node_publishes(recorded: set[str], published: set[str]) -> None:
    assert recorded - {"/image"} <= published


def rviz_topics(name: str = "segmentation.rviz") -> dict[str, dict[str, Any]]:
    layout = yaml.safe_load((CONFIG / name).read_text(encoding="utf-8"))
    return {display["Topic"]["Value"]: display for display in layout["Visualization Manager"]["Displays"]}


def test_rviz_shows_camera_overlay_labels_and_mask(recorded: set[str]) -> None:
    topics = rviz_topics()
    node = "/segmentation_node"
    assert {"/image", f"{node}/overlay", f"{node}/color", f"{node}/labels", f"{node}/drivable"} <= set(topics)
    assert set(topics) <= recorded


def test_rviz_shows_every_camera_of_the_multi_camera_example(published: set[str]) -> None:
    parameters = yaml.safe_load((CONFIG / "multi_camera.yaml").read_text(encoding="utf-8"))
    cameras = parameters["/**"]["ros__parameters"]["cameras"]
    assert len(cameras) == 3
    shown = {f"/segmentation_node/{camera}/{name}" for camera in cameras for name in ("overlay", "drivable")}
    assert set(rviz_topics("multi_camera.rviz")) == shown
    assert {topic.replace(f"/{camera}/", "/") for camera in cameras for topic in shown if camera in topic} <= published


def test_rviz_meets_best_effort_cameras() -> None:
    assert rviz_topics()["/image"]["Topic"]["Reliability Policy"] == "Best Effort"


def test_rviz_shows_every_output_that_is_to_be_shown() -> None:
    shown = {row.topic(node="/segmentation_node") for row in OUTPUTS if row.shown}
    assert set(rviz_topics()) == {"/image", *shown}


def test_launch_remaps_every_topic_of_the_rviz_layout() -> None:
    names = re.search(r"shown = \((.*?)\)", LAUNCH.read_text(encoding="utf-8"))
    assert names is not None
    remapped = {f"/segmentation_node/{name}" for name in re.findall(r'"(\w+)"', names[1])}
    assert remapped | {"/image"} == set(rviz_topics())


def test_foxglove_shows_what_is_published_and_places_every_panel_once(recorded: set[str]) -> None:
    layout = json.loads((CONFIG / "foxglove_layout.json").read_text(encoding="utf-8"))
    panels = layout["configById"]
    text = json.dumps(panels)
    topics = set(re.findall(r'"(/[\w/]+)(?:\.data)?"', text))
    assert len(topics) == 10, topics  # four images, diagnostics, three numbers, grid and outline
    assert topics <= recorded
    for name, panel in panels.items():
        assert "calibrationTopic" not in panel.get("imageMode", {}), name  # an empty one makes the panel wait for ever
        assert len(panel.get("paths", ())) <= 1, name  # milliseconds and shares have no axis in common

    def placed(part: dict[str, Any] | str) -> list[str]:
        return [part] if isinstance(part, str) else placed(part["first"]) + placed(part["second"])

    assert sorted(placed(layout["layout"])) == sorted(panels)
