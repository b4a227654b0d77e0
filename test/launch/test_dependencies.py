"""package.xml declares what the launch files and the node use, and nothing that nobody uses."""

from __future__ import annotations

import ast
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Declared without a mention in the code, and why.
INDIRECT = {
    "bondpy": "the bond with a lifecycle manager, imported by name",
    "cv_bridge": "the second decoder that tests and a benchmark compare with",
    "lifecycle_msgs": "the services of rclpy's lifecycle node",
    "ros2launch": "ros2 launch",
    "rosbag2_storage_mcap": "ros2 bag play of the MCAP files that this package writes",
}


def declared() -> set[str]:
    tags = ET.parse(ROOT / "package.xml").getroot().findall("exec_depend")
    return {str(tag.text) for tag in tags if not str(tag.text).startswith("python3-")}


def used() -> Iterator[str]:
    launch_files = sorted((ROOT / "launch").glob("*.py"))
    package = ROOT / "seg_perception"
    node_files = [package / "node_outputs.py", *sorted((package / "ros").rglob("*.py"))]
    assert len(launch_files) == 4
    assert len(node_files) > 20
    for path in (*launch_files, *node_files):
        source = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield node.module.partition(".")[0]
        yield from re.findall(r'"(\w+)/(?:msg|srv)/\w+"', source)  # classes looked up by name
        yield from re.findall(r'package="(\w+)"', source)


def test_rosdep_installs_nothing_by_pip() -> None:
    """Into the system's Python, which Ubuntu 24.04 refuses; and pip's NumPy 2 breaks apt's OpenCV and cv_bridge."""
    tags = [str(tag.text) for tag in ET.parse(ROOT / "package.xml").getroot() if tag.tag.endswith("depend")]
    assert len(tags) > 20
    assert not [name for name in tags if name.endswith("-pip")]


def test_package_xml_and_the_code_agree() -> None:
    ros = {"launch", "launch_ros", "rclpy", "rviz2"}
    needed = {name for name in used() if name in ros or name.endswith(("_msgs", "_interfaces"))}
    assert ros < needed
    assert declared() == needed | set(INDIRECT)
