"""Kept answers of teachers: the right window of the right image, made once, bounded, and as good as live ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from seg_perception.core.errors import SettingsError
from seg_perception.core.types import Size
from seg_perception.datasets.base import Sample
from seg_perception.training.augmentation import Cut, augment_and_tell
from seg_perception.training.distillation import open_teachers
from seg_perception.training.run_data import open_run_data
from seg_perception.training.settings import AugmentationSettings, DistillationSettings, TrainSettings
from seg_perception.training.teacher_answers import STRIDE, TeacherAnswers, answer_of_crop
from seg_perception.training.train import run_training

Tiny = Callable[..., TrainSettings]


def test_the_window_of_an_answer_by_hand() -> None:
    """An answer of 8 x 4 cells whose values are the columns; crops of 16x8 pixels are 4 x 2 cells."""
    answer = np.tile(np.arange(8, dtype=np.float16), (1, 4, 1))
    crop = Size(16, 8)
    whole = answer_of_crop(answer, Cut(Size(32, 16), 0, 0, flip=False), crop)
    assert whole[0, 0].tolist() == [0, 1, 2, 3]
    assert answer_of_crop(answer, Cut(Size(32, 16), 8, 4, flip=False), crop)[0, 1].tolist() == [2, 3, 4, 5]
    assert answer_of_crop(answer, Cut(Size(32, 16), 8, 4, flip=True), crop)[0, 1].tolist() == [5, 4, 3, 2]
    # zoomed to twice the size, a cell of the crop is half a cell of the answer
    assert answer_of_crop(answer, Cut(Size(64, 32), 16, 0, flip=False), crop)[0, 0].tolist() == [1.75, 2.25, 2.75, 3.25]
    # zoomed to 8x4 pixels, the crop's second half is beyond the image
    assert answer_of_crop(answer, Cut(Size(8, 4), 0, 0, flip=False), crop)[0].tolist() == [[1.5, 5.5, 0, 0], [0] * 4]


@pytest.mark.parametrize("seed", range(6))
def test_answers_stay_on_the_pixels_that_they_are_about(seed: int) -> None:
    """An answer that says the brightness of its pixels still does after zoom, crop and mirror."""
    columns = np.linspace(20, 235, 96)[None, :] * np.linspace(0.5, 1, 64)[:, None]
    image = np.repeat(columns[..., None], 3, axis=2).astype(np.uint8)
    answer = columns.reshape(16, STRIDE, 24, STRIDE).mean(axis=(1, 3))[None].astype(np.float16)
    still = dict.fromkeys(("brightness", "contrast", "saturation", "color_cast", "blur", "noise", "jpeg"), 0.0)
    settings = AugmentationSettings(crop=Size(64, 48), gamma=1.0, **still)
    sample = Sample("ramp", image, np.zeros((64, 96), np.uint8))
    crop, labels, cut = augment_and_tell(sample, settings, Size(96, 64), np.random.default_rng(seed))
    window = answer_of_crop(answer, cut, settings.crop)[0].astype(float)
    seen = crop[..., 0].astype(float).reshape(12, STRIDE, 16, STRIDE).mean(axis=(1, 3))
    whole = (labels == 0).reshape(12, STRIDE, 16, STRIDE).all(axis=(1, 3))
    whole[0] = whole[:, 0] = whole[:, -1] = False  # at the image's edge an answer has no neighbor to go on to
    assert whole.sum() > 30
    assert np.abs(window - seen)[whole].max() < 4


def test_answers_are_made_once_for_each_image_and_teacher_and_bounded(tiny: Tiny, tmp_path: Path) -> None:
    teacher = run_training(tiny())
    teaching = DistillationSettings((teacher,), cache=tmp_path / "answers")
    settings = tiny(distillation=teaching)
    train = open_run_data(settings).train
    answers = TeacherAnswers(settings)
    image = train[0].load(0).image
    with pytest.raises(SettingsError, match=r"distillation\.cache: .*\.npy cannot be read"):
        answers.load(image)
    cpu = torch.device("cpu")
    told = answers.prepare(train, train[0].label_set, cpu)
    assert told == f"teachers' answers on 6 images in {teaching.cache} (6 new), 0.00 GB"
    assert "(0 new)" in answers.prepare(train, train[0].label_set, cpu)
    live = open_teachers((teacher,), 1.0, train[0].label_set)
    assert live is not None
    expected = live(torch.from_numpy(image)[None], (16, 24))[0].numpy()
    assert np.allclose(answers.load(image), expected, atol=1e-3)
    assert "(6 new)" in TeacherAnswers(replace(settings, deployed_size=Size(64, 64))).prepare(
        train, train[0].label_set, cpu
    )
    small = replace(settings, distillation=replace(teaching, cache_gigabytes=1e-6))
    with pytest.raises(SettingsError, match=r"the answers on 6 images take 0.0 GB, more than cache_gigabytes, 1e-06"):
        TeacherAnswers(small).prepare(train, train[0].label_set, cpu)


def test_a_run_learns_from_kept_answers_as_from_live_ones(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = run_training(tiny())
    kept = tiny(name="kept", distillation=DistillationSettings((teacher,), cache=tmp_path / "answers"), workers=1)
    live = tiny(name="live", distillation=DistillationSettings((teacher,)))
    losses = {}
    for settings in (kept, live):
        run_training(settings)
        rows = (settings.run_folder / "steps.csv").read_text().splitlines()[1:]
        losses[settings.name] = [float(row.split(",")[1]) for row in rows]
    assert "one worker cuts the crops; teachers' answers on 6 images in" in capsys.readouterr().out
    assert losses["kept"] == pytest.approx(losses["live"], rel=0.1)


def test_what_does_not_go_together_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cache: needs teachers"):
        DistillationSettings(cache=tmp_path)
    with pytest.raises(SettingsError, match="cache: keeps no features, which relations need"):
        DistillationSettings((tmp_path,), cache=tmp_path, relations=1.0)
    with pytest.raises(SettingsError, match=r"distillation\.cache: is for crops that workers cut"):
        tiny(distillation=DistillationSettings((tmp_path,), cache=tmp_path), data_on="device")
