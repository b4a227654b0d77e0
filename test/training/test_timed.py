"""Runs that fit a time, and `make train-gpu` in miniature, on the CPU."""

from __future__ import annotations

import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from seg_perception.core.errors import SettingsError
from seg_perception.core.settings import to_mapping
from seg_perception.training import timed
from seg_perception.training.settings import TrainSettings
from seg_perception.training.timed import plan_run


def test_steps_and_saves_follow_from_the_measured_rate(
    tiny: Callable[..., TrainSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs of 6 and 26 steps take 8 and 18 s: a step 0.5 s, the start 5 s."""
    now = [0.0]

    def run(settings: TrainSettings) -> Path:
        now[0] += 5 + 0.5 * settings.steps
        return Path()

    monkeypatch.setattr(timed, "run_training", run)
    plan = plan_run(tiny(validate_every=7), 10, clock=lambda: now[0])
    assert (plan.start_s, plan.step_s) == (5.0, 0.5)
    assert plan.settings.steps == int(((600 - 26) * 0.85 - 5) / 0.5)  # 26 s went into the probes
    assert plan.settings.checkpoint_every == 60  # twice a minute
    assert plan.settings.validate_every == plan.settings.steps
    assert "8 crops/s" in str(plan)
    now[0] = 0.0
    assert plan_run(tiny(), 10, clock=lambda: now[0], most_steps=30).settings.steps == 30
    now[0] = 0.0
    with pytest.raises(SettingsError, match=r"--minutes 0.5 is too short here: 31 s go into"):
        plan_run(tiny(), 0.5, clock=lambda: now[0])


def test_a_gpu_gets_a_batch_and_a_precision_that_fill_it(
    tiny: Callable[..., TrainSettings], repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for_gpu = runpy.run_path(str(repository / "benchmarks" / "train_gpu.py"))["for_gpu"]
    assert for_gpu(tiny(), bf16=True) == {"batch_size": 32, "precision": "bf16"}
    assert for_gpu(tiny(), bf16=False) == {"batch_size": 32}
    assert for_gpu(tiny(batch_size=64, precision="fp16"), bf16=True) == {}


@pytest.mark.timeout(900)
@pytest.mark.slow
def test_pack_and_run_on_a_machine_with_the_folder_alone(
    tiny: Callable[..., TrainSettings], pictures: Path, repository: Path, tmp_path: Path
) -> None:
    import yaml

    script = str(repository / "benchmarks" / "train_gpu.py")
    parts, out = tmp_path / "parts", tmp_path / "out"
    subprocess.run([sys.executable, script, "pack", "--data", str(pictures.parent), "--out", str(parts)], check=True)
    assert [path.name for path in parts.iterdir()] == ["part_01.tar"]
    settings = tiny(data_on="device")  # as on a GPU
    settings = replace(settings, validation=settings.train)
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(to_mapping(settings)))
    command = [sys.executable, script, "run", "--parts", str(parts), "--minutes", "60", "--out", str(out)]
    command += ["--config", str(config), "--device", "cpu", "--most-steps", "30"]  # a busy machine has time enough
    done = subprocess.run(command, check=True, cwd=tmp_path, capture_output=True, text=True)
    assert "30 steps, saved every" in done.stderr
    assert done.stdout.count("decoded data on the device, which cuts and changes the crops") == 3  # two probes, the run
    assert len((out / "steps.csv").read_text().splitlines()) == 31
    written = {path.name for path in out.iterdir()}
    assert written >= {"best.safetensors", "last.safetensors", "steps.csv", "validation.csv", "report.html"}
