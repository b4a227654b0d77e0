"""`seg-perception evaluate` and `calibrate`: the shipped model through ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from seg_perception.cli.main import main
from seg_perception.core.metrics import ConfusionMatrix
from seg_perception.core.types import Size
from seg_perception.datasets.registry import DatasetSettings, open_dataset
from seg_perception.engines.opening import open_engine
from seg_perception.evaluation.files import read_evaluations
from seg_perception.segmenter import Segmenter


def test_the_command_scores_exactly_what_the_segmenter_answers(
    driving_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report"
    options = ["--dataset", "scenes", "--split", "val", "--count", "1", "--size", "128x96", "--engine", "onnxruntime"]
    status = main(["evaluate", *options, "--json", str(tmp_path / "deep/e.json"), "--report", str(report)])
    assert status == 0
    printed = capsys.readouterr().out
    assert "onnxruntime" in printed
    assert "scenes/val: 1 images" in printed

    dataset = open_dataset(DatasetSettings("scenes", split="val", count=1, size=Size(128, 96)))
    engine = open_engine(driving_model, "onnxruntime")
    segmenter = Segmenter(engine)
    matrix = ConfusionMatrix(10)
    sample = dataset.load(0)
    matrix.add(sample.labels, segmenter.segment(sample.image).labels)
    engine.close()
    (evaluation,) = read_evaluations(tmp_path / "deep/e.json").evaluations
    assert (evaluation.counts.confusion == matrix.counts).all()

    assert (report / "report.html").stat().st_size > 50_000
    assert len(list((report / "examples").iterdir())) == 1
    assert (read_evaluations(report / "evaluation.json").evaluations[0].counts.table == evaluation.counts.table).all()


def test_several_datasets_from_a_file_and_from_a_trainings_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"kind": "scenes", "split": split, "count": 1, "size": "128x96"} for split in ("train", "val")]
    (tmp_path / "sets.yaml").write_text(yaml.safe_dump({"datasets": rows}))
    (tmp_path / "training.yaml").write_text(yaml.safe_dump({"name": "run", "steps": 5, "validation": rows}))
    for name in ("sets", "training"):
        out = tmp_path / f"{name}.json"
        assert main(["evaluate", "--config", str(tmp_path / f"{name}.yaml"), "--json", str(out)]) == 0
        found = [e.dataset for e in read_evaluations(out).evaluations]
        assert found == ["scenes/train", "scenes/val"]


def test_wrong_options_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate"]) == 2
    assert "name one dataset with --dataset (and --root), or several with --config" in capsys.readouterr().err
    assert main(["evaluate", "--dataset", "nuscenes"]) == 2
    assert "kind: no dataset 'nuscenes'; known:" in capsys.readouterr().err
    (tmp_path / "sets.yaml").write_text("datasets: [{kind: scenes, cuont: 3}]")
    assert main(["evaluate", "--config", str(tmp_path / "sets.yaml")]) == 2
    assert "datasets[0].cuont: unknown" in capsys.readouterr().err


def test_outputs_that_cannot_be_written_are_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_work(*_: object, **__: object) -> None:
        pytest.fail("the model was opened")

    monkeypatch.setattr("seg_perception.model.load", no_work)
    command = ["evaluate", "--dataset", "scenes", "--count", "1"]
    (tmp_path / "file").write_text("")
    for option, path, message in (
        ("--json", "/proc/e.json", "cannot write"),  # a folder that takes no files, not even root's
        ("--json", str(tmp_path), "there is a folder of that name"),
        ("--json", str(tmp_path / "file/e.json"), "file"),
        ("--report", "/proc", "cannot write"),
        ("--report", str(tmp_path / "file"), "file"),
    ):
        assert main([*command, option, path]) == 2
        assert message in capsys.readouterr().err
    assert main(["report", "nowhere", "--out", "/proc/report.html"]) == 2
    assert "cannot write" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"], "no trial is left behind"


def test_a_dataset_of_other_classes_is_refused(capsys: pytest.CaptureFixture[str], shared_data: Path) -> None:
    command = ["evaluate", "--dataset", "camvid", "--root", str(shared_data / "camvid11"), "--mapping", "camvid11_ids"]
    assert main(command) == 2
    assert "maps to the classes sky, building" in capsys.readouterr().err
