"""Finds the engines, every module or package of this folder that has ENGINES, and opens one by name.

Imports nothing heavy, so that `seg-perception --help` stays instant: engines are looked for when their names are first
asked for.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import logging
import os
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import seg_perception.engines
from seg_perception.core.errors import EngineError, ModelError, SegPerceptionError
from seg_perception.core.files import read_regular_file, write_atomically
from seg_perception.engines.processor import processor_name, usable_cores

if TYPE_CHECKING:
    from seg_perception.engines.base import Engine, EngineOptions, EngineSpec


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
        install = f"`pip install 'seg_perception[{spec.extra}]'`" if spec.extra else "nothing"
        lines.append(f"| `{spec.name}` | {spec.device.value} | {install} | {place} | {spec.summary} |")
    return "\n".join(lines)


_LIMIT = 1 << 20
_MOST = 64


@dataclass(frozen=True, slots=True)
class TunedAnswer:
    """What `seg-perception benchmark --store` found to be best here, for "auto" to take: measured, never guessed.

    It holds for one model file, this processor and number of cores, and the measured engine's version; when one of them
    changes, it is no answer any more.

    Attributes:
        model_sha256: of the model file.
        processor: its name, as `processor_name` gives it.
        cores: that the process could use.
        engine: the best one's name.
        version: of its package.
        threads: that it ran with; 0: all cores.
        milliseconds: median of an image with it.
        onnxruntime_milliseconds: and with ONNX Runtime in fp32, in the same run.
        equal_labels: share of labels as ONNX Runtime's, 0 to 1.
        date: of the measurement, ISO 8601.
    """

    model_sha256: str
    processor: str
    cores: int
    engine: str
    version: str
    threads: int
    milliseconds: float
    onnxruntime_milliseconds: float
    equal_labels: float
    date: str

    def __str__(self) -> str:
        return (
            f"{self.engine} with {self.threads or 'all'} threads, measured here on {self.date[:10]}: "
            f"{self.milliseconds:.1f} ms an image where onnxruntime took {self.onnxruntime_milliseconds:.1f}, "
            f"{self.equal_labels:.2%} of labels equal"
        )


def tuned_file() -> Path:
    """Where benchmarks are kept: $XDG_CACHE_HOME/seg_perception/tuned.json, or ~/.cache/…"""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "seg_perception" / "tuned.json"


def package_version(engine: str) -> str:
    """Version of the package that runs a CPU engine; "" where it is not installed."""
    from importlib import metadata

    try:
        return metadata.version(engine.partition("_")[0])
    except metadata.PackageNotFoundError:
        return ""


def stored_answer(model_sha256: str) -> TunedAnswer | None:
    """The answer for this model on this machine as it is now; None where there is none, or it no longer holds."""
    for answer in _read():
        mine = (answer.model_sha256, answer.processor, answer.cores, answer.version)
        if mine == (model_sha256, processor_name(), usable_cores(), package_version(answer.engine)):
            return answer
    return None


def store_answer(answer: TunedAnswer) -> Path:
    """Keep an answer in place of an older one for the same model and machine; returns the file.

    Raises:
        OSError: the file cannot be written.
    """
    from seg_perception.core.settings import to_mapping

    same = (answer.model_sha256, answer.processor, answer.cores)
    others = [a for a in _read() if (a.model_sha256, a.processor, a.cores) != same]
    path = tuned_file()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    document = {"answers": [to_mapping(a) for a in (answer, *others)][:_MOST]}
    write_atomically(path, json.dumps(document, indent=1).encode())
    return path


def _read() -> list[TunedAnswer]:
    """The stored answers; a damaged file is told and holds none."""
    from seg_perception.core.settings import from_mapping

    path = tuned_file()
    try:
        document: Any = json.loads(read_regular_file(path, _LIMIT))
        return [from_mapping(TunedAnswer, answer, str(path)) for answer in document["answers"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, RecursionError, SegPerceptionError) as error:
        log.warning("%s holds no answer that can be used, delete it: %s", path, error)
        return []


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
        engine: "auto" or one of `engines()`.
        threads: of an engine on the CPU; 0 takes all cores this process may use.
        options: everything else; its `threads` is used where `threads` is 0.

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
    from seg_perception.engines.base import Device

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
