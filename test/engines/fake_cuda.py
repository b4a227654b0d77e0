"""A stand-in for CUDA and TensorRT's runtime, for testing the engine's buffers and errors without a GPU.

It keeps the rules that the real ones punish: work on a stream happens only when the stream is
synchronized, copies must stay inside live allocations, a captured graph replays the addresses it
saw and dies with any change of the context it was captured from, an error stays until it is fetched,
everything must be released once. Any call can be made to fail. "Device" memory is ordinary
memory. The network is simple enough to check by hand: labels are the red channel, confidence is the
green one.

What it cannot show: that a real GPU accepts these calls. `make verify-gpu` does that.
"""

from __future__ import annotations

import ctypes
import enum
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from seg_perception.core.errors import InputError
from seg_perception.engines.base import Engine, ImageBatch
from seg_perception.engines.tensorrt.versions import TensorRtLibrary


class CudaError(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorInvalidResourceHandle = 400
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorIllegalAddress = 700


_TEXTS = {
    CudaError.cudaErrorInvalidValue: b"invalid argument",
    CudaError.cudaErrorMemoryAllocation: b"out of memory",
    CudaError.cudaErrorInsufficientDriver: b"CUDA driver version is insufficient for CUDA runtime version",
    CudaError.cudaErrorInvalidResourceHandle: b"invalid resource handle",
    CudaError.cudaErrorStreamCaptureUnsupported: b"operation not permitted when stream is capturing",
    CudaError.cudaErrorIllegalAddress: b"an illegal memory access was encountered",
}

Work = Callable[[], None]


@dataclass(eq=False)
class FakeGraph:
    handle: int
    work: list[Work]

    def __int__(self) -> int:
        return self.handle


@dataclass(eq=False)
class FakeStream:
    handle: int
    queue: list[Work] = field(default_factory=list)
    capture: list[Work] | None = None

    def __int__(self) -> int:
        return self.handle

    def add(self, work: Work) -> None:
        (self.queue if self.capture is None else self.capture).append(work)


class FakeCudaRuntime:
    """The functions of `engines.cuda.CudaRuntime`.

    Args:
        fail: function name -> (how many calls succeed first, the error of the ones after).
        gpu: name, major and minor compute capability.
    """

    cudaError_t = CudaError
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2, cudaMemcpyDeviceToDevice=3)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(
        self, fail: dict[str, tuple[int, CudaError]] | None = None, gpu: tuple[str, int, int] = ("Fake GPU", 8, 7)
    ) -> None:
        self.fail = fail or {}
        self.gpu = gpu
        self.calls: Counter[str] = Counter()
        self.device: dict[int, Any] = {}
        self.host: dict[int, Any] = {}
        self.streams: dict[int, FakeStream] = {}
        self.graphs: set[int] = set()
        self.executables: dict[int, list[Work]] = {}
        self.last_error = CudaError.cudaSuccess
        self._next_handle = 1

    @property
    def live(self) -> dict[str, int]:
        """What has not been released."""
        counts = {
            "device": len(self.device),
            "host": len(self.host),
            "streams": len(self.streams),
            "graphs": len(self.graphs),
            "executables": len(self.executables),
        }
        return {name: count for name, count in counts.items() if count}

    def _fails(self, function: str) -> CudaError | None:
        self.calls[function] += 1
        if function in self.fail:
            allowed, error = self.fail[function]
            if self.calls[function] > allowed:
                self.last_error = error
                return error
        return None

    def _handle(self) -> int:
        self._next_handle += 1
        return self._next_handle

    def _allocate(self, function: str, size: int, pool: dict[int, Any]) -> tuple[Any, int]:
        if error := self._fails(function):
            return error, 0
        memory = (ctypes.c_uint8 * size)()
        ctypes.memset(memory, 0xAB, size)  # never zero by luck
        address = ctypes.addressof(memory)
        pool[address] = memory
        return CudaError.cudaSuccess, address

    def _free(self, function: str, pointer: int, pool: dict[int, Any]) -> tuple[Any]:
        if error := self._fails(function):
            return (error,)
        if pointer not in pool:
            return (CudaError.cudaErrorInvalidValue,)
        del pool[pointer]
        return (CudaError.cudaSuccess,)

    def cudaGetLastError(self) -> tuple[Any]:
        error, self.last_error = self.last_error, CudaError.cudaSuccess
        return (error,)

    def cudaGetErrorString(self, error: CudaError) -> tuple[Any, bytes]:
        return CudaError.cudaSuccess, _TEXTS[error]

    def cudaGetDeviceCount(self) -> tuple[Any, int]:
        return self._fails("cudaGetDeviceCount") or CudaError.cudaSuccess, 1

    def cudaSetDevice(self, device: int) -> tuple[Any]:
        return (self._fails("cudaSetDevice") or CudaError.cudaSuccess,)

    def cudaGetDeviceProperties(self, device: int) -> tuple[Any, Any]:
        name, major, minor = self.gpu
        properties = SimpleNamespace(name=name.encode(), major=major, minor=minor)
        return self._fails("cudaGetDeviceProperties") or CudaError.cudaSuccess, properties

    cudaDeviceAttr = SimpleNamespace(
        cudaDevAttrClockRate=1_000_000,  # kHz: the fake's attributes are their own values
        cudaDevAttrMultiProcessorCount=16,
        cudaDevAttrMemoryClockRate=1_000_000,
        cudaDevAttrGlobalMemoryBusWidth=256,
    )

    def cudaDeviceGetAttribute(self, attribute: int, device: int) -> tuple[Any, int]:
        return CudaError.cudaSuccess, attribute

    def cudaMemGetInfo(self) -> tuple[Any, int, int]:
        return CudaError.cudaSuccess, 1 << 30, 2 << 30

    def cudaMalloc(self, size: int) -> tuple[Any, int]:
        return self._allocate("cudaMalloc", size, self.device)

    def cudaFree(self, pointer: int) -> tuple[Any]:
        return self._free("cudaFree", pointer, self.device)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[Any, int]:
        return self._allocate("cudaHostAlloc", size, self.host)

    def cudaFreeHost(self, pointer: int) -> tuple[Any]:
        return self._free("cudaFreeHost", pointer, self.host)

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: int, stream: FakeStream) -> tuple[Any]:
        if error := self._fails("cudaMemcpyAsync"):
            return (error,)
        to_device = kind == self.cudaMemcpyKind.cudaMemcpyHostToDevice
        target_pool, source_pool = (self.device, self.host) if to_device else (self.host, self.device)
        for pool, address in ((target_pool, target), (source_pool, source)):
            if not _inside(pool, address, size):
                return (CudaError.cudaErrorInvalidValue,)
        stream.add(lambda: ctypes.memmove(target, source, size) and None)
        return (CudaError.cudaSuccess,)

    def cudaMemcpy2DAsync(
        self, target: int, target_step: int, source: int, source_step: int, row: int, rows: int, kind: int, stream: Any
    ) -> tuple[Any]:
        if error := self._fails("cudaMemcpy2DAsync"):
            return (error,)
        assert kind == self.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        for address, step in ((target, target_step), (source, source_step)):
            if row > step or not _inside(self.device, address, (rows - 1) * step + row):
                return (CudaError.cudaErrorInvalidValue,)

        def work() -> None:
            for i in range(rows):
                ctypes.memmove(target + i * target_step, source + i * source_step, row)

        stream.add(work)
        return (CudaError.cudaSuccess,)

    def cudaStreamCreate(self) -> tuple[Any, Any]:
        if error := self._fails("cudaStreamCreate"):
            return error, None
        stream = FakeStream(self._handle())
        self.streams[stream.handle] = stream
        return CudaError.cudaSuccess, stream

    def cudaStreamSynchronize(self, stream: FakeStream) -> tuple[Any]:
        if error := self._fails("cudaStreamSynchronize"):
            return (error,)
        if stream.capture is not None:
            return (CudaError.cudaErrorStreamCaptureUnsupported,)
        work, stream.queue = stream.queue, []
        for step in work:
            step()
        return (CudaError.cudaSuccess,)

    def cudaStreamDestroy(self, stream: FakeStream) -> tuple[Any]:
        if error := self._fails("cudaStreamDestroy"):
            return (error,)
        return (CudaError.cudaSuccess if self.streams.pop(stream.handle, None) else CudaError.cudaErrorInvalidValue,)

    def cudaStreamBeginCapture(self, stream: FakeStream, mode: int) -> tuple[Any]:
        if error := self._fails("cudaStreamBeginCapture"):
            return (error,)
        stream.capture = []
        return (CudaError.cudaSuccess,)

    def cudaStreamEndCapture(self, stream: FakeStream) -> tuple[Any, Any]:
        work, stream.capture = stream.capture or [], None
        if error := self._fails("cudaStreamEndCapture"):
            return error, None
        graph = FakeGraph(self._handle(), work)
        self.graphs.add(graph.handle)
        return CudaError.cudaSuccess, graph

    def cudaGraphInstantiate(self, graph: Any, flags: int) -> tuple[Any, Any]:
        if error := self._fails("cudaGraphInstantiate"):
            return error, None
        handle = self._handle()
        self.executables[handle] = graph.work
        return CudaError.cudaSuccess, handle

    def cudaGraphLaunch(self, graph: int, stream: FakeStream) -> tuple[Any]:
        if error := self._fails("cudaGraphLaunch"):
            return (error,)
        for work in self.executables[graph]:
            stream.add(work)
        return (CudaError.cudaSuccess,)

    def cudaGraphExecDestroy(self, graph: int) -> tuple[Any]:
        if error := self._fails("cudaGraphExecDestroy"):
            return (error,)
        return (
            CudaError.cudaErrorInvalidValue if self.executables.pop(graph, None) is None else CudaError.cudaSuccess,
        )

    def cudaGraphDestroy(self, graph: Any) -> tuple[Any]:
        if error := self._fails("cudaGraphDestroy"):
            return (error,)
        self.graphs.remove(graph.handle)
        return (CudaError.cudaSuccess,)


def _inside(pool: dict[int, Any], address: int, size: int) -> bool:
    return any(start <= address and address + size <= start + len(memory) for start, memory in pool.items())


class FakeDeviceImage:
    """An `engines.base.DeviceImage` in a FakeCudaRuntime's device memory; `readings` has the stream of each reading.

    Args:
        padding: bytes of 0xA5 after each row.
    """

    def __init__(self, cuda: FakeCudaRuntime, pixels: np.ndarray[Any, Any], padding: int = 0) -> None:
        self.shape = pixels.shape
        rows = np.pad(pixels.reshape(len(pixels), -1), ((0, 0), (0, padding)), constant_values=0xA5)
        self.step = rows.shape[1]
        self.address = cuda.cudaMalloc(rows.size)[1]
        ctypes.memmove(self.address, rows.tobytes(), rows.size)
        self.readings: list[int] = []
        self.open = False

    @contextmanager
    def reading(self, stream: int) -> Iterator[int]:
        self.readings.append(stream)
        self.open = True
        yield self.address
        self.open = False


def assert_images_are_gathered(
    engine: Engine, cuda: FakeCudaRuntime, images: Callable[[int, int], np.ndarray[Any, Any]]
) -> None:
    """Images of the host are copied once there; those in device memory, also with padded rows, never touch it.

    Args:
        engine: just opened, of up to three images at once.
        images: (count, seed) -> uint8 [count, H, W, 3].
    """
    before = dict(cuda.calls)
    for seed in range(4):
        batch = images(3, seed)
        padded, tight = FakeDeviceImage(cuda, batch[1], padding=5), FakeDeviceImage(cuda, batch[2])
        labels, confidence = engine.infer(ImageBatch((batch[0], padded, tight)))  # type: ignore[arg-type]
        np.testing.assert_array_equal(labels, batch[..., 0])
        np.testing.assert_array_equal(confidence, batch[..., 1])
        for image in (padded, tight):
            assert image.readings == list(cuda.streams)
            assert not image.open
            cuda.cudaFree(image.address)
    assert cuda.calls["cudaMemcpy2DAsync"] == 4 * 2
    assert cuda.calls["cudaHostAlloc"] == before["cudaHostAlloc"]
    with pytest.raises(InputError, match="a batch of 4 does not fit this engine"):
        engine.infer(ImageBatch(tuple(images(4, 0))))  # type: ignore[arg-type]


class FakeLogger:
    """`trt.ILogger`."""

    class Severity(enum.IntEnum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


class FakeMode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class FakeTensorRt:
    """The parts of the `tensorrt` module that the engine uses, on a FakeCudaRuntime.

    Args:
        cuda: where its work goes.
        batch, height, width: of the engine it opens; batch -1 is a dynamic one.
        fail: what goes wrong: "deserialize", "context", "address", "shape", "execute" or
            "execute in capture", "builder".
    """

    ILogger = FakeLogger
    TensorIOMode = FakeMode
    uint8 = "uint8"
    CudaGraphStrategy = SimpleNamespace(DISABLED="disabled", WHOLE_GRAPH_CAPTURE="whole graph")  # of TensorRT-RTX

    def __init__(
        self, cuda: FakeCudaRuntime, batch: int, height: int, width: int, fail: str = "", tensors: Any = None
    ) -> None:
        self.cuda = cuda
        self.fail = fail
        self.shapes: dict[str, tuple[int, ...]] = tensors or {
            "image": (batch, height, width, 3),
            "labels": (batch, height, width),
            "confidence": (batch, height, width),
        }
        self.contexts = 0
        self.runtime_config: Any = None  # that the newest context was made with
        self.logger: FakeLogger | None = None

    def complain(self, message: str) -> None:
        assert self.logger is not None
        self.logger.log(FakeLogger.Severity.ERROR, message)

    def Runtime(self, logger: FakeLogger) -> Any:
        self.logger = logger
        return SimpleNamespace(deserialize_cuda_engine=self._deserialize)

    def _deserialize(self, content: bytes) -> Any:
        if self.fail == "deserialize":
            self.complain("Serialization assertion plan->header.magicTag failed")
            return None
        return FakeEngine(self)

    def Builder(self, logger: FakeLogger) -> object:
        self.logger = logger
        if self.fail == "builder":
            self.complain("Target GPU SM 61 is not supported by this TensorRT release.")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return object()

    def library(self, name: str = "tensorrt", version: str = "10.3.0") -> TensorRtLibrary:
        return TensorRtLibrary(name, cast(ModuleType, self), version)


class FakeEngine:
    device_memory_size_v2 = 4096

    def __init__(self, tensorrt: FakeTensorRt) -> None:
        self._trt = tensorrt
        self.num_io_tensors = len(tensorrt.shapes)

    def get_tensor_name(self, index: int) -> str:
        return list(self._trt.shapes)[index]

    def get_tensor_mode(self, name: str) -> FakeMode:
        return FakeMode.INPUT if name == "image" else FakeMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> str:
        return "uint8"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._trt.shapes[name]

    def create_runtime_config(self) -> Any:
        return SimpleNamespace()

    def create_execution_context(self, config: Any = None) -> FakeContext | None:
        self._trt.runtime_config = config
        if self._trt.fail == "context":
            self._trt.complain("Requested amount of GPU memory could not be allocated")
            return None
        return FakeContext(self._trt)


class FakeContext:
    def __init__(self, tensorrt: FakeTensorRt) -> None:
        self._trt = tensorrt
        self._addresses: dict[str, int] = {}
        self._shape: tuple[int, ...] = ()
        self._trt.contexts += 1

    def __del__(self) -> None:
        self._trt.contexts -= 1

    def set_tensor_address(self, name: str, address: int) -> bool:
        if self._trt.fail == "address":
            self._trt.complain("setTensorAddress: given invalid tensor name")
            return False
        self._addresses[name] = address
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        declared = self._trt.shapes[name]
        if self._trt.fail == "shape" or any(d not in (-1, s) for d, s in zip(declared, shape, strict=True)):
            self._trt.complain("setInputShape: the shape is out of the profile's range")
            return False
        self._shape = tuple(shape)
        return True

    def execute_async_v3(self, stream: int) -> bool:
        if self._trt.fail == "execute" or (
            self._trt.fail == "execute in capture" and self._trt.cuda.streams[stream].capture is not None
        ):
            self._trt.complain("enqueueV3: no CUDA-capable device")
            return False
        addresses, shape = dict(self._addresses), self._shape  # as they are now, also for a captured graph

        def work() -> None:
            assert self._shape == shape, "undefined: the context was changed after its work was captured"
            image = _array(addresses["image"], shape)
            _array(addresses["labels"], shape[:3])[...] = image[..., 0]
            _array(addresses["confidence"], shape[:3])[...] = image[..., 1]

        self._trt.cuda.streams[stream].add(work)
        return True


def _array(address: int, shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    count = int(np.prod(shape))
    return np.ctypeslib.as_array((ctypes.c_uint8 * count).from_address(address)).reshape(shape)
