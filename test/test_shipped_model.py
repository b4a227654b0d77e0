"""The model that ships: its card says what it must, and it still sees."""

from __future__ import annotations

import hashlib
import runpy
from pathlib import Path

import pytest

from seg_perception.core.errors import EngineError
from seg_perception.core.files import DEFAULT_WEIGHTS, model_file, shipped_models
from seg_perception.core.label_set import load_label_set
from seg_perception.datasets.registry import DatasetSettings, open_dataset
from seg_perception.engines.graph.model_file import read_card
from seg_perception.engines.opening import open_engine
from seg_perception.engines.tensorrt.build import build_engine
from seg_perception.engines.tensorrt.plan import BuildSettings, plan_compilation
from seg_perception.engines.tensorrt.versions import load_library
from seg_perception.evaluation import Evaluation, evaluate
from seg_perception.segmenter import Segmenter

_LARGEST_BYTES = 20_000_000


def test_the_card_says_how_the_model_was_made_and_what_its_data_allows(driving_model: Path) -> None:
    card = read_card(driving_model)
    assert card.name == "driving"
    assert card.label_set == load_label_set("driving")
    assert int(card.weights_sha256, 16) != 0
    assert "non-commercial" in card.data_license
    assert len(card.data) >= 4, "ImageNet, CamVid, KITTI, Cityscapes, scenes"
    assert card.limits
    assert {"steps", "seed", "settings_sha256", "start"} <= set(card.run)
    assert {"camvid/val", "cityscapes256/val", "kitti/val", "scenes/val"} <= set(card.scores)
    assert driving_model.stat().st_size <= _LARGEST_BYTES


def test_the_weights_to_start_from_are_those_of_the_model(driving_model: Path) -> None:
    assert hashlib.sha256(DEFAULT_WEIGHTS.read_bytes()).hexdigest() == read_card(driving_model).weights_sha256


def test_it_labels_procedural_scenes(driving_model: Path) -> None:
    evaluation = _scored(driving_model, DatasetSettings(kind="scenes", split="val", count=6), Path())
    assert evaluation.scores.mean_iou >= 0.6
    assert evaluation.scores.iou[0] >= 0.94  # road
    # percent of the pixels; scenes that are drawn otherwise make cards and docs/results.md untrue: score them anew
    drawn = 100 * evaluation.counts.confusion.sum(axis=1) / evaluation.counts.confusion.sum()
    assert drawn.tolist() == pytest.approx(
        [37.904, 3.792, 0.719, 0.107, 0.365, 10.104, 1.788, 23.196, 6.280, 15.744], abs=0.03
    )


def test_it_labels_a_drive_it_has_never_seen(driving_model: Path, shared_data: Path) -> None:
    # every eighth of CamVid's 101 validation frames; the full sets: benchmarks/shipped_model.py
    settings = DatasetSettings(kind="camvid", root=Path("camvid11"), split="val", every=8)
    evaluation = _scored(driving_model, settings, shared_data)
    assert len(evaluation.images) == 13  # frames 0, 8, ..., 96
    assert evaluation.scores.mean_iou >= 0.72
    assert evaluation.scores.iou[0] >= 0.94  # road


def _scored(model: Path, settings: DatasetSettings, data_root: Path) -> Evaluation:
    engine = open_engine(model, "onnxruntime")
    try:
        return evaluate(open_dataset(settings, data_root), Segmenter(engine))
    finally:
        engine.close()


@pytest.mark.parametrize("metric", ["mean_iou", "iou/road"])
@pytest.mark.parametrize("dataset", ["camvid/val", "cityscapes256/val", "kitti/val"])
def test_the_scores_on_the_card_are_above_what_we_promise(
    repository: Path, driving_model: Path, dataset: str, metric: str
) -> None:
    floors = runpy.run_path(str(repository / "benchmarks/shipped_model.py"), run_name="benchmark")["FLOORS"]
    assert read_card(driving_model).scores[dataset][metric] >= floors[dataset, metric]


@pytest.mark.parametrize(
    "name, network, precision, scored, mean_iou, megabytes",
    [
        ("driving_n", "efficientnet_ladder", "fp32", "camvid/val", 76, 7),
        ("reference", "reference", "fp16", "camvid/val (1 of 3)", 78, 40),
    ],
)
def test_the_family_ships_by_name_and_nvidia_builds_it(
    name: str, network: str, precision: str, scored: str, mean_iou: float, megabytes: float
) -> None:
    path = model_file(name)
    card = read_card(path)
    assert (card.name, card.network, card.precision) == (name, network, precision)
    assert card.scores[scored]["mean_iou"] > mean_iou
    assert path.stat().st_size < megabytes * 1e6
    assert model_file("nothing.onnx") == Path("nothing.onnx")
    assert model_file() == model_file("driving")
    assert shipped_models() == ("driving", "driving_n", "reference")
    try:
        library = load_library()
    except EngineError as error:
        pytest.skip(f"NVIDIA's compiler is not here: {error}")
    assert build_engine(plan_compilation(path, BuildSettings(), library, None)).content
