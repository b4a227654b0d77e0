"""The settings of a training run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from seg_perception.core.errors import SettingsError
from seg_perception.core.settings import from_mapping, load_settings, to_mapping
from seg_perception.core.types import Size
from seg_perception.training.settings import TrainSettings

LEAST: dict[str, Any] = {"name": "mine", "train": [{"kind": "scenes"}]}


def test_every_shipped_file_is_accepted_and_names_the_shipped_things(repository: Path) -> None:
    files = [*(repository / "config" / "train").glob("*.yaml"), *(repository / "benchmarks" / "recipes").glob("*.yaml")]
    assert len(files) >= 6
    for file in files:
        settings = load_settings(TrainSettings, file)
        assert settings.name == file.stem, f"{file}: a run's folder is named after its file"
        again = from_mapping(TrainSettings, yaml.safe_load(yaml.safe_dump(to_mapping(settings))), "again")
        assert again == settings


def test_a_run_needs_a_name_and_data_and_no_more() -> None:
    settings = from_mapping(TrainSettings, LEAST, "here")
    assert settings.run_folder == Path("runs/mine")
    assert settings.augmentation.crop == Size(448, 256)


def test_all_faults_of_a_file_come_at_once() -> None:
    values = {
        "name": "a/b",
        "train": [{"kind": "scenes"}, {"kind": "kity"}],
        "steps": 0,
        "augmentation": {"crop": "large", "flip": 2},
        "optimizer": {"learning_rate": "1e-3"},
        "loss": {"hard_pixels": 0, "class_weights": {"pole": -1.0}},
        "precision": "fp8",
        "sedd": 3,
        "network": {"name": "reference", "start": "imagenet", "frozen_stages": 1, "options": {"depth": 3}},
    }
    with pytest.raises(SettingsError) as error:
        from_mapping(TrainSettings, values, "own.yaml")
    named = {line.split(":")[0].strip() for line in str(error.value).splitlines()[1:]}
    assert named == {
        "name",
        "steps",
        "network.start",
        "network.options",
        "train[1].kind",
        "augmentation.crop",
        "augmentation.flip",
        "optimizer.learning_rate",
        "loss.hard_pixels",
        "loss.class_weights.pole",
        "precision",
        "sedd",
    }


@pytest.mark.parametrize(
    "changes, fault",
    [
        ({"network": {"name": "resnet"}}, "network.name: no network 'resnet'; known: efficientnet_ladder, reference"),
        ({"network": {"options": {"depth": 3}}}, "network.options: network 'efficientnet_ladder' does not take"),
        ({"network": {"name": "reference", "start": "imagenet"}}, "network.start: .* known: random, driving"),
        ({"network": {"name": "reference", "frozen_stages": 1}}, "network.frozen_stages: .*has no stages to freeze"),
        ({"network": {"start": "driving", "fresh_layers": ["tail"]}}, "network.fresh_layers: .*has no tail; known:"),
        (
            {"augmentation": {"crop": "64x50"}, "network": {"name": "reference"}},
            r"augmentation.crop: crop 64x50 does not fit reference: .* to 64x64",
        ),
    ],
)
def test_what_the_network_does_not_take_is_a_fault_of_the_file(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(SettingsError, match=f"(?s)own.yaml: 1 fault.*{fault}"):
        from_mapping(TrainSettings, {**LEAST, **changes}, "own.yaml")


@pytest.mark.parametrize(
    "changes, fault",
    [
        ({"name": ".."}, "name: '..' cannot name a folder"),
        ({"name": ""}, "name: '' cannot name a folder"),
        ({"train": []}, "train: at least one dataset is needed"),
        ({"steps": 0}, "steps: 0 must be at least 1"),
        ({"batch_size": 0}, "batch_size: 0 must be at least 1"),
        ({"accumulation": 0}, "accumulation: 0 must be at least 1"),
        ({"validate_every": 0}, "validate_every: 0 must be at least 1"),
        ({"checkpoint_every": 0}, "checkpoint_every: 0 must be at least 1"),
        ({"workers": -1}, "workers: -1 is below 0"),
        ({"seed": -1}, "seed: -1 is below 0"),
        ({"augmentation": {"rare": 0.5}}, "augmentation.rare_classes: rare needs at least one"),
        ({"loss": {"lovasz": -1}}, "loss.lovasz: -1.0 is below 0"),
        ({"cache_gigabytes": -1}, "cache_gigabytes: -1.0 is below 0"),
        ({"network": {"frozen_stages": -1}}, "network.frozen_stages: -1 is below 0"),
        ({"augmentation": {"scale": [2.0, 1.0]}}, "augmentation.scale: (2.0, 1.0) must be two rising values above 0"),
        ({"augmentation": {"scale": [0, 1.0]}}, "augmentation.scale"),
        ({"augmentation": {"aspect": 0.5}}, "augmentation.aspect: 0.5 must be at least 1"),
        ({"augmentation": {"gamma": 0.5}}, "augmentation.gamma: 0.5 must be at least 1"),
        ({"augmentation": {"jpeg": 1.5}}, "augmentation.jpeg: 1.5 is not in 0 to 1"),
        ({"loss": {"hard_pixels": 1.5}}, "loss.hard_pixels: 1.5 is not above 0 and at most 1"),
        ({"loss": {"auxiliary": -1}}, "loss.auxiliary: -1.0 is below 0"),
        ({"optimizer": {"learning_rate": 0}}, "optimizer.learning_rate: 0.0 must be above 0"),
        ({"optimizer": {"warmup_steps": -1}}, "optimizer.warmup_steps: -1 is below 0"),
        ({"optimizer": {"weight_decay": -1}}, "optimizer.weight_decay: -1.0 is below 0"),
        ({"optimizer": {"encoder_factor": -1}}, "optimizer.encoder_factor: -1.0 is below 0"),
        ({"optimizer": {"decay_power": -1}}, "optimizer.decay_power: -1.0 is below 0"),
        ({"optimizer": {"ema_decay": 1}}, "optimizer.ema_decay: 1.0 is not at least 0 and below 1"),
        ({"loss": {"class_weights": {True: 2.0}}}, "loss.class_weights: True is no name; YAML reads on, off, yes"),
        ({"augmentation": {"rare_classes": [False]}}, "type text is expected; YAML reads on, off, yes and no as true"),
        ({"steps": "1e5"}, "steps: '1e5' is not accepted; a value of type int is expected; write 100000"),
        ({"steps": 1000.0}, "steps: 1000.0 is not accepted; a value of type int is expected; write 1000"),
        ({"seed": 0.5}, "seed: 0.5 is not accepted; a value of type int is expected"),
        ({"network": {"frozen_stages": 8}}, "\n  network.frozen_stages: 8 is not in 0 to 7"),
        ({"device": "gpu"}, "device: 'gpu' is not accepted; accepted: 'auto', 'cpu', 'cuda'"),
    ],
)
def test_each_range_is_checked(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(SettingsError) as error:
        from_mapping(TrainSettings, {**LEAST, **changes}, "own.yaml")
    assert fault in str(error.value)
