"""Two processes under torchrun are one training: the same losses, the same weights, the same resuming."""

from __future__ import annotations

import csv
import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from seg_perception.core.settings import to_mapping
from seg_perception.training.checkpoint import ResumeState, load_network
from seg_perception.training.settings import NetworkSettings, TrainSettings
from seg_perception.training.train import run_training

Tiny = Callable[..., TrainSettings]

# statistics of a batch depend on how it is split, so they stay as they start
NETWORK = NetworkSettings("reference", {"width": 0.125, "convolutions": [1, 1, 1, 1]}, freeze_batch_norm=True)


def torchrun(settings: TrainSettings, file: Path, processes: int = 2) -> subprocess.CompletedProcess[str]:
    file.write_text(yaml.safe_dump(to_mapping(settings)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += ["-m", "seg_perception.cli.main", "train", "--config", str(file)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)


def losses(settings: TrainSettings) -> list[float]:
    with (settings.run_folder / "steps.csv").open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def assert_same_weights(one: Path, two: Path) -> None:
    a, b = load_network(one)[0].state_dict(), load_network(two)[0].state_dict()
    for name, value in a.items():
        assert torch.allclose(value, b[name], rtol=1e-3, atol=1e-4), name


@pytest.mark.timeout(300)
def test_two_processes_with_accumulation_equal_one_and_resume(tiny: Tiny, tmp_path: Path, pictures: Path) -> None:
    common = tiny(network=NETWORK, steps=6, checkpoint_every=3, validate_every=3)
    common = dataclasses.replace(common, validation=common.train)
    alone = dataclasses.replace(common, output=tmp_path / "alone")
    run_training(alone)

    both = dataclasses.replace(common, output=tmp_path / "both", accumulation=2)
    done = torchrun(both, tmp_path / "both.yaml")
    assert done.returncode == 0, done.stderr[-3000:]
    assert losses(both) == pytest.approx(losses(alone), rel=1e-4)
    assert_same_weights(both.run_folder / "last.safetensors", alone.run_folder / "last.safetensors")
    assert done.stdout.count("next: seg-perception export") == 1, "one process speaks"
    assert {p.name for p in both.run_folder.iterdir()} == {p.name for p in alone.run_folder.iterdir()}

    # the same state as if it had been killed between steps 3 and 6
    state = ResumeState.load(both.run_folder / "last.pt", torch.device("cpu"))
    assert state.step == 6


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_resume_what_one_began(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from seg_perception.training import train

    alone = tiny(network=NETWORK, output=tmp_path / "alone", steps=6)
    run_training(alone)
    moved = dataclasses.replace(alone, output=tmp_path / "moved")

    class StopError(Exception):
        pass

    original = train.RunFolder.log_step

    def log(self: train.RunFolder, done: int, *values: float) -> None:
        original(self, done, *values)
        if done == 4:
            raise StopError

    with monkeypatch.context() as patch, pytest.raises(StopError):
        patch.setattr(train.RunFolder, "log_step", log)
        run_training(moved)
    assert len(losses(moved)) == 4
    done = torchrun(moved, tmp_path / "moved.yaml")
    assert done.returncode == 0, done.stderr[-3000:]
    assert losses(moved)[:3] == losses(alone)[:3]  # of the checkpoint
    assert losses(moved) == pytest.approx(losses(alone), rel=1e-4)
    assert_same_weights(moved.run_folder / "last.safetensors", alone.run_folder / "last.safetensors")
