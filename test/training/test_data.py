"""Training batches: a pure function of seed, step and place."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from seg_perception.core.errors import SettingsError
from seg_perception.core.types import Size
from seg_perception.datasets.base import Sample
from seg_perception.datasets.registry import DatasetSettings, open_datasets
from seg_perception.training.data import (
    CropKey,
    TrainingCrops,
    demand_shared_memory,
    micro_batch_size,
    open_run_data,
    trained_on_too,
    training_batches,
    worker_fault,
)
from seg_perception.training.settings import AugmentationSettings, TrainSettings

Tiny = Callable[..., TrainSettings]
NO_CHANGE = AugmentationSettings(
    crop=Size(96, 64),
    scale=(1.0, 1.0),
    aspect=1,
    flip=0,
    brightness=0,
    contrast=0,
    saturation=0,
    gamma=1,
    color_cast=0,
    blur=0,
    noise=0,
    jpeg=0,
)


def crops_of(settings: TrainSettings) -> TrainingCrops:
    return TrainingCrops(settings, open_datasets(settings.train, settings.data_root))


def all_batches(settings: TrainSettings, first_step: int = 0, rank: int = 0, world: int = 1) -> list[torch.Tensor]:
    batches = training_batches(crops_of(settings), settings, first_step, rank, world)
    return [images for images, _ in batches]


def test_a_key_names_one_crop_in_any_order_and_any_object(tiny: Tiny) -> None:
    one, two = crops_of(tiny()), crops_of(tiny(cache=False))
    keys = [CropKey(step, place) for step in (3, 0) for place in (1, 0)]
    crops = {key: one[key] for key in keys}
    for key in reversed(keys):
        image, labels = two[key]
        assert torch.equal(image, crops[key][0])
        assert torch.equal(labels, crops[key][1])
        assert (image.dtype, tuple(image.shape)) == (torch.uint8, (48, 64, 3))
        assert (labels.dtype, tuple(labels.shape)) == (torch.uint8, (48, 64))
    assert len({crops[key][0].numpy().tobytes() for key in keys}) == 4


def test_another_seed_gives_other_crops(tiny: Tiny) -> None:
    one, two = crops_of(tiny(seed=1)), crops_of(tiny(seed=2))
    assert not torch.equal(one[CropKey(0, 0)][0], two[CropKey(0, 0)][0])


def test_batches_do_not_depend_on_the_number_of_workers(tiny: Tiny) -> None:
    reference = all_batches(tiny(workers=0, steps=5))
    assert len(reference) == 5
    for workers in (1, 2):
        batches = all_batches(tiny(workers=workers, steps=5))
        assert len(batches) == 5
        assert all(torch.equal(a, b) for a, b in zip(reference, batches, strict=True))


def test_batches_from_a_later_step_are_those_of_the_whole_run(tiny: Tiny) -> None:
    whole, rest = all_batches(tiny(steps=5)), all_batches(tiny(steps=5), first_step=3)
    assert len(rest) == 2
    assert all(torch.equal(a, b) for a, b in zip(whole[3:], rest, strict=True))


@pytest.mark.parametrize("accumulation, world", [(2, 1), (1, 2), (2, 2), (4, 1), (1, 4)])
def test_processes_and_rounds_share_out_the_same_global_batch(tiny: Tiny, accumulation: int, world: int) -> None:
    whole = all_batches(tiny(steps=2))
    parts = [all_batches(tiny(steps=2, accumulation=accumulation), rank=rank, world=world) for rank in range(world)]
    for step in range(2):
        rounds = [parts[rank][step * accumulation + turn] for turn in range(accumulation) for rank in range(world)]
        assert torch.equal(torch.cat(rounds), whole[step])


def test_a_batch_that_does_not_divide_is_refused(tiny: Tiny) -> None:
    assert micro_batch_size(tiny(batch_size=12, accumulation=3), world=2) == 2
    with pytest.raises(SettingsError, match="batch_size 4 does not divide into 3 accumulation rounds x 2 processes"):
        micro_batch_size(tiny(accumulation=3), world=2)


def _flat(root: Path, gray: int) -> None:
    for folder, pixels in (("images", np.full((64, 96, 3), gray, np.uint8)), ("labels", np.zeros((64, 96), np.uint8))):
        (root / folder).mkdir(parents=True)
        for index in range(3):
            assert cv2.imwrite(str(root / folder / f"{index}.png"), pixels)


def test_datasets_are_drawn_by_their_weights_not_by_their_sizes(tiny: Tiny, tmp_path: Path) -> None:
    _flat(tmp_path / "dark", 10)
    _flat(tmp_path / "bright", 250)
    sets = tuple(
        DatasetSettings("folder", Path(name), mapping="identity", weight=weight)
        for name, weight in (("dark", 3.0), ("bright", 1.0))
    )
    crops = crops_of(tiny(data_root=tmp_path, train=sets, augmentation=NO_CHANGE))
    grays = [int(crops[CropKey(step, 0)][0][0, 0, 0]) for step in range(400)]
    assert set(grays) == {10, 250}
    # three quarters; the standard deviation of a share of 400 is 0.022: four of them
    assert np.mean([gray == 10 for gray in grays]) == pytest.approx(0.75, abs=0.087)


def test_validation_images_that_are_trained_on_are_told(tiny: Tiny, tmp_path: Path) -> None:
    _flat(tmp_path / "dark", 10)
    _flat(tmp_path / "bright", 250)
    train, validation = ((DatasetSettings("folder", Path(name), mapping="identity"),) for name in ("dark", "bright"))
    data = open_run_data(tiny(data_root=tmp_path, train=train, validation=validation))
    assert list(trained_on_too(data)) == []
    again = tmp_path / "bright/images/1.png"
    again.write_bytes((tmp_path / "dark/images/2.png").read_bytes())  # under another name
    (told,) = trained_on_too(data)
    assert told.startswith(f"bright: 1 of 3 images are trained on, too ({again} is {tmp_path}/dark/images/")


def test_every_image_of_a_dataset_comes_up(tiny: Tiny) -> None:
    crops = crops_of(tiny(augmentation=NO_CHANGE))
    assert len({crops[CropKey(step, 0)][0].numpy().tobytes() for step in range(60)}) == 6


class _Counting:
    """A dataset that counts how often it is read."""

    name = "counting"

    def __init__(self) -> None:
        self.loads = 0

    def __len__(self) -> int:
        return 4

    def load(self, index: int) -> Sample:
        self.loads += 1
        return Sample(str(index), np.full((64, 96, 3), index, np.uint8), np.zeros((64, 96), np.uint8))


@pytest.mark.parametrize(
    "changes, loads",
    [
        ({"cache": True}, 4),  # each image once
        ({"cache": False}, 40),
        # one sample is 64 x 96 x (3 + 1) = 24576 bytes: two fit, two others are read anew each time
        ({"cache": True, "cache_gigabytes": 50_000 / 1e9}, None),
    ],
)
def test_what_was_decoded_is_kept_within_the_caches_size(tiny: Tiny, changes: dict[str, object], loads: int) -> None:
    crops = crops_of(tiny(**changes))
    counting = _Counting()
    crops.datasets[0] = counting  # type: ignore[call-overload]
    for step in range(40):
        crops[CropKey(step, 0)]
    if loads is None:
        assert 4 < counting.loads < 40
    else:
        assert counting.loads == loads


def test_datasets_of_different_classes_are_refused(tiny: Tiny, pictures: Path) -> None:
    sets = tuple(
        DatasetSettings("folder", Path(pictures.name), mapping=mapping) for mapping in ("identity", "camvid11_ids")
    )
    with pytest.raises(SettingsError, match="maps to the label set 'camvid11', but the training data to 'driving'"):
        open_run_data(tiny(train=sets))


def test_shared_memory_that_is_too_small_is_refused_with_its_remedies(tiny: Tiny) -> None:
    settings = tiny(workers=2)
    # 2 workers x 4 batches x 8 crops of 64x48 with 4 bytes a pixel, and 16 MB for the rest
    needed = 2 * 4 * 8 * 64 * 48 * 4 + (16 << 20)
    demand_shared_memory(settings, 8, free=needed)
    with pytest.raises(SettingsError, match=r"/dev/shm, .*has 1 MB free, 16 are needed; .*--shm-size=2g.*workers: 0"):
        demand_shared_memory(settings, 8, free=1 << 20)
    demand_shared_memory(tiny(workers=0), 8, free=0)


@pytest.mark.parametrize(
    "text, said",
    [
        ("unable to write to file </torch_12_3_4>: No space left on device (28)", "/dev/shm, .* is full"),
        ("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that", "/dev/shm, .* is full"),
        ("DataLoader worker (pid 7) is killed by signal: Killed. ", "was killed, as the system does when memory"),
        ("CUDA error: out of memory", None),
    ],
)  # fmt: skip
def test_pytorchs_words_about_its_workers_are_understood(text: str, said: str | None) -> None:
    """The texts are PyTorch 2.13's own; making each happen takes a full /dev/shm or the system's killer."""
    fault = worker_fault(text, 2)
    assert (fault is None) if said is None else re.search(said, str(fault))


def test_a_file_that_is_gone_is_told_by_name(tiny: Tiny, tmp_path: Path) -> None:
    _flat(tmp_path / "dark", 10)
    train = (DatasetSettings("folder", Path("dark"), mapping="identity"),)
    settings = tiny(data_root=tmp_path, train=train)
    crops = crops_of(settings)
    (tmp_path / "dark/labels/1.png").unlink()
    for workers in (0, 1):
        with pytest.raises(FileNotFoundError, match=r"dark/labels/1\.png"):
            list(training_batches(crops, dataclasses.replace(settings, workers=workers), 0, 0, 1))
