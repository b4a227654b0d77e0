"""`seg-perception export --scores`: a model card holds the scores of these weights, or none."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from seg_perception.cli.main import main
from seg_perception.core.label_set import load_label_set
from seg_perception.core.types import Size
from seg_perception.datasets.base import Sample
from seg_perception.engines.graph.model_file import read_card
from seg_perception.engines.onnxruntime import OnnxRuntimeEngine
from seg_perception.evaluation import evaluate
from seg_perception.evaluation.files import EvaluationFile, write_evaluations
from seg_perception.networks import build_network
from seg_perception.scenes import random_scene
from seg_perception.segmenter import Segmenter
from seg_perception.training.checkpoint import CheckpointInfo, save_weights

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("quick_exports")]

LABELS = load_label_set("driving")
TRAINED = {"camvid/val": {"mean_iou": 12.5, "iou/road": 50.0, "calibration_error": 3.0, "drivable_recall": 70.0}}
OPTIONS = {"width": 0.125, "convolutions": (1, 1, 1, 1)}


class Scenes:
    """A dataset of two rendered scenes."""

    name = "scenes"
    label_set = LABELS

    def __len__(self) -> int:
        return 2

    def load(self, index: int) -> Sample:
        scene = random_scene(index, Size(192, 128))
        return Sample(str(index), scene.image, scene.labels)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("run") / "best.safetensors"
    info = CheckpointInfo("run", "reference", OPTIONS, LABELS, Size(64, 48), step=7, scores=TRAINED)
    save_weights(path, build_network("reference", len(LABELS), **OPTIONS).state_dict(), info)
    return path


@pytest.fixture(scope="module")
def model(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exported without --scores."""
    path = tmp_path_factory.mktemp("export") / "first.onnx"
    assert main(["export", "--checkpoint", str(checkpoint), "--out", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def scores(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What 'seg-perception evaluate --json' writes of that model."""
    engine = OnnxRuntimeEngine(model)
    result = evaluate(Scenes(), Segmenter(engine))
    path = tmp_path_factory.mktemp("scores") / "scores.json"
    told = engine.card.run["temperature"]
    write_evaluations(path, EvaluationFile(engine.card.id, "a test", (result,), temperature=told))
    return path


def test_scores_of_an_evaluation_replace_those_of_the_training(
    checkpoint: Path, model: Path, scores: Path, tmp_path: Path
) -> None:
    first = read_card(model)
    assert first.scores == TRAINED
    out = tmp_path / "scored.onnx"
    assert main(["export", "--checkpoint", str(checkpoint), "--out", str(out), "--scores", str(scores)]) == 0
    card = read_card(out)
    written = json.loads(scores.read_text())["evaluations"][0]["percent"]
    assert card.scores == {"scenes": written}
    assert {"mean_iou", "pixel_accuracy", "drivable_max_f"} <= set(written)
    assert 0.0 < written["pixel_accuracy"] <= 100.0  # percent
    assert dataclasses.replace(card, scores=TRAINED) == first  # nothing else has changed


@pytest.mark.parametrize(
    "model_id, options, wanted",
    [
        ("run-0-fp32-00000000", (), "run-0-fp32-"),  # other weights
        ("", ("--precision", "fp16"), "run-0-fp16-"),  # the same weights, but another precision
        ("", ("--model-version", "2"), "run-2-fp32-"),
        ("", ("--model-name", "other"), "other-0-fp32-"),
    ],
)
def test_scores_of_something_else_are_refused(
    checkpoint: Path, model: Path, scores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    model_id: str, options: tuple[str, ...], wanted: str,
) -> None:  # fmt: skip
    document = json.loads(scores.read_text())
    document["model"] = model_id or document["model"]
    other = tmp_path / "other.json"
    other.write_text(json.dumps(document))
    out = tmp_path / "scored.onnx"
    orders = ["export", "--checkpoint", str(checkpoint), "--out", str(out), "--scores", str(other), *options]
    assert main(orders) == 2
    hash_start = read_card(model).weights_sha256[:8]
    assert f"holds the scores of {document['model']}, not of {wanted}{hash_start}" in capsys.readouterr().err
    assert not out.exists()


def test_scores_at_another_temperature_are_refused(
    checkpoint: Path, scores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scored.onnx"
    orders = ["export", "--checkpoint", str(checkpoint), "--out", str(out), "--scores", str(scores)]
    assert main([*orders, "--temperature", "1.5"]) == 2
    assert "was measured at temperature 1.0, and the graph shall have 1.5" in capsys.readouterr().err
    assert not out.exists()


def test_the_trainings_scores_of_the_confidence_fall_away_with_another_temperature(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "calibrated.onnx"
    assert main(["export", "--checkpoint", str(checkpoint), "--out", str(out), "--temperature", "1.5"]) == 0
    assert read_card(out).scores == {"camvid/val": {"mean_iou": 12.5, "iou/road": 50.0}}
    assert "not on the model card: the training's are of temperature 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "scores.json"),
        ("{", "scores.json: not valid JSON"),
        ("{}", "not what 'seg-perception evaluate --json'"),
    ],
)
def test_scores_that_cannot_be_read(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, message: str
) -> None:
    path = tmp_path / "scores.json"
    if content is not None:
        path.write_text(content)
    out = tmp_path / "scored.onnx"
    assert main(["export", "--checkpoint", str(checkpoint), "--out", str(out), "--scores", str(path)]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_an_impossible_batch_is_refused(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "model.onnx"
    assert main(["export", "--checkpoint", str(checkpoint), "--out", str(out), "--batch", "0"]) == 2
    assert "batch 0 is not accepted: it must be at least 1" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_a_file_is_made_from_is_not_replaced(
    checkpoint: Path, model: Path, scores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "linked.onnx").hardlink_to(model)
    for command in (
        ["export", "--checkpoint", checkpoint, "--out", checkpoint],
        ["average", checkpoint, checkpoint, "--out", checkpoint],
        ["import", model, "--out", tmp_path / "linked.onnx"],
        ["report", scores, "--out", scores],
    ):
        assert main([str(word) for word in command]) == 2
        assert f"{command[-1]}: would replace what it is made from" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["linked.onnx"]


def test_the_pixel_budget_of_the_card_can_be_another_than_the_trainings(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "larger.onnx"
    command = ["export", "--checkpoint", str(checkpoint), "--out", str(path), "--deployed-size"]
    assert main([*command, "100x64"]) == 2
    assert "pad to 112x64" in capsys.readouterr().err
    assert not path.exists()
    assert main([*command, "96x64"]) == 0
    assert read_card(path).input_size == Size(96, 64)
    engine = OnnxRuntimeEngine(path)
    assert engine.info.fixed_size is None, "the graph itself takes any size"
    engine.close()
