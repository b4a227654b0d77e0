"""The training loop: it learns, it repeats, it goes on where it stopped, and it fits a time."""

from __future__ import annotations

import csv
import dataclasses
import multiprocessing
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml

from seg_perception.core.errors import DatasetError, InputError, ModelError, SettingsError
from seg_perception.core.settings import to_mapping
from seg_perception.core.types import Size
from seg_perception.datasets.registry import DatasetSettings
from seg_perception.networks import build_network
from seg_perception.networks.base import TorchEngine
from seg_perception.segmenter import Segmenter
from seg_perception.training import train
from seg_perception.training.checkpoint import ResumeState, load_network, read_info
from seg_perception.training.optimization import TrainingDivergedError
from seg_perception.training.settings import (
    AugmentationSettings,
    LossSettings,
    NetworkSettings,
    OptimizerSettings,
    TrainSettings,
)
from seg_perception.training.train import plan_run, run_training

Tiny = Callable[..., TrainSettings]


def rows(settings: TrainSettings, name: str = "steps") -> list[list[str]]:
    with (settings.run_folder / f"{name}.csv").open(newline="") as file:
        return list(csv.reader(file))


def validation(pictures: Path) -> tuple[DatasetSettings, ...]:
    return (DatasetSettings("folder", Path(pictures.name), mapping="identity"),)


def run_process(settings: TrainSettings, file: Path) -> subprocess.Popen[str]:
    """`seg-perception train` as its user starts it, with one thread."""
    file.write_text(yaml.safe_dump(to_mapping(settings)))
    command = [sys.executable, "-m", "seg_perception.cli.main", "train", "--config", str(file)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def test_it_learns_to_tell_sky_from_road(tiny: Tiny, pictures: Path) -> None:
    settings = tiny(
        steps=40,
        validate_every=20,
        validation=validation(pictures),
        optimizer=OptimizerSettings(learning_rate=1e-2, warmup_steps=5, ema_decay=0.8),
    )
    weights = run_training(settings)
    assert weights == settings.run_folder / "best.safetensors"
    losses = [float(row[1]) for row in rows(settings)[1:]]
    assert len(losses) == 40
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
    scored = rows(settings, "validation")
    assert scored[0][:4] == ["step", "dataset", "mean_iou", "pixel_accuracy"]
    assert [row[0] for row in scored[1:]] == ["20", "40"]
    assert float(scored[-1][3]) > 0.9
    info = read_info(weights)
    assert info.step in (20, 40)
    assert info.scores[scored[1][1]]["pixel_accuracy"] > 80
    assert info.settings == to_mapping(settings)


def test_the_best_weights_are_those_that_were_scored(tiny: Tiny, pictures: Path) -> None:
    settings = tiny(steps=6, validate_every=2, validation=validation(pictures))
    weights = run_training(settings)
    network, info = load_network(weights)
    scores = {int(row[0]): float(row[2]) for row in rows(settings, "validation")[1:]}
    assert len(scores) == 3
    assert info.step == max(scores, key=lambda step: (scores[step], -step))
    from seg_perception.datasets.registry import open_dataset
    from seg_perception.evaluation import evaluate

    segmenter = Segmenter(TorchEngine(network, info.model_card(network, "1", "")))
    dataset = open_dataset(settings.validation[0], settings.data_root)
    assert evaluate(dataset, segmenter).scores.mean_iou == pytest.approx(scores[info.step], abs=1e-9)


def test_the_folder_of_a_run(tiny: Tiny) -> None:
    settings = tiny(steps=2)
    assert run_training(settings) == settings.run_folder / "last.safetensors"
    names = {p.name for p in settings.run_folder.iterdir()}
    assert names == {
        ".data_looked_at",
        ".lock",
        "last.pt",
        "last.safetensors",
        "settings.yaml",
        "steps.csv",
        "tensorboard",
        "validation.csv",
    }
    from seg_perception.core.settings import load_settings

    assert load_settings(TrainSettings, settings.run_folder / "settings.yaml") == settings
    assert list((settings.run_folder / "tensorboard").iterdir())


def test_a_run_says_what_it_trains_on_what_and_from_where_and_shows_pictures(
    tiny: Tiny, pictures: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = tiny(steps=3, checkpoint_every=1, validation=validation(pictures), validate_every=3)
    with monkeypatch.context() as patch, pytest.raises(StopError):
        stop_after(patch, 2)
        run_training(settings)
    said = capsys.readouterr().out
    assert re.search(
        r"tiny: reference, \d\.\d\d M parameters; on CPU, \d+ threads, fp32; this process cuts the crops\n", said
    )
    assert re.search(r"\d+ images of \S+; \d+ to validate on; 3 steps of \d+ crops, from the start", said)
    run_training(settings)
    assert "3 steps of" in (said := capsys.readouterr().out)
    assert "resuming at step" in said
    board = EventAccumulator(str(settings.run_folder / "tensorboard")).Reload()
    shown = board.Tags()["images"]
    assert shown
    assert {event.step for name in shown for event in board.Images(name)} == {3}


def test_the_same_seed_repeats_a_run_exactly_and_another_does_not(tiny: Tiny, tmp_path: Path) -> None:
    one, two, other = (tiny(output=tmp_path / name, steps=3) for name in ("one", "two", "other"))
    other = dataclasses.replace(other, seed=2)
    for settings in (one, two, other):
        run_training(settings)
    assert rows(one) == rows(two) != rows(other)
    a, b = load_network(one.run_folder / "last.safetensors")[0], load_network(two.run_folder / "last.safetensors")[0]
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_the_number_of_workers_changes_nothing(tiny: Tiny, tmp_path: Path) -> None:
    one, two = tiny(output=tmp_path / "one", steps=3), tiny(output=tmp_path / "two", steps=3, workers=2)
    run_training(one)
    run_training(two)
    assert rows(one) == rows(two)


def test_accumulation_gives_the_losses_of_the_whole_batch(tiny: Tiny, tmp_path: Path) -> None:
    still = NetworkSettings("reference", {"width": 0.125, "convolutions": [1, 1, 1, 1]}, freeze_batch_norm=True)
    whole = tiny(output=tmp_path / "whole", network=still, steps=4)
    parts = tiny(output=tmp_path / "parts", network=still, steps=4, accumulation=4)
    run_training(whole)
    run_training(parts)
    a, b = ([float(row[1]) for row in rows(s)[1:]] for s in (whole, parts))
    assert a == pytest.approx(b, rel=1e-4)


class StopError(Exception):
    pass


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    original = train.RunFolder.log_step

    def log(self: train.RunFolder, done: int, *values: float) -> None:
        original(self, done, *values)
        if done == step:
            raise StopError

    monkeypatch.setattr(train.RunFolder, "log_step", log)


@pytest.mark.parametrize(
    "changes", [{}, {"optimizer": OptimizerSettings(ema_decay=0.0)}, {"precision": "bf16"}, {"precision": "fp16"}]
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    tiny: Tiny, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]
) -> None:
    common = {"validation": validation(pictures), "validate_every": 4, **changes}
    whole, broken = (tiny(output=tmp_path / name, **common) for name in ("whole", "broken"))
    run_training(whole)
    with monkeypatch.context() as patch, pytest.raises(StopError):
        stop_after(patch, 5)  # the last checkpoint is of step 3: two steps and a validation are done twice
        run_training(broken)
    assert len(rows(broken)) == 1 + 5
    run_training(broken)
    assert rows(broken) == rows(whole)
    assert rows(broken, "validation") == rows(whole, "validation")
    for name in ("best.safetensors", "last.safetensors"):
        a, b = load_network(whole.run_folder / name)[0], load_network(broken.run_folder / name)[0]
        assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.timeout(300)
def test_a_killed_process_resumes_to_the_losses_of_an_uninterrupted_one(tiny: Tiny, tmp_path: Path) -> None:
    whole, killed = (tiny(output=tmp_path / name, steps=200, workers=1) for name in ("whole", "killed"))
    killed = dataclasses.replace(killed, checkpoint_every=4)
    process = run_process(killed, tmp_path / "settings.yaml")
    try:
        deadline = time.monotonic() + 280
        while not (killed.run_folder / "last.pt").is_file() or len(rows(killed)) < 12:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.kill()  # SIGKILL: nothing is written any more
    assert process.wait() == -signal.SIGKILL
    before = rows(killed)
    assert 12 <= len(before) < 201
    short = 24  # a run's length is part of its schedule, so both go the same way but stop early
    for settings in (killed, whole):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(StopError):
            stop_after(patch, max(short, len(before) + 4))
            run_training(dataclasses.replace(settings, workers=0))
    assert rows(killed) == rows(whole)
    assert rows(killed)[:12] == before[:12]


@pytest.mark.timeout(300)
def test_a_terminal_that_interrupts_loses_no_step(tiny: Tiny, tmp_path: Path) -> None:
    settings = tiny(steps=100_000, workers=1, checkpoint_every=100_000)
    process = run_process(settings, tmp_path / "settings.yaml")
    deadline = time.monotonic() + 280
    while not (settings.run_folder / "steps.csv").is_file() or len(rows(settings)) < 2:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does: the processes that read the data get it, too
    said = process.communicate()[0]
    assert process.returncode == 130, said
    done = len(rows(settings)) - 1
    assert f"{done} of 100000 steps are saved; start it again to go on" in said
    assert "Traceback" not in said
    assert ResumeState.load(settings.run_folder / "last.pt", torch.device("cpu")).step == done


def test_a_finished_run_is_not_trained_again_and_says_so(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    settings = tiny(steps=2)
    weights = run_training(settings)
    before = weights.read_bytes()
    assert "already finished" not in capsys.readouterr().out
    assert run_training(settings) == weights
    assert "tiny: already finished at step 2; nothing was trained. To go on" in capsys.readouterr().out
    assert weights.read_bytes() == before
    assert len(rows(settings)) == 3


@pytest.mark.timeout(300)
def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = (tiny(output=tmp_path / name) for name in ("whole", "killed"))
    run_training(whole)
    # a process that kills itself with half of its second checkpoint written, in the midst of the real writing
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "import torch\n"
        "from seg_perception.core.settings import load_settings\n"
        "from seg_perception.training.settings import TrainSettings\n"
        "from seg_perception.training.train import run_training\n"
        "torch.set_num_threads(1)\n"
        "sync = os.fsync\n"
        "def fsync(handle):\n"
        "    name = os.readlink(f'/proc/self/fd/{handle}')\n"
        "    if '.last.pt.' in name and (Path(name).parent / 'last.pt').exists():\n"
        "        os.ftruncate(handle, os.fstat(handle).st_size // 2)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    sync(handle)\n"
        "os.fsync = fsync\n"
        "run_training(load_settings(TrainSettings, Path(sys.argv[1])))\n"
    )
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(to_mapping(killed)))
    command = [sys.executable, "-c", code, str(tmp_path / "settings.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(rows(killed)) == 1 + 6
    leftovers = [p for p in killed.run_folder.iterdir() if p.name.endswith(".part")]
    assert len(leftovers) == 1, "the half-written file lies beside, under another name"
    assert ResumeState.load(killed.run_folder / "last.pt", torch.device("cpu")).step == 3
    run_training(killed)
    assert rows(killed) == rows(whole)
    assert not [p for p in killed.run_folder.iterdir() if p.name.endswith(".part")], "resuming clears it away"


def test_a_truncated_checkpoint_is_a_clear_error(tiny: Tiny) -> None:
    settings = tiny(steps=2)
    run_training(settings)
    path = settings.run_folder / "last.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"last\.pt: cannot resume from this file: (?s:.*); delete it to start anew"):
        run_training(settings)


def test_changed_settings_are_refused_by_name_and_nothing_is_touched(tiny: Tiny) -> None:
    settings = tiny(steps=4)
    run_training(settings)
    before = (settings.run_folder / "settings.yaml").read_bytes()
    changed = dataclasses.replace(
        settings, steps=9, seed=5, augmentation=dataclasses.replace(settings.augmentation, flip=0.25)
    )
    with pytest.raises(SettingsError) as error:
        run_training(changed)
    lines = str(error.value).splitlines()
    assert lines[0].endswith("tiny holds a run with other settings:")
    assert lines[1:4] == [
        "  augmentation.flip: 0.5 then, 0.25 now",
        "  seed: 1 then, 5 now",
        "  steps: 4 then, 9 now",
    ]
    assert lines[4].startswith("restore them to resume, or choose another name or output; for more steps, start a run")
    assert lines[4].endswith("tiny/last.safetensors"), "network.checkpoint to go on from"
    assert (settings.run_folder / "settings.yaml").read_bytes() == before


def test_a_run_may_move_and_change_what_does_not_change_its_numbers(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, moved = (tiny(output=tmp_path / name) for name in ("whole", "here"))
    run_training(whole)
    with monkeypatch.context() as patch, pytest.raises(StopError):
        stop_after(patch, 5)
        run_training(moved)
    (tmp_path / "here").rename(tmp_path / "there")
    moved = dataclasses.replace(
        moved, output=tmp_path / "there", cache=False, checkpoint_every=5, limits=("only by day",)
    )
    run_training(moved)
    assert rows(moved) == rows(whole)


def test_a_run_begun_before_a_setting_existed_goes_on(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny()
    with monkeypatch.context() as patch, pytest.raises(StopError):
        stop_after(patch, 4)
        run_training(settings)
    path = settings.run_folder / "last.pt"
    old = torch.load(path, weights_only=True)
    del old["settings"]  # as the first version wrote it
    old["settings_sha256"] = "0" * 64  # of settings without the newer fields
    torch.save(old, path)
    stored = yaml.safe_load((settings.run_folder / "settings.yaml").read_text())
    del stored["cache_gigabytes"]
    (settings.run_folder / "settings.yaml").write_text(yaml.safe_dump(stored))
    run_training(settings)
    assert len(rows(settings)) == 1 + 8


def test_two_trainings_do_not_share_a_folder(tiny: Tiny) -> None:
    settings = tiny()
    settings.run_folder.mkdir(parents=True)
    code = (
        "import fcntl, sys\n"
        "file = open(sys.argv[1], 'w')\n"
        "fcntl.lockf(file, fcntl.LOCK_EX)\n"
        "print('mine', flush=True)\n"
        "input()\n"
    )
    command = [sys.executable, "-c", code, str(settings.run_folder / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "mine\n"
        with pytest.raises(SettingsError, match="tiny: another process is training there; wait for it, or choose"):
            run_training(settings)
        other.communicate("")
    run_training(settings)  # the lock ended with the process


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"batch_size": 4, "accumulation": 3}, "batch_size 4 does not divide into 3 accumulation rounds"),
        ({"loss": LossSettings(class_weights={"moon": 2.0})}, "has no class 'moon'; known: road"),
        (
            {
                "loss": LossSettings(class_weights={"moon": 2.0}),
                "augmentation": AugmentationSettings(crop=Size(64, 48), rare=0.5, rare_classes=("sun",)),
                "train": (
                    DatasetSettings("folder", Path("nowhere"), mapping="identity"),
                    DatasetSettings("scenes", count=2),
                ),
            },
            r"(?s)3 faults:.*nowhere/images: no such folder.*rare_classes: .*'sun'.*class_weights: .*'moon'",
        ),
        ({"device": "cuda"}, "PyTorch sees no CUDA device; write 'auto' or 'cpu'"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    settings = tiny(**changes)
    with pytest.raises(SettingsError, match=message):
        run_training(settings)
    assert not settings.run_folder.exists()


def test_validation_data_of_other_classes_is_refused_at_the_start(tiny: Tiny, pictures: Path) -> None:
    other = (DatasetSettings("folder", Path(pictures.name), mapping="camvid11_ids"),)
    with pytest.raises(SettingsError, match="maps to the label set 'camvid11', but the training data to 'driving'"):
        run_training(tiny(validation=other))


def test_a_loss_that_is_no_number_stops_the_run(tiny: Tiny) -> None:
    huge = tiny(optimizer=OptimizerSettings(learning_rate=1e30, warmup_steps=0), steps=20)
    with pytest.raises(TrainingDivergedError, match=r"the loss is (nan|inf) at step \d+; lower the learning rate"):
        run_training(huge)
    if (huge.run_folder / "last.pt").is_file():
        state = ResumeState.load(huge.run_folder / "last.pt", torch.device("cpu"))
        assert state.step < 20


def test_a_batch_without_any_label_changes_no_weights_and_is_no_error(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, pixels in (("images", np.zeros((64, 96, 3), np.uint8)), ("labels", np.full((64, 96), 255, np.uint8))):
        (tmp_path / "empty" / folder).mkdir(parents=True)
        assert cv2.imwrite(str(tmp_path / "empty" / folder / "a.png"), pixels)
    settings = tiny(
        data_root=tmp_path,
        train=(DatasetSettings("folder", Path("empty"), mapping="identity"),),
        optimizer=OptimizerSettings(weight_decay=0.0, ema_decay=0.0),
        steps=2,
    )
    with pytest.raises(DatasetError, match="empty: nothing is labeled: the mapping leaves out every pixel"):
        run_training(settings)
    monkeypatch.setattr(train, "look_at_all", lambda _data: None)  # a batch can be without labels where the data is not
    weights = run_training(settings)
    assert [float(row[1]) for row in rows(settings)[1:]] == [0.0, 0.0]
    torch.manual_seed(settings.seed)
    fresh = build_network("reference", 10, **settings.network.options).state_dict()
    trained = load_network(weights)[0].state_dict()
    assert torch.equal(trained["head.weight"], fresh["head.weight"])


def test_a_run_can_start_from_another_runs_weights(tiny: Tiny, tmp_path: Path) -> None:
    first = run_training(tiny(steps=2))
    network = dataclasses.replace(tiny().network, checkpoint=first)
    unmoved = OptimizerSettings(learning_rate=1e-30, ema_decay=0.0)
    second = run_training(tiny(name="second", network=network, optimizer=unmoved, steps=1))
    a, b = load_network(first)[0].state_dict(), load_network(second)[0].state_dict()
    assert torch.allclose(a["head.weight"], b["head.weight"], atol=1e-7)
    with pytest.raises(SettingsError, match=r"network.name: .* holds a 'reference', not a 'efficientnet_ladder'"):
        run_training(
            tiny(
                name="third",
                network=NetworkSettings("efficientnet_ladder", checkpoint=first),
                augmentation=AugmentationSettings(crop=Size(64, 64)),
            )
        )


def test_other_classes_start_from_another_runs_weights_with_a_fresh_head(tiny: Tiny, tmp_path: Path) -> None:
    first = run_training(tiny(steps=2))
    (tmp_path / "two.yaml").write_text(
        "name: two\nclasses: [{name: road, color: [1, 2, 3], drivable: true}, {name: rest, color: [4, 5, 6]}]\n"
    )
    values = ", ".join(f"{i}: {'road' if i == 0 else 'rest'}" for i in range(10))
    (tmp_path / "to_two.yaml").write_text(
        f"name: to_two\ntarget: {tmp_path / 'two.yaml'}\nvalues: {{{values}, 255: ignore}}\n"
    )
    (data,) = tiny().train
    train = (dataclasses.replace(data, mapping=str(tmp_path / "to_two.yaml")),)
    network = dataclasses.replace(tiny().network, checkpoint=first)
    unmoved = OptimizerSettings(learning_rate=1e-30, ema_decay=0.0)
    with pytest.raises(SettingsError, match=r"gives 10 classes, the training data 2; set network.fresh_head to true"):
        run_training(tiny(name="second", train=train, network=network, optimizer=unmoved, steps=1))
    network = dataclasses.replace(network, fresh_head=True)
    second = run_training(tiny(name="second", train=train, network=network, optimizer=unmoved, steps=1))
    a, b = load_network(first)[0].state_dict(), load_network(second)[0].state_dict()
    assert a["head.weight"].shape[0] == 10
    assert b["head.weight"].shape[0] == 2
    learned = [k for k in a if k.endswith("weight") and not k.startswith("head.")]
    assert len(learned) > 10
    assert all(torch.allclose(a[k], b[k], atol=1e-7) for k in learned)


def test_weights_that_lack_a_layer_start_a_network_that_has_it(tiny: Tiny) -> None:
    def network(detail: int, **start: object) -> NetworkSettings:
        return NetworkSettings("efficientnet_ladder", {"decoder_channels": 16, "detail_channels": detail}, **start)

    small = {"augmentation": AugmentationSettings(crop=Size(64, 64)), "steps": 1, "batch_size": 2}
    unmoved = OptimizerSettings(learning_rate=1e-30, ema_decay=0.0)
    first = run_training(tiny(network=network(0), **small))
    lacking = network(8, checkpoint=first)
    with pytest.raises(ModelError, match=r"(?s)the weights do not fit the network.*narrow"):
        run_training(tiny(name="second", network=lacking, optimizer=unmoved, **small))
    with pytest.raises(SettingsError, match=r"fresh_layers: .* has no narow; known: encoder, .*narrow"):
        dataclasses.replace(lacking, fresh_layers=("narow",))
    fitting = dataclasses.replace(lacking, fresh_layers=("narrow", "rung2", "correction"))
    second = run_training(tiny(name="second", network=fitting, optimizer=unmoved, **small))
    a, b = load_network(first)[0].state_dict(), load_network(second)[0].state_dict()
    assert len(b) > len(a) > 100
    assert all(torch.allclose(a[key], b[key], atol=1e-7) for key in a if "running" not in key and "num_" not in key)


def test_a_run_that_goes_on_from_another_hands_its_data_and_license_down(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_training(tiny(steps=1, data_notes=("theirs", "ours"), license="non-commercial"))
    monkeypatch.setattr("seg_perception.training.settings.DEFAULT_WEIGHTS", first)
    network = dataclasses.replace(tiny().network, start="driving")
    second = run_training(tiny(name="second", network=network, steps=1, data_notes=("ours", "more"), license="mine"))
    info = read_info(second)
    assert info.data_notes == ("theirs", "ours", "more")
    assert info.license == "non-commercial; mine"


def test_a_fresh_head_or_layer_alone_means_nothing() -> None:
    with pytest.raises(SettingsError, match="fresh_head: needs a checkpoint, or start: driving"):
        NetworkSettings(fresh_head=True)
    with pytest.raises(SettingsError, match="fresh_layers: needs a checkpoint, or start: driving"):
        NetworkSettings(fresh_layers=("head",))


def test_frozen_stages_and_statistics_stay_as_they_start(tiny: Tiny) -> None:
    network = NetworkSettings("efficientnet_ladder", {"decoder_channels": 16}, frozen_stages=2)
    settings = tiny(
        network=network,
        augmentation=AugmentationSettings(crop=Size(64, 64)),
        optimizer=OptimizerSettings(learning_rate=1e-2, warmup_steps=0, ema_decay=0.0),
        steps=1,
        batch_size=2,
    )
    trained = load_network(run_training(settings))[0]
    torch.manual_seed(settings.seed)
    fresh = build_network("efficientnet_ladder", 10, decoder_channels=16)
    same = [torch.equal(a, b) for a, b in zip(trained.state_dict().values(), fresh.state_dict().values(), strict=True)]
    frozen = [f"encoder.stem.{n}" for n in fresh.encoder.stem.state_dict()]
    frozen += [f"encoder.stages.{i}.{n}" for i in range(2) for n in fresh.encoder.stages[i].state_dict()]
    by_name = dict(zip(fresh.state_dict(), same, strict=True))
    assert all(by_name[name] for name in frozen)
    assert not by_name["encoder.stages.2.0.project.weight"]
    assert not by_name["encoder.stages.2.0.project_norm.running_mean"]


MAPPING = "values: {0: road, 7: sky, 8: car, 255: ignore}"


def copied(pictures: Path, tmp_path: Path) -> Path:
    """The pictures again, to be changed; the folder's mapping beside them."""
    root = tmp_path / "data" / "mine"
    shutil.copytree(pictures, root)
    (root / "map.yaml").write_text(MAPPING)
    return root


def own(root: Path) -> tuple[DatasetSettings, ...]:
    return (DatasetSettings("folder", root, mapping=str(root / "map.yaml")),)


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda root: (root / "images/0.png").unlink(), "train mine: 6 samples then, 5 now"),
        (lambda root: (root / "images/0.png").write_bytes((root / "images/1.png").read_bytes()),
         "train mine: as many files, but other names or sizes"),
        (lambda root: (root / "map.yaml").write_text("values: {0: car, 7: sky, 8: road, 255: ignore}"),
         r"train mine: label value 0: 'road' then, 'car' now\n  train mine: label value 8: 'car' then, 'road' now"),
        (lambda root: ((root / "map.yaml").write_text(f"target: set.yaml\n{MAPPING}"),
                       (root / "set.yaml").write_text("name: own\nclasses:\n" + "".join(
                           f"  - {{name: {name}, color: [0, 0, 0]}}\n" for name in ("sky", "road", "car")))),
         r"train mine: classes road, sidewalk, .* then, sky, road, car now"),
    ],
)  # fmt: skip
def test_other_data_or_labels_than_the_run_began_with_are_refused_by_name(
    tiny: Tiny, pictures: Path, tmp_path: Path, change: Callable[[Path], object], said: str
) -> None:
    root = copied(pictures, tmp_path)
    settings = tiny(steps=2, train=own(root))
    weights = run_training(settings)
    before = weights.read_bytes()
    change(root)
    os.utime(root / "map.yaml", ns=(1, 1))
    with pytest.raises((SettingsError, ModelError), match=f"(?s)tiny holds a run on other data:.*{said}.*restore it"):
        run_training(settings)
    assert weights.read_bytes() == before


def test_data_of_another_place_is_the_same_data(tiny: Tiny, pictures: Path, tmp_path: Path) -> None:
    settings = tiny(steps=2)
    run_training(settings)
    shutil.copytree(pictures, tmp_path / "moved" / pictures.name)
    run_training(dataclasses.replace(settings, data_root=tmp_path / "moved"))


def test_a_bad_file_is_found_before_the_first_step(tiny: Tiny, pictures: Path, tmp_path: Path) -> None:
    root = copied(pictures, tmp_path)
    for name, content in (("images/2.png", b"no picture"), ("labels/4.png", b"")):
        (root / name).write_bytes(content)
    (root / "labels/orphan.png").touch()
    settings = tiny(validation=own(root), train=own(root))
    with pytest.raises(DatasetError, match=r"(?s)mine: 2 faults; mend or remove these files:.*2\.png.*4\.png"):
        run_training(settings)
    assert not settings.run_folder.exists()


def test_a_file_that_goes_bad_later_is_one_line_and_loses_no_checkpoint(
    tiny: Tiny, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = copied(pictures, tmp_path)
    settings = tiny(train=own(root), validation=own(root), validate_every=3, workers=1, cache=False)
    whole = dataclasses.replace(settings, output=tmp_path / "whole")
    run_training(whole)
    log_step = train.RunFolder.log_step

    def spoil(self: train.RunFolder, done: int, *values: float) -> None:
        log_step(self, done, *values)
        if done == 3:  # a checkpoint and a validation are due now
            (root / "labels/5.png").rename(tmp_path / "away.png")

    with monkeypatch.context() as patch, pytest.raises(FileNotFoundError, match=r"labels/5\.png") as error:
        patch.setattr(train.RunFolder, "log_step", spoil)
        run_training(settings)
    assert "Traceback" not in str(error.value)
    state = ResumeState.load(settings.run_folder / "last.pt", torch.device("cpu"))
    assert (state.step, state.validated) == (3, False), "saved before the validation that failed"
    (tmp_path / "away.png").rename(root / "labels/5.png")
    run_training(settings)
    assert rows(settings) == rows(whole)
    assert rows(settings, "validation") == rows(whole, "validation"), "the validation that was due is made up for"


def test_a_worker_that_is_killed_is_one_line(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    log_step = train.RunFolder.log_step

    def kill(self: train.RunFolder, done: int, *values: float) -> None:
        log_step(self, done, *values)
        for child in multiprocessing.active_children():
            os.kill(child.pid or 0, signal.SIGKILL)

    monkeypatch.setattr(train.RunFolder, "log_step", kill)
    with pytest.raises(SettingsError, match="workers: one of the 1 processes that read the data was killed") as error:
        run_training(tiny(workers=1, steps=100))
    subprocess.run(["true"], check=True)  # its end is a signal: PyTorch would blame the worker again
    assert not multiprocessing.active_children(), error


def test_a_run_that_fails_leaves_neither_processes_nor_open_logs(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = set(threading.enumerate())
    stop_after(monkeypatch, 3)
    with pytest.raises(StopError) as error:
        run_training(tiny(workers=2))
    assert not multiprocessing.active_children(), error
    assert not [t for t in set(threading.enumerate()) - threads if type(t).__module__.startswith("tensorboard")], error


@pytest.mark.parametrize(
    "change, said",
    [
        ({"step": -1}, "step: '-1' is no number of steps"),
        ({"step": "7"}, "step: '7' is no number of steps"),
        ({"step": 10**400}, "step: '1000"),
        ({"step": 7000}, "step 7000 of a run of 2 steps"),
        ({"best_score": float("nan")}, "best_score: 'nan' is no fraction"),
        ({"network": {"a": 1}}, "network: a table of tensors is expected"),
        ({"optimizer": {"state": {}}}, r"the optimizer's state does not fit \(KeyError"),
        ({"optimizer": []}, "optimizer: list is not accepted"),
        ({"extra": 1}, "unknown: extra"),
        ({"data": [{"name": "x"}]}, "4 faults in the settings:\n  purpose: missing"),
    ],
)
def test_a_resume_state_that_lies_is_refused_in_one_line(tiny: Tiny, change: dict[str, object], said: str) -> None:
    settings = tiny(steps=2)
    if not (settings.run_folder / "last.pt").is_file():
        run_training(settings)
    path = settings.run_folder / "last.pt"
    torch.save(torch.load(path, weights_only=True) | change, path)
    with pytest.raises((ModelError, SettingsError), match=f"(?s)last\\.pt: .*{said}"):
        run_training(settings)


def test_a_run_is_not_begun_anew_over_a_state_that_is_no_file(tiny: Tiny) -> None:
    settings = tiny(steps=2)
    weights = run_training(settings)
    path = settings.run_folder / "last.pt"
    path.unlink()
    os.mkfifo(path)
    before = weights.stat().st_mtime_ns
    with pytest.raises(InputError, match=r"last\.pt: is a named pipe \(FIFO\); only regular files are read"):
        run_training(settings)
    assert weights.stat().st_mtime_ns == before


def test_a_log_with_junk_is_refused_by_name(tiny: Tiny) -> None:
    settings = tiny(steps=2)
    run_training(settings)
    log = settings.run_folder / "steps.csv"
    for junk, said in (("one,2,3\n", "'one' is no step"), ("-1,2,3\n", "'-1' is no step"), ("\0" * 9, None),
                       ('"' + "x" * 200_000, "not the log of a run")):  # fmt: skip
        log.write_text(f"step,loss,learning_rate\n{junk}")
        if said is None:
            run_training(settings)
            continue
        with pytest.raises(InputError, match=rf"steps\.csv: .*{said}"):
            run_training(settings)


def test_validation_without_labels_is_refused_at_the_start(tiny: Tiny, pictures: Path, tmp_path: Path) -> None:
    root = copied(pictures, tmp_path)
    (root / "map.yaml").write_text("values: {0: ignore, 7: ignore, 8: ignore, 255: ignore}")
    settings = tiny(validation=own(root))
    with pytest.raises(DatasetError, match=r"mine: nothing is labeled: .*choose another mapping or other files"):
        run_training(settings)
    assert not settings.run_folder.exists()


def test_steps_and_saves_follow_from_the_measured_rate(
    tiny: Callable[..., TrainSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run takes 5 s and half a second a step; a process's first 20 s more, which must not look like quick steps."""
    now, runs = [0.0], []

    def run(settings: TrainSettings) -> Path:
        now[0] += 5 + 0.5 * settings.steps + (0 if runs else 20)
        runs.append(settings.steps)
        return Path()

    monkeypatch.setattr(train, "run_training", run)
    plan = plan_run(tiny(validate_every=7), 10, clock=lambda: now[0])
    assert runs == [1, 2, 22]
    assert (plan.start_s, plan.step_s) == (5.0, 0.5)
    assert plan.settings.steps == int(((600 - 47.5) * 0.85 - 5) / 0.5)  # 47.5 s went into the probes
    assert plan.settings.checkpoint_every == 60  # twice a minute
    assert plan.settings.validate_every == plan.settings.steps
    assert "8 crops/s" in str(plan)
    now[0] = 0.0
    assert plan_run(tiny(), 10, clock=lambda: now[0], most_steps=30).settings.steps == 30
    now[0] = 0.0
    with pytest.raises(SettingsError, match=r"--minutes 0.4 is too short here: 24 s go into .* a step takes 0\.50 s"):
        plan_run(tiny(), 0.4, clock=lambda: now[0])
    for minutes in (0, -1, float("nan"), float("inf")):
        with pytest.raises(SettingsError, match="it must be above 0"):
            plan_run(tiny(), minutes)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SettingsError, match="--minutes is for one process"):
        plan_run(tiny(), 1)


@pytest.mark.parametrize("step_s, expected", [(60.0, [1, 2]), (0.02, [1, 2, 22, 82, 322])])
def test_measuring_takes_no_longer_than_the_time_and_long_enough_for_quick_steps(
    step_s: float, expected: list[int], tiny: Callable[..., TrainSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    now, runs = [0.0], []

    def run(settings: TrainSettings) -> Path:
        now[0] += 2 + step_s * settings.steps
        runs.append(settings.steps)
        return Path()

    monkeypatch.setattr(train, "run_training", run)
    if step_s < 1:
        assert plan_run(tiny(), 6, clock=lambda: now[0]).step_s == pytest.approx(step_s)
    else:
        with pytest.raises(SettingsError, match="--minutes 6 is too short here"):
            plan_run(tiny(), 6, clock=lambda: now[0])
    assert runs == expected


def test_a_planned_run_that_was_cut_off_goes_on_to_its_planned_end(
    tiny: Callable[..., TrainSettings], cut_off: Callable[[TrainSettings], None]
) -> None:
    ticks = iter(range(1000))
    settings = tiny(steps=7, validate_every=2)
    planned = plan_run(settings, 1, clock=lambda: next(ticks), most_steps=9).settings
    assert planned.steps == 9
    planned = replace(planned, checkpoint_every=3)
    cut_off(planned)
    again = plan_run(settings, 1)
    assert again.settings == planned
    assert str(again).endswith("tiny goes on to the 9 steps that it was begun with, whatever they take")
    run_training(again.settings)
    assert len((settings.run_folder / "steps.csv").read_text().splitlines()) == 10


def test_memory_that_a_batch_fills_is_said(tiny: Callable[..., TrainSettings], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(train.LossModule, "forward", full)
    with pytest.raises(SettingsError, match=r"batch_size: 4 crops of 64x48 do not fit into the device's memory; lower"):
        run_training(tiny())


def test_parts_are_no_larger_than_said_and_none_of_an_earlier_time_stays(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = runpy.run_path(str(repository / "benchmarks" / "train_gpu.py"))
    monkeypatch.setitem(script["pack"].__globals__, "START_WEIGHTS", ("carried", "absent"))
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "carried" / "models").mkdir(parents=True)
    for name in ("__init__.py", "models/public.pth"):
        (tmp_path / "carried" / name).write_bytes(name.encode())
    elsewhere, data, parts = tmp_path / "elsewhere", tmp_path / "data", tmp_path / "parts"
    (elsewhere / ("long" * 30)).mkdir(parents=True)
    data.mkdir()
    parts.mkdir()
    (parts / "part_77.tar").write_bytes(b"old")
    for index in range(150):
        (elsewhere / ("long" * 30) / f"{index}.JPG").write_bytes(b"x" * (index * 7))
    (elsewhere / "drive.mcap").write_bytes(b"x")
    (data / "linked").symlink_to(elsewhere)
    assert script["pack"](data, parts, 40960) == 0
    said = capsys.readouterr().out
    assert "left out: 1 .mcap" in said
    assert "absent is not installed, so it is not packed: recipes with 'start: imagenet' will need it there" in said
    sizes = [path.stat().st_size for path in parts.iterdir()]
    assert len(sizes) > 5
    assert max(sizes) <= 40960
    script["unpack"](parts, tmp_path / "there")
    assert len(list((tmp_path / "there").rglob("*.JPG"))) == 150
    # a recipe's start weights come along: nothing is installed there
    assert (tmp_path / "there" / "packages" / "carried" / "models" / "public.pth").read_text() == "models/public.pth"
    assert (tmp_path / "there" / "packages" / "carried" / "__init__.py").is_file()
    with pytest.raises(DatasetError, match=r"elsewhere: no part_01\.tar there"):
        script["unpack"](elsewhere, tmp_path)
    part = min(parts.iterdir())
    part.write_bytes(part.read_bytes()[:5000])
    with pytest.raises(DatasetError, match=r"part_01\.tar: damaged or cut off"):
        script["unpack"](parts, tmp_path / "again")


def test_a_gpu_gets_a_batch_and_a_precision_that_fill_it(
    tiny: Callable[..., TrainSettings], repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for_gpu = runpy.run_path(str(repository / "benchmarks" / "train_gpu.py"))["for_gpu"]
    assert for_gpu(tiny(), bf16=True) == {"batch_size": 32, "precision": "bf16"}
    assert for_gpu(tiny(), bf16=False) == {"batch_size": 32, "precision": "fp16"}
    assert for_gpu(tiny(batch_size=64, precision="bf16"), bf16=False) == {"precision": "fp16"}
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
    assert done.stdout.count("decoded data on the device, which cuts and changes the crops") >= 4  # probes, the run
    assert len((out / "tiny" / "steps.csv").read_text().splitlines()) == 31
    written = {path.name for path in (out / "tiny").iterdir()}
    assert written >= {"best.safetensors", "last.safetensors", "steps.csv", "validation.csv", "last.pt"}
    assert (out / "report.html").is_file()
