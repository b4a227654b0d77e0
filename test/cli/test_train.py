"""`seg-perception train`, and the commands of docs/training.md as they are written there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from seg_perception.cli.main import main
from seg_perception.core.model_card import ModelCard
from seg_perception.engines.graph.model_file import check_model


def documented_commands(text: str) -> list[list[str]]:
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines() if line.strip()]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_pictures_from_start_to_engine_with_the_commands_of_the_document(repository: Path, tmp_path: Path) -> None:
    commands = documented_commands((repository / "docs" / "training.md").read_text(encoding="utf-8"))
    assert [c[:2] for c in commands] == [
        ["seg-perception", name] for name in ("scenes", "train", "export", "evaluate", "predict", "inspect")
    ]
    (tmp_path / "config").symlink_to(repository / "config")
    environment = {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    shown = {}
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-m", "seg_perception.cli.main", *command[1:]],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        shown[command[1]] = done.stdout
    assert len(list((tmp_path / "my_data" / "labels").iterdir())) == 10
    next_step = re.search(r"next: seg-perception export --checkpoint (\S+)", shown["train"])
    assert next_step is not None
    assert next_step[1] == "runs/folder/best.safetensors"
    assert "wrote my.onnx" in shown["export"]
    assert "10 images" in shown["evaluate"]
    pixel_accuracy = re.search(r"pixel accuracy\s+([\d.]+)", shown["evaluate"])
    assert pixel_accuracy is not None
    assert float(pixel_accuracy[1]) > 60, "it has learned its ten pictures to some degree"
    card = " ".join(shown["inspect"].split())
    assert "ten pictures of our own" in card
    assert "license trained on non-commercial research data" in card, "handed down by the shipped weights"
    assert list((tmp_path / "out").rglob("*")), "predict wrote pictures"

    import onnx

    model = onnx.load(tmp_path / "my.onnx")
    card: ModelCard = check_model(model, "my.onnx")
    settings = yaml.safe_load((repository / "config" / "train" / "folder.yaml").read_text())
    assert (card.name, str(card.input_size)) == (settings["name"], settings["deployed_size"])
    assert card.run["steps"] in (20, 40)


def test_every_file_that_the_document_names_exists(repository: Path) -> None:
    text = (repository / "docs" / "training.md").read_text(encoding="utf-8")
    links = list(re.findall(r"\]\(([^)#]+)\)", text))
    assert len(links) >= 3
    for link in links:
        assert (repository / "docs" / link).exists(), link
    named = re.findall(r"`(\w+\.yaml)`", text)
    for name in named:
        if name != "settings.yaml":
            places = (repository / "config" / "train", repository / "benchmarks" / "recipes")
            assert any((place / name).is_file() for place in places), name


def test_overrides_and_faults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("name: own\ntrain: [{kind: folder, mapping: identity}]\nsteps: 0\nspeed: 3\n")
    assert main(["train", "--config", str(file)]) == 2
    message = capsys.readouterr().err
    assert "own.yaml: 2 faults in the settings:" in message
    assert "steps: 0 must be at least 1" in message
    assert "speed: unknown; known here: name, train" in message
    file.write_text("name: own\ntrain: [{kind: folder, mapping: identity}]\n")
    assert main(["train", "--config", str(file), "--data-root", str(tmp_path / "nowhere")]) == 2
    assert "nowhere/images: no such folder" in capsys.readouterr().err
    assert main(["train", "--config", str(file), "--steps", "0"]) == 2
    assert "steps: 0 must be at least 1" in capsys.readouterr().err
    assert main(["train", "--config", str(tmp_path / "missing.yaml")]) == 2
    assert "No such file" in capsys.readouterr().err


def test_a_shipped_settings_file_is_found_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--config", "folder"]) == 2
    assert "my_data/images: no such folder" in capsys.readouterr().err, "the file was read; its data is not there"
    assert main(["train", "--config", "foldr"]) == 2
    assert "no settings 'foldr'; shipped: " in capsys.readouterr().err
