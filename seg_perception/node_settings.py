"""Every parameter of the node: name, default, meaning, range; and the settings that they become.

The only place with a default (of what a library room has itself, that room's). `node_parameters`
reads values, from ROS or from a YAML file, into `NodeSettings`. Neither needs ROS.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from seg_perception.core.drivable import DrivableSettings
from seg_perception.core.errors import SettingsError
from seg_perception.core.grid import MAX_COST, GridSettings
from seg_perception.core.meters import MountSettings
from seg_perception.core.settings import Unreadable
from seg_perception.core.types import Precision, Size
from seg_perception.core.visual import DEFAULT_OPACITY
from seg_perception.engines.base import MOST_THREADS, BuildEngine
from seg_perception.engines.opening import AUTO, choices_text, engine_choices

NODE_NAME: Final = "segmentation_node"

_CAMERA_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,59}")  # ROS cuts topics off at 247 characters

ParameterValue: TypeAlias = "bool | int | float | str | tuple[str, ...]"


class Form(Enum):
    """How a parameter's value becomes a setting."""

    PLAIN = "plain"
    COSTS = "costs"  # a list of texts "class: cost": ROS has no tables
    NUMBER_LISTS = "number lists"  # a list of texts, each a list of numbers: ROS has no nested lists


_SHOWN_CHARACTERS = 200
_KINDS = {bool: "true or false", int: "an integer", float: "a number", str: "text", tuple: "a list of texts"}


@dataclass(frozen=True, slots=True)
class ParameterSpec:
    """One parameter.

    Attributes:
        optional: may be unset, as a per-camera override is: then the common value holds.
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
    optional: bool = False
    empty_is_unset: bool = False
    form: Form = Form.PLAIN

    def accepted(self) -> str:
        """What is accepted, in words: "a number from 0 to 1; takes effect on the next frame"."""
        if self.choices:
            kind = "one of " + ", ".join(map(repr, self.choices))
        else:
            kind = _KINDS[type(self.default)]
            if self.minimum is not None and self.maximum is not None:
                kind += f" from {self.minimum:g} to {self.maximum:g}"
        return f"{kind}; {'takes effect on the next frame' if self.live else 'read at configure'}"

    def converted(self, value: Any) -> Any:
        """A value in this parameter's own type where that loses nothing: 5 as 5.0, a list as a tuple."""
        if isinstance(self.default, float) and type(value) is int:
            return float(value)
        return tuple(value) if isinstance(value, list) else value

    def fault(self, value: Any) -> str | None:
        """What is wrong with a value; None if nothing is."""
        if (self.optional and value is None) or self._fits(self.converted(value)):
            return None
        shown = repr(list(value) if isinstance(value, tuple) else value)
        if len(shown) > _SHOWN_CHARACTERS:  # the fault goes into the log and, each second, into the diagnostics
            shown = f"{shown[:_SHOWN_CHARACTERS]}... ({len(shown)} characters)"
        return f"{self.name}: {shown} is not accepted; accepted: {self.accepted()}"

    def _fits(self, value: object) -> bool:
        if type(value) is not type(self.default):  # True is an int to Python, but not to a person
            return False
        if isinstance(value, tuple):
            return all(isinstance(item, str) for item in value)
        if self.choices:
            return value in self.choices
        if isinstance(value, (int, float)) and self.minimum is not None and self.maximum is not None:
            return self.minimum <= value <= self.maximum
        return not isinstance(value, float) or math.isfinite(value)

    def parsed(self, value: Any) -> Any:
        """A value without fault as the settings take it: '' as None where that means unset, texts as numbers."""
        if self.empty_is_unset and value in ("", (), ("",)):
            return {Form.PLAIN: None, Form.COSTS: {}, Form.NUMBER_LISTS: ()}[self.form]
        if self.form is Form.COSTS and isinstance(value, tuple):
            return _costs(value)
        if self.form is Form.NUMBER_LISTS and isinstance(value, tuple):
            return tuple(_numbers(text) for text in value)
        return value

    def override_for(self, camera: str) -> ParameterSpec:
        """The same parameter for one camera, unset by default."""
        return replace(
            self,
            name=f"{camera}.{self.name}",
            description=f"{self.name} of camera {camera}; unset: the common value",
            per_camera=False,
            optional=True,
        )


FOREIGN = ("use_sim_time", "start_type_description_service")
"""Parameters that rclpy gives every node."""
QOS_PREFIX = "qos_overrides."
"""Of the parameters that rclpy makes of a topic's quality of service."""
_FOREIGN_PREFIXES = (QOS_PREFIX, "diagnostic_updater.", "bond_")


def is_foreign(name: str) -> bool:
    """Whether a parameter is not ours but of rclpy or of a library that the node uses."""
    return name in FOREIGN or name.startswith(_FOREIGN_PREFIXES)


def _numbers(text: Any) -> Any:
    """The numbers of a text such as '0.1, 0.9'; anything else is marked, for the settings to refuse."""
    try:
        return tuple(float(number) for number in text.replace(",", " ").split())
    except (AttributeError, ValueError):
        return Unreadable(text, "a text of numbers, such as '0.2, 1.0, 0.8, 1.0, 0.5, 0.8'")


def _costs(texts: tuple[str, ...]) -> Any:
    """Class names and costs of texts such as 'sidewalk: 60'; anything else is marked, for the settings to refuse."""
    costs: dict[str, Any] = {}
    for text in texts:
        name, colon, cost = (part.strip() for part in text.rpartition(":"))
        if not (colon and name and cost.isdecimal()):
            return Unreadable(list(texts), "texts with a class and its cost, such as 'sidewalk: 60'")
        if costs.get(name, int(cost)) != int(cost):
            return Unreadable(list(texts), f"one cost for {name}, not two,")
        costs[name] = int(cost)
    return costs


COST_PREFIX: Final = "grid.costs."
"""`grid.costs` may also be written as a table: then ROS makes a parameter of each class, `grid.costs.sidewalk`."""


def cost_parameter(name: str) -> ParameterSpec:
    """The parameter of one class's cost, `COST_PREFIX` and the class."""
    return ParameterSpec(name, 1, f"Cost of the class {name.removeprefix(COST_PREFIX)}.", 1, MAX_COST, live=True)


_DRIVABLE = DrivableSettings()
_GRID = GridSettings()
_MOUNT = MountSettings()

# fmt: off
PARAMETERS: tuple[ParameterSpec, ...] = (
    ParameterSpec("autostart", True, "Configure and activate at start; false leaves that to a lifecycle manager."),
    ParameterSpec("model", "", "ONNX file with a model card; empty: the shipped model.", empty_is_unset=True),
    ParameterSpec("engine", AUTO, f"What runs the model; {choices_text()}.", choices=engine_choices()),
    ParameterSpec(
        "precision", "", "Of an engine on the GPU: fp32, fp16 or int8; empty: fp16, or int8 of an int8 model.",
        choices=("", *(p.value for p in Precision)), empty_is_unset=True),
    ParameterSpec("build_engine", "if_missing",
        "Whether configure may build a missing or stale TensorRT engine (minutes); never: refuse instead.",
        choices=tuple(b.value for b in BuildEngine)),
    ParameterSpec("threads", 0, "CPU threads of one inference; 0: all cores the process may use.", 0, MOST_THREADS),
    ParameterSpec("inferences_at_once", 1,
        "2: on a CPU, two with half of the threads each while frames come too fast for one: more frames, each later.",
        1, 2),
    ParameterSpec("network_size", "",
        "WIDTHxHEIGHT the network runs at; empty: each camera's shape at the model's pixel count.",
        empty_is_unset=True),
    ParameterSpec("cameras", ("",), "Camera names; [''] is one camera without a name, so its topics have no prefix."),
    ParameterSpec("input", "raw",
        "raw: sensor_msgs/Image on <camera>/image; compressed: sensor_msgs/CompressedImage (JPEG, PNG) "
        "on <camera>/image/compressed.", choices=("raw", "compressed"), per_camera=True),
    ParameterSpec("qos.input.reliability", "best_available",
        "Of the image subscriptions; best_available: as the publishers offer, which is followed as it changes.",
        choices=("best_available", "best_effort", "reliable")),
    ParameterSpec("qos.input.depth", 1, "Messages the middleware keeps for the node; more only adds delay.", 1, 1000),
    ParameterSpec("qos.output.reliability", "reliable", "Of the image publishers; reliable meets every subscriber.",
        choices=("reliable", "best_effort")),
    ParameterSpec("qos.output.depth", 5, "Messages kept for a slow subscriber.", 1, 1000),
    ParameterSpec("drivable.classes", ("",), "Names of the drivable classes; ['']: those that the model card marks.",
        live=True, per_camera=True, empty_is_unset=True),
    ParameterSpec("drivable.min_confidence", _DRIVABLE.min_confidence,
        "A pixel less sure than this is not drivable; 0 takes every drivable label.", 0.0, 1.0, live=True,
        per_camera=True),
    ParameterSpec("drivable.ignore_polygons", ("",),
        "Areas that are never drivable (the bonnet): each a text with x, y pairs from 0 to 1, "
        "from the left and the top, for example '0.2, 1.0, 0.8, 1.0, 0.5, 0.8'; ['']: none.", live=True,
        per_camera=True, empty_is_unset=True, form=Form.NUMBER_LISTS),
    ParameterSpec("drivable.ignore_mask", "",
        "8-bit gray PNG, stretched to the image; 128 and more is never drivable; empty: none.", live=True,
        per_camera=True, empty_is_unset=True),
    ParameterSpec("drivable.connected_to_ego", _DRIVABLE.connected_to_ego,
        "Keep only area connected to the road just ahead of the car.", live=True, per_camera=True),
    ParameterSpec("drivable.appear_frames", _DRIVABLE.appear_frames,
        "A pixel becomes drivable after this many drivable frames in a row, and stops at once; 1: no filter.", 1,
        100, live=True, per_camera=True),
    ParameterSpec("drivable.max_gap_s", _DRIVABLE.max_gap_s, "A longer time between two frames starts that count anew.",
        0.001, 3600.0, live=True, per_camera=True),
    ParameterSpec("ground.source", _MOUNT.source,
        "Where the camera is over the ground: off: not told, no meters; tf: from the transforms, of the image's "
        "frame_id; fixed: as the values below say.", choices=("off", "tf", "fixed"), per_camera=True),
    ParameterSpec("ground.frame", "base_footprint", "Frame of grid and points; its plane z = 0 is the ground."),
    ParameterSpec("ground.height", _MOUNT.height, "Meters of the lens above the ground.", 0.0, 100.0, live=True,
        per_camera=True),
    ParameterSpec(
        "ground.pitch", _MOUNT.pitch, "Degrees; positive looks down.", -90.0, 90.0, live=True, per_camera=True
    ),
    ParameterSpec("ground.roll", _MOUNT.roll, "Degrees; positive lowers the right side.", -180.0, 180.0, live=True,
        per_camera=True),
    ParameterSpec("ground.x", _MOUNT.x, "Meters ahead of the ground frame's origin.", -100.0, 100.0, live=True,
        per_camera=True),
    ParameterSpec(
        "ground.y", _MOUNT.y, "Meters left of the ground frame's origin.", -100.0, 100.0, live=True, per_camera=True
    ),
    ParameterSpec(
        "ground.yaw", _MOUNT.yaw, "Degrees; positive looks to the left.", -360.0, 360.0, live=True, per_camera=True
    ),
    ParameterSpec("ground.rectified", _MOUNT.rectified,
        "The image is rectified: P of its camera_info holds, and no distortion.", per_camera=True),
    ParameterSpec("grid.resolution", _GRID.resolution, "Meters of a cell's side.", 0.01, 10.0),
    ParameterSpec("grid.x_min", _GRID.x_min, "Meters; the grid's near end, x ahead.", -1000.0, 1000.0),
    ParameterSpec("grid.x_max", _GRID.x_max, "Meters; its far end.", -1000.0, 1000.0),
    ParameterSpec("grid.y_min", _GRID.y_min, "Meters; its right side, y left.", -1000.0, 1000.0),
    ParameterSpec("grid.y_max", _GRID.y_max, "Meters; its left side.", -1000.0, 1000.0),
    ParameterSpec("grid.min_share", _GRID.min_share,
        "A cell is free where this share of the pixels it covers is drivable and sure (drivable.min_confidence).",
        0.01, 1.0, live=True),
    ParameterSpec("grid.costs", ("",),
        "Classes that cost (1 to 99) instead of block, such as ['sidewalk: 60', 'terrain: 80'], or in YAML a table; "
        "['']: none.", live=True, empty_is_unset=True, form=Form.COSTS),
    ParameterSpec("grid.corridor_width", _GRID.corridor_width, "Meters; the car's, for ~/free_distance.", 0.1, 100.0),
    ParameterSpec("costmap.size", "",
        "WIDTHxHEIGHT of ~/ground_points and ~/costmap/...; empty: the image's shape, 400 wide.",
        empty_is_unset=True),
    ParameterSpec("overlay.opacity", DEFAULT_OPACITY, "Of the colors over the camera image.", 0.0, 1.0, live=True),
    ParameterSpec(
        "diagnostics.frame_timeout_s", 1.0, "STALE after this long without a frame.", 0.05, 3600.0, live=True
    ),
    ParameterSpec(
        "diagnostics.warn_rate_hz", 5.0, "WARN when fewer frames a second are published.", 0.0, 1e3, live=True
    ),
    ParameterSpec(
        "diagnostics.error_rate_hz", 1.0, "ERROR when fewer frames a second are published.", 0.0, 1e3, live=True
    ),
    ParameterSpec("diagnostics.warn_latency_ms", 500.0,
        "WARN when the 95th percentile from callback to published output is above this.", 1.0, 1e6, live=True),
    ParameterSpec("diagnostics.engine_timeout_s", 5.0, "ERROR when one inference takes longer than this.", 0.1, 3600.0,
        live=True),
    ParameterSpec("view.port", 0, "TCP port of the node's page for a browser; 0: no page.", 0, 65535),
    ParameterSpec("view.address", "127.0.0.1",
        "IP address that the page listens on; any but a loopback address needs the token that the log names."),
    ParameterSpec("view.rate", 5.0, "Frames a second that a page gets of one camera at most.", 0.1, 60.0),
    ParameterSpec("view.control", False, "Whether pages may change live parameters and the lifecycle state."),
)
# fmt: on


@dataclass(frozen=True, slots=True)
class InputQos:
    """Of the image subscriptions."""

    reliability: Literal["best_available", "best_effort", "reliable"]
    depth: int


@dataclass(frozen=True, slots=True)
class OutputQos:
    """Of the image publishers."""

    reliability: Literal["best_effort", "reliable"]
    depth: int


@dataclass(frozen=True, slots=True)
class QosSettings:
    """Both sides."""

    input: InputQos
    output: OutputQos


@dataclass(frozen=True, slots=True)
class OverlaySettings:
    """How the overlay is drawn."""

    opacity: float


@dataclass(frozen=True, slots=True)
class GroundSettings:
    """Of the frame that all cameras share."""

    frame: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "frame", self.frame.strip("/"))  # tf2 refuses names that begin with a slash
        if not self.frame:
            raise SettingsError("frame: '' is not accepted; a frame's name is expected, such as 'base_footprint'")


@dataclass(frozen=True, slots=True)
class CostmapSettings:
    """Of the images and points for a costmap."""

    size: Size | None  # None: the image's shape, see `core.meters.costmap_size`


@dataclass(frozen=True, slots=True)
class DiagnosticsSettings:
    """When diagnostics say WARN, ERROR or STALE."""

    frame_timeout_s: float
    warn_rate_hz: float
    error_rate_hz: float
    warn_latency_ms: float
    engine_timeout_s: float

    def __post_init__(self) -> None:
        if self.error_rate_hz > self.warn_rate_hz:
            raise SettingsError(
                f"error_rate_hz {self.error_rate_hz} must not be above warn_rate_hz {self.warn_rate_hz}"
            )


@dataclass(frozen=True, slots=True)
class PageSettings:
    """Of the node's page for a browser; port 0: there is none."""

    port: int
    address: str
    rate: float
    control: bool


@dataclass(frozen=True, slots=True)
class CameraSettings:
    """Of one camera."""

    input: Literal["raw", "compressed"]
    drivable: DrivableSettings
    ground: MountSettings


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """Everything; `camera_settings` has every camera, each with its own values or else the common ones."""

    autostart: bool
    model: Path | None  # None: the shipped one
    engine: str
    precision: Precision | None  # None: the engine's choice
    build_engine: BuildEngine
    threads: int
    inferences_at_once: int
    network_size: Size | None  # None: each camera's shape at the model's pixel count
    cameras: tuple[str, ...]
    camera_settings: Mapping[str, CameraSettings]
    qos: QosSettings
    ground: GroundSettings
    grid: GridSettings
    costmap: CostmapSettings
    overlay: OverlaySettings
    diagnostics: DiagnosticsSettings
    view: PageSettings

    def __post_init__(self) -> None:
        faults = camera_name_faults(self.cameras)
        if faults:
            raise SettingsError("\n".join(faults))


def camera_name_faults(cameras: tuple[str, ...]) -> list[str]:
    """What is wrong with the list of cameras; one unnamed camera ('') stands alone."""
    if not cameras:
        return ["cameras: the list is empty; name at least one, or [''] for one camera without a name"]
    if cameras == ("",):
        return []
    faults = [
        f"cameras: {name!r} is not accepted; a name starts with a letter, then letters, digits and underscores, "
        "60 in all at most"
        for name in cameras
        if not _CAMERA_NAME.fullmatch(name)
    ]
    repeated = sorted({name for name in cameras if cameras.count(name) > 1})
    if repeated:
        faults.append(f"cameras: {', '.join(map(repr, repeated))} named more than once")
    return faults
