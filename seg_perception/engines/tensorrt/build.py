"""Compiles a planned engine with TensorRT, in memory, and says how far it is. Needs no GPU with TensorRT-RTX."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import onnx

from seg_perception.core.errors import EngineError
from seg_perception.core.files import write_atomically
from seg_perception.core.types import Precision
from seg_perception.engines.base import INPUT_NAME, OUTPUT_NAMES
from seg_perception.engines.graph import fixed_batch, pin_shapes
from seg_perception.engines.graph.camera import for_camera
from seg_perception.engines.graph.half import to_half
from seg_perception.engines.tensorrt import versions
from seg_perception.engines.tensorrt.plan import CompilePlan
from seg_perception.engines.tensorrt.versions import TensorRtLibrary

if TYPE_CHECKING:
    import tensorrt as trt


log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BuildProgress:
    """How far a build is: TensorRT's own phase name, and the fraction of the whole, 0 to 1."""

    phase: str
    fraction: float


ProgressCallback: TypeAlias = Callable[[BuildProgress], None]
StopRequested: TypeAlias = Callable[[], bool]


class BuildStoppedError(EngineError):
    """The build was stopped on request; nothing was written."""


def make_logger(library: TensorRtLibrary, errors: list[str]) -> trt.ILogger:
    """A TensorRT logger that writes to Python's logging and keeps the errors' text."""
    if TYPE_CHECKING:
        module = trt
    else:
        module = library.module
    levels = {
        module.ILogger.Severity.INTERNAL_ERROR: logging.ERROR,
        module.ILogger.Severity.ERROR: logging.ERROR,
        module.ILogger.Severity.WARNING: logging.WARNING,
    }

    class PythonLogger(module.ILogger):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self._told: set[str] = set()

        def log(self, severity: Any, msg: str) -> None:
            level = levels.get(severity, logging.DEBUG)
            if level == logging.ERROR:
                errors.append(msg.strip())
                level = logging.DEBUG  # it reaches the user once, inside our error
            if level > logging.DEBUG and msg in self._told:  # it repeats some warnings for every layer
                return
            self._told.add(msg)
            log.log(level, "%s: %s", library, msg.strip())

    return PythonLogger()


def make_progress_monitor(
    library: TensorRtLibrary, progress: ProgressCallback | None, stop_requested: StopRequested | None
) -> Any:
    """TensorRT's progress monitor around two callables; None where the version has none.

    Exceptions of the callables must not fly through TensorRT: they are kept in `failure`, and the
    build is stopped. TensorRT may call from several threads of its own.
    """
    if not versions.supports_progress(library):
        return None
    if TYPE_CHECKING:
        module = trt
    else:
        module = library.module

    class Monitor(module.IProgressMonitor):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            module.IProgressMonitor.__init__(self)
            self.failure: BaseException | None = None
            self._fractions = NestedFractions()
            self._lock = threading.Lock()

        def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None:
            with self._lock:
                self._fractions.start(phase_name, parent_phase, num_steps)

        def phase_finish(self, phase_name: str) -> None:
            with self._lock:
                self._fractions.finish(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                with self._lock:
                    fraction = self._fractions.step(phase_name, step)
                    if progress is not None:
                        progress(BuildProgress(phase_name, fraction))
                return not (stop_requested is not None and stop_requested())
            except BaseException as error:  # noqa: BLE001  it is raised again after the build
                self.failure = error
                return False

    return Monitor()


class NestedFractions:
    """Turns TensorRT's nested phases into one fraction, 0 to 1, that never falls.

    A phase counts as one step of its parent.
    """

    def __init__(self) -> None:
        self._phases: dict[str, tuple[float, float, int]] = {}  # name -> (start, width, steps)
        self._reached: dict[str, int] = {}
        self._highest = 0.0

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        start, width = 0.0, 1.0
        if parent in self._phases and parent is not None:
            parent_start, parent_width, parent_steps = self._phases[parent]
            width = parent_width / max(1, parent_steps)
            start = parent_start + width * self._reached[parent]
        self._phases[phase] = (start, width, steps)
        self._reached[phase] = 0

    def step(self, phase: str, step: int) -> float:
        if phase in self._phases:
            start, width, steps = self._phases[phase]
            self._reached[phase] = step + 1
            self._highest = max(self._highest, min(1.0, start + width * min(1.0, (step + 1) / max(1, steps))))
        return self._highest

    def finish(self, phase: str) -> None:
        self._phases.pop(phase, None)
        self._reached.pop(phase, None)


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """A finished engine and how it came about."""

    content: bytes
    seconds: float
    layers: int
    dla_layers: tuple[str, ...]  # names; empty without a DLA
    gpu_fallback_layers: tuple[str, ...]  # with a DLA: "name (type)" of what it cannot run


def prepare_graph(plan: CompilePlan) -> onnx.ModelProto:
    """The graph as the parser will see it: precision, camera size and shapes applied.

    Raises:
        ModelError: the graph cannot have this precision or camera size.
    """
    settings, graph = plan.settings, plan.model.graph
    is_half = plan.model.card.precision is Precision.FP16
    model = onnx.ModelProto()
    model.CopyFrom(graph)
    if settings.camera_size is not None:
        model = for_camera(model, settings.camera_size, settings.size, settings.camera_encoding)
    if plan.precision is not Precision.FP32 and plan.library.strongly_typed and not is_half:
        model = to_half(model)
    pin_shapes(model, 1 if settings.batch == 1 else fixed_batch(graph), plan.sizes.fixed)
    return model


def build_engine(
    plan: CompilePlan,
    timing_cache: Path | None = None,
    progress: ProgressCallback | None = None,
    stop_requested: StopRequested | None = None,
) -> BuiltEngine:
    """Compile what is planned.

    Args:
        plan: from `plan.plan_compilation`.
        timing_cache: file with kernel timings of earlier builds; made and updated where given.
        progress: called often, one call at a time, perhaps from TensorRT's threads; its exceptions end the build.
        stop_requested: asked often, perhaps from TensorRT's threads; True ends the build (from TensorRT 10 on).

    Raises:
        ModelError: the graph cannot be built so.
        EngineError: TensorRT refused the graph or failed, with its own words.
        BuildStoppedError: as requested.
    """
    return _Build(plan, timing_cache).run(prepare_graph(plan), progress, stop_requested)


class _Build:
    """One build; TensorRT's objects live as long as it."""

    def __init__(self, plan: CompilePlan, timing_cache: Path | None) -> None:
        self._plan = plan
        self._library = plan.library
        self._settings = plan.settings
        self._timing_cache = timing_cache
        if TYPE_CHECKING:
            self._trt = trt
        else:
            self._trt = plan.library.module
        self.messages: list[str] = []
        self._logger = make_logger(plan.library, self.messages)

    def run(
        self, model: onnx.ModelProto, progress: ProgressCallback | None, stop_requested: StopRequested | None
    ) -> BuiltEngine:
        started = time.monotonic()
        library, weakly_typed = self._library, self._plan.weakly_typed
        builder = self._trt.Builder(self._logger)
        network = builder.create_network(versions.network_flags(library, weakly_typed))
        self._parse(model, network)
        config = builder.create_builder_config()
        if weakly_typed:
            versions.set_weak_precision(library, config, self._plan.precision)
        self._configure(config)
        self._add_profile(builder, network, config)
        on_dla, on_gpu = self._place_on_dla(builder, network, config)
        cache = self._load_timing_cache(config)
        monitor = make_progress_monitor(library, progress, stop_requested)
        if monitor is not None:
            config.progress_monitor = monitor
        layers = network.num_layers
        serialized = builder.build_serialized_network(network, config)
        if monitor is not None and monitor.failure is not None:
            raise monitor.failure
        if stop_requested is not None and stop_requested():
            raise BuildStoppedError("the build was stopped; no engine was written")
        if serialized is None:
            raise EngineError(f"{library} could not build the engine: {self._reasons()}")
        if cache is not None and self._timing_cache is not None:
            keep_timings(self._timing_cache, cache)
        content = bytes(memoryview(serialized))
        return BuiltEngine(content, time.monotonic() - started, layers, on_dla, on_gpu)

    def _parse(self, model: onnx.ModelProto, network: trt.INetworkDefinition) -> None:
        parser = self._trt.OnnxParser(network, self._logger)
        if self._settings.dla_core is not None:
            versions.adjust_parser_for_dla(self._library, parser)
        if not parser.parse(model.SerializeToString()):
            names = [node.name for node in model.graph.node]
            operators = [node.op_type for node in model.graph.node]
            errors = [
                versions.describe_parser_error(parser.get_error(i), names, operators) for i in range(parser.num_errors)
            ]
            raise EngineError(
                f"{self._library} does not accept this graph:\n  " + "\n  ".join(errors or [self._reasons()])
            )
        found = {network.get_input(i).name for i in range(network.num_inputs)}
        found |= {network.get_output(i).name for i in range(network.num_outputs)}
        if found != {INPUT_NAME, *OUTPUT_NAMES}:
            raise EngineError(f"the parsed network has inputs and outputs {sorted(found)}, not those of the contract")

    def _configure(self, config: trt.IBuilderConfig) -> None:
        settings = self._settings
        if settings.workspace_mib is not None:
            config.set_memory_pool_limit(self._trt.MemoryPoolType.WORKSPACE, settings.workspace_mib << 20)
        versions.set_optimization_level(self._library, config, settings.optimization_level)
        versions.set_targets(self._library, config, settings.target)
        if settings.hardware_compatible:
            versions.set_hardware_compatible(self._library, config)

    def _add_profile(
        self,
        builder: trt.Builder,
        network: trt.INetworkDefinition,
        config: trt.IBuilderConfig,
    ) -> None:
        """Tuned for the largest batch and the card's size; nothing where the graph is static."""
        shape = tuple(network.get_input(0).shape)
        if -1 not in shape:
            return
        batch, sizes = self._settings.batch if shape[0] == -1 else shape[0], self._plan.sizes
        low, tuned, high = (
            (count, *self._plan.card.camera_encoding.array_shape(size))
            for count, size in ((1, sizes.smallest), (batch, sizes.tuned), (batch, sizes.largest))
        )
        profile = builder.create_optimization_profile()
        profile.set_shape(INPUT_NAME, low, tuned, high)
        config.add_optimization_profile(profile)

    def _place_on_dla(
        self, builder: trt.Builder, network: trt.INetworkDefinition, config: trt.IBuilderConfig
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        core = self._settings.dla_core
        if core is None:
            return (), ()
        cores = versions.dla_cores(builder)
        if core >= cores:
            raise EngineError(
                f"DLA core {core} is not there: {self._library} sees {cores} on this machine; leave out --dla-core"
            )
        if self._settings.batch != 1:
            raise EngineError("a DLA takes one fixed shape: build with --batch 1")
        config.default_device_type = self._trt.DeviceType.DLA
        config.DLA_core = core
        config.set_flag(self._trt.BuilderFlag.GPU_FALLBACK)
        on_dla, on_gpu = [], []
        for layer in (network.get_layer(i) for i in range(network.num_layers)):
            if config.can_run_on_DLA(layer):
                on_dla.append(layer.name)
            else:
                on_gpu.append(f"{layer.name} ({layer.type.name})")
        if not on_dla:
            raise EngineError(f"no layer of this graph can run on a DLA with {self._library}; leave out --dla-core")
        return tuple(on_dla), tuple(on_gpu)

    def _load_timing_cache(self, config: trt.IBuilderConfig) -> trt.ITimingCache | None:
        path = self._timing_cache
        if path is None:
            return None
        if not versions.keeps_timings(self._library):
            log.debug("%s times no kernels at build time; %s is not used", self._library, path)
            return None
        content = path.read_bytes() if path.is_file() else b""
        cache = config.create_timing_cache(content)
        if cache is None or not config.set_timing_cache(cache, False):
            log.warning("%s does not fit %s on this GPU; timing anew", path, self._library)
            cache = config.create_timing_cache(b"")
            config.set_timing_cache(cache, False)
        return cache

    def _reasons(self) -> str:
        return "; ".join(dict.fromkeys(self.messages)) or "it gave no reason"


def keep_timings(path: Path, cache: trt.ITimingCache) -> None:
    """Write the kernel timings; a failure costs only the next build's time, so it is logged, not raised."""
    try:
        write_atomically(path, bytes(memoryview(cache.serialize())))
    except OSError as error:
        log.warning("the kernel timings were not kept, the next build will take as long: %s", error)
