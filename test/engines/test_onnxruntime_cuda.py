"""ONNX Runtime's CUDA engine: buffers, batches, graphs, failures and release, on the named fakes."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fake_cuda import CudaError, FakeCudaRuntime, assert_images_are_gathered
from fake_onnxruntime import FakeOnnxRuntime

from seg_perception.core.errors import EngineError, InputError, ModelError
from seg_perception.core.types import Precision, Size
from seg_perception.engines import cuda as cuda_module
from seg_perception.engines import onnxruntime_cuda
from seg_perception.engines.base import EngineOptions
from seg_perception.engines.onnxruntime_cuda import OnnxRuntimeCudaEngine, why_no_provider
from seg_perception.engines.opening import choose

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def model(exported: Callable[[str, str], bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of ours; its card says 128x96."""
    path = tmp_path_factory.mktemp("cuda") / "model.onnx"
    path.write_bytes(exported("reference", "fp32"))
    return path


def open_fake(model: Path, cuda: FakeCudaRuntime, fail: str = "", **options: Any) -> OnnxRuntimeCudaEngine:
    return OnnxRuntimeCudaEngine(
        model,
        EngineOptions(**{"batch": 3} | options),
        FakeOnnxRuntime(cuda, fail),
        cuda,  # type: ignore[arg-type]
    )


def images(count: int, seed: int = 0, size: Size = Size(128, 96)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size.height, size.width, 3), np.uint8)


@pytest.mark.parametrize("graph", [False, True], ids=["plain", "cuda graph"])
def test_every_batch_is_answered_with_its_own_pixels(model: Path, graph: bool) -> None:
    cuda = FakeCudaRuntime()
    with open_fake(model, cuda, cuda_graph=graph) as engine:
        for seed, count in enumerate((1, 3, 3, 3, 2, 2, 2, 1, 3, 2, 1, 1, 1)):
            batch = images(count, seed)
            labels, confidence = engine.infer(batch)
            np.testing.assert_array_equal(labels, batch[..., 0])
            np.testing.assert_array_equal(confidence, batch[..., 1])
        assert engine.uses_cuda_graph is graph  # type: ignore[attr-defined]
    assert cuda.live == {}


@pytest.mark.parametrize("graph", [False, True], ids=["plain", "cuda graph"])
def test_images_that_lie_apart_are_gathered_on_the_gpu(model: Path, graph: bool) -> None:
    cuda = FakeCudaRuntime()
    with open_fake(model, cuda, cuda_graph=graph) as engine:
        assert_images_are_gathered(engine, cuda, images)
    assert cuda.live == {}


def test_a_graph_is_kept_for_each_shape_that_stayed_and_only_for_so_many(model: Path) -> None:
    cuda = FakeCudaRuntime()
    library = FakeOnnxRuntime(cuda)
    with OnnxRuntimeCudaEngine(model, EngineOptions(), library, cuda) as engine:  # type: ignore[arg-type]
        assert library.runs == ["-1", "1", "1"]  # warm-up: plain, captured, replayed
        library.runs.clear()
        sizes = [Size(64, 64), Size(64, 64), Size(128, 96), Size(64, 64), Size(32, 32), Size(128, 96)]
        for seed, size in enumerate(sizes):
            batch = images(1, seed, size)
            np.testing.assert_array_equal(engine.infer(batch)[0], batch[..., 0])
        assert library.runs == ["-1", "2", "1", "2", "-1", "1"]
        library.runs.clear()
        for width in range(32, 32 * 13, 32):
            for seed in (1, 2):
                batch = images(1, seed, Size(width % 224 or 32, 32 + 32 * (width // 224)))
                np.testing.assert_array_equal(engine.infer(batch)[0], batch[..., 0])
        assert max(int(graph) for graph in library.runs) == 8  # each keeps memory until the session ends
    assert cuda.live == {}


def test_running_allocates_nothing(model: Path) -> None:
    cuda = FakeCudaRuntime()
    with open_fake(model, cuda) as engine:
        # widest 224, tallest 160 of an open size: image 3 x 224 x 160 x 3 bytes, the others a third of it each
        assert engine.device_memory() == 3 * 224 * 160 * 5  # type: ignore[attr-defined]
        assert cuda.live == {"device": 3, "host": 3, "streams": 1}
        for seed in range(10):
            engine.infer(images(1 + seed % 3, seed))
        assert (cuda.calls["cudaMalloc"], cuda.calls["cudaHostAlloc"]) == (3, 3)
        with pytest.raises(InputError, match="input 256x32 does not fit this engine, which takes up to 224"):
            engine.infer(images(1, 0, Size(256, 32)))
        with pytest.raises(InputError, match="a batch of 4 does not fit this engine, which takes at most 3"):
            engine.infer(images(4))


def test_half_is_the_default_and_fp32_is_exact(model: Path) -> None:
    cuda = FakeCudaRuntime()
    library = FakeOnnxRuntime(cuda)
    for precision, kind in ((None, onnx.TensorProto.FLOAT16), (Precision.FP32, onnx.TensorProto.FLOAT)):
        options = EngineOptions(precision=precision)
        with OnnxRuntimeCudaEngine(model, options, library, cuda) as engine:  # type: ignore[arg-type]
            assert engine.info.precision == engine.card.precision == (precision or Precision.FP16)
        graph = onnx.load_from_string(library.contents[-1]).graph
        assert {t.data_type for t in graph.initializer if len(t.dims) == 4} == {kind}
    with pytest.raises(ModelError, match="precision int8 cannot be made from an fp32 graph"):
        open_fake(model, cuda, precision=Precision.INT8)


OPENING_FAULTS = [
    ("cudaSetDevice", 0, CudaError.cudaErrorInsufficientDriver, "driver version is insufficient"),
    ("cudaStreamCreate", 0, CudaError.cudaErrorMemoryAllocation, "cudaStreamCreate failed.*out of memory"),
    ("cudaMalloc", 2, CudaError.cudaErrorMemoryAllocation, "cudaMalloc failed.*out of memory"),
    ("cudaHostAlloc", 1, CudaError.cudaErrorMemoryAllocation, "cudaHostAlloc failed"),
    ("cudaMemcpyAsync", 0, CudaError.cudaErrorInvalidValue, "cudaMemcpyAsync failed.*invalid argument"),
    ("cudaStreamSynchronize", 0, CudaError.cudaErrorIllegalAddress, "illegal memory access"),
]


@pytest.mark.parametrize("function, after, error, message", OPENING_FAULTS)
def test_a_fault_while_opening_is_told_and_leaks_nothing(
    model: Path, function: str, after: int, error: CudaError, message: str
) -> None:
    cuda = FakeCudaRuntime(fail={function: (after, error)})
    with pytest.raises(EngineError, match=message):
        open_fake(model, cuda)
    assert cuda.live == {}


@pytest.mark.parametrize(
    "fail, message",
    [
        ("session", r"model\.onnx: ONNX Runtime cannot open this model on the GPU: CUDNN failure 1001"),
        ("provider", "its CUDA provider does not load; it offers CPUExecutionProvider"),
        ("run", "ONNX Runtime failed: CUDA failure 900"),
    ],
)
def test_what_onnx_runtime_says_reaches_the_user_and_leaks_nothing(model: Path, fail: str, message: str) -> None:
    cuda = FakeCudaRuntime()
    with pytest.raises(EngineError, match=message):
        open_fake(model, cuda, fail)
    assert cuda.live == {}


@pytest.mark.parametrize(
    "fail, said", [("capture", "no CUDA graph for this engine"), ("cpu nodes", "runs some of this graph on the CPU")]
)
def test_without_a_cuda_graph_it_says_so_once_and_goes_on(
    model: Path, fail: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    cuda = FakeCudaRuntime()
    with caplog.at_level(logging.WARNING), open_fake(model, cuda, fail) as engine:
        assert not engine.uses_cuda_graph  # type: ignore[attr-defined]
        for seed in range(4):
            batch = images(2, seed)
            np.testing.assert_array_equal(engine.infer(batch)[0], batch[..., 0])
    assert [said in record.getMessage() for record in caplog.records] == [True]
    assert cuda.live == {}


def test_a_fault_while_running_is_told_and_it_can_be_closed_and_reopened(model: Path) -> None:
    cuda = FakeCudaRuntime()
    engine = open_fake(model, cuda)
    cuda.fail = {"cudaStreamSynchronize": (0, CudaError.cudaErrorIllegalAddress)}
    with pytest.raises(EngineError, match="illegal memory access"):
        engine.infer(images(1))
    with pytest.raises(EngineError, match="cudaStreamSynchronize failed"):
        engine.close()
    assert cuda.live == {}  # released all the same
    engine.close()
    cuda.fail = {}
    with open_fake(model, cuda) as again:
        again.infer(images(1))
    with pytest.raises(EngineError, match="this engine is closed"):
        again.infer(images(1))


@pytest.mark.parametrize(
    "fail, reason",
    [
        ("", None),
        ("absent", r"this onnxruntime has no CUDA provider: pip uninstall onnxruntime, then"),
        ("provider", r"CUDA provider does not load: CUDA or cuDNN .* is not there \(pip install onnxruntime-gpu\["),
        ("libraries", r"CUDA provider does not load: .*\(Failed to load libcublas.so.12: cannot open"),
        ("kernels", "does not run here: CUDA error 209: no kernel image is available"),
        ("sum", "computes wrongly on this GPU"),
    ],
)
def test_a_convolution_is_run_before_it_is_chosen(
    fail: str, reason: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    found = why_no_provider(FakeOnnxRuntime(FakeCudaRuntime(), fail))  # type: ignore[arg-type]
    assert capsys.readouterr().out == ""  # a command's answer stays alone
    if reason is None:
        assert found is None
    else:
        with pytest.raises(EngineError, match=reason):
            raise EngineError(found)


def test_libraries_of_another_environment_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime looks beside itself only; a virtual environment may see the system's packages."""
    folder = tmp_path / "nvidia" / "cublas" / "lib"
    folder.mkdir(parents=True)
    (folder / "libcublas.so.12").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert why_no_provider(FakeOnnxRuntime(FakeCudaRuntime(), "libraries")) is None  # type: ignore[arg-type]


def test_what_hides_the_provider_is_named() -> None:
    library: Any = FakeOnnxRuntime(FakeCudaRuntime(), "absent")
    both = why_no_provider(library, ("onnxruntime", "onnxruntime-gpu"))
    assert both is not None
    assert "are both installed" in both
    assert "pip uninstall both, then pip install onnxruntime-gpu" in both


@pytest.mark.parametrize(
    "driver, said",
    [
        ("libcuda.so.1: cannot open shared object file", "there is no NVIDIA driver"),
        (12040, r"the NVIDIA driver takes CUDA up to 12\.4 and cuda-python is of a newer one: .*'cuda-python<13'"),
    ],
)
def test_an_old_driver_and_none_are_told_apart(driver: int | str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA itself says "driver version is insufficient" of both."""
    monkeypatch.setattr(cuda_module, "driver_version", lambda: driver)
    old = FakeCudaRuntime(fail={"cudaGetDeviceCount": (0, CudaError.cudaErrorInsufficientDriver)})
    found = cuda_module.find_gpu(old)  # type: ignore[arg-type]
    assert isinstance(found, str)
    assert re.fullmatch(said, found)


def test_a_runtime_that_raises_where_there_is_no_driver_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuda-python before 12.6 does."""
    monkeypatch.setattr(cuda_module, "driver_version", lambda: "libcuda.so.1: cannot open shared object file")
    runtime: Any = FakeCudaRuntime()

    def fail() -> None:
        raise RuntimeError("Failed to dlopen libcuda.so.1")

    runtime.cudaGetDeviceCount = fail
    assert cuda_module.find_gpu(runtime) == "there is no NVIDIA driver"


def test_auto_takes_it_where_no_tensorrt_supports_the_gpu(
    model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cuda_module, "load_cuda", lambda: FakeCudaRuntime(gpu=("H200", 9, 0)))
    monkeypatch.setattr(onnxruntime_cuda, "why_no_provider", lambda *_: None)
    with caplog.at_level(logging.INFO):
        assert choose(model).name == "onnxruntime_cuda"
    assert "engine auto: onnxruntime_cuda, because " in caplog.text
    assert "(tensorrt" in caplog.text
    monkeypatch.setattr(onnxruntime_cuda, "why_no_provider", lambda *_: "no cuDNN")
    with caplog.at_level(logging.INFO):
        assert choose(model).name == "onnxruntime"
    assert "no cuDNN (onnxruntime_cuda)" in caplog.text
