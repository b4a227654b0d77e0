"""`seg-perception benchmark` on this machine's real engines, and what of it "auto" may take."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from seg_perception.cli.main import main
from seg_perception.core.errors import DatasetError, EngineError, InputError
from seg_perception.core.label_set import load_label_set
from seg_perception.core.types import Size
from seg_perception.datasets.base import Dataset
from seg_perception.engines import opening
from seg_perception.engines.opening import TunedAnswer, engines, open_engine, store_answer, stored_answer, tuned_file
from seg_perception.evaluation import engine_benchmark
from seg_perception.evaluation.engine_benchmark import EngineBenchmark, Row, Variant, run_benchmark

SIZE = Size(96, 64)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def row(model: Path, engine: str, ms: float, equal: float = 1.0, iou: float | None = None, busy: float = 1.0) -> Row:
    variant = Variant(model, engine, SIZE, 2, 1, None)
    return Row(variant, "fp32", ms, ms * 1.2, ms * 2 / busy, 50.0, equal, iou)


def finished(model: Path, rows: list[Row]) -> EngineBenchmark:
    best = engine_benchmark.best_row(rows, model, [SIZE])
    return EngineBenchmark("a processor, 2 cores", tuple(rows), {}, best)


@pytest.mark.timeout(600)
def test_the_command_measures_what_runs_here(
    driving_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    orders = ["--network-sizes", str(SIZE), "--threads", "1", "2", "--seconds", "0.1", "--out", str(out), "--dataset"]
    looked_at = []

    def mean_iou(engine: object, size: Size, dataset: Dataset) -> float:
        looked_at.append(len(dataset))
        return original(engine, size, dataset)

    original = engine_benchmark.mean_iou_of
    monkeypatch.setattr(engine_benchmark, "mean_iou_of", mean_iou)
    assert main(["benchmark", str(driving_model), *orders, "scenes", "--count", "4", "--every", "2"]) == 0
    assert set(looked_at) == {2}
    printed = capsys.readouterr().out
    rows = json.loads((out / "benchmark.json").read_text())["rows"]
    here = [name for name, spec in engines().items() if spec.why_not() is None and spec.device.value == "CPU"]
    assert sorted((r["engine"], r["threads"]) for r in rows) == sorted((n, t) for n in here for t in (1, 2))
    for measured in rows:
        assert measured["fault"] == ""
        assert 0 < measured["ms"] <= measured["p95_ms"]
        assert measured["cpu_ms"] > 0
        assert measured["equal_labels"] > 0.98
        assert 10 < measured["mean_iou"] < 100
    assert f"    engine: {next(r['engine'] for r in rows if r['best'])}" in printed
    picture = cv2.imread(str(out / "benchmark.png"))
    assert picture.shape[1] > 800
    assert picture.std() > 10
    assert not tuned_file().exists()  # only with --store


def test_the_best_is_the_fastest_of_those_that_answer_as_well() -> None:
    model = Path("m.onnx")
    slow, wrong, fast = (
        row(model, "onnxruntime", 30.0),
        row(model, "x", 5.0, 0.98),
        row(model, "openvino_bf16", 15.0, 0.997),
    )
    result = finished(model, [slow, wrong, fast])
    assert result.best is fast
    assert "openvino_bf16" in result.parameters()
    assert "threads: 2" in result.parameters()
    # with data, mean IoU judges: half a point may be lost, no more
    scored = [dataclasses.replace(r, mean_iou=iou) for r, iou in ((slow, 80.0), (wrong, 79.6), (fast, 79.4))]
    assert finished(model, scored).best is scored[1]
    failed = dataclasses.replace(fast, fault="no kernel")
    assert finished(model, [slow, failed]).best is slow


def test_a_stored_answer_is_taken_by_auto_and_only_for_what_was_measured(
    driving_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    if engines()["openvino"].why_not() is not None:
        pytest.skip("OpenVINO is not here")
    rows = [row(driving_model, "onnxruntime", 30.0), row(driving_model, "openvino", 15.0, 0.9999)]
    answer = finished(driving_model, rows).answer()
    assert answer is not None
    assert (answer.engine, answer.threads, answer.onnxruntime_milliseconds) == ("openvino", 2, 30.0)
    store_answer(answer)
    store_answer(dataclasses.replace(answer, milliseconds=14.0))  # the later one counts
    with caplog.at_level(logging.INFO), open_engine(driving_model) as engine:
        assert engine.info.runtime == "openvino"
    assert "14.0 ms an image where onnxruntime took 30.0, 99.99% of labels equal" in caplog.text
    with open_engine(driving_model, "onnxruntime") as engine:
        assert engine.info.runtime == "onnxruntime"  # by name is by name
    (tmp_path / "other.onnx").write_bytes(b"another file")
    for change, path in (
        (lambda: monkeypatch.setattr(opening, "package_version", lambda engine: "0"), driving_model),
        (lambda: monkeypatch.setattr(opening, "processor_name", lambda: "another"), driving_model),
        (lambda: monkeypatch.setattr(opening, "usable_cores", lambda: 64), driving_model),
        (lambda: None, tmp_path / "other.onnx"),
        (lambda: tuned_file().write_text('{"answers": [{"engine": 3}]}'), driving_model),
        (lambda: tuned_file().write_text("[" * 100_000), driving_model),
    ):
        change()
        assert stored_answer(hashlib.sha256(path.read_bytes()).hexdigest()) is None
        monkeypatch.undo()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert "holds no answer that can be used, delete it" in caplog.text


def test_no_answer_from_a_busy_machine_or_of_another_model(driving_model: Path) -> None:
    first, int8 = row(driving_model, "onnxruntime", 30.0), row(Path("int8.onnx"), "openvino", 9.0)
    assert finished(driving_model, [first, int8]).answer() is None  # auto opens the model that it is given
    waiting = [dataclasses.replace(r, cpu_milliseconds=r.milliseconds * 0.5) for r in (first,)]
    result = finished(driving_model, waiting)
    assert result.busy
    assert result.answer() is None
    assert "other work kept the processor busy" in result.table()


def test_what_does_not_fit_is_said(
    driving_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = np.zeros((64, 96, 3), np.uint8)
    monkeypatch.setattr(engine_benchmark, "open_engine", None)  # before anything is opened
    with pytest.raises(InputError, match=r"network size 100x64 does not fit .* multiples of 32"):
        run_benchmark([driving_model], [image], sizes=[SIZE, Size(100, 64)])
    other: Any = SimpleNamespace(name="other", label_set=load_label_set("camvid11"))
    with pytest.raises(DatasetError, match="other maps to the classes sky, building"):
        run_benchmark([driving_model], [image], dataset=other)
    with pytest.raises(EngineError, match="engine 'tpu' is not known; accepted: onnxruntime"):
        run_benchmark([driving_model], [image], names=["tpu"])
    with pytest.raises(InputError, match="needs a model and at least one image"):
        run_benchmark([driving_model], [])
    assert main(["benchmark", "--threads", "0"]) == 2
    assert "threads and batches must be at least 1" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main(["benchmark", "--out", str(tmp_path / "file")]) == 2
    assert "file" in capsys.readouterr().err


def test_an_answer_for_people() -> None:
    answer = TunedAnswer("0" * 64, "p", 4, "openvino_bf16", "1", 4, 8.0, 20.0, 0.9973, "2026-11-26T10:00:00")
    assert str(answer) == (
        "openvino_bf16 with 4 threads, measured here on 2026-11-26: 8.0 ms an image where onnxruntime took 20.0, "
        "99.73% of labels equal"
    )
