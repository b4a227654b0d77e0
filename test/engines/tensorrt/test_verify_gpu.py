"""`make verify-gpu` itself, where there is no GPU: the CUDA runtime is the fake, the engines are ONNX Runtime's.

It shows that the script runs to its end, and that a wrong engine, a leak or a missing graph fails it.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeCudaRuntime

from seg_perception.core.errors import EngineError
from seg_perception.core.types import RgbImage, Size
from seg_perception.engines.base import EngineOptions
from seg_perception.engines.onnxruntime import OnnxRuntimeEngine

pytestmark = pytest.mark.timeout(600)

DRAWN: dict[Size, list[RgbImage]] = {}  # by the first run, for all


def load_script(path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, path.stem, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def script(repository: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_script(repository / "benchmarks" / "verify_gpu.py", monkeypatch)


@pytest.fixture
def verify(
    script: ModuleType,
    exported: Callable[[str, str], bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., tuple[int, dict[str, Any]]]:
    """Call it with what the engines do wrong; it gives the exit status and the JSON."""
    model = tmp_path / "model.onnx"
    model.write_bytes(exported("reference", "fp32"))

    def run(wrong: str = "") -> tuple[int, dict[str, Any]]:
        cuda = FakeCudaRuntime()
        free = [1 << 30]
        cuda.cudaMemGetInfo = lambda: (0, free[0], 2 << 30)  # type: ignore[method-assign,assignment,return-value]

        class Engine(OnnxRuntimeEngine):
            def __init__(self, path: Path, options: EngineOptions) -> None:
                super().__init__(path, threads=1)
                self.uses_cuda_graph = options.cuda_graph and wrong != "no graph"

            def infer(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
                if wrong == "fails":
                    raise EngineError("cudaStreamSynchronize failed")
                labels, confidence = super().infer(images)
                if wrong == "leaks":
                    free[0] -= 1 << 20
                if wrong == "second image":
                    labels[1:] ^= 1
                return labels, confidence

        def open_one(path: Path, name: str, options: EngineOptions) -> Engine:
            assert name == "onnxruntime_cuda"
            return Engine(path, options)

        draw = script.real_images
        monkeypatch.setattr(
            script, "real_images", lambda given, size: DRAWN.get(size) or DRAWN.setdefault(size, draw(given, size))
        )
        monkeypatch.setattr(script, "load_cuda", lambda: cuda)
        monkeypatch.setattr(script, "gpu_engines", lambda: (["onnxruntime_cuda"], "tensorrt: not installed"))
        monkeypatch.setattr(script, "open_engine", open_one)
        monkeypatch.setattr(script, "LARGEST_BATCH", 3)
        monkeypatch.setattr(script.Verification, "models", lambda self, folder: {"fp16": model})
        monkeypatch.setattr(script.Verification, "other_runners", lambda self: None)
        timed = script.Verification.time
        monkeypatch.setattr(script.Verification, "time", lambda self, *arguments: timed(self, *arguments[:3], runs=2))
        orders = ["--model", str(model), "--images", str(tmp_path / "none"), "--runs", "10", "--out", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", ["verify_gpu.py", *orders])
        status = script.main()
        monkeypatch.undo()
        return status, json.loads((tmp_path / "verify_gpu.json").read_text())

    return run


def test_it_runs_to_its_end(verify: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    status, document = verify()
    printed = capsys.readouterr().out
    assert (status, document["faults"]) == (0, [])
    assert "not verified: tensorrt: not installed" in printed
    # the fake GPU: 16 SMs at 1 GHz, capability 8.7: 16 x 1024 FLOP a nanosecond; 256 bits at 2 x 1 GHz
    assert "the chip: 16 TFLOP/s in fp16, 4 in fp32, 64 GB/s" in printed
    assert all(0.0 < row["of_chip_limit"] < 1.0 for row in document["latency"])
    assert "10 runs: device memory grew by 0 bytes" in printed
    assert "labels as ONNX Runtime fp32 100.0000%" in printed
    assert "all checks passed" in printed
    rows = [(row["runner"], row["batch"]) for row in document["latency"]]
    assert rows == [(f"onnxruntime_cuda fp16{graph}", n) for graph in (", CUDA graph", "") for n in (1, 3)]


@pytest.mark.parametrize(
    "wrong, message",
    [
        ("leaks", "device memory grew by 10485760 bytes over 10 runs"),  # 10 x 1 MiB, 2 MiB are allowed
        ("no graph", "the CUDA graph could not be captured"),
        ("second image", "a batch of 2 agrees with single images in"),
        ("fails", "onnxruntime_cuda fp16: cudaStreamSynchronize failed"),
    ],
)
def test_what_is_wrong_fails_it(verify: Callable[..., Any], wrong: str, message: str) -> None:
    status, document = verify(wrong)
    assert status == 1
    assert any(message in fault for fault in document["faults"])


def test_without_a_gpu_nothing_is_claimed(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "gpu_engines", lambda: ([], "tensorrt: there is no NVIDIA GPU"))
    for options, status in (([], 0), (["--require-gpu"], 3)):
        monkeypatch.setattr(sys, "argv", ["verify_gpu.py", *options])
        assert script.main() == status
        assert "skipped, nothing was verified: tensorrt: there is no NVIDIA GPU" in capsys.readouterr().out


def test_the_least_time_of_a_chip(script: ModuleType) -> None:
    limits = script.ChipLimits(half_tflops=2.0, float_tflops=1.0, gigabytes=100.0)
    work = script.Work(gflop=4.0, weights=10_000_000, activations=5_000_000)
    # fp16: 4 GFLOP / 2 TFLOP/s = 2 ms; (10 + 5) x 2 MB / 100 GB/s = 0.3 ms
    assert limits.least_ms(work, 1, False) == pytest.approx(2.0)
    # fp32, batch 2: 8 GFLOP / 1 TFLOP/s = 8 ms
    assert limits.least_ms(work, 2, True) == pytest.approx(8.0)
    # no arithmetic to speak of: (10 + 5 x 3) x 2 MB / 100 GB/s = 0.5 ms
    assert limits.least_ms(script.Work(0.1, 10_000_000, 5_000_000), 3, False) == pytest.approx(0.5)


def test_the_engine_benchmark_says_which_target_was_missed(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = load_script(repository / "benchmarks" / "engines.py", monkeypatch)

    def row(precision: str, agreement: float, mean_iou: float) -> object:
        return benchmark.Agreement(precision, 1, agreement, agreement, 0, mean_iou, 1.0, 1.0)

    good = [row("fp32", 100.0, 77.0), row("fp16", 99.5, 76.0), row("int8", 98.5, 78.0)]
    assert benchmark.missed_targets(good) == []
    bad = [row("fp32", 100.0, 77.0), row("fp16", 99.4, 77.0), row("int8", 98.4, 75.9)]
    assert benchmark.missed_targets(bad) == [
        "fp16: 99.4 % of labels as fp32, 99.5 % are wanted",
        "int8: 98.4 % of labels as fp32, 98.5 % are wanted",
        "int8: mean IoU 1.10 points below fp32, 1.0 are allowed",
    ]
