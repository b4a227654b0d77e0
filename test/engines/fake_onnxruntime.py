"""A stand-in for onnxruntime-gpu on the fake of CUDA, for testing buffers, graphs and errors without a GPU.

It keeps the rules of the real one: work goes to the stream that the provider was given; tensors are read and
written where they were bound; a run with a graph id captures once and then replays what it captured, whatever
is bound now; a provider that does not load leaves a session on the CPU without an error. The network is
simple enough to check by hand: labels are the red channel, confidence is the green one.

What it cannot show: that the real provider accepts these calls, or that every node of our graphs has a kernel
on the GPU. `make verify-gpu` does that.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
from fake_cuda import FakeCudaRuntime

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


class FakeSessionOptions:
    def __init__(self) -> None:
        self.entries: dict[str, str] = {}
        self.log_severity_level = 2

    def add_session_config_entry(self, name: str, value: str) -> None:
        self.entries[name] = value


class FakeRunOptions:
    def __init__(self) -> None:
        self.entries: dict[str, str] = {}

    def add_run_config_entry(self, name: str, value: str) -> None:
        self.entries[name] = value


class FakeBinding:
    def __init__(self) -> None:
        self.bound: dict[str, tuple[int, tuple[int, ...]]] = {}

    def bind_input(self, name: str, device: str, number: int, kind: type, shape: list[int], address: int) -> None:
        assert (device, number, kind) == ("cuda", 0, np.uint8)
        self.bound[name] = (address, tuple(shape))

    bind_output = bind_input


class FakeSession:
    def __init__(self, library: FakeOnnxRuntime, options: FakeSessionOptions, providers: list[Any]) -> None:
        self.library = library
        self.entries = options.entries
        if "cpu nodes" in library.fail and options.entries.get("session.disable_cpu_ep_fallback") == "1":
            raise RuntimeError("This session contains graph nodes that are assigned to the default CPU EP")
        if library.fail == "session":
            raise RuntimeError("CUDNN failure 1001")
        name, self.provider = providers[0] if isinstance(providers[0], tuple) else (providers[0], {})
        assert name == CUDA
        self.graphs: dict[str, Any] = {}

    def get_providers(self) -> list[str]:
        return [CPU] if self.library.fail in ("provider", "libraries") and not self.library.found else [CUDA, CPU]

    def run(self, names: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        if self.library.fail == "kernels":
            raise RuntimeError("CUDA error 209: no kernel image is available for execution on the device")
        return [np.array([[[[feed["x"].sum() - (1.0 if self.library.fail == "sum" else 0.0)]]]], np.float32)]

    def io_binding(self) -> FakeBinding:
        return FakeBinding()

    def run_with_iobinding(self, binding: FakeBinding, options: FakeRunOptions) -> None:
        assert self.entries["session.disable_quant_qdq"] == "1"  # else the real one makes int8 weights float on the CPU
        graph = options.entries["gpu_graph_id"]
        self.library.runs.append(graph)
        if self.library.fail == "run" or (self.library.fail == "capture" and graph != "-1"):
            raise RuntimeError("CUDA failure 900: operation not permitted when stream is capturing")
        assert options.entries["disable_synchronize_execution_providers"] == "1"  # else the copies would wait
        assert graph == "-1" or self.provider["enable_cuda_graph"] == "1"
        stream = self.library.cuda.streams[int(self.provider["user_compute_stream"])]
        bound = dict(binding.bound)

        def work() -> None:
            address, shape = bound["image"]
            image = _array(address, shape)
            for channel, name in enumerate(("labels", "confidence")):
                address, shape = bound[name]
                _array(address, shape)[...] = image[..., channel]

        stream.add(work if graph == "-1" else self.graphs.setdefault(graph, work))


class FakeOnnxRuntime:
    """The parts of onnxruntime that the engine uses, on a FakeCudaRuntime.

    Args:
        cuda: where its work goes.
        fail: what goes wrong: "session", "provider", "libraries", "cpu nodes", "run", "capture", "kernels", "sum",
            "absent".
    """

    __version__ = "1.0"
    SessionOptions = FakeSessionOptions
    RunOptions = FakeRunOptions

    def __init__(self, cuda: FakeCudaRuntime, fail: str = "") -> None:
        self.cuda = cuda
        self.fail = fail
        self.preloaded = self.found = False
        self.runs: list[str] = []
        self.contents: list[bytes] = []

    def get_available_providers(self) -> list[str]:
        return [CPU] if self.fail == "absent" else [CUDA, CPU]

    def set_default_logger_severity(self, severity: int) -> None:
        assert severity == 3

    def preload_dlls(
        self, cuda: bool = True, cudnn: bool = True, msvc: bool = True, directory: str | None = None
    ) -> None:
        """Without it the real one finds no CUDA that pip installed; it prints what it does not find. What it has loaded
        once, it finds."""
        self.preloaded = True
        self.found = self.found or (directory is not None and (Path(directory) / "libcublas.so.12").is_file())
        if self.fail == "libraries" and not self.found:
            print("Failed to load libcublas.so.12: cannot open shared object file")

    def InferenceSession(
        self, content: bytes, options: FakeSessionOptions, providers: list[Any], enable_fallback: int = 1
    ) -> FakeSession:
        assert self.preloaded
        assert enable_fallback == 0  # else the real one prints, runs on the CPU and keeps the reason
        self.contents.append(content)
        return FakeSession(self, options, providers)


def _array(address: int, shape: tuple[int, ...]) -> np.ndarray:
    count = int(np.prod(shape))
    return np.ctypeslib.as_array((ctypes.c_uint8 * count).from_address(address)).reshape(shape)
