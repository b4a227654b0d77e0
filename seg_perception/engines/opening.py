"""Finds the engines, every module or package of this folder that has ENGINES, and opens one by name.

Imports nothing heavy, so that `seg-perception --help` stays instant: engines are looked for when their names are first
asked for.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import logging
import pkgutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import seg_perception.engines
from seg_perception.core.errors import EngineError, ModelError, pip_install
from seg_perception.core.files import shipped_models

if TYPE_CHECKING:
    from seg_perception.core.types import Size
    from seg_perception.engines.base import Engine, EngineOptions, EngineSpec
    from seg_perception.engines.tuned import TunedAnswer


log = logging.getLogger(__name__)

AUTO = "auto"
"""Takes the first engine, by the order that the engines themselves declare, that can run on this machine."""


@cache
def engines() -> Mapping[str, EngineSpec]:
    """Every known engine by name, CPU before GPU and then alphabetically; read-only."""
    modules = (
        importlib.import_module(f"{seg_perception.engines.__name__}.{found.name}")
        for found in pkgutil.iter_modules(seg_perception.engines.__path__)
    )
    specs = [spec for module in modules for spec in getattr(module, "ENGINES", ())]
    ordered = sorted(specs, key=lambda spec: (spec.device.value, spec.name))
    return MappingProxyType({spec.name: spec for spec in ordered})


def engine_choices() -> tuple[str, ...]:
    """What `open_engine` accepts: "auto" and every engine's name."""
    return (AUTO, *engines())


def compiling_engines() -> tuple[str, ...]:
    """The engines that `compile` makes files for: those that open one."""
    return tuple(spec.name for spec in engines().values() if ".engine" in spec.suffixes)


def preferred() -> tuple[EngineSpec, ...]:
    """The engines that "auto" may take, most wanted first."""
    chosen = [spec for spec in engines().values() if spec.auto is not None]
    return tuple(sorted(chosen, key=lambda spec: spec.auto or 0))


def choices_text() -> str:
    """One sentence for `--help` and the node's parameter: what "auto" does, and which engines it leaves alone."""
    by_name = ", ".join(spec.name for spec in engines().values() if spec.auto is None)
    order = ", ".join(spec.name for spec in preferred())
    return f"auto takes the first of {order} that can run here{f'; by name only: {by_name}' if by_name else ''}"


def engine_table() -> str:
    """The documentation's table of engines, in Markdown."""
    lines = ["| engine | computes on | install | `auto` | what it is |", "|---|---|---|---|---|"]
    order = [spec.name for spec in preferred()]
    for spec in engines().values():
        place = f"{order.index(spec.name) + 1}." if spec.name in order else "by name only"
        install = f"`{pip_install(spec.extra)}`" if spec.extra else "nothing"
        lines.append(f"| `{spec.name}` | {spec.device.value} | {install} | {place} | {spec.summary} |")
    return "\n".join(lines)


def open_engine(
    model: str | Path,
    engine: str = AUTO,
    threads: int = 0,
    options: EngineOptions | None = None,
    size: Size | None = None,
) -> Engine:
    """Open a model with the named engine; use it in a `with` block, or close it.

    "auto" takes the engine that its own file puts first among those that can run on this machine, and
    says in the log which, and why not the ones before it. On a CPU, what 'seg-perception benchmark --store'
    measured to be best for this model, size and number of threads on this machine goes before. What is asked for by
    name and cannot be had is an error: nothing falls back silently.

    Args:
        model: an ONNX file, or a compiled `.engine` file.
        engine: "auto" or one of `engines()`.
        threads: of an engine on the CPU; 0 takes all cores this process may use.
        options: everything else; its `threads` is used where `threads` is 0.
        size: that the network will run at, for "auto" to look up what was measured; None: the options', or the model
            card's.

    Raises:
        FileNotFoundError: no such model.
        ModelError: the model breaks the contract of a deployed graph.
        EngineError: unknown engine; a negative number of threads; what was asked for by name is not
            installed; or an engine cannot be built, is stale, or does not run here.
    """
    from seg_perception.engines.base import Device, EngineOptions

    path = Path(model)
    options = options or EngineOptions()
    if threads:
        options = dataclasses.replace(options, threads=threads)
    if engine not in engine_choices():
        raise EngineError(f"engine {engine!r} is not known; accepted: {', '.join(engine_choices())}")
    if not path.exists():
        names = f"; shipped ones have the names {', '.join(shipped_models())}" if len(path.parts) == 1 else ""
        raise FileNotFoundError(2, f"there is no such model{names}", str(path))
    if engine == AUTO:
        spec, why = _first(path)
        answer = None if spec.device is Device.GPU else _tuned(path, size or options.size, options.threads)
        if answer is not None:
            log.info("engine auto: %s%s", answer, why)
            try:
                return engines()[answer.engine].open(path, dataclasses.replace(options, threads=answer.threads))
            except EngineError as error:
                log.warning("engine auto: what was measured to be best cannot be opened: %s", error)
        log.info("engine auto: %s%s", spec.name, why)
        return spec.open(path, options)
    spec = engines()[engine]
    if is_compiled(path) and path.suffix not in spec.suffixes:
        raise ModelError(f"{path} is a compiled engine; {spec.name} takes the .onnx file it was compiled from")
    return spec.open(path, options)


def _tuned(path: Path, size: Size | None, threads: int) -> TunedAnswer | None:
    """What `seg-perception benchmark --store` measured for this here, if that engine can still run."""
    from seg_perception.engines.base import Device
    from seg_perception.engines.tuned import stored_answer, tuned_file

    if path.suffix != ".onnx" or not tuned_file().is_file():
        return None
    from seg_perception.engines.graph.model_file import read_card

    answer = stored_answer(hashlib.sha256(path.read_bytes()).hexdigest(), size or read_card(path).input_size, threads)
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
    spec, why = _first(path)
    log.info("engine auto: %s%s", spec.name, why)
    return spec


def _first(path: Path) -> tuple[EngineSpec, str]:
    """The most wanted engine that can run this file here, and why not those before it; see `choose`."""
    refused: dict[str, list[str]] = {}  # reason -> engines
    for spec in preferred():
        if is_compiled(path) and path.suffix not in spec.suffixes:
            continue
        reason = spec.why_not() if not is_compiled(path) else None  # a compiled file says itself what it needs
        if reason is None:
            return spec, _because(refused)
        refused.setdefault(reason, []).append(spec.name)
    raise EngineError(f"no engine can run {path} here{_because(refused)}")


def _because(refused: dict[str, list[str]]) -> str:
    if not refused:
        return ""
    return ", because " + "; ".join(f"{reason} ({', '.join(names)})" for reason, names in refused.items())
