"""ONNX Runtime on an NVIDIA GPU: for GPUs that no TensorRT at hand supports, and where none is installed.

It runs on the buffers, the stream and the error handling of `engines.cuda`, as the TensorRT engine
does: pinned host memory, tensors bound to device memory once, one stream, and a CUDA graph (ONNX
Runtime's own) for a shape that stays.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import io
import logging
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from seg_perception.core.errors import EngineError, pip_install
from seg_perception.core.types import Precision
from seg_perception.engines.base import (
    INPUT_NAME,
    OUTPUT_NAMES,
    CheckedEngine,
    Device,
    Engine,
    EngineInfo,
    EngineOptions,
    EngineSpec,
    ImageBatch,
    answer_shape,
)
from seg_perception.engines.cuda import WARM_UPS, Cuda, CudaRuntime, DeviceTensors, find_gpu, load_cuda
from seg_perception.engines.tuned import distributions_of

if TYPE_CHECKING:
    import onnxruntime as ort

    from seg_perception.engines.graph.model_file import CheckedModel

log = logging.getLogger(__name__)

NAME = "onnxruntime_cuda"
_PROVIDER = "CUDAExecutionProvider"
_NO_GRAPH = "-1"
_MOST_GRAPHS = 8
"""ONNX Runtime keeps each captured graph and its memory until the session ends: later shapes run without."""


class OnnxRuntimeCudaEngine(CheckedEngine):
    """Runs an exported ONNX file on the first GPU.

    Args:
        path: the ONNX file.
        options: precision (fp16 of an fp32 graph unless asked otherwise), batch, size, cuda_graph.
        library: onnxruntime; None imports it.
        runtime: cuda-python's runtime module; None imports it.

    Raises:
        FileNotFoundError: no such file.
        ModelError: it breaks the contract, or cannot have this precision or size.
        EngineError: no GPU, no CUDA provider, or ONNX Runtime or CUDA failed, with their own words.
            Nothing stays allocated.
    """

    def __init__(
        self,
        path: Path,
        options: EngineOptions | None = None,
        library: ModuleType | None = None,
        runtime: CudaRuntime | None = None,
    ) -> None:
        from seg_perception.engines.graph import fixed_batch, input_sizes, resolve_precision
        from seg_perception.engines.graph.model_file import load_model

        options = options or EngineOptions()
        model = load_model(path)
        precision = resolve_precision(model.card.precision, options.precision)
        sizes = input_sizes(model, options.size)
        batch = fixed_batch(model.graph) or options.batch
        self._library = library or _import_library()
        find_libraries(self._library)
        self._cuda = Cuda(runtime or load_cuda())
        self._card = dataclasses.replace(model.card, precision=precision)
        self._use_graph = options.cuda_graph
        self._graphs: dict[tuple[int, ...], str] = {}  # shape -> ONNX Runtime's id of its CUDA graph
        self._shape: tuple[int, ...] = ()
        self._session: ort.InferenceSession | None = None
        self._binding: Any = None
        self._tensors: DeviceTensors | None = None
        self._cuda.call("cudaSetDevice", 0)
        self._info = EngineInfo(
            runtime=NAME,
            version=self._library.__version__,
            device=self._cuda.gpu().name,
            precision="int8, computed in fp32" if precision is Precision.INT8 else str(precision),
            max_batch=batch,
            fixed_size=sizes.fixed,
            largest_size=sizes.largest,
        )
        free = self._cuda.free_memory()
        try:
            self._tensors = DeviceTensors(self._cuda, sizes.largest, batch)
            self._session = self._open_session(_content(model, precision), path)
            usual = sizes.fixed or sizes.tuned
            smaller = () if fixed_batch(model.graph) else range(1, batch)
            for count in (*smaller, *([batch] * WARM_UPS)):
                self._run(np.zeros((count, *self._card.camera_encoding.array_shape(usual)), np.uint8))
        except BaseException:
            with contextlib.suppress(EngineError):  # the first error is the one to tell
                self.close()
            raise
        self._device_memory = max(free - self._cuda.free_memory(), self._tensors.size_bytes)

    gathers = True

    @property
    def uses_cuda_graph(self) -> bool:
        """Whether runs of a shape that stays are replayed from a captured graph; False once a capture has failed."""
        return self._use_graph

    def device_memory(self) -> int:
        """Bytes of device memory that opening took; other programs that allocated meanwhile are in it."""
        return self._device_memory

    def _release(self) -> None:
        """Release everything, also when a release fails; the first failure is raised at the end.

        Raises:
            EngineError: CUDA could not release something (after an earlier asynchronous failure).
        """
        tensors, self._tensors = self._tensors, None
        failures: list[EngineError] = []
        if tensors is not None and tensors.stream is not None:
            with contextlib.suppress(EngineError):  # releasing the tensors waits again, and tells
                tensors.synchronize()
        self._binding = None
        self._session = None  # before the stream and the memory that it works on
        self._graphs = {}
        self._shape = ()
        failures += tensors.release() if tensors is not None else []
        if failures:
            raise failures[0]

    def _open_session(self, content: bytes, path: Path) -> ort.InferenceSession:
        """Every node on the GPU; a graph that has others runs, but says so and without a CUDA graph."""
        try:
            return self._new_session(content, all_on_gpu=True)
        except EngineError as error:
            log.debug("not all of %s runs on the GPU: %s", path, error)
            refused = error
        try:
            session = self._new_session(content, all_on_gpu=False)
        except EngineError as error:
            raise EngineError(f"{path}: ONNX Runtime cannot open this model on the GPU: {error}") from error
        log.warning("%s: ONNX Runtime runs some of this graph on the CPU, which is slow: %s", path, refused)
        self._use_graph = False
        return session

    def _new_session(self, content: bytes, all_on_gpu: bool) -> ort.InferenceSession:
        ort = self._library
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.disable_quant_qdq", "1")  # else int8 weights become float on the CPU
        if all_on_gpu:
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        provider = {
            "device_id": "0",
            "user_compute_stream": str(int(self._open_tensors().stream)),
            "enable_cuda_graph": "1" if self._use_graph and all_on_gpu else "0",
            "use_tf32": "0",  # fp32 means fp32
        }
        try:
            session = open_on_gpu(ort, content, options, provider)
        except Exception as error:  # onnxruntime raises several unrelated classes
            raise EngineError(_one_line(error)) from error
        if session.get_providers()[:1] != [_PROVIDER]:  # a provider that does not load is left out without an error
            raise EngineError(f"its CUDA provider does not load; it offers {', '.join(session.get_providers())}")
        return session

    def _run(self, images: NDArray[np.uint8] | ImageBatch) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        tensors = self._open_tensors()
        shape = images.shape
        repeated = shape == self._shape
        if not repeated:
            self._bind(shape)
        # The first run of a shape may allocate, and a lone batch is not worth a graph.
        graph = self._graphs.get(shape, _NO_GRAPH)
        captures = self._use_graph and repeated and graph == _NO_GRAPH and len(self._graphs) < _MOST_GRAPHS
        if captures:
            graph = str(len(self._graphs) + 1)
        tensors.enqueue_input(images)
        try:
            self._enqueue(graph if self._use_graph else _NO_GRAPH)
        except EngineError as error:
            if not captures:
                raise
            self._use_graph = False
            self._cuda.forget_error()
            log.warning("no CUDA graph for this engine, running without: %s", error)
            self._enqueue(_NO_GRAPH)
        else:
            if captures:
                self._graphs[shape] = graph
        answers = answer_shape(shape, self._card)
        tensors.enqueue_outputs(answers)
        tensors.synchronize()
        return tensors.answers(answers)

    def _bind(self, shape: tuple[int, ...]) -> None:
        """Tell ONNX Runtime where the tensors of this shape lie on the device."""
        tensors = self._open_tensors()
        self._shape = ()
        binding = self._open_library_session().io_binding()
        try:
            binding.bind_input(INPUT_NAME, "cuda", 0, np.uint8, list(shape), tensors.address(INPUT_NAME))
            answers = list(answer_shape(shape, self._card))
            for name in OUTPUT_NAMES:
                binding.bind_output(name, "cuda", 0, np.uint8, answers, tensors.address(name))
        except Exception as error:  # onnxruntime raises several unrelated classes
            raise EngineError(f"ONNX Runtime refuses the buffers of {list(shape)}: {_one_line(error)}") from error
        self._binding, self._shape = binding, shape

    def _enqueue(self, graph: str) -> None:
        """Run on the one stream; returns before it is done."""
        options = self._library.RunOptions()
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        options.add_run_config_entry("gpu_graph_id", graph)
        try:
            self._open_library_session().run_with_iobinding(self._binding, options)
        except Exception as error:  # onnxruntime raises several unrelated classes
            raise EngineError(f"ONNX Runtime failed: {_one_line(error)}") from error

    def _open_library_session(self) -> ort.InferenceSession:
        if self._session is None:
            raise EngineError("this engine is closed")
        return self._session

    def _open_tensors(self) -> DeviceTensors:
        if self._tensors is None:
            raise EngineError("this engine is closed")
        return self._tensors


def _content(model: CheckedModel, precision: Precision) -> bytes:
    from seg_perception.engines.graph.half import to_half

    if precision is Precision.FP16 and model.card.precision is Precision.FP32:
        return to_half(model.graph).SerializeToString()
    return model.content


def _import_library() -> ModuleType:
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise EngineError(f"the engine {NAME!r} needs ONNX Runtime: {pip_install('cuda')} ({error})") from error


@cache
def find_libraries(library: ModuleType) -> str:
    """Let onnxruntime-gpu load CUDA and cuDNN from the packages that its extras install, and register its provider.

    It does so only when asked (from 1.21 on; without it they are looked for where the system's libraries are), and
    from 1.29 on its provider is a plug-in that may be registered only then. By itself it looks for packages beside its
    own; a virtual environment may see those of the system.

    Args:
        library: onnxruntime.

    Returns:
        What it said of libraries that it does not find; "" where it found them all.
    """
    library.set_default_logger_severity(3)  # else each session of a sound machine warns that there is no plug-in
    preload = getattr(library, "preload_dlls", None)
    if preload is None:
        return ""
    said = _said_by(preload)
    if said and (nvidia := importlib.util.find_spec("nvidia")) is not None:
        for folder in sorted(f for place in nvidia.submodule_search_locations or () for f in Path(place).glob("*/lib")):
            _said_by(partial(preload, directory=str(folder)))
        said = _said_by(preload)
    return said


def _said_by(preload: Callable[[], object]) -> str:
    """What it prints, since a command's output is not the place for it."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            preload()
    except (OSError, RuntimeError, ValueError) as error:
        said.write(str(error))
    return "; ".join(dict.fromkeys(said.getvalue().split("\n"))).strip("; ")


def open_on_gpu(
    library: ModuleType, content: bytes, options: ort.SessionOptions, provider: dict[str, str]
) -> ort.InferenceSession:
    """A session on the CUDA provider alone: by itself ONNX Runtime would print that the GPU failed, run on the CPU
    instead, and keep its reason.
    """
    return library.InferenceSession(content, options, providers=[(_PROVIDER, provider)], enable_fallback=0)


def _why_not() -> str | None:
    gpu = find_gpu()
    if isinstance(gpu, str):
        return gpu
    if importlib.util.find_spec("onnxruntime") is None:
        return f"onnxruntime-gpu is not installed: {pip_install('cuda')}"
    try:
        return why_no_provider(importlib.import_module("onnxruntime"), tuple(distributions_of("onnxruntime")))
    except ImportError as error:
        return f"onnxruntime does not load: {error}"


@cache
def why_no_provider(library: ModuleType, installed: tuple[str, ...] = ()) -> str | None:
    """Run one convolution on the GPU: nothing less shows that CUDA, cuDNN and kernels for this GPU are there.

    Args:
        library: onnxruntime.
        installed: the distributions that may have brought it.
    """
    missing = find_libraries(library)
    if _PROVIDER not in library.get_available_providers():
        if len(installed) > 1:
            return (
                "onnxruntime and onnxruntime-gpu are both installed, and the former's files are in the latter's place: "
                "pip uninstall both, then pip install onnxruntime-gpu"
            )
        return f"this onnxruntime has no CUDA provider: pip uninstall onnxruntime, then {pip_install('cuda')}"
    options = library.SessionOptions()
    options.log_severity_level = 4
    try:
        session = open_on_gpu(library, _one_convolution(), options, {"device_id": "0"})
        if session.get_providers()[:1] != [_PROVIDER]:
            return (
                "ONNX Runtime's CUDA provider does not load: CUDA or cuDNN of the version it wants is not there "
                f"({missing or 'pip install onnxruntime-gpu[cuda,cudnn] brings them'})"
            )
        (answer,) = session.run(None, {"x": np.full((1, 1, 3, 3), 2.0, np.float32)})
    except ImportError:
        return f"onnx is not installed: {pip_install('cuda')}"
    except Exception as error:  # noqa: BLE001  onnxruntime raises several unrelated classes
        return f"ONNX Runtime's CUDA provider does not run here: {_one_line(error)}"
    return None if float(answer.sum()) == 18.0 else "ONNX Runtime's CUDA provider computes wrongly on this GPU"


def _one_convolution() -> bytes:
    """Nine ones over nine twos: 18."""
    from onnx import TensorProto, helper, numpy_helper

    shape = [1, 1, 3, 3]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 1, 1])],
        [numpy_helper.from_array(np.ones(shape, np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def _one_line(error: Exception) -> str:
    """Errors of CUDA come with source lines and line feeds."""
    return " ".join(str(error).split())


def _open(model: Path, options: EngineOptions) -> Engine:
    reason = _why_not()
    if reason is not None:
        raise EngineError(f"the engine {NAME!r} cannot run here: {reason}")
    return OnnxRuntimeCudaEngine(model, options)


ENGINES = (
    EngineSpec(
        NAME,
        "ONNX Runtime on CUDA, fp16 by default: for GPUs that the TensorRT at hand does not support",
        extra="cuda",
        device=Device.GPU,
        why_not=_why_not,
        open=_open,
        auto=50,
    ),
)
