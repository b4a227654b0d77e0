"""What a build says while it runs: TensorRT's log, how far it is, and the wish to stop it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from seg_perception.core.errors import EngineError
from seg_perception.engines.tensorrt import versions
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
