"""open_engine: what is chosen, what is refused, and the words for it."""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fake_cuda import CudaError, FakeCudaRuntime, FakeTensorRt

from seg_perception.core.errors import EngineError, InputError, ModelError
from seg_perception.engines import cuda
from seg_perception.engines.base import EngineOptions
from seg_perception.engines.opening import engine_choices, engines, open_engine, preferred
from seg_perception.engines.tensorrt import compilation
from seg_perception.engines.tensorrt.build import BuiltEngine, build_engine, make_logger
from seg_perception.engines.tensorrt.compilation import find_or_build
from seg_perception.engines.tensorrt.plan import BuildSettings, plan_compilation
from seg_perception.engines.tensorrt.versions import TensorRtLibrary, why_unsupported

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuda-python is there, a driver is not: as on this kind of machine."""
    fault = (0, CudaError.cudaErrorInsufficientDriver)
    runtime = FakeCudaRuntime(fail={"cudaGetDeviceCount": fault, "cudaGetDeviceProperties": fault})
    monkeypatch.setattr(cuda, "load_cuda", lambda: runtime)
    monkeypatch.setattr(cuda, "driver_version", lambda: "libcuda.so.1: cannot open shared object file")


def test_auto_without_a_gpu_takes_onnx_runtime_and_says_why(
    no_gpu: None, driving_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), open_engine(driving_model) as engine:
        assert engine.info.runtime == "onnxruntime"
    assert "engine auto: onnxruntime, because there is no NVIDIA driver" in caplog.text
    assert caplog.text.count("engine auto") == 1
    assert "(tensorrt, tensorrt_rtx" in caplog.text  # said once for all that lack the same


def test_tensorrt_by_name_without_a_gpu_is_an_error(no_gpu: None, nvidia: TensorRtLibrary, driving_model: Path) -> None:
    with pytest.raises(EngineError, match="there is no NVIDIA driver"):
        open_engine(driving_model, "tensorrt_rtx")


def test_why_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = FakeCudaRuntime()
    runtime.cudaGetDeviceCount = lambda: (CudaError.cudaSuccess, 0)  # type: ignore[method-assign]
    assert cuda.find_gpu(runtime) == "there is no NVIDIA GPU"
    assert cuda.find_gpu(FakeCudaRuntime()) == cuda.Gpu("Fake GPU", "8.7")
    for name in ("cuda.bindings.runtime", "cuda.cudart"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(cuda, "driver_version", lambda: 13000)
    assert cuda.find_gpu() == "cuda-python is not installed: pip install cuda-python, of the CUDA version in use"
    monkeypatch.setattr(cuda, "driver_version", lambda: "no libcuda.so.1")  # a laptop needs no cuda-python
    assert cuda.find_gpu() == "there is no NVIDIA driver"
    with pytest.raises(EngineError, match="needs cuda-python: pip install cuda-python"):
        cuda.load_cuda()


# What NVIDIA's library says of itself (an H200: "compute capability 9.0. Supported compute capabilities: 8.0 8.6
# 8.9 12.0 12.1 >12.0", and Turing, 7.5, where it is built for it), against GPUs that people have.
@pytest.mark.parametrize(
    "gpu, runs",
    [
        (("GeForce RTX 2080", 7, 5), True),
        (("A100", 8, 0), True),
        (("Orin", 8, 7), False),
        (("GeForce RTX 4090", 8, 9), True),
        (("H200", 9, 0), False),
        (("B200", 10, 0), False),
        (("GeForce RTX 5090", 12, 0), True),
        (("a GPU of next year", 13, 0), True),
        (("GTX 1080", 6, 1), False),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else str(value),
)
def test_the_library_is_asked_about_this_gpu_before_it_is_chosen(
    nvidia: TensorRtLibrary,
    driving_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    gpu: tuple[str, int, int],
    runs: bool,
) -> None:
    if not nvidia.is_rtx:
        pytest.skip("TensorRT-RTX is not here")
    monkeypatch.setattr(cuda, "load_cuda", lambda: FakeCudaRuntime(gpu=gpu))
    reason = engines()["tensorrt_rtx"].why_not()
    if runs:
        assert reason is None
        return
    name, major, minor = gpu
    expected = (
        rf"TensorRT-RTX \S+ does not support {name} \(compute capability {major}.{minor}\); "
        r"it supports 7.5, 8.0, 8.6, 8.9, 12.0, 12.1 and newer ones"
    )
    assert reason is not None
    assert re.fullmatch(expected, reason)
    with pytest.raises(EngineError, match=expected):  # by name: refused before anything is built
        open_engine(driving_model, "tensorrt_rtx")
    with caplog.at_level(logging.INFO), open_engine(driving_model) as engine:
        assert engine.info.device == "CPU"
    assert reason in caplog.text


def test_plain_tensorrt_is_asked_for_a_builder() -> None:
    gpu, runtime = cuda.Gpu("GTX 1080", "6.1"), FakeCudaRuntime()
    errors: list[str] = []
    good = FakeTensorRt(runtime, 1, 4, 8).library()
    assert why_unsupported(good, gpu, make_logger(good, errors), errors) is None
    refusing = FakeTensorRt(runtime, 1, 4, 8, fail="builder").library()
    reason = why_unsupported(refusing, gpu, make_logger(refusing, errors), errors)
    assert reason == (
        "TensorRT 10.3.0 does not support GTX 1080 (compute capability 6.1): "
        "Target GPU SM 61 is not supported by this TensorRT release."
    )


def test_unknown_names_and_missing_files(driving_model: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="engine 'tpu' is not known; accepted: auto, onnxruntime, openvino, "):
        open_engine(driving_model, "tpu")
    with pytest.raises(FileNotFoundError, match="there is no such model"):
        open_engine(tmp_path / "none.onnx")
    for name in engine_choices():
        with pytest.raises(EngineError, match=r"threads -1 is not accepted: 0 \(all cores .*\) to 256 is"):
            open_engine(driving_model, name, threads=-1)
    with pytest.raises(EngineError, match="batch 0 must be at least 1"):
        EngineOptions(batch=0)
    with pytest.raises(InputError, match="precision 'bf8' is not one of fp32, fp16, int8"):
        EngineOptions(precision="bf8")  # type: ignore[arg-type]


def test_a_compiled_engine_is_not_for_the_cpu(tmp_path: Path) -> None:
    path = tmp_path / "model.engine"
    path.write_bytes(b"plan")
    with pytest.raises(ModelError, match=r"is a compiled engine; onnxruntime takes the \.onnx file it was"):
        open_engine(path, "onnxruntime")
    with pytest.raises(ModelError, match=r"is a compiled engine; openvino_bf16 takes the \.onnx file"):
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


def test_the_engines_that_ship_and_the_order_of_auto() -> None:
    assert set(engine_choices()) >= {"auto", "onnxruntime", "openvino", "openvino_bf16", "tensorrt", "tensorrt_rtx"}
    order = [spec.name for spec in preferred()]
    assert (order[0], order[-1]) == ("tensorrt", "onnxruntime")
    assert not any(name.startswith("openvino") for name in order)  # what auto finds must not hang on a package
