"""The TensorRT engine's buffers, batches, CUDA graphs, failures and release, on the named fake of CUDA."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import CudaError, FakeCudaRuntime, FakeTensorRt, assert_images_are_gathered

from seg_perception.core.errors import EngineError, InputError
from seg_perception.core.label_set import load_label_set
from seg_perception.core.model_card import ModelCard
from seg_perception.core.types import CameraEncoding, Precision, Size
from seg_perception.engines.graph import InputSizes
from seg_perception.engines.tensorrt.engine import TensorRtEngine
from seg_perception.engines.tensorrt.file import EngineFile
from seg_perception.engines.tensorrt.plan import EngineKey, this_platform
from seg_perception.engines.tensorrt.versions import TensorRtLibrary

HEIGHT, WIDTH = 4, 8
ONE_SIZE = InputSizes(Size(WIDTH, HEIGHT), Size(WIDTH, HEIGHT), Size(WIDTH, HEIGHT))
CARD = ModelCard("fake", "1", "none", load_label_set("driving"), Size(WIDTH, HEIGHT), 4, Precision.FP16, "0" * 64)
KEY = EngineKey(
    onnx_sha256="0" * 64,
    graph_edits=1,
    library="tensorrt",
    library_version="10.3.0",
    gpu="Fake GPU",
    capability="8.7",
    platform=this_platform(),
    precision=Precision.FP16,
    batch=3,
    input_sizes=ONE_SIZE,
    network_size=None,
    camera_encoding=CameraEncoding.RGB,
    workspace_mib=None,
    optimization_level=None,
    dla_core=None,
    hardware_compatible=False,
)


def engine_file(**changes: object) -> EngineFile:
    return EngineFile(Path("fake.engine"), dataclasses.replace(KEY, **changes), CARD, b"plan")  # type: ignore[arg-type]


def open_fake(cuda: FakeCudaRuntime, fail: str = "", graph: bool = False, tensors: object = None) -> TensorRtEngine:
    tensorrt = FakeTensorRt(cuda, -1, HEIGHT, WIDTH, fail, tensors)
    return TensorRtEngine(engine_file(), tensorrt.library(), cuda, cuda_graph=graph)


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, HEIGHT, WIDTH, 3), np.uint8)


@pytest.mark.parametrize("graph", [False, True], ids=["plain", "cuda graph"])
def test_every_batch_is_answered_with_its_own_pixels(graph: bool) -> None:
    cuda = FakeCudaRuntime()
    engine = open_fake(cuda, graph=graph)
    for seed, count in enumerate((1, 3, 3, 3, 2, 2, 2, 1, 3, 2, 1, 1, 1)):  # alone, and often enough to be replayed
        batch = images(count, seed)
        labels, confidence = engine.infer(batch)
        np.testing.assert_array_equal(labels, batch[..., 0])
        np.testing.assert_array_equal(confidence, batch[..., 1])
    assert engine.uses_cuda_graph is graph
    assert (cuda.calls["cudaGraphLaunch"] > 0) is graph
    engine.close()
    assert cuda.live == {}


@pytest.mark.parametrize("graph", [False, True], ids=["plain", "cuda graph"])
def test_images_that_lie_apart_are_gathered_on_the_gpu(graph: bool) -> None:
    cuda = FakeCudaRuntime()
    with open_fake(cuda, graph=graph) as engine:
        assert_images_are_gathered(engine, cuda, images)
    assert cuda.live == {}


def test_a_graph_is_captured_for_a_shape_that_stays_and_dropped_with_it() -> None:
    cuda = FakeCudaRuntime()
    engine = open_fake(cuda, graph=True)  # warm-up: 1, 2, then 3 three times: plain, plain and captured, replayed
    assert cuda.calls["cudaGraphLaunch"] == 1
    assert (len(cuda.graphs), len(cuda.executables)) == (1, 1)
    launches = []
    for seed, count in enumerate((3, 1, 3, 1, 1, 1, 2, 2, 2, 2)):
        before = cuda.calls["cudaGraphLaunch"]
        batch = images(count, seed)
        np.testing.assert_array_equal(engine.infer(batch)[0], batch[..., 0])
        launches.append(cuda.calls["cudaGraphLaunch"] - before)
        assert len(cuda.graphs) == len(cuda.executables) <= 1
    assert launches == [1, 0, 0, 0, 0, 1, 0, 0, 1, 1]  # the third in a row is the first to be replayed
    engine.close()
    assert cuda.live == {}


@pytest.mark.parametrize("graph, strategy", [(True, "whole graph"), (False, "disabled")])
def test_tensorrt_rtx_is_asked_to_capture_and_never_captured(graph: bool, strategy: str) -> None:
    """It replaces kernels of an open shape while it runs: a graph from outside would keep the replaced ones."""
    cuda = FakeCudaRuntime(gpu=("RTX 4090", 8, 9))
    tensorrt = FakeTensorRt(cuda, -1, HEIGHT, WIDTH)
    file = engine_file(library="tensorrt_rtx", library_version="1.7.1", gpu="any", capability="any")
    with TensorRtEngine(file, tensorrt.library("tensorrt_rtx", "1.7.1"), cuda, cuda_graph=graph) as engine:
        for seed in range(4):
            batch = images(2, seed)
            np.testing.assert_array_equal(engine.infer(batch)[0], batch[..., 0])
        assert engine.uses_cuda_graph is graph
    assert tensorrt.runtime_config.cuda_graph_strategy == strategy
    assert cuda.calls["cudaStreamBeginCapture"] == 0
    assert cuda.live == {}


def test_tensorrt_rtx_has_what_asks_it_to_capture(nvidia: TensorRtLibrary) -> None:
    if not nvidia.is_rtx:
        pytest.skip(f"{nvidia} is here, not TensorRT-RTX")
    real: Any = nvidia.module
    assert {"DISABLED", "WHOLE_GRAPH_CAPTURE"} <= set(real.CudaGraphStrategy.__members__)
    assert isinstance(real.IRuntimeConfig.cuda_graph_strategy, property)
    assert "runtime_config: " in real.ICudaEngine.create_execution_context.__doc__
    assert callable(real.ICudaEngine.create_runtime_config)


def test_answers_belong_to_the_caller() -> None:
    engine = open_fake(FakeCudaRuntime())
    first = images(1, 1)
    labels, _ = engine.infer(first)
    engine.infer(images(1, 2))
    engine.close()
    np.testing.assert_array_equal(labels, first[..., 0])


def test_running_allocates_nothing() -> None:
    cuda = FakeCudaRuntime()
    engine = open_fake(cuda)
    # image 3 x 4 x 8 x 3 = 288 bytes, labels and confidence 3 x 4 x 8 = 96 each, engine's own 4096
    assert engine.device_memory() == 4096 + 288 + 96 + 96
    assert cuda.live == {"device": 3, "host": 3, "streams": 1}
    for seed in range(20):
        engine.infer(images(1 + seed % 3, seed))
    assert cuda.calls["cudaMalloc"] == 3
    assert cuda.calls["cudaHostAlloc"] == 3
    engine.close()


def test_description() -> None:
    engine = open_fake(FakeCudaRuntime())
    assert str(engine.info) == "tensorrt 10.3.0 on Fake GPU (fp16)"
    assert (engine.info.max_batch, engine.info.fixed_size) == (3, Size(8, 4))
    assert engine.card is CARD
    engine.close()


@pytest.mark.parametrize(
    "shape, message",
    [
        ((4, HEIGHT, WIDTH, 3), "a batch of 4 does not fit this engine, which takes at most 3"),
        ((1, HEIGHT * 2, WIDTH, 3), "input 8x8 does not fit this engine, which was built for 8x4"),
        ((1, HEIGHT + 1, WIDTH, 3), "multiples of 4"),
        ((1, 3, HEIGHT, WIDTH), r"uint8 \[N, H, W, 3\] RGB images, got uint8 \[1, 3, 4, 8\]"),
        ((0, HEIGHT, WIDTH, 3), r"got uint8 \[0, 4, 8, 3\]"),
    ],
)
def test_wrong_input_is_refused_before_cuda_sees_it(shape: tuple[int, ...], message: str) -> None:
    cuda = FakeCudaRuntime()
    engine = open_fake(cuda)
    copies = cuda.calls["cudaMemcpyAsync"]
    with pytest.raises(InputError, match=message):
        engine.infer(np.zeros(shape, np.uint8))
    assert cuda.calls["cudaMemcpyAsync"] == copies
    engine.close()


def test_an_engine_of_open_size_takes_every_shape_up_to_the_largest() -> None:
    cuda = FakeCudaRuntime()
    open_size = {"image": (-1, -1, -1, 3), "labels": (-1, -1, -1), "confidence": (-1, -1, -1)}
    tensorrt = FakeTensorRt(cuda, -1, HEIGHT, WIDTH, tensors=open_size)
    engine = TensorRtEngine(
        engine_file(input_sizes=InputSizes(Size(4, 4), Size(WIDTH, HEIGHT), Size(16, 8))), tensorrt.library(), cuda
    )
    assert engine.info.fixed_size is None
    shapes = ((4, 8), (8, 16), (8, 16), (8, 16), (8, 4), (8, 4), (8, 4), (4, 8))  # in threes: captured, replayed
    for seed, (height, width) in enumerate(shapes):
        batch = np.random.default_rng(seed).integers(0, 256, (2, height, width, 3), np.uint8)
        labels, confidence = engine.infer(batch)
        np.testing.assert_array_equal(labels, batch[..., 0])
        np.testing.assert_array_equal(confidence, batch[..., 1])
    with pytest.raises(InputError, match="input 20x8 does not fit this engine, which takes up to 16x8"):
        engine.infer(np.zeros((1, 8, 20, 3), np.uint8))
    engine.close()
    assert cuda.live == {}
    assert tensorrt.contexts == 0


def test_close_twice_and_use_after_close() -> None:
    cuda = FakeCudaRuntime()
    engine = open_fake(cuda, graph=True)
    engine.close()
    engine.close()
    assert cuda.live == {}
    with pytest.raises(EngineError, match="this engine is closed"):
        engine.infer(images(1))


def test_open_close_reopen_a_hundred_times() -> None:
    cuda = FakeCudaRuntime()
    for _ in range(100):
        engine = open_fake(cuda, graph=True)
        engine.infer(images(2))
        engine.close()
        assert cuda.live == {}


# The fault table: what fails, after how many good calls, and what the user reads.
OPENING_FAULTS = [
    ("cudaSetDevice", 0, CudaError.cudaErrorInsufficientDriver, "driver version is insufficient"),
    ("cudaGetDeviceProperties", 0, CudaError.cudaErrorInvalidValue, "cudaGetDeviceProperties failed"),
    ("cudaStreamCreate", 0, CudaError.cudaErrorMemoryAllocation, "cudaStreamCreate failed.*out of memory"),
    ("cudaMalloc", 0, CudaError.cudaErrorMemoryAllocation, r"cudaMalloc failed: cudaErrorMemoryAllocation \(2\)"),
    ("cudaMalloc", 2, CudaError.cudaErrorMemoryAllocation, "out of memory"),
    ("cudaHostAlloc", 0, CudaError.cudaErrorMemoryAllocation, "cudaHostAlloc failed"),
    ("cudaHostAlloc", 2, CudaError.cudaErrorMemoryAllocation, "cudaHostAlloc failed"),
    ("cudaMemcpyAsync", 0, CudaError.cudaErrorInvalidValue, "cudaMemcpyAsync failed.*invalid argument"),
]


@pytest.mark.parametrize("function, after, error, message", OPENING_FAULTS)
def test_a_fault_while_opening_is_told_and_leaks_nothing(
    function: str, after: int, error: CudaError, message: str
) -> None:
    cuda = FakeCudaRuntime(fail={function: (after, error)})
    with pytest.raises(EngineError, match=message):
        open_fake(cuda)
    assert cuda.live == {}


@pytest.mark.parametrize(
    "fail, message",
    [
        ("deserialize", "TensorRT 10.3.0 cannot open fake.engine: .*magicTag failed"),
        ("context", "cannot make an execution context: Requested amount of GPU memory"),
        ("address", "refuses the buffer of 'image': setTensorAddress"),
        ("shape", r"refuses the input shape \[1, 4, 8, 3\]: setInputShape"),
        ("execute", "could not run: enqueueV3: no CUDA-capable device"),
    ],
)
def test_what_tensorrt_says_reaches_the_user_and_leaks_nothing(fail: str, message: str) -> None:
    cuda = FakeCudaRuntime()
    with pytest.raises(EngineError, match=message):
        open_fake(cuda, fail)
    assert cuda.live == {}


RUNNING_FAULTS = [
    ("cudaMemcpyAsync", CudaError.cudaErrorIllegalAddress, "an illegal memory access was encountered"),
    ("cudaStreamSynchronize", CudaError.cudaErrorIllegalAddress, "cudaStreamSynchronize failed.*illegal memory access"),
]


@pytest.mark.parametrize("function, error, message", RUNNING_FAULTS)
def test_a_fault_while_running_is_told_and_the_engine_can_be_reopened(
    function: str, error: CudaError, message: str
) -> None:
    cuda = FakeCudaRuntime()
    engine = open_fake(cuda)
    cuda.fail = {function: (0, error)}
    with pytest.raises(EngineError, match=message):
        engine.infer(images(1))
    cuda.fail = {}
    engine.close()
    assert cuda.live == {}
    again = open_fake(cuda)
    again.infer(images(1))
    again.close()


@pytest.mark.parametrize("function", ["cudaFreeHost", "cudaFree", "cudaStreamDestroy", "cudaStreamSynchronize"])
def test_a_fault_while_closing_does_not_keep_the_rest_from_being_released(function: str) -> None:
    cuda = FakeCudaRuntime()
    engine = open_fake(cuda, graph=True)
    cuda.fail = {function: (0, CudaError.cudaErrorIllegalAddress)}
    with pytest.raises(EngineError, match=f"{function} failed"):
        engine.close()
    kept = {"cudaFreeHost": {"host": 3}, "cudaFree": {"device": 3}, "cudaStreamDestroy": {"streams": 1}}
    assert cuda.live == kept.get(function, {})
    engine.close()  # harmless


@pytest.mark.parametrize("function", ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate"])
def test_without_a_cuda_graph_the_engine_says_so_once_and_goes_on(
    function: str, caplog: pytest.LogCaptureFixture
) -> None:
    cuda = FakeCudaRuntime(fail={function: (0, CudaError.cudaErrorStreamCaptureUnsupported)})
    with caplog.at_level(logging.WARNING):
        engine = open_fake(cuda, graph=True)
    assert not engine.uses_cuda_graph
    warnings = [r.getMessage() for r in caplog.records]
    assert len(warnings) == 1
    assert "no CUDA graph for this engine, running without" in warnings[0]
    assert "operation not permitted when stream is capturing" in warnings[0]
    assert cuda.last_error == CudaError.cudaSuccess  # TensorRT would find it and give up
    batch = images(2)
    np.testing.assert_array_equal(engine.infer(batch)[0], batch[..., 0])
    engine.close()
    assert cuda.live == {}


def test_a_run_that_fails_only_while_captured_leaves_no_graph_and_no_error(caplog: pytest.LogCaptureFixture) -> None:
    cuda = FakeCudaRuntime()
    with caplog.at_level(logging.WARNING):
        engine = open_fake(cuda, "execute in capture", graph=True)
    assert "no CUDA graph for this engine, running without: TensorRT 10.3.0 could not run" in caplog.text
    assert cuda.live == {"device": 3, "host": 3, "streams": 1}
    batch = images(2)
    np.testing.assert_array_equal(engine.infer(batch)[0], batch[..., 0])
    engine.close()
    assert cuda.live == {}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"capability": "8.6"}, r"built for compute capability 8.6, here is Fake GPU \(8.7\)"),
        ({"gpu": "Other GPU"}, "built for Other GPU, here is Fake GPU"),
        ({"library_version": "10.2.0"}, "built with tensorrt 10.2.0, here is TensorRT 10.3.0"),
        ({"platform": "Windows-AMD64"}, "built on Windows-AMD64"),
    ],
)
def test_an_engine_from_elsewhere_is_refused(changes: dict[str, object], message: str) -> None:
    cuda = FakeCudaRuntime()
    tensorrt = FakeTensorRt(cuda, -1, HEIGHT, WIDTH)
    with pytest.raises(EngineError, match=message):
        TensorRtEngine(engine_file(**changes), tensorrt.library(), cuda)
    assert cuda.live == {}


def test_a_hardware_compatible_engine_runs_on_another_gpu() -> None:
    cuda = FakeCudaRuntime()
    file = engine_file(gpu="Other GPU", capability="8.6", hardware_compatible=True)
    engine = TensorRtEngine(file, FakeTensorRt(cuda, -1, HEIGHT, WIDTH).library(), cuda)
    engine.close()


@pytest.mark.parametrize(
    "tensors, message",
    [
        ({"image": (-1, 4, 8, 3), "labels": (-1, 4, 8)}, r"tensors \['image', 'labels'\]; the contract says"),
        (
            {"image": (-1, 8, 8, 3), "labels": (-1, 4, 8), "confidence": (-1, 4, 8)},
            r"'image' of the engine is uint8 \[-1, 8, 8, 3\]; the contract says uint8 \[N, 4, 8, 3\]",
        ),
        (
            {"image": (2, 4, 8, 3), "labels": (2, 4, 8), "confidence": (2, 4, 8)},
            "takes a batch of 2, its key says up to 3",
        ),
    ],
)
def test_an_engine_that_breaks_the_contract_is_refused(tensors: dict[str, tuple[int, ...]], message: str) -> None:
    cuda = FakeCudaRuntime()
    with pytest.raises(EngineError, match=message):
        open_fake(cuda, tensors=tensors)
    assert cuda.live == {}
