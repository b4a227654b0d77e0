"""Tiny trainings: a folder of learnable pictures and settings that run in a second."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from seg_perception.core.types import Size
from seg_perception.datasets.registry import DatasetSettings
from seg_perception.training.settings import (
    AugmentationSettings,
    NetworkSettings,
    OptimizerSettings,
    TrainSettings,
)
from seg_perception.training.train import run_training


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in one order on every machine, and no quarrel over its cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures of 96x64: sky above, road below, a car of varying place, a patch without truth."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(11)
    for folder in ("images", "labels"):
        (root / folder).mkdir()
    for index in range(6):
        horizon = int(rng.integers(24, 40))
        labels = np.full((64, 96), 7, np.uint8)
        labels[horizon:] = 0
        left = int(rng.integers(0, 76))
        labels[horizon : horizon + 12, left : left + 20] = 8
        image = np.zeros((64, 96, 3), np.uint8)
        for class_id, color in ((7, (220, 160, 90)), (0, (80, 80, 80)), (8, (30, 30, 200))):
            image[labels == class_id] = color
        image = np.clip(image + rng.normal(0, 10, image.shape), 0, 255).astype(np.uint8)
        labels[-6:, :10] = 255
        assert cv2.imwrite(str(root / "images" / f"{index}.png"), image)
        assert cv2.imwrite(str(root / "labels" / f"{index}.png"), labels)
    return root


@pytest.fixture
def tiny(pictures: Path, tmp_path: Path) -> Callable[..., TrainSettings]:
    """Settings of a training that takes a moment; any field can be given."""

    def build(**changes: Any) -> TrainSettings:
        settings = TrainSettings(
            name="tiny",
            output=tmp_path / "runs",
            data_root=pictures.parent,
            train=(DatasetSettings("folder", Path(pictures.name), mapping="identity"),),
            network=NetworkSettings("reference", {"width": 0.125, "convolutions": [1, 1, 1, 1]}),
            augmentation=AugmentationSettings(crop=Size(64, 48)),
            optimizer=OptimizerSettings(learning_rate=5e-3, warmup_steps=2, ema_decay=0.5),
            deployed_size=Size(96, 64),
            steps=8,
            batch_size=4,
            validate_every=1000,
            checkpoint_every=3,
            workers=0,
            device="cpu",
        )
        return dataclasses.replace(settings, **changes)

    return build


@pytest.fixture
def cut_off(monkeypatch: pytest.MonkeyPatch) -> Callable[[TrainSettings], None]:
    """Runs a training until it has saved its state twice."""

    def run(settings: TrainSettings) -> None:
        save, saved = torch.save, []

        def stop(*arguments: Any, **options: Any) -> None:
            save(*arguments, **options)
            saved.append(1)
            if len(saved) == 2:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(torch, "save", stop)
            run_training(settings)

    return run
