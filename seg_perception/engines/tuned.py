"""What `seg-perception benchmark --store` measured on this machine, kept for the engine "auto": never a guess.

An answer holds for what it was measured with and nothing else. When the model's file, the size, the processor, the
cores, the number of threads or a version is another one, "auto" goes by its own order again, and the log says why.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seg_perception.core.errors import SegPerceptionError, SettingsError
from seg_perception.core.files import cache_folder, make_folder, read_regular_file, write_atomically
from seg_perception.core.settings import from_mapping, to_mapping
from seg_perception.core.types import Size
from seg_perception.engines.base import MOST_THREADS
from seg_perception.engines.processor import processor_identity, usable_cores

log = logging.getLogger(__name__)

REFERENCE = "onnxruntime"
"""The engine whose answers the others are measured by."""

_LIMIT = 1 << 20
_MOST = 64
_PACKAGES = {"onnxruntime": ("onnxruntime", "onnxruntime-gpu"), "openvino": ("openvino",)}
"""Module -> distributions that hold it: where two are installed, nobody knows whose files are there."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What times depend on, of the machine and of this process.

    Attributes:
        processor: its name, and a digest of its model and abilities: one name stands for many processors ("AMD EPYC"
            on a virtual machine, none at all on ARM).
        cores: that the process has time for, see `usable_cores`.
        affinity: the cores that it may run on, "0-3": those of one processor may differ.
    """

    processor: str
    cores: int
    affinity: str

    @classmethod
    def here(cls) -> Machine:
        return cls(processor_identity(), usable_cores(), _ranges(sorted(os.sched_getaffinity(0))))


def _ranges(numbers: list[int]) -> str:
    """[0, 1, 2, 5] is "0-2,5"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


@dataclass(frozen=True, slots=True)
class TunedAnswer:
    """The best engine for one model file at one size here.

    Attributes:
        model_sha256: of the model file.
        size: of the network's input, "480x352".
        machine: where it was measured.
        engine: the best one's name.
        version: of its package.
        onnxruntime_version: of the engine that it was compared with.
        threads: that it ran with.
        milliseconds: median of an image with it.
        onnxruntime_milliseconds: and with ONNX Runtime in fp32, in the same run.
        equal_labels: share of labels as ONNX Runtime's, 0 to 1.
        date: of the measurement, ISO 8601.

    Raises:
        SettingsError: a number that no measurement gives.
    """

    model_sha256: str
    size: str
    machine: Machine
    engine: str
    version: str
    onnxruntime_version: str
    threads: int
    milliseconds: float
    onnxruntime_milliseconds: float
    equal_labels: float
    date: str

    def __post_init__(self) -> None:
        times = (self.milliseconds, self.onnxruntime_milliseconds)
        if not (1 <= self.threads <= MOST_THREADS and all(0 < t < math.inf for t in times)):
            raise SettingsError(f"{self.threads} threads and {times} ms are no measurement")
        if not 0 <= self.equal_labels <= 1:
            raise SettingsError(f"equal_labels {self.equal_labels} is not from 0 to 1")

    def __str__(self) -> str:
        return (
            f"{self.engine} with {self.threads} threads, measured here on {self.date[:10]} at {self.size}: "
            f"{self.milliseconds:.1f} ms an image where onnxruntime took {self.onnxruntime_milliseconds:.1f}, "
            f"{self.equal_labels:.2%} of labels equal"
        )

    def differences(self, size: Size, threads: int) -> list[str]:
        """What is another now than when it was measured; nothing: it holds.

        Args:
            size: that the network is to run at.
            threads: that are asked for; 0: any number.
        """
        here = Machine.here()
        pairs = (
            ("size", self.size, str(size)),
            ("processor", self.machine.processor, here.processor),
            ("cores", self.machine.cores, here.cores),
            ("cores that it may run on", self.machine.affinity, here.affinity),
            (f"version of {self.engine}", self.version, package_version(self.engine)),
            ("version of onnxruntime", self.onnxruntime_version, package_version(REFERENCE)),
            ("threads", self.threads, threads or self.threads),
        )
        return [f"{what} {then}, now {now or 'unknown'}" for what, then, now in pairs if then != now or not now]


def tuned_file() -> Path:
    """Where answers are kept: $XDG_CACHE_HOME/seg_perception/tuned.json, or ~/.cache/…"""
    return cache_folder() / "tuned.json"


def distributions_of(module: str) -> dict[str, str]:
    """The installed distributions that may hold a runtime's module, with their versions."""
    from importlib import metadata

    found = {}
    for name in _PACKAGES.get(module, ()):
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def package_version(engine: str) -> str:
    """Version of the package that runs a CPU engine; "" where it is not known."""
    return " and ".join(f"{name} {version}" for name, version in distributions_of(engine.partition("_")[0]).items())


def stored_answer(model_sha256: str, size: Size, threads: int = 0) -> TunedAnswer | None:
    """The answer for this model on this machine as it is now; None where there is none, or it no longer holds.

    Args:
        size, threads: see `TunedAnswer.differences`.
    """
    why = []
    for answer in _read():
        if answer.model_sha256 != model_sha256:
            continue
        differences = answer.differences(size, threads)
        if not differences:
            return answer
        why.append("; ".join(differences))
    if why:
        others = f" (nor {len(why) - 1} more)" if len(why) > 1 else ""
        log.info("what 'seg-perception benchmark --store' found for this model is not taken: %s%s", why[0], others)
    return None


def store_answer(answer: TunedAnswer) -> Path:
    """Keep an answer in place of an older one for the same model, size and machine; returns the file.

    Raises:
        OSError: the file cannot be written.
    """
    path = tuned_file()
    make_folder(path.parent, 0o700)
    with _alone_in(path.parent):
        mine = (answer.model_sha256, answer.size, answer.machine)
        others = [a for a in _read() if (a.model_sha256, a.size, a.machine) != mine]
        document = {"answers": [to_mapping(a) for a in (answer, *others)][:_MOST]}
        write_atomically(path, json.dumps(document, indent=1).encode())
    return path


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Another process that stores meanwhile waits: what it reads is then what this one has written."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _read() -> list[TunedAnswer]:
    """The stored answers; what cannot be used of the file is told and left out."""
    path = tuned_file()
    answers: list[TunedAnswer] = []
    faults: list[str] = []
    try:
        document: Any = json.loads(read_regular_file(path, _LIMIT))
        for entry in document["answers"]:
            try:
                answers.append(from_mapping(TunedAnswer, entry, "an answer"))
            except (ValueError, TypeError, AttributeError, SegPerceptionError) as error:  # noqa: PERF203
                faults.append(" ".join(str(error).split()))
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, RecursionError, SegPerceptionError) as error:
        faults.append(str(error))
    if faults:
        log.warning(
            "%s: %s cannot be used (damaged, or of another version; 'seg-perception benchmark --store' writes it "
            "anew): %s",
            path, f"{len(faults)} of {len(faults) + len(answers)} answers" if answers else "its answers", faults[0],
        )  # fmt: skip
    return answers
