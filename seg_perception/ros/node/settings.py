"""The node's settings as frozen dataclasses: what `parameters.py` reads, checked as a whole.

The defaults and descriptions are in `parameter_table.PARAMETERS`, and only there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from seg_perception.core.drivable import DrivableSettings
from seg_perception.core.errors import SettingsError
from seg_perception.core.types import Size

_CAMERA_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class InputQos:
    """Of the image subscriptions."""

    reliability: Literal["best_effort", "reliable"]
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
class CameraSettings:
    """Of one camera."""

    input: Literal["raw", "compressed"]
    drivable: DrivableSettings


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """Everything, with the per-camera values resolved: `camera_settings` has every camera."""

    autostart: bool
    model: Path | None  # None: the shipped one
    engine: str
    precision: str | None  # None: the runtime's choice
    build_engine: str
    threads: int
    network_size: Size | None  # None: each camera's shape at the model's pixel count
    cameras: tuple[str, ...]
    camera_settings: Mapping[str, CameraSettings]
    qos: QosSettings
    overlay: OverlaySettings
    diagnostics: DiagnosticsSettings

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
        f"cameras: {name!r} is not accepted; a name starts with a letter, then letters, digits and underscores"
        for name in cameras
        if not _CAMERA_NAME.fullmatch(name)
    ]
    repeated = sorted({name for name in cameras if cameras.count(name) > 1})
    if repeated:
        faults.append(f"cameras: {', '.join(map(repr, repeated))} named more than once")
    return faults
