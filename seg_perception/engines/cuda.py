# ruff: noqa: N802, N815  (the names are CUDA's)
"""The few CUDA runtime calls an engine needs, through NVIDIA's cuda-python, failing loudly."""

from __future__ import annotations

import ctypes
import importlib
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from seg_perception.core.errors import EngineError

_MODULES = ("cuda.bindings.runtime", "cuda.cudart")  # cuda-python from 12.6 on, and before


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
        "the engine 'tensorrt' needs cuda-python: pip install cuda-python, of the CUDA version in use "
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
        answer: tuple[Any, ...] = getattr(self._runtime, function)(*arguments)
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
