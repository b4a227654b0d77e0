"""What `seg-perception benchmark --store` found to be best here, for "auto" to take: measured, never guessed.

An answer holds for one model file, this processor and number of cores, and the measured engine's version;
when one of them changes, it is no answer any more.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seg_perception.core.errors import SegPerceptionError
from seg_perception.core.files import read_regular_file, write_atomically
from seg_perception.core.settings import from_mapping, to_mapping
from seg_perception.engines.processor import processor_name, usable_cores

log = logging.getLogger(__name__)

_LIMIT = 1 << 20
_MOST = 64


@dataclass(frozen=True, slots=True)
class TunedAnswer:
    """One measurement.

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
    """$XDG_CACHE_HOME/seg_perception/tuned.json, or ~/.cache/…"""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "seg_perception" / "tuned.json"


def package_version(engine: str) -> str:
    """Version of the package that runs a CPU engine; "" where it is not installed."""
    try:
        return importlib.metadata.version(engine.partition("_")[0])
    except importlib.metadata.PackageNotFoundError:
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
    same = (answer.model_sha256, answer.processor, answer.cores)
    others = [a for a in _read() if (a.model_sha256, a.processor, a.cores) != same]
    path = tuned_file()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    document = {"answers": [to_mapping(a) for a in (answer, *others)][:_MOST]}
    write_atomically(path, json.dumps(document, indent=1).encode())
    return path


def _read() -> list[TunedAnswer]:
    """The stored answers; a damaged file is told and holds none."""
    path = tuned_file()
    try:
        document: Any = json.loads(read_regular_file(path, _LIMIT))
        return [from_mapping(TunedAnswer, answer, str(path)) for answer in document["answers"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, RecursionError, SegPerceptionError) as error:
        log.warning("%s holds no answer that can be used, delete it: %s", path, error)
        return []
