"""Teachers: what a student learns of them, by hand and end to end, live and from kept answers."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seg_perception.core.errors import SettingsError
from seg_perception.core.label_set import load_label_set
from seg_perception.core.types import Size
from seg_perception.datasets.base import Sample
from seg_perception.datasets.registry import DatasetSettings
from seg_perception.networks import build_network
from seg_perception.training.augmentation import Cut, augment
from seg_perception.training.checkpoint import load_network
from seg_perception.training.data import open_run_data
from seg_perception.training.distillation import (
    STRIDE,
    TeacherAnswers,
    Teachers,
    answer_of_crop,
    divergence_from,
    likeness,
    open_teachers,
    relation_divergence,
)
from seg_perception.training.loss import LossModule, pixel_weight
from seg_perception.training.settings import AugmentationSettings, DistillationSettings, TrainSettings
from seg_perception.training.train import run_training

LABELS = torch.tensor([[[0, 255, 254]]], dtype=torch.uint8)


def test_the_divergence_by_hand() -> None:
    """Teacher (1/2, 1/2) against students (1/2, 1/2), (3/4, 1/4) and anything: the last pixel is unknown."""
    teacher = torch.full((1, 2, 1, 3), 0.5)
    scores = torch.tensor([[[[0.0, math.log(3), 9.0]], [[0.0, 0.0, 0.0]]]])
    second = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert float(divergence_from(teacher, scores, LABELS, 1.0)) == pytest.approx(second / 2, rel=1e-6)
    # at temperature 2 the second student says (sqrt 3, 1) / (1 + sqrt 3); the factor is 4
    first, other = math.sqrt(3) / (1 + math.sqrt(3)), 1 / (1 + math.sqrt(3))
    warm = 0.5 * math.log(0.5 / first) + 0.5 * math.log(0.5 / other)
    assert float(divergence_from(teacher, scores, LABELS, 2.0)) == pytest.approx(4 * warm / 2, rel=1e-6)


def test_a_network_is_its_own_best_pupil_and_teachers_are_averaged() -> None:
    torch.manual_seed(1)
    one, two = (build_network("reference", 3, width=0.1).eval() for _ in range(2))
    images = torch.randint(0, 255, (1, 32, 32, 3), dtype=torch.uint8)
    scores = one(one.normalize(images)).detach()
    size = (scores.shape[2], scores.shape[3])
    labels = torch.zeros((1, *size), dtype=torch.uint8)
    own = Teachers([one], 1.0)(images, size)
    assert float(divergence_from(own, scores, labels, 1.0)) == pytest.approx(0, abs=1e-6)
    both = Teachers([one, two], 1.0)(images, size)
    assert torch.allclose(both, (own + Teachers([two], 1.0)(images, size)) / 2)
    assert not any(p.requires_grad for p in one.parameters())


def test_a_teacher_with_other_classes_is_refused(tmp_path: Path, tiny: Any) -> None:
    weights = run_training(tiny())
    other = load_label_set("camvid11")
    with pytest.raises(SettingsError, match=r"distillation\.teachers: .*knows road, sidewalk"):
        open_teachers([weights], 1.0, other)


def test_a_student_learns_from_a_teacher_and_repeats_exactly(tiny: Any) -> None:
    teacher = run_training(tiny(data_notes=("its streets",), license="for research"))
    taught = replace(
        tiny(data_notes=("my streets",), license="mine"), name="taught",
        distillation=DistillationSettings((teacher,), 2.0, 0.5),
    )  # fmt: skip
    alone = replace(tiny(), name="alone")
    losses = {}
    for settings in (taught, alone, replace(taught, name="again")):
        run_training(settings)
        rows = (settings.run_folder / "steps.csv").read_text().splitlines()[1:]
        losses[settings.name] = [float(row.split(",")[1]) for row in rows]
    assert losses["taught"] == losses["again"]
    network, info = load_network(taught.run_folder / "last.safetensors")
    card = info.model_card(network, "1", "0" * 64)  # what a teacher learned from, and what that allows, goes on
    assert (card.data, card.data_license) == (("its streets", "my streets"), "for research; mine")
    assert card.run["teachers"] == "tiny/last.safetensors"
    assert all(t > a for t, a in zip(losses["taught"][:1], losses["alone"][:1]))  # the divergence comes on top


def test_relations_by_hand() -> None:
    """Two places: of one direction, likeness 1 / 0.1 each; at right angles, 10 and 0."""
    same = torch.tensor([[[[1.0, 3.0]], [[2.0, 6.0]]]])  # [1, 2, 1, 2]: places (1, 2) and (3, 6)
    apart = torch.tensor([[[[1.0, 0.0]], [[0.0, 5.0]]]])
    assert torch.allclose(likeness(same, (32, 64)), torch.full((2, 2), 10.0))
    assert torch.allclose(likeness(apart, (32, 64)), torch.tensor([[10.0, 0.0], [0.0, 10.0]]))
    # rows (1/2, 1/2) against (p, 1 - p) and (1 - p, p) with p = 1 / (1 + exp(-10))
    p = 1 / (1 + math.exp(-10))
    by_hand = 0.5 * math.log(0.5 / p) + 0.5 * math.log(0.5 / (1 - p))
    divergence = relation_divergence(likeness(same, (32, 64)), likeness(apart, (32, 64)))
    assert float(divergence) == pytest.approx(by_hand, rel=1e-5)
    assert likeness(torch.ones(2, 3, 64, 128), (64, 128)).shape == (16, 16)  # 2 images of 2 x 4 places


def test_relations_compare_features_of_other_depths_and_strides_and_reach_the_students_weights() -> None:
    torch.manual_seed(2)
    teacher, student = build_network("reference", 3, width=0.2), build_network("resnet_ladder", 3, width=0.1)
    images = torch.randint(0, 255, (2, 64, 64, 3), dtype=torch.uint8)
    labels = torch.full((2, 64, 64), 255, dtype=torch.uint8)
    losses = [
        LossModule(
            student.eval(), None, 0.0, 1.0, teachers=Teachers([teacher], 1.0, relations=True),
            distillation=0.0, relations=relations,
        )(images, labels)[1]
        for relations in (1.0, 2.0)
    ]  # fmt: skip
    assert losses[1].item() == pytest.approx(2 * losses[0].item(), rel=1e-4)
    assert losses[0].item() > 0
    losses[0].backward()
    kernel = student.get_parameter("encoder.stem.0.weight")
    assert kernel.grad is not None
    assert kernel.grad.abs().sum() > 0
    own = LossModule(
        student, None, 0.0, 1.0, teachers=Teachers([student], 1.0, relations=True), distillation=1.0, relations=1.0
    )
    assert own(images, labels)[1].item() == pytest.approx(0, abs=1e-4)


def test_unlabeled_images_are_learned_from_by_their_teachers_alone(
    tiny: Any, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = run_training(tiny())
    unlabeled = DatasetSettings("folder", Path(pictures.name) / "images", mapping="identity", unlabeled=True)
    with pytest.raises(SettingsError, match=r"images is unlabeled: only distillation\.teachers can say what is there"):
        tiny(train=(unlabeled,))
    with pytest.raises(SettingsError, match=r"validation: .*images is unlabeled"):
        tiny(validation=(unlabeled,))
    taught: TrainSettings = tiny(
        name="taught", train=(unlabeled,), distillation=DistillationSettings((teacher,), relations=0.5), steps=20
    )
    run_training(taught)
    assert "images: 6 images without labels, for teachers alone" in capsys.readouterr().out
    rows = (taught.run_folder / "steps.csv").read_text().splitlines()[1:]
    losses = [float(row.split(",")[1]) for row in rows]
    assert losses[-1] < losses[0]
    labels = torch.full((1, 4, 4), 255, dtype=torch.uint8)
    assert pixel_weight(labels).item() == 0


def test_only_folders_are_unlabeled_and_by_no_patterns() -> None:
    with pytest.raises(SettingsError, match="unlabeled: scenes has labels"):
        DatasetSettings("scenes", unlabeled=True)
    with pytest.raises(SettingsError, match="unlabeled: takes no patterns"):
        DatasetSettings("folder", mapping="identity", unlabeled=True, images="a/*", labels="b/*")


Tiny = Callable[..., TrainSettings]


def losses_of(settings: TrainSettings) -> list[float]:
    run_training(settings)
    rows = (settings.run_folder / "steps.csv").read_text().splitlines()[1:]
    return [float(row.split(",")[1]) for row in rows]


def test_teachers_are_heard_on_unlabeled_images_however_a_batch_is_split(tiny: Tiny, pictures: Path) -> None:
    teacher = run_training(tiny())
    labeled = tiny().train[0]
    unlabeled = DatasetSettings("folder", Path(pictures.name) / "images", mapping="identity", unlabeled=True)
    network = replace(tiny().network, freeze_batch_norm=True)
    losses = [
        losses_of(
            tiny(
                name=f"in{rounds}", train=(labeled, unlabeled), network=network, steps=3, accumulation=rounds,
                distillation=DistillationSettings((teacher,), weight=5.0),
            )
        )
        for rounds in (1, 4)
    ]  # fmt: skip
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_a_run_does_not_go_on_with_a_teacher_that_has_changed(tiny: Tiny, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher.safetensors"
    shutil.copy(run_training(tiny()), teacher)
    taught = tiny(name="taught", steps=2, distillation=DistillationSettings((teacher,)))
    run_training(taught)
    shutil.copy(run_training(tiny(name="other", seed=2, steps=1)), teacher)
    with pytest.raises(SettingsError, match=r"distillation\.teachers: .*no longer what .*taught was taught by"):
        run_training(taught)
    shutil.copy(tiny().run_folder / "last.safetensors", teacher)
    run_training(taught)


def test_a_shipped_teacher_that_another_installation_brings_is_told_by_its_weights(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, other = tmp_path / "first.safetensors", tmp_path / "other.safetensors"
    shutil.copy(run_training(tiny(steps=1)), first)
    monkeypatch.setattr("seg_perception.training.settings.DEFAULT_WEIGHTS", first)
    taught = tiny(name="taught", steps=2, distillation=DistillationSettings((Path("driving"),)))
    run_training(taught)
    monkeypatch.setattr("seg_perception.training.settings.DEFAULT_WEIGHTS", shutil.copy(first, other))
    run_training(taught)
    shutil.copy(run_training(tiny(name="other", seed=2, steps=1)), other)
    with pytest.raises(SettingsError, match=r"other\.safetensors: no longer what .*taught was taught by"):
        run_training(taught)


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
    crop, labels, cut = augment(sample, settings, Size(96, 64), np.random.default_rng(seed))
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
    with pytest.raises(SettingsError, match=r"distillation\.cache: .*\.npy is not there or damaged; start"):
        answers.load(image)
    cpu = torch.device("cpu")
    told = answers.prepare(train, train[0].label_set, cpu)
    assert told == f"teachers' answers on 6 images in {teaching.cache} (6 new), 0.00 GB"
    assert "(0 new)" in answers.prepare(train, train[0].label_set, cpu)
    files = sorted((tmp_path / "answers").rglob("*.npy"))
    content = [file.read_bytes() for file in files]
    files[0].write_bytes(b"")
    files[1].write_bytes(content[1][:300])
    files[2].write_bytes(content[2][:200] + bytes(byte ^ 0x55 for byte in content[2][200:220]) + content[2][220:])
    assert "(3 new, 3 of them for damaged ones)" in answers.prepare(train, train[0].label_set, cpu)
    assert [file.read_bytes() for file in files] == content
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
