"""The three pages that let others in, as they are written: their files, their commands, in their order.

Each page's commands and settings are parsed, and two pages are run in short (a few pictures, one step, in this
process) by `make test`; the slow proof runs each as it stands, each command a process of its own. A page has no
list of commands here that could differ from it.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "export"))  # pytest's importlib mode leaves it out
from foreign_models import build

from seg_perception.bags.making import SceneDrive, write_drive
from seg_perception.cli.main import build_parser, main
from seg_perception.core.label_set import load_label_set
from seg_perception.core.settings import load_settings
from seg_perception.core.types import Size
from seg_perception.datasets.convert.conversion import formats_table
from seg_perception.datasets.convert.exporting import Labeled, ShapeKind, ShapeSettings, write_annotations
from seg_perception.scenes import random_scene
from seg_perception.training.settings import TrainSettings

DRIVING = load_label_set("driving")


@dataclass(frozen=True)
class Amount:
    """How much is done: as the page says, or little."""

    pictures: int
    frames: int
    steps: int | None

    def shortened(self, text: str) -> str:
        """A settings file of the page with so many steps, of two crops, and the network that is exported soonest."""
        if self.steps is None:
            return text
        for wish, little in (
            (r"\b(steps|\w+_every): \d+", rf"\1: {self.steps}"),
            (r"batch_size: \d+", "batch_size: 2"),
            (r"network: .*", "network: {name: reference, options: {width: 0.1}}"),
        ):
            text = re.sub(wish, little, text)
        return text


WHOLE, LITTLE = Amount(20, 45, None), Amount(2, 2, 1)


def cvat_task(root: Path, amount: Amount) -> None:
    """What a reader of "Your own masks" has: a task from CVAT, a folder of color masks, a tree of drives."""
    scenes = [random_scene(seed, Size(240, 176)) for seed in range(amount.pictures)]
    labeled = []
    for folder in ("cvat/images", "colored", "drives/mon/camera", "drives/mon/ids"):
        (root / folder).mkdir(parents=True)
    for index, scene in enumerate(scenes):
        path = root / "cvat" / "images" / f"{index:04d}.jpg"
        Image.fromarray(scene.image).save(path, quality=92)
        labeled.append(Labeled(path, scene.labels))
    write_annotations(
        "cvat", labeled, DRIVING, root / "cvat" / "annotations.xml", ShapeSettings(ShapeKind.MASK, least_pixels=0)
    )
    colors = np.zeros((176, 240, 3), np.uint8)
    for value, color in ((0, (128, 64, 128)), (7, (70, 130, 180)), (8, (0, 0, 142))):
        colors[scenes[0].labels == value] = color
    Image.fromarray(scenes[0].image).save(root / "colored" / "a.jpg")
    Image.fromarray(colors).save(root / "colored" / "a_mask.png")
    Image.fromarray(scenes[1].image).save(root / "drives/mon/camera/a.jpg")
    Image.fromarray(scenes[1].labels).save(root / "drives/mon/ids/a_ids.png")


def foreign_model(root: Path, amount: Amount) -> None:
    """Of "Your own model": a sigmoid network as its maker exports it, classes in a mapping, and a photo."""
    build("sigmoid", root / "unet.onnx")
    Image.fromarray(random_scene(1, Size(320, 192)).image).save(root / "photo.png")


def two_drives(root: Path, amount: Amount) -> None:
    """Of "From a bag to better weights"."""
    for seed, name in ((7, "drive.mcap"), (8, "other_drive.mcap")):
        size = Size(480, 352) if amount.steps is None else Size(240, 176)
        for _ in write_drive(SceneDrive(seed, size, fps=2.0, frames=amount.frames), root / name):
            pass


def annotator(root: Path, words: list[str]) -> None:
    """After the model labeled first, somebody corrects that in CVAT and exports it; here nothing is corrected."""
    if "--pre-label" in words and words[-1].endswith("picks/images"):
        predicted = root / words[words.index("--out") + 1]
        corrected = root / predicted.name.replace("predicted", "corrected")
        corrected.mkdir()
        shutil.copy(predicted / "pre_labels.xml", corrected / "annotations.xml")


@dataclass(frozen=True)
class Page:
    """A page, what its reader has, and what its commands must say: the command's words -> a pattern of its output."""

    file: str
    world: Callable[[Path, Amount], None]
    said: dict[str, str]


PAGES = (
    Page("your_masks.md", cvat_task, {
        "dataset convert cvat": r"(?s)PICTURES images from cvat.*road +\d+ +\d+ +PICTURES  road",
        "dataset check --dataset folder --root my_data": "PICTURES images",
        "evaluate": r"pixel accuracy\s+([\d.]+)",
        "dataset check --dataset folder --root colored": "no faults",
        "dataset check --dataset folder --root drives": "no faults",
        "predict": "pre_labels.xml: PICTURES images, ",
        "dataset convert predicted": "PICTURES images from cvat",
        "dataset export": "for_labelme: PICTURES images, ",
    }),
    Page("your_model.md", foreign_model, {
        "import unet.onnx --out road.onnx --input": r"^(?!.*guessed).*labels equal to the original.s: (100|99\.9)",
        "predict": "out: 1 images",
        "inspect road.onnx": "imported from unet.onnx",
        "inspect unet.onnx": "import it with:",
    }),
    Page("from_a_bag_to_better_weights.md", two_drives, {
        "bag select drive.mcap": "picks",
        "predict --out predicted": r"predicted/pre_labels.xml: \d+ images, ",
        "dataset convert corrected": r"\d+ images from cvat",
        "report": r"report: comparison.html \(",
    }),
)  # fmt: skip


def commands(text: str) -> Iterator[list[str]]:
    for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            if words := shlex.split(line, comments=True):
                yield words


def walk(page: Page, repository: Path, root: Path, amount: Amount, run: Callable[[list[str]], str]) -> dict[str, str]:
    """Do all that the page says; what each command printed."""
    text = (repository / "docs" / page.file).read_text(encoding="utf-8")
    page.world(root, amount)
    for content in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
        name = re.match(r"# (\S+\.yaml)", content)
        assert name is not None, "a settings file begins with its name"
        (root / name[1]).write_text(content)
        if "steps" in content:
            load_settings(TrainSettings, root / name[1])  # as the page has it, whatever is run of it
        (root / name[1]).write_text(amount.shortened(content))
    said = {}
    for words in commands(text):
        assert words[0] == "seg-perception"
        said[shlex.join(words[1:])] = run(words[1:])
        annotator(root, words)
    for beginning, pattern in page.said.items():
        found = [output for command, output in said.items() if command.startswith(beginning)]
        assert found, f"the page has no command {beginning!r}"
        wanted = pattern.replace("PICTURES", str(amount.pictures))
        assert all(re.search(wanted, output, re.DOTALL) for output in found), f"{beginning}: {found}"
    return said


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.file)
def test_its_commands_and_settings_are_accepted(page: Page, repository: Path, tmp_path: Path) -> None:
    text = (repository / "docs" / page.file).read_text(encoding="utf-8")
    for words in commands(text):
        assert words[0] == "seg-perception"
        build_parser().parse_args(words[1:])
    for number, content in enumerate(re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)):
        if "steps" in content:
            (tmp_path / f"{number}.yaml").write_text(content)
            load_settings(TrainSettings, tmp_path / f"{number}.yaml")


@pytest.mark.parametrize("page", PAGES[:2], ids=lambda page: page.file)  # the third trains and exports as the first
@pytest.mark.timeout(600)
def test_the_page_in_short(
    page: Page,
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    quick_exports: None,
) -> None:
    monkeypatch.chdir(tmp_path)

    def run(words: list[str]) -> str:
        status = main(words)
        captured = capsys.readouterr()
        assert status == 0, f"{shlex.join(words)}\n{captured.out[-2000:]}\n{captured.err[-2000:]}"
        return captured.out

    assert len(walk(page, repository, tmp_path, LITTLE, run)) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.file)
@pytest.mark.timeout(900)
def test_the_page_as_it_stands(page: Page, repository: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

    def run(words: list[str]) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "seg_perception.cli.main", *words],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return done.stdout

    said = walk(page, repository, tmp_path, WHOLE, run)
    for command, output in said.items():
        if command.startswith("evaluate"):
            accuracy = re.search(r"pixel accuracy\s+([\d.]+)", output)
            assert accuracy is not None
            assert float(accuracy[1]) > 60


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.file)
def test_its_links_lead_somewhere(page: Page, repository: Path) -> None:
    text = (repository / "docs" / page.file).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)", text)
    assert links
    for link in links:
        assert (repository / "docs" / link).is_file(), link


def test_the_formats_are_those_of_the_code(repository: Path) -> None:
    assert formats_table() in (repository / "docs" / "your_masks.md").read_text(encoding="utf-8")
