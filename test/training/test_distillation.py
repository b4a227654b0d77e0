"""Teachers: what a student learns of them, by hand and end to end."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from seg_perception.core.errors import SettingsError
from seg_perception.core.label_set import load_label_set
from seg_perception.networks.registry import build_network
from seg_perception.training.distillation import Teachers, divergence_from, open_teachers
from seg_perception.training.settings import DistillationSettings
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
    teacher = run_training(tiny())
    taught = replace(tiny(), name="taught", distillation=DistillationSettings((teacher,), 2.0, 0.5))
    alone = replace(tiny(), name="alone")
    losses = {}
    for settings in (taught, alone, replace(taught, name="again")):
        run_training(settings)
        rows = (settings.run_folder / "steps.csv").read_text().splitlines()[1:]
        losses[settings.name] = [float(row.split(",")[1]) for row in rows]
    assert losses["taught"] == losses["again"]
    assert all(t > a for t, a in zip(losses["taught"][:1], losses["alone"][:1]))  # the divergence comes on top
