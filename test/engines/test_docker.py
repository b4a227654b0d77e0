"""Each Dockerfile does what the README tells a user to do, with files that are here. Nothing is built."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCKERFILES = ("Dockerfile.x86", "Dockerfile.jetson")

# The README's steps "On a robot" that happen inside an image; cloning is COPY, sourcing is the entry point.
README_STEPS = (
    "rosdep install --from-paths src --ignore-src -y",
    "pip install -r src/seg_perception/requirements/ros-sourced.txt",
    "colcon build --packages-select seg_perception",
    "ros2 launch seg_perception segmentation.launch.py",
)


def instructions(path: Path) -> list[tuple[str, str]]:
    """(keyword, rest) of every instruction; comments dropped, continued lines joined."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in joined.splitlines() if line.strip()]


@pytest.mark.parametrize("step", README_STEPS)
def test_the_readme_still_has_the_step(repository: Path, step: str) -> None:
    assert step in (repository / "README.md").read_text(), "a step of the README changed: change the Dockerfiles, too"


@pytest.mark.parametrize("name", DOCKERFILES)
def test_every_step_of_the_readme_is_in_the_dockerfile_and_in_that_order(repository: Path, name: str) -> None:
    text = "\n".join(
        re.sub(r'[",\[\]]+', " ", rest) if keyword == "CMD" else rest
        for keyword, rest in instructions(repository / "docker" / name)
    )
    places = [re.search(r"\s+".join(map(re.escape, step.split())), text) for step in README_STEPS]
    missing = [step for step, place in zip(README_STEPS, places) if place is None]
    assert missing == []
    starts = [place.start() for place in places if place is not None]
    assert starts == sorted(starts)


@pytest.mark.parametrize("name", DOCKERFILES)
def test_colcon_runs_in_the_virtual_environment(repository: Path, name: str) -> None:
    """Else the scripts that it writes begin with the system's Python, which lacks what pip has installed."""
    text = (repository / "docker" / name).read_text()
    assert re.findall(r"(?:python3 -m )?colcon build", text) == ["python3 -m colcon build"]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_files_that_a_dockerfile_names_are_in_the_repository(repository: Path, name: str) -> None:
    named = []
    for keyword, rest in instructions(repository / "docker" / name):
        if keyword == "COPY":
            named += rest.split()[:-1]
        named += re.findall(r"-r src/seg_perception/(\S+)", rest)
    assert len(named) >= 3  # the tree, the entry point, the requirements
    assert [path for path in named if not (repository / path).exists()] == []


@pytest.mark.parametrize("name", DOCKERFILES)
def test_only_known_instructions_and_no_root_surprises(repository: Path, name: str) -> None:
    found = instructions(repository / "docker" / name)
    known = {"ARG", "FROM", "SHELL", "RUN", "WORKDIR", "COPY", "ENV", "VOLUME", "ENTRYPOINT", "CMD"}
    assert {keyword for keyword, _ in found} <= known
    assert [keyword for keyword, _ in found][-2:] == ["ENTRYPOINT", "CMD"]
    assert not any("--privileged" in rest or "curl | " in rest for _, rest in found)


def test_the_entry_point_can_be_run(repository: Path) -> None:
    entry = repository / "docker" / "entrypoint.sh"
    assert entry.stat().st_mode & 0o111
    assert entry.read_text().startswith("#!/bin/bash\n")
