# ruff: noqa: N802, N815  (the names are CUDA's)
"""The few CUDA runtime calls an engine needs, through NVIDIA's cuda-python, failing loudly.

What every GPU engine shares: one stream, one pinned host and one device buffer for each tensor.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from seg_perception.core.errors import EngineError
from seg_perception.core.types import Size
from seg_perception.engines.base import INPUT_NAME, OUTPUT_NAMES, ImageBatch

log = logging.getLogger(__name__)

_MODULES = ("cuda.bindings.runtime", "cuda.cudart")  # cuda-python from 12.6 on, and before

WARM_UPS = 3
"""Runs of the largest batch before an engine counts as open; smaller batches run once each."""


class CudaRuntime(Protocol):
    """The functions of cuda-python's runtime module that are used here.

    Each returns a tuple: the error code first, then the results.
    """

    cudaError_t: Any
    cudaMemcpyKind: Any
    cudaStreamCaptureMode: Any

    def cudaGetLastError(self) -> tuple[Any]: ...
    def cudaGetErrorString(self, error: Any) -> tuple[Any, bytes]: ...
    def cudaGetDeviceCount(self) -> tuple[Any, int]: ...
    def cudaSetDevice(self, device: int) -> tuple[Any]: ...
    def cudaGetDeviceProperties(self, device: int) -> tuple[Any, Any]: ...
    def cudaMemGetInfo(self) -> tuple[Any, int, int]: ...
    def cudaMalloc(self, size: int) -> tuple[Any, int]: ...
    def cudaFree(self, pointer: int) -> tuple[Any]: ...
    def cudaHostAlloc(self, size: int, flags: int) -> tuple[Any, int]: ...
    def cudaFreeHost(self, pointer: int) -> tuple[Any]: ...
    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: Any, stream: Any) -> tuple[Any]: ...
    def cudaMemcpy2DAsync(
        self, target: int, target_step: int, source: int, source_step: int, row: int, rows: int, kind: Any, stream: Any
    ) -> tuple[Any]: ...
    def cudaStreamCreate(self) -> tuple[Any, Any]: ...
    def cudaStreamSynchronize(self, stream: Any) -> tuple[Any]: ...
    def cudaStreamDestroy(self, stream: Any) -> tuple[Any]: ...
    def cudaStreamBeginCapture(self, stream: Any, mode: Any) -> tuple[Any]: ...
    def cudaStreamEndCapture(self, stream: Any) -> tuple[Any, Any]: ...
    def cudaGraphInstantiate(self, graph: Any, flags: int) -> tuple[Any, Any]: ...
    def cudaGraphLaunch(self, graph: Any, stream: Any) -> tuple[Any]: ...
    def cudaGraphExecDestroy(self, graph: Any) -> tuple[Any]: ...
    def cudaGraphDestroy(self, graph: Any) -> tuple[Any]: ...


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU as an engine file names it."""

    name: str  # "NVIDIA Orin", ...
    capability: str  # "8.7"


def load_cuda() -> CudaRuntime:
    """Import cuda-python.

    Raises:
        EngineError: not installed; says what to install.
    """
    for name in _MODULES:
        try:
            return importlib.import_module(name)
        except ImportError:  # noqa: PERF203
            continue
    raise EngineError(
        "an engine on the GPU needs cuda-python: pip install cuda-python, of the CUDA version in use "
        "(11.8 on JetPack 5, 12.x on JetPack 6, 13.x on JetPack 7 and TensorRT-RTX)"
    )


class Cuda:
    """Calls the CUDA runtime and turns every error code into an EngineError with CUDA's own text.

    Not thread-safe: the engine's thread makes every call.
    """

    def __init__(self, runtime: CudaRuntime) -> None:
        self._runtime = runtime

    def call(self, function: str, *arguments: Any) -> Any:
        """Call one runtime function; return its result (None, a value or a tuple) without the code.

        Raises:
            EngineError: the function failed; names it, its code and CUDA's explanation.
        """
        try:
            answer: tuple[Any, ...] = getattr(self._runtime, function)(*arguments)
        except RuntimeError as error:  # cuda-python before 12.6 where there is no driver
            raise EngineError(f"{function} failed: {error}") from error
        code, results = answer[0], answer[1:]
        if int(code) != 0:
            explanation = self._runtime.cudaGetErrorString(code)[1].decode()
            raise EngineError(f"{function} failed: {getattr(code, 'name', code)} ({int(code)}): {explanation}")
        return results[0] if len(results) == 1 else (results or None)

    def forget_error(self) -> None:
        """Clear the thread's last error, after one that was dealt with."""
        self._runtime.cudaGetLastError()

    def device_count(self) -> int:
        """GPUs that the driver offers.

        Raises:
            EngineError: no driver, or one too old for this CUDA.
        """
        return int(self.call("cudaGetDeviceCount"))

    def gpu(self, device: int = 0) -> Gpu:
        """Name and compute capability of a GPU."""
        properties = self.call("cudaGetDeviceProperties", device)
        name = properties.name.decode() if isinstance(properties.name, bytes) else str(properties.name)
        return Gpu(name.rstrip("\0"), f"{properties.major}.{properties.minor}")

    def free_memory(self) -> int:
        """Free device memory, bytes."""
        return int(self.call("cudaMemGetInfo")[0])

    def copy_to_device(self, device: int, host: int, size: int, stream: Any) -> None:
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self.call("cudaMemcpyAsync", device, host, size, kind, stream)

    def copy_to_host(self, host: int, device: int, size: int, stream: Any) -> None:
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self.call("cudaMemcpyAsync", host, device, size, kind, stream)

    def copy_rows(
        self, target: int, target_step: int, source: int, source_step: int, row: int, rows: int, stream: Any
    ) -> None:
        """From device memory to device memory: `rows` of `row` bytes each, that begin a step apart."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self.call("cudaMemcpy2DAsync", target, target_step, source, source_step, row, rows, kind, stream)

    def begin_capture(self, stream: Any) -> None:
        """Thread-local: other threads' CUDA calls do not spoil this capture."""
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self.call("cudaStreamBeginCapture", stream, mode)


class PinnedPair:
    """One tensor's device memory and page-locked host memory of the same size.

    Args:
        cuda: the runtime.
        size: bytes, at least 1.

    Raises:
        EngineError: not enough device or host memory; nothing stays allocated.
    """

    def __init__(self, cuda: Cuda, size: int) -> None:
        self._cuda = cuda
        self.size = size
        self.device = int(cuda.call("cudaMalloc", size))
        try:
            self.host = int(cuda.call("cudaHostAlloc", size, 0))
        except EngineError:
            cuda.call("cudaFree", self.device)
            raise
        self._bytes: NDArray[np.uint8] = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(self.host))

    def view(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """The host memory's first bytes as a uint8 array of this shape; valid until `free`."""
        return self._bytes[: int(np.prod(shape))].reshape(shape)

    def free(self) -> None:
        """Release both; the device memory also when releasing the host memory failed."""
        try:
            self._cuda.call("cudaFreeHost", self.host)
        finally:
            self._cuda.call("cudaFree", self.device)


class DeviceTensors:
    """A stream, and the contract's three tensors in device and page-locked host memory, for the largest batch.

    Allocated once, so that running allocates nothing. Every step is enqueued on the one stream; only
    `synchronize` waits.

    Args:
        cuda: the runtime; its calls come from the engine's thread.
        size: the largest image.
        batch: the largest batch.

    Raises:
        EngineError: not enough memory; nothing stays allocated.
    """

    def __init__(self, cuda: Cuda, size: Size, batch: int) -> None:
        self._cuda = cuda
        self.stream: Any = cuda.call("cudaStreamCreate")
        self._pairs: dict[str, PinnedPair] = {}
        pixels = batch * size.width * size.height
        try:
            for name in (INPUT_NAME, *OUTPUT_NAMES):
                self._pairs[name] = PinnedPair(cuda, pixels * (3 if name == INPUT_NAME else 1))
        except EngineError:
            self.release()  # what it says is less than why it was needed
            raise

    @property
    def size_bytes(self) -> int:
        """Device memory of all tensors."""
        return sum(pair.size for pair in self._pairs.values())

    def address(self, name: str) -> int:
        """Where a tensor lies on the device."""
        return self._pairs[name].device

    def enqueue_input(self, images: NDArray[np.uint8] | ImageBatch) -> None:
        """Copy a batch, uint8 [N, H, W, C], to the device.

        What lies on the host is copied once there, into page-locked memory; what lies on a GPU never touches the host.
        """
        pair = self._pairs[INPUT_NAME]
        pinned = pair.view(images.shape)
        if not isinstance(images, ImageBatch):
            np.copyto(pinned, images)
            self._cuda.copy_to_device(pair.device, pair.host, pinned.nbytes, self.stream)
            return
        for index, image in enumerate(images.images):
            offset = index * pinned[index].nbytes
            if isinstance(image, np.ndarray):
                np.copyto(pinned[index], image)
                self._cuda.copy_to_device(pair.device + offset, pair.host + offset, image.nbytes, self.stream)
                continue
            rows, width, channels = image.shape
            row = width * channels
            with image.reading(int(self.stream)) as address:
                self._cuda.copy_rows(pair.device + offset, row, address, image.step, row, rows, self.stream)

    def enqueue_outputs(self, shape: tuple[int, int, int]) -> None:
        """Copy answers of this shape, [N, H, W], back to the host."""
        for name in OUTPUT_NAMES:
            pair = self._pairs[name]
            self._cuda.copy_to_host(pair.host, pair.device, int(np.prod(shape)), self.stream)

    def synchronize(self) -> None:
        """Wait for everything that was enqueued.

        Raises:
            EngineError: some of it failed.
        """
        self._cuda.call("cudaStreamSynchronize", self.stream)

    def answers(self, shape: tuple[int, int, int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Labels and confidence of this shape, each uint8 [N, H, W], as copies."""
        labels, confidence = (self._pairs[name].view(shape).copy() for name in OUTPUT_NAMES)
        return labels, confidence

    def release(self) -> list[EngineError]:
        """Release everything, also when a release fails; returns the failures. Calling it twice is harmless."""
        failures: list[EngineError] = []
        pairs, self._pairs = self._pairs, {}
        stream, self.stream = self.stream, None
        if stream is not None:
            _attempt(failures, self._cuda, "cudaStreamSynchronize", stream)
        for pair in pairs.values():
            try:
                pair.free()
            except EngineError as error:  # noqa: PERF203
                failures.append(error)
        if stream is not None:
            _attempt(failures, self._cuda, "cudaStreamDestroy", stream)
        return failures


class CapturedGraph:
    """Work on a stream as a CUDA graph: enqueued once under capture, replayed with one call.

    Args:
        cuda: the runtime.
        stream: the work's stream.
        enqueue: enqueues the work; called once.

    Raises:
        EngineError: the capture failed, with the work's or CUDA's own words; nothing stays behind.
    """

    def __init__(self, cuda: Cuda, stream: Any, enqueue: Callable[[], None]) -> None:
        self._cuda = cuda
        cuda.begin_capture(stream)
        try:
            enqueue()
        except EngineError:
            self._discard(stream)
            raise
        self._graph = cuda.call("cudaStreamEndCapture", stream)
        try:
            self._executable = cuda.call("cudaGraphInstantiate", self._graph, 0)
        except EngineError:
            cuda.call("cudaGraphDestroy", self._graph)
            raise

    def _discard(self, stream: Any) -> None:
        """End a capture that failed; what it may have recorded goes, the first error is the one to tell."""
        try:
            unfinished = self._cuda.call("cudaStreamEndCapture", stream)
            if unfinished is not None and int(unfinished) != 0:
                self._cuda.call("cudaGraphDestroy", unfinished)
        except EngineError as error:
            log.debug("the failed capture could not be ended: %s", error)

    def launch(self, stream: Any) -> None:
        self._cuda.call("cudaGraphLaunch", self._executable, stream)

    def release(self) -> list[EngineError]:
        """Release both parts; returns the failures."""
        failures: list[EngineError] = []
        _attempt(failures, self._cuda, "cudaGraphExecDestroy", self._executable)
        _attempt(failures, self._cuda, "cudaGraphDestroy", self._graph)
        return failures


def _attempt(failures: list[EngineError], cuda: Cuda, function: str, *arguments: Any) -> None:
    try:
        cuda.call(function, *arguments)
    except EngineError as error:
        failures.append(error)


def find_gpu(runtime: CudaRuntime | None = None) -> Gpu | str:
    """The first GPU, or in a few words why there is none."""
    try:
        cuda = Cuda(runtime or load_cuda())
    except EngineError:
        if isinstance(driver_version(), str):
            return "there is no NVIDIA driver"
        return "cuda-python is not installed: pip install cuda-python, of the CUDA version in use"
    try:
        return cuda.gpu() if cuda.device_count() else "there is no NVIDIA GPU"
    except EngineError as error:
        version = driver_version()
        if isinstance(version, str):  # of which CUDA says that it is insufficient
            return "there is no NVIDIA driver"
        if _OLD_DRIVER not in str(error):
            return f"there is no usable NVIDIA GPU: {error}"
        return (
            f"the NVIDIA driver takes CUDA up to {version // 1000}.{version % 1000 // 10} and cuda-python is of a "
            f"newer one: update the driver, or pip install 'cuda-python<{version // 1000 + 1}'"
        )


_OLD_DRIVER = "cudaErrorInsufficientDriver"


@cache
def driver_version(name: str = "libcuda.so.1") -> int | str:
    """The newest CUDA that the driver takes, 12040 for 12.4; or why it cannot be asked."""
    version = ctypes.c_int(0)
    try:
        code = ctypes.CDLL(name).cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError) as error:
        return str(error)
    return version.value if code == 0 and version.value else f"cuDriverGetVersion failed: {code}"
