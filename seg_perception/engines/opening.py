"""Opens an engine by name."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from pathlib import Path

from seg_perception.core.errors import EngineError, ModelError
from seg_perception.engines.base import Device, Engine, EngineOptions, EngineSpec
from seg_perception.engines.registry import AUTO, engine_choices, engines, preferred
from seg_perception.engines.tuned import TunedAnswer, stored_answer, tuned_file

log = logging.getLogger(__name__)


def open_engine(
    model: str | Path, engine: str = AUTO, threads: int = 0, options: EngineOptions | None = None
) -> Engine:
    """Open a model with the named engine; use it in a `with` block, or close it.

    "auto" takes the engine that its own file puts first among those that can run on this machine, and
    says in the log which, and why not the ones before it. On a CPU, what 'seg-perception benchmark --store'
    measured to be best for this model on this machine goes before. What is asked for by name and cannot be had is
    an error: nothing falls back silently.

    Args:
        model: an ONNX file, or a compiled `.engine` file.
        engine: "auto" or one of `registry.engines()`.
        threads: of an engine on the CPU; 0 takes all cores this process may use.
        options: everything else; its `threads` is used where `threads` is 0.

    Raises:
        FileNotFoundError: no such model.
        ModelError: the model breaks the contract of a deployed graph.
        EngineError: unknown engine; a negative number of threads; what was asked for by name is not
            installed; or an engine cannot be built, is stale, or does not run here.
    """
    path = Path(model)
    options = options or EngineOptions()
    if threads:
        options = dataclasses.replace(options, threads=threads)
    if engine not in engine_choices():
        raise EngineError(f"engine {engine!r} is not known; accepted: {', '.join(engine_choices())}")
    if not path.exists():
        raise FileNotFoundError(2, "there is no such model", str(path))
    if engine == AUTO:
        spec = choose(path)
        answer = None if spec.device is Device.GPU else _tuned(path)
        if answer is not None:
            log.info("engine auto: %s", answer)
            spec, options = (
                engines()[answer.engine],
                dataclasses.replace(options, threads=options.threads or answer.threads),
            )
        return spec.open(path, options)
    spec = engines()[engine]
    if is_compiled(path) and path.suffix not in spec.suffixes:
        raise ModelError(f"{path} is a compiled engine; {spec.name} takes the .onnx file it was compiled from")
    return spec.open(path, options)


def _tuned(path: Path) -> TunedAnswer | None:
    """What `seg-perception benchmark --store` measured for this model here, if that engine can still run."""
    if path.suffix != ".onnx" or not tuned_file().is_file():
        return None
    answer = stored_answer(hashlib.sha256(path.read_bytes()).hexdigest())
    spec = None if answer is None else engines().get(answer.engine)
    if spec is None or spec.device is Device.GPU or spec.why_not() is not None:
        return None
    return answer


def is_compiled(path: Path) -> bool:
    """Whether a file is of a kind that only some engines open."""
    return any(path.suffix in spec.suffixes for spec in engines().values()) and path.suffix != ".onnx"


def choose(path: Path) -> EngineSpec:
    """What "auto" takes for this file on this machine; the reasons go to the log.

    Raises:
        EngineError: nothing that could open it runs here; one line for each engine.
    """
    refused: dict[str, list[str]] = {}  # reason -> engines
    for spec in preferred():
        if is_compiled(path) and path.suffix not in spec.suffixes:
            continue
        reason = spec.why_not() if not is_compiled(path) else None  # a compiled file says itself what it needs
        if reason is None:
            log.info("engine auto: %s%s", spec.name, _because(refused))
            return spec
        refused.setdefault(reason, []).append(spec.name)
    raise EngineError(f"no engine can run {path} here{_because(refused)}")


def _because(refused: dict[str, list[str]]) -> str:
    if not refused:
        return ""
    return ", because " + "; ".join(f"{reason} ({', '.join(names)})" for reason, names in refused.items())
