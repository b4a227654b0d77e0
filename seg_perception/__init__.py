"""Semantic segmentation for driving: camera images in, labels, confidence and a drivable mask out.

    import seg_perception as sp

    with sp.load() as model:
        result = model("street.jpg")
    result.save("out")

Names are looked up when they are first used: importing the package costs nothing, and needs neither
OpenCV nor torch. What a command of `seg-perception` does, the function of its name does.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seg_perception.bags.processing import ProcessSettings, process_bag
    from seg_perception.commands import benchmark, calibrate, compare, evaluate, train
    from seg_perception.core.drivable import DrivableSettings
    from seg_perception.core.errors import (
        DatasetError,
        EngineError,
        InputError,
        ModelError,
        SegPerceptionError,
        SettingsError,
    )
    from seg_perception.core.types import Segmentation, Size
    from seg_perception.datasets.registry import DatasetSettings
    from seg_perception.engines.base import EngineOptions
    from seg_perception.engines.opening import open_engine
    from seg_perception.engines.tensorrt.compiling import compile_model as compile  # noqa: A004 - used as sp.compile, after the command
    from seg_perception.export.exporting import export_model as export
    from seg_perception.model import Model, Result, load
    from seg_perception.prediction import predict
    from seg_perception.segmenter import Segmenter

__version__ = "0.1.0"

# ONNX Runtime's wheels report their use to a server (1DS telemetry) unless this is set before they are imported;
# its own disable_telemetry_events() comes too late for that. Here, because every path leads through here.
# OpenVINO's reports are switched off where it is imported: engines/openvino.py.
_ORT_TELEMETRY_OFF = "ORT_DISABLE_TELEMETRY"
if _ORT_TELEMETRY_OFF not in os.environ:
    if "onnxruntime" in sys.modules:
        warnings.warn(
            "onnxruntime was imported before seg_perception, so its telemetry could not be switched off: "
            f"import seg_perception first, or start the program with {_ORT_TELEMETRY_OFF}=1",
            RuntimeWarning,
            stacklevel=2,
        )
    os.environ[_ORT_TELEMETRY_OFF] = "1"

_PLACES = {
    "DatasetError": "core.errors",
    "DatasetSettings": "datasets.registry",
    "DrivableSettings": "core.drivable",
    "EngineError": "core.errors",
    "EngineOptions": "engines.base",
    "InputError": "core.errors",
    "Model": "model",
    "ModelError": "core.errors",
    "ProcessSettings": "bags.processing",
    "Result": "model",
    "SegPerceptionError": "core.errors",
    "Segmentation": "core.types",
    "Segmenter": "segmenter",
    "SettingsError": "core.errors",
    "Size": "core.types",
    "benchmark": "commands",
    "calibrate": "commands",
    "compare": "commands",
    "compile": "engines.tensorrt.compiling:compile_model",
    "evaluate": "commands",
    "export": "export:",  # the room itself, which can be called: see its docstring
    "load": "model",
    "open_engine": "engines.opening",
    "predict": "prediction",
    "process_bag": "bags.processing",
    "train": "commands",
}

__all__ = [
    "DatasetError",
    "DatasetSettings",
    "DrivableSettings",
    "EngineError",
    "EngineOptions",
    "InputError",
    "Model",
    "ModelError",
    "ProcessSettings",
    "Result",
    "SegPerceptionError",
    "Segmentation",
    "Segmenter",
    "SettingsError",
    "Size",
    "__version__",
    "benchmark",
    "calibrate",
    "compare",
    "compile",
    "evaluate",
    "export",
    "load",
    "open_engine",
    "predict",
    "process_bag",
    "train",
]


def __getattr__(name: str) -> Any:
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module 'seg_perception' has no attribute {name!r}")
    module, colon, attribute = place.partition(":")
    found = importlib.import_module(f"{__name__}.{module}")
    value = found if colon and not attribute else getattr(found, attribute or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
