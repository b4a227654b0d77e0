"""Every parameter of the node: name, default, meaning, range. The only place with a default."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, TypeAlias

from seg_perception.core.drivable import DEFAULT_MIN_CONFIDENCE
from seg_perception.core.settings import Unreadable
from seg_perception.engines.runtimes import RUNTIMES

ParameterValue: TypeAlias = "bool | int | float | str | tuple[str, ...] | None"


class Form(Enum):
    """How a parameter's value becomes a setting."""

    PLAIN = "plain"
    NUMBER_LISTS = "number lists"  # a list of texts, each a list of numbers: ROS has no nested lists


@dataclass(frozen=True, slots=True)
class ParameterSpec:
    """One parameter.

    Attributes:
        default: None only for a per-camera override, where unset means the common value.
        live: may change while the node is configured; effective on the next frame.
        per_camera: may be overridden as <camera>.<name>.
        empty_is_unset: '' and [''] stand for "not set".
    """

    name: str
    default: ParameterValue
    description: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    live: bool = False
    per_camera: bool = False
    empty_is_unset: bool = False
    form: Form = Form.PLAIN

    def accepted(self) -> str:
        """What is accepted, in words."""
        parts = []
        if self.choices:
            parts.append("one of " + ", ".join(self.choices))
        if self.minimum is not None and self.maximum is not None:
            parts.append(f"from {self.minimum:g} to {self.maximum:g}")
        kinds = {bool: "true or false", int: "an integer", float: "a number", str: "text"}
        parts.append(
            kinds.get(type(self.default), "a list" if isinstance(self.default, tuple) else "as the common one")
        )
        parts.append("takes effect on the next frame" if self.live else "read at configure")
        return "; ".join(parts)

    def parsed(self, value: Any) -> Any:
        """A parameter's value as settings expect it: lists as tuples, '' as None where that means unset."""
        if isinstance(value, (list, tuple)):
            value = tuple(value)
        if self.empty_is_unset and value in (None, "", (), ("",)):
            return None if self.form is Form.PLAIN else ()
        if self.form is Form.NUMBER_LISTS and isinstance(value, tuple):
            return tuple(_numbers(text) for text in value)
        return value

    def override_for(self, camera: str) -> ParameterSpec:
        """The same parameter for one camera, unset by default."""
        return replace(
            self,
            name=f"{camera}.{self.name}",
            default=None,
            description=f"{self.name} of camera {camera}; unset: the common value",
            minimum=None,
            maximum=None,
            per_camera=False,
        )


_FOREIGN = ("use_sim_time", "start_type_description_service")
_FOREIGN_PREFIXES = ("qos_overrides.", "diagnostic_updater.", "bond_")


def is_foreign(name: str) -> bool:
    """Whether a parameter is not ours but of rclpy or of a library that the node uses."""
    return name in _FOREIGN or name.startswith(_FOREIGN_PREFIXES)


def _numbers(text: Any) -> Any:
    """The numbers of a text such as '0.1, 0.9'; anything else is marked, for the settings to refuse."""
    try:
        return tuple(float(number) for number in text.replace(",", " ").split())
    except (AttributeError, ValueError):
        return Unreadable(text, "a text of numbers, such as '0.2, 1.0, 0.8, 1.0, 0.5, 0.8'")


PARAMETERS: tuple[ParameterSpec, ...] = (
    ParameterSpec("autostart", True, "Configure and activate at start; false leaves that to a lifecycle manager."),
    ParameterSpec("model", "", "ONNX file with a model card; empty: the shipped model.", empty_is_unset=True),
    ParameterSpec(
        "engine",
        "auto",
        "What runs the model; auto takes TensorRT where an NVIDIA GPU and the library are present.",
        choices=RUNTIMES,
    ),
    ParameterSpec(
        "precision",
        "",
        "Of a TensorRT engine: fp32, fp16 or int8; empty: fp16, or int8 of an int8 model.",
        choices=("", "fp32", "fp16", "int8"),
        empty_is_unset=True,
    ),
    ParameterSpec(
        "build_engine",
        "if_missing",
        "Whether configure may build a missing or stale TensorRT engine (minutes); never: refuse instead.",
        choices=("if_missing", "never"),
    ),
    ParameterSpec("threads", 0, "CPU threads of one inference; 0: all cores the process may use.", 0, 256),
    ParameterSpec(
        "network_size",
        "",
        "WIDTHxHEIGHT the network runs at; empty: each camera's shape at the model's pixel count.",
        empty_is_unset=True,
    ),
    ParameterSpec("cameras", ("",), "Camera names; [''] is one camera without a name, so its topics have no prefix."),
    ParameterSpec(
        "input",
        "raw",
        "raw: sensor_msgs/Image on <camera>/image; compressed: sensor_msgs/CompressedImage (JPEG, PNG) "
        "on <camera>/image/compressed.",
        choices=("raw", "compressed"),
        per_camera=True,
    ),
    ParameterSpec(
        "qos.input.reliability",
        "best_effort",
        "Of the image subscriptions; best_effort meets every publisher.",
        choices=("best_effort", "reliable"),
    ),
    ParameterSpec("qos.input.depth", 1, "Messages the middleware keeps for the node; more only adds delay.", 1, 1000),
    ParameterSpec(
        "qos.output.reliability",
        "reliable",
        "Of the image publishers; reliable meets every subscriber.",
        choices=("reliable", "best_effort"),
    ),
    ParameterSpec("qos.output.depth", 5, "Messages kept for a slow subscriber.", 1, 1000),
    ParameterSpec(
        "drivable.classes",
        ("",),
        "Names of the drivable classes; ['']: those that the model card marks.",
        live=True,
        per_camera=True,
        empty_is_unset=True,
    ),
    ParameterSpec(
        "drivable.min_confidence",
        DEFAULT_MIN_CONFIDENCE,
        "A pixel less sure than this is not drivable; 0 takes every drivable label.",
        0.0,
        1.0,
        live=True,
        per_camera=True,
    ),
    ParameterSpec(
        "drivable.ignore_polygons",
        ("",),
        "Areas that are never drivable (the bonnet): each a text with x, y pairs from 0 to 1, "
        "from the left and the top, for example '0.2, 1.0, 0.8, 1.0, 0.5, 0.8'; ['']: none.",
        live=True,
        per_camera=True,
        empty_is_unset=True,
        form=Form.NUMBER_LISTS,
    ),
    ParameterSpec(
        "drivable.ignore_mask",
        "",
        "8-bit gray PNG, stretched to the image; 128 and more is never drivable; empty: none.",
        live=True,
        per_camera=True,
        empty_is_unset=True,
    ),
    ParameterSpec(
        "drivable.connected_to_ego",
        False,
        "Keep only area connected to the road just ahead of the car.",
        live=True,
        per_camera=True,
    ),
    ParameterSpec(
        "drivable.appear_frames",
        1,
        "A pixel becomes drivable after this many drivable frames in a row, and stops at once; 1: no filter.",
        1,
        100,
        live=True,
        per_camera=True,
    ),
    ParameterSpec(
        "drivable.max_gap_s",
        0.5,
        "A longer time between two frames starts that count anew.",
        0.001,
        3600.0,
        live=True,
        per_camera=True,
    ),
    ParameterSpec("overlay.opacity", 0.5, "Of the colors over the camera image.", 0.0, 1.0, live=True),
    ParameterSpec(
        "diagnostics.frame_timeout_s", 1.0, "STALE after this long without a frame.", 0.05, 3600.0, live=True
    ),
    ParameterSpec(
        "diagnostics.warn_rate_hz", 5.0, "WARN when fewer frames a second are published.", 0.0, 1e3, live=True
    ),
    ParameterSpec(
        "diagnostics.error_rate_hz", 1.0, "ERROR when fewer frames a second are published.", 0.0, 1e3, live=True
    ),
    ParameterSpec(
        "diagnostics.warn_latency_ms",
        500.0,
        "WARN when the 95th percentile from callback to published output is above this.",
        1.0,
        1e6,
        live=True,
    ),
    ParameterSpec(
        "diagnostics.engine_timeout_s", 5.0, "ERROR when one inference takes longer than this.", 0.1, 3600.0, live=True
    ),
)

assert all(math.isfinite(s.maximum) for s in PARAMETERS if s.maximum is not None)
