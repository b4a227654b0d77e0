"""Gathers what diagnostics report: the node's state over time, and each camera at one instant."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from rclpy.node import Node

from seg_perception.node_settings import PARAMETERS, DiagnosticsSettings, NodeSettings
from seg_perception.ros.node.camera import Camera
from seg_perception.ros.node.diagnostics import CameraReport, NodeReport
from seg_perception.ros.node.inference import EngineStatus
from seg_perception.ros.node.meters import MetersReport

_STATE_AFTER = {
    "configure": "inactive",
    "activate": "active",
    "deactivate": "inactive",
    "clean up": "unconfigured",
    "shut down": "finalized",
    "error processing": "unconfigured",
}


class NodeWatch:
    """Remembers the lifecycle state, the last failure, and what earlier reports said."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.state = "unconfigured"
        self.clock_jumps = 0
        self.missing_outputs: dict[str, str] = {}
        self.misspelt: list[str] = []
        self.unused_files: list[str] = []
        self.namesakes = 0
        self.opening_s: float | None = None
        self.bond = "none"
        self._failure: str | None = None
        self._rejected_before: dict[str, int] = {}
        self._jumps_before: dict[str, int] = {}
        self._without_before: dict[str, int] = {}

    def succeeded(self, transition: str, failure: str = "") -> None:
        """A transition was made; `failure` is why the node itself made it, if it had to."""
        self.state = _STATE_AFTER[transition]
        self.opening_s = None
        self._failure = failure or None

    def failed(self, reason: str) -> None:
        """A transition failed; the state is what it was."""
        self.opening_s = None
        self._failure = reason

    def warnings(self) -> list[str]:
        """What does not stop the node and must not be overlooked."""
        name = self._node.get_fully_qualified_name()
        several = f"{self.namesakes} other nodes are" if self.namesakes > 1 else "another node is"
        twice = [f"{several} named {name}: calls and topics mix; end it, or rename one"] if self.namesakes else []
        return [*(f"parameter {line}" for line in self.misspelt), *self.unused_files, *twice]

    def thresholds(self, settings: NodeSettings | None) -> DiagnosticsSettings:
        """The configured thresholds; the defaults while there are none."""
        return _DEFAULT_THRESHOLDS if settings is None else settings.diagnostics

    def report(
        self, cameras: Iterable[Camera], engine: EngineStatus | None, meters: Mapping[str, MetersReport]
    ) -> NodeReport:
        """Everything, now."""
        return NodeReport(
            name=self._node.get_fully_qualified_name().lstrip("/"),
            state=self.state,
            failure=self._failure,
            engine=engine or EngineStatus(),
            opening_s=self.opening_s,
            clock_jumps=self.clock_jumps,
            missing_outputs=self.missing_outputs,
            bond=self.bond,
            warnings=self.warnings(),
            cameras=[self._camera_report(camera, meters.get(camera.name)) for camera in cameras],
        )

    def _camera_report(self, camera: Camera, meters: MetersReport | None) -> CameraReport:
        now = time.monotonic()
        active = self.state == "active"
        counts, jumps = camera.account.counts(), camera.time_jumps
        rejection, busy = camera.last_rejection, camera.busy_with
        rejected = counts.rejected - self._rejected_before.get(camera.name, 0)
        jumped = jumps - self._jumps_before.get(camera.name, 0)
        without = 0 if meters is None else meters.without - self._without_before.get(camera.name, 0)
        self._without_before[camera.name] = 0 if meters is None else meters.without
        self._rejected_before[camera.name], self._jumps_before[camera.name] = counts.rejected, jumps
        return CameraReport(
            label=camera.label,
            active=active,
            counts=counts,
            rate_in_hz=camera.rate_in.rate(now),
            rate_out_hz=camera.rate_out.rate(now),
            silent_s=camera.seconds_without_frame(now),
            ever_received=camera.last_received_at is not None,
            silence_reason=camera.explain_silence(now) if active else None,
            latency=camera.latency.percentiles(),
            drivable_share=camera.drivable_share,
            last_rejection=None if rejection is None else rejection.reason,
            last_rejection_age_s=None if rejection is None else now - rejection.at,
            rejected_since_last=max(0, rejected),
            time_jumps=jumps,
            time_jumps_since_last=max(0, jumped),
            lost_before_node=camera.losses.lost,
            topic=camera.input_topic,
            stamp_age_s=camera.stamp_age_s,
            busy_with=None if busy is None else busy[0],
            busy_s=0.0 if busy is None else now - busy[1],
            mask_stalled=camera.mask_stalled,
            meters=meters,
            without_grid_since_last=max(0, without),
        )


def _default(name: str) -> float:
    (default,) = (spec.default for spec in PARAMETERS if spec.name == f"diagnostics.{name}")
    assert isinstance(default, float)
    return default


_DEFAULT_THRESHOLDS = DiagnosticsSettings(
    frame_timeout_s=_default("frame_timeout_s"),
    warn_rate_hz=_default("warn_rate_hz"),
    error_rate_hz=_default("error_rate_hz"),
    warn_latency_ms=_default("warn_latency_ms"),
    engine_timeout_s=_default("engine_timeout_s"),
)
