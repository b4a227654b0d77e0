"""docs/your_masks.md as it is written: its files, its commands, its table."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seg_perception.core.label_set import load_label_set
from seg_perception.core.types import Size
from seg_perception.datasets.convert.conversion import formats_table
from seg_perception.datasets.convert.exporting import Labeled, write_annotations
from seg_perception.datasets.convert.regions import ExportSettings, ShapeKind
from seg_perception.scenes import random_scene

DRIVING = load_label_set("driving")
PICTURES = 20


@pytest.fixture(scope="module")
def page() -> str:
    return (Path(__file__).parents[2] / "docs" / "your_masks.md").read_text(encoding="utf-8")


def blocks(page: str, kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL)


def make_world(root: Path) -> None:
    """What a reader of the page has: a task from CVAT, a folder of color masks, a tree of drives."""
    scenes = [random_scene(seed, Size(240, 176)) for seed in range(PICTURES)]
    labeled = []
    for folder in ("cvat/images", "colored", "drives/mon/camera", "drives/mon/ids"):
        (root / folder).mkdir(parents=True)
    for index, scene in enumerate(scenes):
        path = root / "cvat" / "images" / f"{index:04d}.jpg"
        Image.fromarray(scene.image).save(path, quality=92)
        labeled.append(Labeled(path, scene.labels))
    write_annotations(
        "cvat", labeled, DRIVING, root / "cvat" / "annotations.xml", ExportSettings(ShapeKind.MASK, least_pixels=0)
    )
    colors = np.zeros((176, 240, 3), np.uint8)
    for value, color in ((0, (128, 64, 128)), (7, (70, 130, 180)), (8, (0, 0, 142))):
        colors[scenes[0].labels == value] = color
    Image.fromarray(scenes[0].image).save(root / "colored" / "a.jpg")
    Image.fromarray(colors).save(root / "colored" / "a_mask.png")
    Image.fromarray(scenes[1].image).save(root / "drives/mon/camera/a.jpg")
    Image.fromarray(scenes[1].labels).save(root / "drives/mon/ids/a_ids.png")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_command_of_the_page(page: str, repository: Path, tmp_path: Path) -> None:
    make_world(tmp_path)
    for text in blocks(page, "yaml"):
        name = re.match(r"# (\S+\.yaml)", text)
        assert name is not None
        (tmp_path / name[1]).write_text(text)
    commands = [shlex.split(line) for block in blocks(page, "bash") for line in block.splitlines() if line.strip()]
    assert len(commands) == 10
    environment = {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    said = []
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-m", "seg_perception.cli.main", *command[1:]],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        said.append(done.stdout)
    assert f"{PICTURES} images from cvat" in said[0]
    assert re.search(r"road +\d+ +\d+ +20  road", said[0])
    assert f"{PICTURES} images" in said[1]
    accuracy = re.search(r"pixel accuracy\s+([\d.]+)", said[4])
    assert accuracy is not None
    assert float(accuracy[1]) > 60
    assert "no faults" in said[5]
    assert "no faults" in said[6]
    assert f"pre_labels.xml: {PICTURES} images" in said[7]
    assert f"{PICTURES} images from cvat" in said[8]
    assert f"for_labelme: {PICTURES} images" in said[9]


def test_the_page_shows_the_formats_and_links_to_what_is_there(page: str, repository: Path) -> None:
    assert formats_table() in page
    links = re.findall(r"\]\(([^)#]+)", page)
    assert len(links) >= 2
    for link in links:
        assert (repository / "docs" / link).is_file(), link
