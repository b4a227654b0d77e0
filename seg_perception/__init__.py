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
from types import FunctionType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seg_perception.bags.making import make_bag
    from seg_perception.bags.processing import ProcessSettings, process_bag
    from seg_perception.bags.reader import BagInfo, BagReader, bag_info
    from seg_perception.bags.rerun_file import write_rerun
    from seg_perception.bags.salvage import recover as recover_bag
    from seg_perception.bags.scoring import score_bag
    from seg_perception.commands.judging import benchmark, compare, evaluate, report
    from seg_perception.commands.looking import remote_node, select_frames, serve_page
    from seg_perception.commands.training import average, calibrate, train
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
    from seg_perception.datasets.check import check_dataset
    from seg_perception.datasets.convert.conversion import ConvertSettings
    from seg_perception.datasets.convert.conversion import convert as convert_dataset
    from seg_perception.datasets.convert.exporting import ShapeSettings, export_labels
    from seg_perception.datasets.registry import DatasetSettings
    from seg_perception.engines.base import EngineOptions
    from seg_perception.engines.opening import open_engine
    from seg_perception.engines.tensorrt.compilation import compile_model as compile  # noqa: A004 - used as sp.compile, after the command
    from seg_perception.engines.tensorrt.plan import BuildSettings
    from seg_perception.evaluation import EvaluationOptions
    from seg_perception.export.exporting import export_model as export
    from seg_perception.export.importing import ImportRequest
    from seg_perception.export.importing.import_file import import_file as import_model
    from seg_perception.export.inspecting import inspect_file as inspect
    from seg_perception.export.inspecting import inspect_network
    from seg_perception.model import Model, Result, load
    from seg_perception.node_parameters import PictureSettings, picture_settings
    from seg_perception.prediction import PreLabel, birds_eye, predict
    from seg_perception.ros.bag_tools import play_bag, record_bag
    from seg_perception.ros.demo.running import DemoSettings, demo
    from seg_perception.scenes.drive import draw_scenes
    from seg_perception.segmenter import Segmenter
    from seg_perception.view.board import ViewSettings

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
    "BagInfo": "bags.reader",
    "BagReader": "bags.reader",
    "BuildSettings": "engines.tensorrt.plan",
    "ConvertSettings": "datasets.convert.conversion",
    "DatasetError": "core.errors",
    "DatasetSettings": "datasets.registry",
    "DemoSettings": "ros.demo.running",
    "DrivableSettings": "core.drivable",
    "EngineError": "core.errors",
    "EngineOptions": "engines.base",
    "EvaluationOptions": "evaluation",
    "ImportRequest": "export.importing",
    "InputError": "core.errors",
    "Model": "model",
    "ModelError": "core.errors",
    "PictureSettings": "node_parameters",
    "PreLabel": "prediction",
    "ProcessSettings": "bags.processing",
    "Result": "model",
    "SegPerceptionError": "core.errors",
    "Segmentation": "core.types",
    "Segmenter": "segmenter",
    "SettingsError": "core.errors",
    "ShapeSettings": "datasets.convert.exporting",
    "Size": "core.types",
    "ViewSettings": "view.board",
    "average": "commands.training",
    "bag_info": "bags.reader",
    "benchmark": "commands.judging",
    "birds_eye": "prediction",
    "calibrate": "commands.training",
    "check_dataset": "datasets.check",
    "compare": "commands.judging",
    "compile": "engines.tensorrt.compilation:compile_model",
    "convert_dataset": "datasets.convert.conversion:convert",
    "demo": "ros.demo.running",
    "draw_scenes": "scenes.drive",
    "evaluate": "commands.judging",
    "export": "export:",  # the room itself, which can be called: see its docstring
    "export_labels": "datasets.convert.exporting",
    "import_model": "export.importing.import_file:import_file",
    "inspect": "export.inspecting:inspect_file",
    "inspect_network": "export.inspecting",
    "load": "model",
    "make_bag": "bags.making",
    "open_engine": "engines.opening",
    "picture_settings": "node_parameters",
    "play_bag": "ros.bag_tools",
    "predict": "prediction",
    "process_bag": "bags.processing",
    "record_bag": "ros.bag_tools",
    "recover_bag": "bags.salvage:recover",
    "remote_node": "commands.looking",
    "report": "commands.judging",
    "score_bag": "bags.scoring",
    "select_frames": "commands.looking",
    "serve_page": "commands.looking",
    "train": "commands.training",
    "write_rerun": "bags.rerun_file",
}

__all__ = [
    "BagInfo",
    "BagReader",
    "BuildSettings",
    "ConvertSettings",
    "DatasetError",
    "DatasetSettings",
    "DemoSettings",
    "DrivableSettings",
    "EngineError",
    "EngineOptions",
    "EvaluationOptions",
    "ImportRequest",
    "InputError",
    "Model",
    "ModelError",
    "PictureSettings",
    "PreLabel",
    "ProcessSettings",
    "Result",
    "SegPerceptionError",
    "Segmentation",
    "Segmenter",
    "SettingsError",
    "ShapeSettings",
    "Size",
    "ViewSettings",
    "__version__",
    "average",
    "bag_info",
    "benchmark",
    "birds_eye",
    "calibrate",
    "check_dataset",
    "compare",
    "compile",
    "convert_dataset",
    "demo",
    "draw_scenes",
    "evaluate",
    "export",
    "export_labels",
    "import_model",
    "inspect",
    "inspect_network",
    "load",
    "make_bag",
    "open_engine",
    "picture_settings",
    "play_bag",
    "predict",
    "process_bag",
    "record_bag",
    "recover_bag",
    "remote_node",
    "report",
    "score_bag",
    "select_frames",
    "serve_page",
    "train",
    "write_rerun",
]


def __getattr__(name: str) -> Any:
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module 'seg_perception' has no attribute {name!r}")
    from seg_perception.core.errors import extras_named

    module, colon, attribute = place.partition(":")
    with extras_named():
        found = importlib.import_module(f"{__name__}.{module}")
    value = found if colon and not attribute else getattr(found, attribute or name)
    if isinstance(value, FunctionType):
        value = extras_named()(value)
        value.__module__, value.__qualname__ = __name__, name  # where pickle finds it
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
