"""Runs a TensorRT engine through NVIDIA's cuda-python; no torch.

One stream; one pinned host and one device buffer for each tensor, sized for the largest batch once
and for all, so that running allocates nothing on the device. All calls come from the thread that
opened the engine.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from seg_perception.core.errors import EngineError
from seg_perception.core.types import Size
from seg_perception.engines.base import INPUT_NAME, OUTPUT_NAMES, CheckedEngine, EngineInfo, ImageBatch, answer_shape
from seg_perception.engines.cuda import WARM_UPS, CapturedGraph, Cuda, CudaRuntime, DeviceTensors, load_cuda
from seg_perception.engines.tensorrt import versions
from seg_perception.engines.tensorrt.build import make_logger
from seg_perception.engines.tensorrt.file import EngineFile, check_runs_here
from seg_perception.engines.tensorrt.versions import TensorRtLibrary, load_library

if TYPE_CHECKING:
    import tensorrt as trt

log = logging.getLogger(__name__)

_TENSORS = (INPUT_NAME, *OUTPUT_NAMES)


class TensorRtEngine(CheckedEngine):
    """An opened engine on the first GPU.

    Args:
        file: a checked engine file.
        library: the TensorRT flavour it was built with; None imports it.
        runtime: cuda-python's runtime module; None imports it.
        cuda_graph: once two batches in a row have one shape, capture kernels and copies back, and replay them
            for as long as it stays; where the capture fails, the engine says so in the log and goes on
            without. TensorRT-RTX captures by itself, see `versions.make_context`.

    Raises:
        EngineError: no GPU, the engine does not run here, it breaks the contract, or CUDA or
            TensorRT failed, with their own words. Nothing stays allocated.
    """

    def __init__(
        self,
        file: EngineFile,
        library: TensorRtLibrary | None = None,
        runtime: CudaRuntime | None = None,
        cuda_graph: bool = True,
    ) -> None:
        self._library = library or load_library(file.key.library)
        self._cuda = Cuda(runtime or load_cuda())
        self._card = file.card
        self._messages: list[str] = []
        self._tensors: DeviceTensors | None = None
        # TensorRT allows no change of a context whose work was captured (Developer Guide, "CUDA Graphs"), so
        # the graph is of the present input shape, and dropped when another one comes.
        self._graph: CapturedGraph | None = None
        self._engine: trt.ICudaEngine | None = None
        self._context: trt.IExecutionContext | None = None
        self._runtime: trt.Runtime | None = None
        self._shape: tuple[int, ...] = ()
        self._use_graph = cuda_graph
        self._cuda.call("cudaSetDevice", 0)
        gpu = self._cuda.gpu()
        check_runs_here(file, self._library, gpu)
        fixed, self._largest = file.key.input_sizes.fixed, file.key.input_sizes.largest
        self._info = EngineInfo(
            runtime=self._library.name,
            version=self._library.version_text,
            device=gpu.name,
            precision=str(file.key.precision),
            max_batch=file.key.batch,
            fixed_size=fixed,
            largest_size=self._largest,
        )
        try:
            self._deserialize(file)
            self._check_contract(fixed, file.key.batch)
            self._allocate(file.key.batch)
            usual, batch = fixed or file.card.input_size, file.key.batch
            for count in (*range(1, batch), *([batch] * WARM_UPS)):
                self._run(np.zeros((count, *self._card.camera_encoding.array_shape(usual)), np.uint8))
        except BaseException:
            with contextlib.suppress(EngineError):  # the first error is the one to tell
                self.close()
            raise

    gathers = True

    @property
    def uses_cuda_graph(self) -> bool:
        """Whether runs are replayed from a captured graph; False once a capture has failed."""
        return self._use_graph

    def _release(self) -> None:
        """Release everything, also when a release fails; the first failure is raised at the end.

        Raises:
            EngineError: CUDA could not release something (after an earlier asynchronous failure).
        """
        graph, self._graph = self._graph, None
        tensors, self._tensors = self._tensors, None
        self._shape = ()
        self._context = None  # before the engine that it belongs to
        self._engine = None
        self._runtime = None
        failures: list[EngineError] = []
        if tensors is not None and graph is not None:
            with contextlib.suppress(EngineError):  # releasing the tensors waits again, and tells
                tensors.synchronize()
        failures += graph.release() if graph is not None else []
        failures += tensors.release() if tensors is not None else []
        if failures:
            raise failures[0]

    def _deserialize(self, file: EngineFile) -> None:
        if TYPE_CHECKING:
            module = trt
        else:
            module = self._library.module
        self._logger = make_logger(self._library, self._messages)
        runtime = module.Runtime(self._logger)
        self._runtime = runtime
        engine = runtime.deserialize_cuda_engine(file.content)
        if engine is None:
            raise EngineError(f"{self._library} cannot open {file.path}: {self._reasons()}")
        self._engine = engine
        context = versions.make_context(self._library, engine, self._use_graph)
        if context is None:
            raise EngineError(f"{self._library} cannot make an execution context: {self._reasons()}")
        self._context = context

    def _check_contract(self, size: Size | None, batch: int) -> None:
        """What was built must take and give what the graph contract says."""
        engine = self._open_engine()
        if TYPE_CHECKING:
            module = trt
        else:
            module = self._library.module
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        if sorted(names) != sorted(_TENSORS):
            raise EngineError(f"the engine has tensors {sorted(names)}; the contract says {sorted(_TENSORS)}")
        for name in names:
            mode = module.TensorIOMode.INPUT if name == INPUT_NAME else module.TensorIOMode.OUTPUT
            pixels = (size.height, size.width) if size else (-1, -1)
            image = self._card.camera_encoding.array_shape(size) if size else (-1, -1, 3)
            expected = image if name == INPUT_NAME else pixels
            dtype, shape = engine.get_tensor_dtype(name), tuple(engine.get_tensor_shape(name))
            if engine.get_tensor_mode(name) != mode or dtype != module.uint8 or shape[1:] != expected:
                raise EngineError(
                    f"tensor {name!r} of the engine is {dtype} {list(shape)}; "
                    f"the contract says uint8 [N, {', '.join(map(str, expected))}]"
                )
            if shape[0] not in (-1, batch):
                raise EngineError(f"the engine takes a batch of {shape[0]}, its key says up to {batch}")

    def _allocate(self, batch: int) -> None:
        context = self._open_context()
        self._tensors = DeviceTensors(self._cuda, self._largest, batch)
        for name in _TENSORS:
            if not context.set_tensor_address(name, self._tensors.address(name)):
                raise EngineError(f"{self._library} refuses the buffer of {name!r}: {self._reasons()}")

    def _run(self, images: NDArray[np.uint8] | ImageBatch) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        tensors = self._open_tensors()
        repeated = images.shape == self._shape
        if not repeated:
            self._change_shape(images.shape)
        tensors.enqueue_input(images)  # not in the graph: images may lie anywhere
        if self._graph is not None:
            self._graph.launch(tensors.stream)
        else:
            self._enqueue(images.shape)
        tensors.synchronize()
        answers = tensors.answers(answer_shape(images.shape, self._card))
        # The first run of a shape may allocate, which a capture forbids; and a lone batch is not worth one.
        if self._use_graph and repeated and self._graph is None and not self._library.is_rtx:
            self._capture(images.shape)
        return answers

    def _change_shape(self, shape: tuple[int, ...]) -> None:
        captured, self._graph = self._graph, None
        self._shape = ()
        if captured is not None and (failures := captured.release()):
            raise failures[0]
        if not self._open_context().set_input_shape(INPUT_NAME, shape):
            raise EngineError(f"{self._library} refuses the input shape {list(shape)}: {self._reasons()}")
        self._shape = shape

    def _enqueue(self, shape: tuple[int, ...]) -> None:
        """Run and copy out, all on the one stream; returns before it is done."""
        tensors = self._open_tensors()
        if not self._open_context().execute_async_v3(int(tensors.stream)):
            raise EngineError(f"{self._library} could not run: {self._reasons()}")
        tensors.enqueue_outputs(answer_shape(shape, self._card))

    def _capture(self, shape: tuple[int, ...]) -> None:
        stream = self._open_tensors().stream
        try:
            self._graph = CapturedGraph(self._cuda, stream, lambda: self._enqueue(shape))
        except EngineError as error:
            self._use_graph = False
            self._cuda.forget_error()  # else TensorRT's next launch would find it and take it for its own
            log.warning("no CUDA graph for this engine, running without: %s", error)

    def _open_tensors(self) -> DeviceTensors:
        if self._tensors is None:
            raise EngineError("this engine is closed")
        return self._tensors

    def _open_engine(self) -> trt.ICudaEngine:
        if self._engine is None:
            raise EngineError("this engine is closed")
        return self._engine

    def _open_context(self) -> trt.IExecutionContext:
        if self._context is None:
            raise EngineError("this engine is closed")
        return self._context

    def _reasons(self) -> str:
        """What TensorRT has logged as errors since the last question."""
        text = "; ".join(dict.fromkeys(self._messages)) or "it gave no reason"
        self._messages.clear()
        return text

    def device_memory(self) -> int:
        """Bytes of device memory that this engine's activations and buffers take."""
        return versions.engine_device_memory(self._open_engine()) + self._open_tensors().size_bytes
