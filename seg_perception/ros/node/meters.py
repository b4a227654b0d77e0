"""Meters: a thread that turns the newest answer of each camera into grid, points, outline and distance.

It stands behind the inference thread, so that masks never wait for it, and takes the newest answer of each camera
only. What it needs besides, the camera_info of the same stamp and the camera's pose at that stamp, may come a little
later than the image; a frame for which it does not come is counted, with the reason, and no grid is made of it.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header as RosHeader

from seg_perception import node_outputs
from seg_perception.core.errors import InputError
from seg_perception.core.grid import Cells, GridRules
from seg_perception.core.grid_table import GridTable
from seg_perception.core.ground import CameraPose, TransformBuffer, TransformNotYetError
from seg_perception.core.meters import CameraMeters, GridAnswer, PointsAnswer, SharedGrid
from seg_perception.core.model_card import ModelCard
from seg_perception.core.optics import CameraModel, camera_model
from seg_perception.core.types import MaskImage, Segmentation, Size
from seg_perception.node_outputs import Header
from seg_perception.node_settings import NodeSettings
from seg_perception.ros.log import Throttle, describe_error
from seg_perception.ros.messages import stamp_ns_of
from seg_perception.ros.node.outputs import RowPublishers
from seg_perception.ros.node.transforms import TransformListener

PATIENCE_S = 0.2
"""How long a frame waits for its camera_info and its transform."""

_KEPT_INFOS, _MOST_FRAMES = 32, 8  # of each camera


@dataclass(frozen=True, slots=True)
class MetersReport:
    """What diagnostics say of one camera's meters.

    Attributes:
        source: `ground.source`.
        placed: frames whose camera_info and pose were known.
        without: frames for which they were not, and so without grid.
        reason: of the last such frame; of now, where nothing came yet.
        pitch: degrees that the camera looks down; None: not known yet.
        free_distance: the last one published, meters; None: none yet.
    """

    source: str
    placed: int
    without: int
    reason: str
    pitch: float | None
    free_distance: float | None


@dataclass(frozen=True, slots=True, eq=False)
class MetersFrame:
    """One camera's answer on its way to meters."""

    header: Header
    stamp_ns: int
    received_at: float  # monotonic seconds
    answer: Segmentation
    mask: MaskImage
    ignored: MaskImage | None


class GridWatcher(Protocol):
    """Who looks at the grid beside subscribers: the node's page."""

    def watches_grid(self) -> bool: ...

    def show_grid(self, grid: GridAnswer, stamp_ns: int) -> None: ...


@dataclass(frozen=True, slots=True)
class _Part:
    """What one camera last said of the grid."""

    cells: Cells
    table: GridTable
    received_at: float


@dataclass(slots=True)
class _State:
    """One camera; `infos` and `frames` are touched under the lock."""

    meters: CameraMeters
    rules: GridRules
    infos: OrderedDict[int, CameraInfo] = field(default_factory=OrderedDict)
    frames: deque[MetersFrame] = field(default_factory=deque)  # oldest first
    model: tuple[Any, CameraModel] | None = None  # for which camera_info
    last_stamp_ns: int | None = None
    placed: int = 0
    without: int = 0
    reason: str = ""
    log: Throttle = field(default_factory=lambda: Throttle(10.0))


class MetersThread:
    """Publishes the rows of the outputs table that are made of meters.

    Args:
        info_topic: where a camera's camera_info is expected, for messages.
        watcher: is shown every grid while it watches.

    Raises:
        SettingsError: the grid's rules do not fit the model's classes.
    """

    def __init__(
        self,
        node: LifecycleNode,
        settings: NodeSettings,
        card: ModelCard,
        info_topic: Callable[[str], str],
        watcher: GridWatcher | None = None,
    ) -> None:
        self._node = node
        self._watcher = watcher
        self._settings = settings
        self._card = card
        self._info_topic = info_topic
        self._on = {name for name, camera in settings.camera_settings.items() if camera.ground.source != "off"}
        rules = self._rules(settings)
        self._states = {n: _State(CameraMeters(settings.grid, settings.costmap.size), rules[n]) for n in self._on}
        self._shared = SharedGrid(settings.grid)
        self._parts: dict[str, _Part] = {}
        self._newest: tuple[int, float] | None = None  # stamp of the last grid, and when its frame came
        self._free_distance: float | None = None
        output = settings.qos.output
        self._grid_rows = RowPublishers(node, node_outputs.grid_outputs(), output)
        self._points_rows = {
            name: RowPublishers(node, node_outputs.points_outputs(), output, name) for name in settings.cameras
        }
        self._transforms = TransformBuffer()
        self._listener = TransformListener(node, self._transforms, self._nudge)
        self._unheard = ""  # why transforms cannot be heard
        self._condition = threading.Condition()
        self._changed = False
        self._stop = False
        self._gate = threading.Lock()  # held while something is published
        self._allowed = False
        self._off_log = Throttle(60.0)
        self._thread = threading.Thread(target=self._run, name="meters", daemon=True)
        if self._on:
            self._thread.start()

    def _rules(self, settings: NodeSettings) -> dict[str, GridRules]:
        return {
            name: GridRules(settings.grid, self._card.label_set, own.drivable.classes, own.drivable.min_confidence)
            for name, own in settings.camera_settings.items()
        }

    # --- executor thread -----------------------------------------------------------------------

    def activate(self) -> None:
        """Listen and publish from now on."""
        if any(self._settings.camera_settings[name].ground.source == "tf" for name in self._on):
            self._unheard = self._listener.open() or ""
            if self._unheard:
                self._node.get_logger().error(f"no grid of cameras with ground.source 'tf': {self._unheard}")
        with self._gate:
            self._allowed = True

    def deactivate(self) -> None:
        """Nothing goes out after this returns, and what cameras said is forgotten."""
        with self._gate:
            self._allowed = False
            self._parts.clear()
            self._newest = None
        self._listener.close()
        with self._condition:
            for state in self._states.values():
                state.frames.clear()
                state.infos.clear()

    def destroy(self, timeout: float = 5.0) -> None:
        """End the thread and give back every publisher."""
        self.deactivate()
        with self._condition:
            self._stop = True
            self._condition.notify()
        if self._thread.is_alive():
            self._thread.join(timeout)
        self._grid_rows.destroy()
        for rows in self._points_rows.values():
            rows.destroy()

    def add_camera_info(self, camera: str, info: CameraInfo) -> None:
        """A calibration came."""
        if (state := self._states.get(camera)) is None:
            return
        with self._condition:
            state.infos[stamp_ns_of(info.header)] = info
            while len(state.infos) > _KEPT_INFOS:
                state.infos.popitem(last=False)
        self._nudge()

    def prepared(self, settings: NodeSettings) -> dict[str, GridRules]:
        """Rules for changed settings; give them to `apply`.

        Raises:
            SettingsError: they do not fit the model's classes.
        """
        return self._rules(settings)

    def apply(self, settings: NodeSettings, rules: Mapping[str, GridRules]) -> None:
        """Count from the next frame."""
        with self._condition:
            self._settings = settings
            for name, state in self._states.items():
                state.rules = rules[name]

    def report(self, camera: str) -> MetersReport:
        """For diagnostics."""
        source = self._settings.camera_settings[camera].ground.source
        state = self._states.get(camera)
        if state is None:
            self._warn_who_waits()
            return MetersReport(source, 0, 0, "", None, None)
        table = state.meters.table
        pitch = None if table is None else table.pose.pitch
        return MetersReport(
            source, state.placed, state.without, self._unheard or state.reason, pitch, self._free_distance
        )

    def _warn_who_waits(self) -> None:
        waiting = self._grid_rows.watched() if not self._on else []
        for rows in self._points_rows.values():
            waiting += rows.watched() if not self._on else []
        if waiting and self._off_log.due():
            self._node.get_logger().warning(
                f"{', '.join(waiting)} is subscribed to, but ground.source is 'off': set it to 'tf' or 'fixed' to say "
                "where the camera is over the ground (docs/meters.md)"
            )

    # --- inference thread ----------------------------------------------------------------------

    def offer(self, camera: str, frame: MetersFrame) -> None:
        """A camera's next answer."""
        if (state := self._states.get(camera)) is None:
            return
        with self._condition:
            if state.last_stamp_ns is not None and frame.stamp_ns < state.last_stamp_ns:  # a looping bag
                self._transforms.clear()
                state.frames.clear()
            state.last_stamp_ns = frame.stamp_ns
            state.frames.append(frame)
            if len(state.frames) > _MOST_FRAMES:
                self._miss(camera, state, self._why_not(camera, state, state.frames.popleft()))
            self._changed = True
            self._condition.notify()

    def _nudge(self) -> None:
        with self._condition:
            if any(state.frames for state in self._states.values()):
                self._changed = True
                self._condition.notify()

    # --- meters thread -------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._condition:
                if not self._changed:
                    self._condition.wait(self._patience())
                if self._stop:
                    return
                self._changed = False
            try:
                self._work_off()
            except Exception as error:  # noqa: BLE001  whatever it is, masks go on, and so must the next frame
                self._node.get_logger().error(f"meters failed: {describe_error(error)}")
                with self._condition:
                    for state in self._states.values():
                        state.frames.clear()

    def _patience(self) -> float:
        """Seconds until a frame has waited enough, or a part of the grid is too old; the lock is held."""
        now = time.monotonic()
        ends = [frame.received_at + PATIENCE_S for s in self._states.values() for frame in s.frames]
        ends += [part.received_at + self._timeout for part in list(self._parts.values())]
        return max(0.005, min([end - now for end in ends], default=1.0))

    @property
    def _timeout(self) -> float:
        return self._settings.diagnostics.frame_timeout_s

    def _work_off(self) -> None:
        grid_wanted = bool(self._grid_rows.watched()) or self._looked_at()
        newest: MetersFrame | None = None
        for name, state in self._states.items():
            if (placed := self._newest_placed(name, state)) is None:
                continue
            frame, model, pose = placed
            state.placed += 1
            self._fill(name, state, frame, model, pose, grid_wanted)
            if newest is None or frame.stamp_ns > newest.stamp_ns:
                newest = frame
        if newest is not None:
            self._newest = newest.stamp_ns, newest.received_at
        if self._drop_old_parts() or (newest is not None and grid_wanted):
            self._publish_grid()

    def _newest_placed(self, name: str, state: _State) -> tuple[MetersFrame, CameraModel, CameraPose] | None:
        """The newest frame whose camera_info and pose are known; it and all before it are taken.

        Frames for which something is wrong, or for which it has not come in time, are taken and counted.
        """
        with self._condition:
            frames = list(state.frames)
        for frame in reversed(frames):
            try:
                model, pose = self._geometry(name, state, frame)
            except InputError as error:  # noqa: PERF203  each frame for itself
                waits = isinstance(error, (TransformNotYetError, _NotYetError))
                if waits and time.monotonic() - frame.received_at < PATIENCE_S:
                    continue
                with self._condition:
                    if frame in state.frames:
                        state.frames.remove(frame)
                        self._miss(name, state, str(error))
            else:
                with self._condition:
                    while state.frames and state.frames[0].stamp_ns <= frame.stamp_ns:
                        state.frames.popleft()
                return frame, model, pose
        return None

    def _fill(
        self, name: str, state: _State, frame: MetersFrame, model: CameraModel, pose: CameraPose, grid_wanted: bool
    ) -> None:
        rows = self._points_rows[name]
        meters = state.meters
        if not (grid_wanted or rows.watched()):
            return
        meters.place(model, pose)
        meters.look(frame.answer, frame.mask, state.rules, frame.ignored)
        if grid_wanted:
            assert meters.table is not None
            self._parts[name] = _Part(meters.cells(frame.answer, state.rules), meters.table, frame.received_at)
        if rows.watched():
            points = PointsAnswer(self._settings.ground.frame, meters, frame.answer)
            with self._gate:
                if self._allowed:
                    rows.publish(points, frame.header)

    def _drop_old_parts(self) -> bool:
        """Forget what a camera said that is silent; answers whether there was any."""
        now = time.monotonic()
        old = [name for name, part in self._parts.items() if now - part.received_at >= self._timeout]
        for name in old:
            self._parts.pop(name, None)
        return bool(old)

    def _publish_grid(self) -> None:
        """With the newest frame's stamp; when a part is dropped, that much later in the frames' own time."""
        with self._gate:
            if not self._allowed or self._newest is None:
                return
            grid = self._shared.merged(
                self._settings.ground.frame, {name: (part.cells, part.table) for name, part in self._parts.items()}
            )
            stamp_ns, received_at = self._newest
            newest = max((part.received_at for part in self._parts.values()), default=None)
            if newest is None:
                stamp_ns += round((time.monotonic() - received_at) * 1e9)
            self._grid_rows.publish(grid, _header(stamp_ns, self._settings.ground.frame))
            if self._grid_rows.watched():
                self._free_distance = grid.distance
            if self._watcher is not None and self._looked_at():
                self._watcher.show_grid(grid, stamp_ns)

    def _looked_at(self) -> bool:
        return self._watcher is not None and self._watcher.watches_grid()

    # --- what a frame needs --------------------------------------------------------------------

    def _geometry(self, name: str, state: _State, frame: MetersFrame) -> tuple[CameraModel, CameraPose]:
        with self._condition:
            info = state.infos.get(frame.stamp_ns)
            if info is None:
                raise _NotYetError(self._why_no_info(name, state, frame))
        mount = self._settings.camera_settings[name].ground
        size = Size.of(frame.answer.labels)
        roi = info.roi
        key = (
            size,
            mount.rectified,
            (info.width, info.height, info.distortion_model, tuple(info.d), tuple(info.k), tuple(info.p)),
            (info.binning_x, info.binning_y, roi.x_offset, roi.y_offset, roi.width, roi.height),
        )
        if state.model is None or state.model[0] != key:
            state.model = key, camera_model(info, size, mount.rectified)
        if mount.source == "fixed":
            return state.model[1], mount.pose()
        return state.model[1], self._transforms.pose(self._settings.ground.frame, frame.header.frame_id, frame.stamp_ns)

    def _why_not(self, name: str, state: _State, frame: MetersFrame) -> str:
        """Why a frame that newer ones replaced had no grid; the lock is held."""
        if frame.stamp_ns not in state.infos:
            return self._why_no_info(name, state, frame)
        if self._settings.camera_settings[name].ground.source == "tf":
            try:
                self._transforms.pose(self._settings.ground.frame, frame.header.frame_id, frame.stamp_ns)
            except InputError as error:
                return str(error)
        return "frames came faster than they were worked off"

    def _why_no_info(self, name: str, state: _State, frame: MetersFrame) -> str:
        if not state.infos:
            return f"no camera_info has come on {self._info_topic(name)}"
        apart = min(abs(stamp - frame.stamp_ns) for stamp in state.infos) * 1e-9
        return (
            f"no camera_info on {self._info_topic(name)} has the image's stamp, the nearest is {apart:.3f} s apart: "
            "the driver must stamp both alike"
        )

    def _miss(self, name: str, state: _State, reason: str) -> None:
        state.without += 1
        state.reason = reason
        if state.log.due():
            camera = f"camera {name}" if name else "camera"
            self._node.get_logger().warning(f"{camera}: no grid, {state.without} frames so far: {reason}")


class _NotYetError(InputError):
    """What a frame needs may still come."""


def _header(stamp_ns: int, frame: str) -> Any:
    header = RosHeader(frame_id=frame)
    header.stamp.sec, header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
    return header
