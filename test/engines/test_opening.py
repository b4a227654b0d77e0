"""open_engine: what is chosen, what is refused, and the words for it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fake_cuda import CudaError, FakeCudaRuntime

from seg_perception.core.errors import EngineError, ModelError
from seg_perception.engines import cuda, opening
from seg_perception.engines.opening import TensorRtOptions, open_engine, why_no_tensorrt
from seg_perception.engines.runtimes import RUNTIMES
from seg_perception.engines.tensorrt import compilation
from seg_perception.engines.tensorrt.build import BuildSettings, BuiltEngine, build_engine
from seg_perception.engines.tensorrt.compilation import find_or_build, plan_compilation
from seg_perception.engines.tensorrt.versions import TensorRtLibrary

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuda-python is there, a driver is not: as on this kind of machine."""
    fault = (0, CudaError.cudaErrorInsufficientDriver)
    runtime = FakeCudaRuntime(fail={"cudaGetDeviceCount": fault, "cudaGetDeviceProperties": fault})
    monkeypatch.setattr(cuda, "load_cuda", lambda: runtime)


def test_auto_without_a_gpu_takes_onnx_runtime_and_says_why(
    no_gpu: None, driving_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        engine = open_engine(driving_model)
    assert engine.info.runtime == "onnxruntime"
    assert "engine auto: ONNX Runtime, because there is no usable NVIDIA GPU" in caplog.text
    assert "CUDA driver version is insufficient" in caplog.text
    engine.close()


def test_tensorrt_by_name_without_a_gpu_is_an_error(no_gpu: None, nvidia: TensorRtLibrary, driving_model: Path) -> None:
    with pytest.raises(EngineError, match=r"cudaGetDeviceProperties failed.*driver version is insufficient"):
        open_engine(driving_model, "tensorrt_rtx")


def test_auto_without_cuda_python(driving_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_MODULES", ("no_such_module",))
    assert why_no_tensorrt() == "cuda-python is not installed"
    with pytest.raises(EngineError, match="needs cuda-python: pip install cuda-python"):
        cuda.load_cuda()


def test_auto_without_any_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = FakeCudaRuntime()
    runtime.cudaGetDeviceCount = lambda: (CudaError.cudaSuccess, 0)  # type: ignore[method-assign]
    monkeypatch.setattr(cuda, "load_cuda", lambda: runtime)
    assert why_no_tensorrt() == "there is no NVIDIA GPU"


def test_unknown_names_and_missing_files(driving_model: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="engine 'tpu' is not known; accepted: auto, onnxruntime, openvino, "):
        open_engine(driving_model, "tpu")
    with pytest.raises(FileNotFoundError, match="there is no such model"):
        open_engine(tmp_path / "none.onnx")
    for runtime in RUNTIMES:
        with pytest.raises(EngineError, match=r"threads -1 is not accepted: 0 \(all cores .*\) or more is"):
            open_engine(driving_model, runtime, threads=-1)
    with pytest.raises(EngineError, match="build_engine 'always' is not one of if_missing, never"):
        TensorRtOptions(build_engine="always")


def test_a_compiled_engine_is_not_for_the_cpu(tmp_path: Path) -> None:
    path = tmp_path / "model.engine"
    path.write_bytes(b"plan")
    with pytest.raises(ModelError, match=r"is a TensorRT engine; ONNX Runtime takes the \.onnx file"):
        open_engine(path, "onnxruntime")
    with pytest.raises(ModelError, match=r"is a TensorRT engine; OpenVINO takes the \.onnx file"):
        open_engine(path, "openvino_bf16")
    with pytest.raises(EngineError, match=r"has no model\.engine\.json beside it"):
        open_engine(path)


def test_a_missing_engine_is_built_or_refused(
    nvidia: TensorRtLibrary, exported: Callable[[str, str], bytes], tmp_path: Path
) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(exported("efficientnet_ladder", "fp32"))
    plan = plan_compilation(model, BuildSettings(), nvidia, None)
    cache = tmp_path / "cache"
    with pytest.raises(EngineError, match=r"(?s)no engine of .*Building is switched off; build it beforehand with"):
        find_or_build(plan, may_build=False, folder=cache)
    phases: list[str] = []
    file = find_or_build(plan, may_build=True, folder=cache, progress=lambda p: phases.append(p.phase))
    assert len(phases) > 10
    assert file.card.precision == "fp16"
    assert find_or_build(plan, may_build=False, folder=cache) == file
    file.path.write_bytes(file.content[:-1])
    with pytest.raises(EngineError, match="is truncated"):
        find_or_build(plan, may_build=False, folder=cache)
    assert find_or_build(plan, may_build=True, folder=cache).path == file.path


def test_two_that_start_together_build_once(
    nvidia: TensorRtLibrary,
    exported: Callable[[str, str], bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(exported("efficientnet_ladder", "fp32"))
    plan = plan_compilation(model, BuildSettings(), nvidia, None)
    builds: list[str] = []
    started = threading.Event()

    def build(*arguments: object) -> BuiltEngine:
        builds.append(threading.current_thread().name)
        started.set()
        while "another process is building" not in caplog.text:
            time.sleep(0.01)
        return build_engine(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(compilation, "build_engine", build)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(find_or_build, plan, True, tmp_path / "cache")
        assert started.wait(60)
        second = pool.submit(find_or_build, plan, True, tmp_path / "cache")
        assert first.result() == second.result()
    assert len(builds) == 1


def test_names_are_those_that_the_node_offers() -> None:
    assert opening.RUNTIMES == ("auto", "onnxruntime", "openvino", "openvino_bf16", "tensorrt", "tensorrt_rtx")
