"""What the node says about itself on /diagnostics: reports in, standard messages out.

Every number is a plain number with its unit in the key, so that PlotJuggler plots each of them.
Levels and their thresholds are listed in docs/node.md.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node

from seg_perception.node_settings import PARAMETERS, DiagnosticsSettings, NodeSettings
from seg_perception.ros.log import Throttle, shortened
from seg_perception.ros.node.accounting import FrameCounts, Percentiles, Stage
from seg_perception.ros.node.camera import Camera
from seg_perception.ros.node.inference import EngineState, EngineStatus
from seg_perception.ros.node.meters import MetersReport
from seg_perception.ros.node.outputs import RowPublishers


class Level(Enum):
    """DiagnosticStatus levels, mildest first."""

    OK = 0
    WARN = 1
    ERROR = 2
    STALE = 3


@dataclass(frozen=True, slots=True)
class Verdict:
    """A level and its reason."""

    level: Level
    message: str


@dataclass(frozen=True, slots=True)
class CameraReport:
    """One camera at one instant; the ..._since_last fields count since the previous report."""

    label: str
    active: bool
    counts: FrameCounts
    rate_in_hz: float | None
    rate_out_hz: float | None
    silent_s: float
    ever_received: bool
    silence_reason: str | None
    latency: Mapping[Stage, Percentiles]
    drivable_share: float | None
    last_rejection: str | None
    last_rejection_age_s: float | None
    rejected_since_last: int
    time_jumps: int
    time_jumps_since_last: int
    lost_before_node: int
    topic: str
    stamp_age_s: float | None  # of the last published frame, by the node's clock
    busy_with: str | None = None  # what the camera's thread is at
    busy_s: float = 0.0  # and for how long
    mask_stalled: str | None = None  # why nothing can appear in the drivable mask, whatever the camera sees
    meters: MetersReport | None = None
    without_grid_since_last: int = 0


@dataclass(frozen=True, slots=True)
class NodeReport:
    """The node at one instant."""

    name: str
    state: str  # lifecycle state
    failure: str | None  # why the last transition failed, or the node was deactivated
    engine: EngineStatus
    opening_s: float | None  # how long the engine has been opening
    clock_jumps: int
    missing_outputs: Mapping[str, str]  # what is not published here, each with the reason
    bond: str  # with a lifecycle manager: held, or why there is none
    warnings: Sequence[str]  # what does not stop the node and must not be overlooked
    cameras: Sequence[CameraReport]


def judge_camera(report: CameraReport, thresholds: DiagnosticsSettings) -> Verdict:
    """The worst thing that is true of a camera."""
    if not report.active:
        return Verdict(Level.OK, "inactive")
    if report.counts.unaccounted:
        return Verdict(Level.ERROR, f"{report.counts.unaccounted} frames are unaccounted for: a defect of this node")
    if report.busy_with and report.busy_s >= thresholds.frame_timeout_s:
        return Verdict(Level.ERROR, f"{report.busy_with}, for {report.busy_s:.1f} s")
    if report.silent_s >= thresholds.frame_timeout_s:
        kind = "overdue: no frame any more" if report.ever_received else "never received a frame"
        why = f": {report.silence_reason}" if report.silence_reason else ""
        return Verdict(Level.STALE, f"{kind}, for {report.silent_s:.1f} s{why}")
    rate = report.rate_out_hz if report.counts.published or report.rate_in_hz is None else report.rate_out_hz or 0.0
    if rate is not None and rate < thresholds.error_rate_hz:
        reason = f"; last rejection: {report.last_rejection}" if report.rejected_since_last else ""
        return Verdict(Level.ERROR, f"{rate:.2f} frames/s published, below {thresholds.error_rate_hz:g}{reason}")
    if report.rejected_since_last:
        return Verdict(Level.WARN, f"{report.rejected_since_last} messages rejected: {report.last_rejection}")
    if report.mask_stalled:
        return Verdict(Level.WARN, report.mask_stalled)
    if report.time_jumps_since_last:
        return Verdict(Level.WARN, "stamps went back in time; the mask's memory was reset")
    if report.meters is not None and report.without_grid_since_last:
        return Verdict(Level.WARN, f"{report.without_grid_since_last} frames without grid: {report.meters.reason}")
    if rate is not None and rate < thresholds.warn_rate_hz:
        return Verdict(Level.WARN, f"{rate:.2f} frames/s published, below {thresholds.warn_rate_hz:g}")
    node = report.latency.get(Stage.NODE)
    if node is not None and node.p95 > thresholds.warn_latency_ms:
        return Verdict(
            Level.WARN, f"delayed: {node.p95:.0f} ms in the node (p95), above {thresholds.warn_latency_ms:g}"
        )
    return Verdict(Level.OK, "publishing" if rate is None else f"publishing at {rate:.1f} frames/s")


def judge_node(report: NodeReport, thresholds: DiagnosticsSettings) -> Verdict:
    """The worst thing that is true of the engine and the node's state."""
    engine = report.engine
    if report.opening_s is not None:
        progress = f" ({engine.opening})" if engine.opening else ""
        return Verdict(Level.WARN, f"opening the engine, for {report.opening_s:.0f} s{progress}")
    if report.failure:
        return Verdict(Level.ERROR, f"{report.state}: {report.failure}")
    if engine.state in (EngineState.FAILED, EngineState.REBUILDING):
        return Verdict(Level.ERROR, f"engine {engine.state.value}: {engine.failure}")
    if engine.busy_s > thresholds.engine_timeout_s:
        return Verdict(Level.ERROR, f"one inference has been running for {engine.busy_s:.1f} s")
    if engine.failure:
        return Verdict(Level.WARN, f"{report.state}; the engine failed and was rebuilt: {engine.failure}")
    if report.warnings:
        return Verdict(Level.WARN, "; ".join((report.state, *report.warnings)))
    return Verdict(Level.OK, report.state)


def node_status(report: NodeReport, thresholds: DiagnosticsSettings) -> DiagnosticStatus:
    """The status "<node>: engine"."""
    engine = report.engine
    values: dict[str, object] = {
        "lifecycle_state": report.state,
        "engine_state": engine.state.value,
        "engine": engine.info or "none",
        "model": engine.card.id if engine.card else "none",
        "engine_failure": engine.failure or "none",
        "engine_rebuilds": engine.rebuilds,
        "inference_running_s": engine.busy_s,
        "inferences_at_once": engine.at_once,
        "bond": report.bond,
        "clock_jumps": report.clock_jumps,
        **{name: f"not published: {reason}" for name, reason in report.missing_outputs.items()},
        "gpu_memory_mb": None if engine.device_memory is None else engine.device_memory / 1e6,
        "process_memory_mb": resident_mb(),
        "process_cpu_s": _cpu_seconds(),
    }
    model = engine.card.id if engine.card else ""
    return _status(f"{report.name}: engine", judge_node(report, thresholds), model, values)


def camera_status(name: str, report: CameraReport, thresholds: DiagnosticsSettings) -> DiagnosticStatus:
    """The status "<node>: camera <name>"."""
    counts = report.counts
    values: dict[str, object] = {
        "topic": report.topic,
        "received": counts.received,
        "published": counts.published,
        "superseded": counts.superseded,
        "rejected": counts.rejected,
        "failed": counts.failed,
        "in_flight": counts.in_flight,
        "unaccounted": counts.unaccounted,
        "lost_before_node": report.lost_before_node,
        "rate_in_hz": report.rate_in_hz,
        "rate_out_hz": report.rate_out_hz,
        "last_frame_age_s": report.silent_s if report.ever_received else None,
        "drivable_share": report.drivable_share,
        "time_jumps": report.time_jumps,
        "stamp_age_s": report.stamp_age_s,
        "last_rejection": report.last_rejection or "none",
        "last_rejection_age_s": report.last_rejection_age_s,
    }
    if report.meters is not None:
        values |= _meters_values(report.meters)
    for stage in Stage:
        percentiles = report.latency.get(stage)
        for name_of, value in (("p50", "p50"), ("p95", "p95"), ("p99", "p99")):
            values[f"latency_{stage.value}_{name_of}_ms"] = getattr(percentiles, value) if percentiles else None
    return _status(f"{name}: {report.label}", judge_camera(report, thresholds), report.label, values)


def _meters_values(meters: MetersReport) -> dict[str, object]:
    if meters.source == "off":
        return {"ground_source": "off"}
    return {
        "ground_source": meters.source,
        "grid_frames": meters.placed,
        "frames_without_grid": meters.without,
        "grid_superseded": meters.superseded,
        "no_grid_because": meters.reason or "none",
        "camera_pitch_deg": meters.pitch,
        "free_distance_m": meters.free_distance,
    }


def diagnostic_array(stamp: Time, report: NodeReport, thresholds: DiagnosticsSettings) -> DiagnosticArray:
    """The whole message: one status of the engine, one of each camera."""
    message = DiagnosticArray()
    message.header.stamp = stamp
    message.status = [
        node_status(report, thresholds),
        *(camera_status(report.name, camera, thresholds) for camera in report.cameras),
    ]
    return message


def resident_mb() -> float:
    """Memory of this process in use now, megabytes."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 1e6


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _status(name: str, verdict: Verdict, hardware: str, values: Mapping[str, object]) -> DiagnosticStatus:
    return DiagnosticStatus(
        level=bytes([verdict.level.value]),
        name=name,
        message=shortened(verdict.message),
        hardware_id=hardware,
        # what is not known has no key: a zero would look like a measurement
        values=[KeyValue(key=key, value=_text(value)) for key, value in values.items() if value is not None],
    )


def _text(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else shortened(str(value))


TRANSITIONS: Mapping[str, Sequence[str]] = {
    "unconfigured": ("configure", "shutdown"),
    "inactive": ("activate", "cleanup", "shutdown"),
    "active": ("deactivate", "shutdown"),
    "finalized": (),
}
"""What each lifecycle state has."""

_STATE_AFTER = {
    "configure": "inactive",
    "activate": "active",
    "deactivate": "inactive",
    "clean up": "unconfigured",
    "shut down": "finalized",
    "error processing": "unconfigured",
}


UNCONFIRMED_S = 5.0
"""A reliable subscriber confirms within milliseconds (docs/node.md has what was measured)."""


class NodeWatch:
    """Remembers the lifecycle state, the last failure, and what earlier reports said."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.state = "unconfigured"
        self.clock_jumps = 0
        self.time_trouble = ""  # why the node's time means nothing
        self.missing_outputs: dict[str, str] = {}
        self.misspelt: list[str] = []
        self.unused_arguments: list[str] = []
        self.doubts: list[str] = []  # of the topics' names
        self._namesakes = 0  # other nodes of this node's name
        self._namesakes_log = Throttle(30.0)
        self.opening_s: float | None = None
        self.bond = "none"
        self._unheard: list[str] = []
        self._unheard_log = Throttle(30.0)
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
        return [
            *(f"parameter {line}" for line in self.misspelt),
            *self.unused_arguments,
            *self.doubts,
            *filter(None, [self.time_trouble]),
            *self._unheard,
            *self._of_namesakes(),
        ]

    def _of_namesakes(self) -> list[str]:
        several = f"{self._namesakes} other nodes are" if self._namesakes > 1 else "another node is"
        name = self._node.get_fully_qualified_name()
        return [f"{several} named {name}: calls and topics mix; end it, or rename one"] if self._namesakes else []

    def look_for_namesakes(self) -> None:
        """Count other nodes of this node's name: both answer to every call, and publish on the same topics."""
        # by an endpoint that every node has: the graph's list of nodes keeps some that have ended
        publishers = self._node.get_publishers_info_by_topic("/parameter_events")
        own = (self._node.get_name(), self._node.get_namespace())
        self._namesakes = max(0, [(p.node_name, p.node_namespace) for p in publishers].count(own) - 1)
        if self._namesakes and self._namesakes_log.due():
            self._node.get_logger().warning(self._of_namesakes()[0])

    def _look_who_confirms(self, publishers: Iterable[RowPublishers]) -> None:
        now = time.monotonic()
        self._unheard = [
            f"on {topic} a reliable subscriber has confirmed nothing for {now - since:.0f} s: it "
            "hangs, or was killed (forgotten after 20 s), or Fast DDS has lost the way to it: start this node anew"
            for rows in publishers
            for topic, since in rows.unconfirmed_since().items()
            if now - since >= UNCONFIRMED_S
        ]
        if self._unheard and self._unheard_log.due():
            self._node.get_logger().warning("; ".join(self._unheard))

    def thresholds(self, settings: NodeSettings | None) -> DiagnosticsSettings:
        """The configured thresholds; the defaults while there are none."""
        return _DEFAULT_THRESHOLDS if settings is None else settings.diagnostics

    def report(
        self,
        cameras: Iterable[Camera],
        publishers: Iterable[RowPublishers],
        engine: EngineStatus | None,
        meters: Mapping[str, MetersReport],
    ) -> NodeReport:
        """Everything, now."""
        self._look_who_confirms(publishers)
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
            silent_s=camera.silence.seconds(now),
            ever_received=camera.silence.last_received_at is not None,
            silence_reason=camera.explain_silence(now) if active else None,
            latency=camera.latency.percentiles(),
            drivable_share=camera.drivable_share,
            last_rejection=None if rejection is None else rejection.reason,
            last_rejection_age_s=None if rejection is None else now - rejection.at,
            rejected_since_last=max(0, rejected),
            time_jumps=jumps,
            time_jumps_since_last=max(0, jumped),
            lost_before_node=camera.losses.lost,
            topic=camera.listening.topic,
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
