"""`seg-perception evaluate` and `calibrate`: the shipped model through ONNX Runtime."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from seg_perception.cli.main import main
from seg_perception.core.errors import DatasetError, InputError, SettingsError
from seg_perception.core.files import DEFAULT_MODEL, share_path
from seg_perception.core.label_set import load_label_set
from seg_perception.core.metrics import ConfusionMatrix
from seg_perception.core.types import Size
from seg_perception.datasets.base import Sample
from seg_perception.datasets.registry import DatasetSettings, open_dataset
from seg_perception.engines.opening import open_engine
from seg_perception.evaluation import evaluate, load_evaluation_settings
from seg_perception.evaluation.files import read_evaluations, read_run
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


def put_pictures(root: Path, value: int) -> Path:
    for name, pixels in (("images/a.png", np.zeros((64, 96, 3), np.uint8)), ("labels/a.png", np.full((64, 96), value))):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(root / name), pixels.astype(np.uint8))
    return root


def test_two_sets_of_one_folder_name_keep_their_scores_and_pictures_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = []
    for site, value in (("siteA", 0), ("siteB", 7)):
        put_pictures(tmp_path / site / "val", value)
        rows.append({"kind": "folder", "root": f"{site}/val", "mapping": "identity"})
    (tmp_path / "siteB/val/labels/orphan.png").touch()
    (tmp_path / "sets.yaml").write_text(yaml.safe_dump({"datasets": rows, "data_root": str(tmp_path)}))
    out = tmp_path / "report"
    assert main(["evaluate", "--config", str(tmp_path / "sets.yaml"), "--report", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "siteB/val: left out, a label file without an image: 1: " in printed
    assert "siteA/val: is this meant? one class only: every labeled pixel is 'road'" in printed
    content = read_evaluations(out / "evaluation.json")
    assert [e.dataset for e in content.evaluations] == ["siteA/val", "siteB/val"]
    assert len({example.file for example in content.examples}) == len(content.examples) == 2
    page = (out / "report.html").read_text()
    assert page.count("<h2>siteA/val</h2>") == page.count("<h2>siteB/val</h2>") == 1


def test_what_cannot_be_scored_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("seg_perception.model.load", lambda *_: pytest.fail("the model was opened"))
    root = put_pictures(tmp_path / "void", 255)
    command = ["evaluate", "--dataset", "folder", "--mapping", "identity", "--root", str(root)]
    assert main(command) == 2
    assert "void: nothing is labeled: the mapping leaves out every pixel" in capsys.readouterr().err
    (root / "labels/a.png").write_bytes(b"")
    assert main(command) == 2
    assert "void: 1 fault; mend or remove these files:" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # as where the package is not installed
    assert main([*command, "--report", str(tmp_path / "out")]) == 2
    assert "matplotlib" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_dataset_without_labels_has_no_scores() -> None:
    class Void:
        name, label_set, left_out = "void", load_label_set("driving"), ()

        def __len__(self) -> int:
            return 1

        def load(self, index: int) -> Sample:
            return Sample(str(index), np.zeros((64, 96, 3), np.uint8), np.full((64, 96), 255, np.uint8))

    with (
        open_engine(DEFAULT_MODEL, "onnxruntime") as engine,
        pytest.raises(DatasetError, match="void: no pixel of its 1 images is labeled; there is nothing to score"),
    ):
        evaluate(Void(), Segmenter(engine))


def test_shipped_settings_are_found_by_name() -> None:
    assert load_evaluation_settings("held_out").datasets
    by_name, by_path = (load_evaluation_settings(f) for f in ("folder", share_path("config/train/folder.yaml")))
    assert by_name == by_path
    with pytest.raises(
        SettingsError, match=r"no settings 'foldr'; shipped: held_out, .*folder.*; or give a .yaml file"
    ):
        load_evaluation_settings("foldr")


@pytest.mark.parametrize(
    "change",
    [
        lambda d: "[" * 100_000,
        lambda d: json.dumps(d).replace('"counts": [', '"counts": [' + "9" * 400 + ", "),
        lambda d: json.dumps(d | {"evaluations": [[1]]}),
        lambda d: json.dumps(d | {"examples": 5}),
        lambda d: json.dumps(d | {"evaluations": [d["evaluations"][0] | {"images": [[0, "a", 10**400, 1]]}]}),
        lambda d: json.dumps(d | {"evaluations": [d["evaluations"][0] | {"label_set": "x"}]}),
    ],
)
def test_a_file_of_scores_that_lies_is_refused_by_name(tmp_path: Path, change: Callable[[Any], str]) -> None:
    path = tmp_path / "e.json"
    if not path.is_file():
        options = ["--count", "1", "--size", "128x96", "--engine", "onnxruntime", "--json", str(path)]
        assert main(["evaluate", "--dataset", "scenes", *options]) == 0
    path.write_text(change(json.loads(path.read_text())))
    with pytest.raises(InputError, match=r"e\.json: "):
        read_evaluations(path)


@pytest.mark.parametrize(
    "junk, said",
    [("-1,2,3", "'-1' is no step"), ("1e9,2,3", "no step"), ("9" * 400 + ",2,3", "no step"), ("1,x,3", "x"),
     ("1,2,3\n\xff", "utf-8"), ('"' + "x" * 200_000, "field")],
)  # fmt: skip
def test_a_runs_log_with_junk_is_refused_by_name(tmp_path: Path, junk: str, said: str) -> None:
    (tmp_path / "steps.csv").write_bytes(f"step,loss,learning_rate\n{junk}\n".encode("latin-1"))
    with pytest.raises(InputError, match=f"{tmp_path.name}: its logs cannot be read: .*{said}"):
        read_run(tmp_path)
