"""Everything that differs between TensorRT 8.5, 10.x, 11.x and TensorRT-RTX, in one place.

The table in docs/tensorrt.md lists the differences; code elsewhere in this folder calls only what
every one of them has.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import logging
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from seg_perception.core.errors import EngineError, pip_install
from seg_perception.core.types import Precision
from seg_perception.engines.cuda import Gpu

if TYPE_CHECKING:
    import tensorrt as trt

log = logging.getLogger(__name__)

TENSORRT = "tensorrt"
TENSORRT_RTX = "tensorrt_rtx"
LIBRARIES = (TENSORRT, TENSORRT_RTX)
OLDEST = (8, 5)

_RTX_MODULES = ("tensorrt_rtx", "tensorrt_rtx_bindings")  # NVIDIA's SDK package, and the bindings on PyPI
_RTX_LIBRARY_PACKAGE = "onnxruntime_ep_nv_tensorrt_rtx"  # its wheel carries the shared libraries
_RTX_LIBRARY_FILES = ("libtensorrt_rtx.so.*", "libtensorrt_onnxparser_rtx.so.*")
_INSTALL = {
    TENSORRT: (
        "NVIDIA TensorRT 8.5 or newer with its Python package 'tensorrt' "
        "(part of JetPack on a Jetson; NVIDIA's apt packages or containers elsewhere)"
    ),
    TENSORRT_RTX: f"NVIDIA TensorRT-RTX: {pip_install('tensorrt')}",
}


@dataclass(frozen=True, slots=True)
class TensorRtLibrary:
    """One imported TensorRT flavour.

    `module` has the API of `tensorrt`, whichever flavour it is.
    """

    name: str  # "tensorrt" or "tensorrt_rtx"
    module: ModuleType
    version_text: str

    @property
    def version(self) -> tuple[int, ...]:
        """The leading numbers, for example (10, 3, 0, 30)."""
        return tuple(int(part) for part in self.version_text.split(".") if part.isdecimal())

    @property
    def is_rtx(self) -> bool:
        return self.name == TENSORRT_RTX

    @property
    def strongly_typed_only(self) -> bool:
        """Precision comes from the graph's tensor types alone; there are no FP16 or INT8 builder flags."""
        return self.is_rtx or self.version >= (11,)

    @property
    def strongly_typed(self) -> bool:
        """Networks can be strongly typed (not in 8.x)."""
        return self.is_rtx or self.version >= (10,)

    def __str__(self) -> str:
        return f"{'TensorRT-RTX' if self.is_rtx else 'TensorRT'} {self.version_text}"


def load_library(wanted: str | None = None) -> TensorRtLibrary:
    """Import TensorRT: the named flavour, or `tensorrt` where installed, else `tensorrt_rtx`.

    Raises:
        EngineError: not installed, too old, or an unknown name; says what to install.
    """
    if wanted is not None and wanted not in LIBRARIES:
        raise EngineError(f"TensorRT flavour {wanted!r} is not known; accepted: {', '.join(LIBRARIES)}")
    reasons: list[str] = []
    for name in LIBRARIES if wanted is None else (wanted,):
        try:
            module = _import_rtx() if name == TENSORRT_RTX else _import_complete(TENSORRT)
        except (ImportError, OSError) as error:
            reasons.append(f"{name}: {error}")
            continue
        library = TensorRtLibrary(name, module, str(module.__version__))
        if not library.is_rtx and library.version < OLDEST:
            raise EngineError(f"{library} is too old; 8.5 or newer is needed")
        return library
    needed = "; or ".join(_INSTALL[name] for name in (LIBRARIES if wanted is None else (wanted,)))
    raise EngineError(f"TensorRT cannot be used ({'; '.join(reasons)}). Install {needed}")


def _import_complete(name: str) -> ModuleType:
    """Import a module that really is TensorRT: type stubs alone import as an empty package."""
    module = importlib.import_module(name)
    if not hasattr(module, "Builder"):
        raise ImportError(f"the module {name!r} holds no TensorRT (type stubs only?)")
    return module


def _import_rtx() -> ModuleType:
    reasons: list[str] = []
    for attempt in ("as installed", "with the libraries of " + _RTX_LIBRARY_PACKAGE):
        if attempt != "as installed" and not _preload_rtx_libraries():
            break
        for name in _RTX_MODULES:
            try:
                return _import_complete(name)
            except ImportError as error:  # noqa: PERF203
                if importlib.util.find_spec(name) is not None:
                    reasons.append(str(error))
    raise ImportError("; ".join(dict.fromkeys(reasons)) or f"no module {' or '.join(_RTX_MODULES)}")


def _preload_rtx_libraries() -> bool:
    """Load TensorRT-RTX's shared libraries from the wheel that carries them; False where it is absent."""
    spec = importlib.util.find_spec(_RTX_LIBRARY_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return False
    folder = Path(next(iter(spec.submodule_search_locations)))
    for pattern in _RTX_LIBRARY_FILES:
        found = sorted(folder.glob(pattern))
        if not found:
            return False
        ctypes.CDLL(str(found[-1]), mode=ctypes.RTLD_GLOBAL)
    return True


def rtx_capabilities(library: TensorRtLibrary) -> tuple[tuple[int, int], ...]:
    """Compute capabilities that TensorRT-RTX names as targets, rising, for example ((7, 5), (8, 0), ...)."""
    names = (name for name in library.module.ComputeCapability.__members__ if name.startswith("SM"))
    return tuple(sorted((int(name[2:-1]), int(name[-1])) for name in names))


def why_unsupported(library: TensorRtLibrary, gpu: Gpu, logger: trt.ILogger, errors: list[str]) -> str | None:
    """Ask the library whether its engines run on this GPU; None where they do.

    TensorRT-RTX builds on any machine and refuses only when the engine is opened, so its list of targets
    is asked; it also takes whatever is newer than its newest. Plain TensorRT makes no builder for a GPU
    that it does not support, so it is asked for one.

    Args:
        library: an imported flavour.
        gpu: of this machine.
        logger: from `progress.make_logger`, which puts the library's own words into `errors`.
    """
    if library.is_rtx:
        known, mine = rtx_capabilities(library), tuple(map(int, gpu.capability.split(".")))
        if not known or mine in known or mine > known[-1]:
            return None
        listed = ", ".join(f"{major}.{minor}" for major, minor in known)
        return (
            f"{library} does not support {gpu.name} (compute capability {gpu.capability}); "
            f"it supports {listed} and newer ones"
        )
    errors.clear()
    try:
        builder = library.module.Builder(logger)
    except (TypeError, RuntimeError) as error:  # what the bindings make of a factory that returned nothing
        builder, reason = None, str(error)
    else:
        reason = "it makes no builder here"
    if builder is not None:
        return None
    said = "; ".join(dict.fromkeys(errors)) or reason
    return f"{library} does not support {gpu.name} (compute capability {gpu.capability}): {said}"


def network_flags(library: TensorRtLibrary, weakly_typed: bool) -> int:
    """Creation flags of a network.

    8.x wants explicit batch said aloud; 10.x takes the strong typing flag; 11.x and RTX are strongly
    typed in any case.
    """
    flags = library.module.NetworkDefinitionCreationFlag
    if library.strongly_typed and not weakly_typed:
        return 1 << int(flags.STRONGLY_TYPED)
    if library.version < (10,):
        return 1 << int(flags.EXPLICIT_BATCH)
    return 0


def set_weak_precision(library: TensorRtLibrary, config: trt.IBuilderConfig, precision: Precision) -> None:
    """Allow half and int8 kernels in a weakly typed network (8.x, and DLA before 11)."""
    flags = library.module.BuilderFlag
    if precision is not Precision.FP32:
        config.set_flag(flags.FP16)
    if precision is Precision.INT8:
        config.set_flag(flags.INT8)


def set_targets(library: TensorRtLibrary, config: trt.IBuilderConfig, target: str | None) -> None:
    """Choose the GPU to build for.

    Args:
        target: a name such as "sm89"; None builds for the machine's GPU, or, with TensorRT-RTX on a
            machine without one, for every GPU that it supports.

    Raises:
        EngineError: plain TensorRT builds only for the GPU in the machine, or the name is unknown.
    """
    if target is None:
        return
    if not library.is_rtx:
        raise EngineError(f"--target {target}: {library} builds only for the GPU in the machine; TensorRT-RTX can")
    capabilities: dict[str, Any] = dict(library.module.ComputeCapability.__members__)
    known = [name.lower() for name in capabilities if name.startswith("SM")]
    if target.lower() not in known:
        raise EngineError(f"--target {target} is not known to {library}; accepted: {', '.join(known)}")
    any_config: Any = config  # RTX only, so not in the stubs of TensorRT
    any_config.num_compute_capabilities = 1
    any_config.set_compute_capability(capabilities[target.upper()], 0)


def set_optimization_level(library: TensorRtLibrary, config: trt.IBuilderConfig, level: int | None) -> None:
    """0 builds fastest, 5 searches longest (from TensorRT 8.6).

    Raises:
        EngineError: this version has no such setting, or the level is out of range.
    """
    if level is None:
        return
    if not hasattr(config, "builder_optimization_level"):
        raise EngineError(f"{library} has no optimization level; leave it out or use TensorRT 8.6 or newer")
    if not 0 <= level <= 5:
        raise EngineError(f"optimization level {level} is not accepted: 0 (fast build) to 5 (fast engine)")
    config.builder_optimization_level = level


def set_hardware_compatible(library: TensorRtLibrary, config: trt.IBuilderConfig) -> None:
    """Let the engine run on every GPU from the Ampere generation on, at some cost in speed.

    Raises:
        EngineError: this version cannot.
    """
    if library.is_rtx or not hasattr(config, "hardware_compatibility_level"):
        raise EngineError(f"{library} builds no hardware-compatible engine; TensorRT 8.6 or newer does")
    config.hardware_compatibility_level = library.module.HardwareCompatibilityLevel.AMPERE_PLUS


def keeps_timings(library: TensorRtLibrary) -> bool:
    """TensorRT-RTX compiles its kernels when the engine is opened, so its builder has none to time."""
    return not library.is_rtx


def supports_progress(library: TensorRtLibrary) -> bool:
    """The builder reports progress and can be stopped through it (from 10.0)."""
    return hasattr(library.module, "IProgressMonitor")


def describe_parser_error(error: trt.ParserError, node_names: list[str], node_operators: list[str]) -> str:
    """One parser error as: node, operator, reason.

    Names are part of the error from 10.0 on; before that it holds only the node's index. Of an operator
    without an importer, some versions say no more than "false".
    """
    index = error.node()
    in_range = 0 <= index < len(node_names)
    name = error.node_name() if hasattr(error, "node_name") else (node_names[index] if in_range else "")
    operator = error.node_operator() if hasattr(error, "node_operator") else (node_operators[index] if in_range else "")
    where = f"node {name!r} ({operator})" if name or operator else "the graph"
    code, text = str(getattr(error.code(), "name", error.code())), error.desc().strip()
    if code == "UNSUPPORTED_NODE":
        return f"{where}: TensorRT does not support this operator here" + (f": {text}" if len(text) > 5 else "")
    return f"{where}: {text} ({code})"


def dla_cores(builder: trt.Builder) -> int:
    """DLA cores that this library can use on this machine; 0 where there are none."""
    return int(getattr(builder, "num_DLA_cores", 0))


def adjust_parser_for_dla(library: TensorRtLibrary, parser: trt.OnnxParser) -> None:
    """Let the parser shape layers for the DLA, where the version can (from 10.x)."""
    flag = getattr(getattr(library.module, "OnnxParserFlag", None), "ADJUST_FOR_DLA", None)
    if flag is not None:
        parser.set_flag(flag)


def make_context(library: TensorRtLibrary, engine: trt.ICudaEngine, cuda_graph: bool) -> trt.IExecutionContext | None:
    """An execution context; None where the library refuses.

    TensorRT-RTX replaces the kernels of an open shape by better ones while it runs, which a graph captured from outside
    would not survive: it captures by itself, where it can (from 1.2), and is never captured.
    """
    if not (library.is_rtx and hasattr(library.module, "CudaGraphStrategy")):
        return engine.create_execution_context()
    any_engine: Any = engine  # RTX only, so not in the stubs of TensorRT
    config = any_engine.create_runtime_config()
    strategies: Any = library.module.CudaGraphStrategy
    config.cuda_graph_strategy = strategies.WHOLE_GRAPH_CAPTURE if cuda_graph else strategies.DISABLED
    context: trt.IExecutionContext | None = any_engine.create_execution_context(config)
    return context


def engine_device_memory(engine: trt.ICudaEngine) -> int:
    """Bytes of device memory one execution context needs."""
    return int(getattr(engine, "device_memory_size_v2", 0) or getattr(engine, "device_memory_size", 0))
