"""The family of recipes: what each network costs, that NVIDIA's compiler takes it, where its weights come from."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from torch import nn

from seg_perception.core.errors import EngineError
from seg_perception.core.label_set import load_label_set
from seg_perception.core.model_card import ModelCard
from seg_perception.core.settings import load_settings
from seg_perception.core.types import Precision, Size
from seg_perception.networks import build_network, inspect_network
from seg_perception.training.settings import TrainSettings
from seg_perception.training.train import _start_network

SIZE = Size(480, 352)
FAMILY = {  # millions of parameters; GFLOP at 480x352 at least and at most
    "driving_n": (1.60, 1.5, 2.0),
    "driving": (3.33, 3.8, 4.3),
    "driving_m": (18.99, 20, 40),
}


def recipe(repository: Path, name: str) -> TrainSettings:
    return load_settings(TrainSettings, repository / "config" / "train" / f"{name}.yaml")


@pytest.mark.parametrize("name", FAMILY)
def test_a_member_costs_what_its_recipe_says(name: str, repository: Path) -> None:
    network = recipe(repository, name).network
    report = inspect_network(build_network(network.name, 10, **network.options), SIZE)
    parameters, least, most = FAMILY[name]
    assert round(report.parameters / 1e6, 2) == pytest.approx(parameters, abs=0.011)
    assert least <= report.flop / 1e9 <= most


def test_the_one_for_gpus_has_dense_convolutions_only(repository: Path) -> None:
    network = recipe(repository, "driving_m").network.outline()
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) > 20
    assert all(one.groups == 1 for one in convolutions)


@pytest.mark.slow  # an export each; the networks at their default sizes are built by test/engines
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["driving_n", "driving_m"])
def test_nvidias_compiler_takes_it_in_half_precision(name: str, repository: Path) -> None:
    from seg_perception.engines.graph.half import to_half
    from seg_perception.engines.graph.model_file import parse_model
    from seg_perception.engines.tensorrt.build import build_engine
    from seg_perception.engines.tensorrt.plan import BuildSettings, make_plan
    from seg_perception.engines.tensorrt.versions import load_library
    from seg_perception.export.to_onnx import build_onnx

    try:
        library = load_library()
    except EngineError as error:
        pytest.skip(str(error))
    settings = recipe(repository, name).network
    network = build_network(settings.name, 10, **settings.options)
    card = ModelCard(
        name, "0", settings.name, load_label_set("driving"), SIZE, network.size_multiple, Precision.FP32, "0" * 64
    )
    half = to_half(build_onnx(network, card, batch=1, size=SIZE))
    plan = make_plan(parse_model(half.SerializeToString(), name), BuildSettings(Precision.FP16, 1), library, None)
    weights = 2 * inspect_network(network, SIZE).parameters
    assert len(build_engine(plan).content) > 0.9 * weights


def test_the_small_one_starts_from_the_shipped_weights(repository: Path) -> None:
    settings = recipe(repository, "driving_n")
    network, history = _start_network(settings.network, 10)
    assert history is not None
    assert history.network == settings.network.name
    assert network.state_dict()["encoder.stages.1.0.project.weight"].shape[1] == 16 * 3
    assert [path.name for path in settings.distillation.files] == ["driving.safetensors"]


def test_the_table_of_the_family_says_what_was_measured_on_which_part(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = importlib.util.spec_from_file_location("family_benchmark", repository / "benchmarks/family.py")
    assert spec is not None
    assert spec.loader is not None
    family = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "family_benchmark", family)
    spec.loader.exec_module(family)
    assert set(FAMILY) < set(family.MEMBERS)
    scores = {"camvid/val (1 of 3)": {"mean_iou": 78.28, "iou/road": 96.4, "calibration_error": 0.21}}
    members = [
        family.Member(
            "one", "reference", 17_630_000, 256_200_000_000, 35.3, {"onnxruntime": 1577.04}, "40.1 MB", scores
        ),
        family.Member("two", "resnet_ladder", 1_000_000, 2_000_000_000, 4.0, {}, "not built: no library", {}),
    ]
    costs, camvid = family.tables(members).split("\n\ncamvid/val\n\n")
    assert "| `one` | `reference` | 17.63 | 256.2 | 35.3 | 1577.0 | 40.1 MB |" in costs
    assert "| `two` | `resnet_ladder` | 1.00 | 2.0 | 4.0 | - | not built: no library |" in costs
    assert camvid.splitlines()[0].startswith("| model | mean IoU | ECE | road | sidewalk |")
    assert camvid.splitlines()[2] == "| `one` (1 of 3) | 78.28 | 0.21 | 96.40" + " | -" * 9 + " |"
    assert "`two`" not in camvid
