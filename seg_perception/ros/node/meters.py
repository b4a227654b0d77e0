"""Meters: a thread that turns the newest answer of each camera into grid, points, outline and distance.

It stands behind the inference thread, so that masks never wait for it, and takes the newest answer of each camera
only. What it needs besides, the camera's lens and place (`camera_geometry`), may come a little later than the image; a
frame for which it does not come is counted, with the reason, and no grid is made of it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header as RosHeader

from seg_perception import node_outputs
from seg_perception.core.errors import InputError
from seg_perception.core.grid import Cells, GridRules, GridSettings
from seg_perception.core.grid_table import GridTable
from seg_perception.core.ground import CameraPose
from seg_perception.core.meters import CameraMeters, GridAnswer, PointsAnswer, SharedGrid
from seg_perception.core.model_card import ModelCard
from seg_perception.core.optics import CameraModel
from seg_perception.core.types import MaskImage, Segmentation, Size
from seg_perception.node_outputs import Header
from seg_perception.node_settings import NodeSettings
from seg_perception.ros.log import Throttle, describe_error
from seg_perception.ros.node.camera_geometry import CameraGeometry, NotYetError, Shot
from seg_perception.ros.node.outputs import PUBLISHING_TIMEOUT_S, RowPublishers

PATIENCE_S = 0.2
"""How long a frame waits for its camera_info and its transform."""

_MOST_FRAMES = 8  # of each camera


@dataclass(frozen=True, slots=True)
class MetersReport:
    """What diagnostics say of one camera's meters.

    Attributes:
        source: `ground.source`.
        placed: frames whose camera_info and pose were known.
        without: frames for which they were not, and so without grid.
        superseded: frames for which they were not looked for, because those of a newer one were there.
        reason: of the last frame without; of now, where nothing came yet.
        pitch: degrees that the camera looks down; None: not known yet.
        free_distance: that of the last grid, meters; None: none is published.
    """

    source: str
    placed: int
    without: int
    superseded: int
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

    def shot(self, camera: str) -> Shot:
        return Shot(camera, self.header.frame_id, self.stamp_ns, Size.of(self.answer.labels))


class GridWatcher(Protocol):
    """Who looks at the grid beside subscribers: the node's page."""

    def watches_grid(self) -> bool: ...

    def show_grid(self, grid: GridAnswer, stamp_ns: int) -> None: ...


@dataclass(frozen=True, slots=True)
class _Part:
    """What one camera last said of the grid."""

    cells: Cells
    table: GridTable
    stamp_ns: int
    received_at: float


class _CommonGrid:
    """What each camera last said of the one grid, until it is too old; the meters' thread alone touches it."""

    def __init__(self, settings: GridSettings) -> None:
        self._shared = SharedGrid(settings)
        self._parts: dict[str, _Part] = {}
        self._newest: _Part | None = None  # also when it is too old

    def forget(self) -> None:
        """All of it."""
        self._parts, self._newest = {}, None

    def fill(self, camera: str, part: _Part) -> None:
        self._parts[camera] = part

    def received_at(self) -> list[float]:
        """When the frames came that it is made of, monotonic seconds."""
        return [part.received_at for part in self._parts.values()]

    def drop_older_than(self, seconds: float) -> bool:
        """Forget what a camera said that is silent; answers whether there was any."""
        now = time.monotonic()
        old = [name for name, part in self._parts.items() if now - part.received_at >= seconds]
        for name in old:
            del self._parts[name]
        return bool(old)

    def merged(self, frame: str) -> tuple[GridAnswer, int] | None:
        """The grid in the ground frame and its stamp; None while no frame has come.

        The stamp is that of the newest frame in it; without any, that much later in the frames' own time.
        """
        self._newest = max(self._parts.values(), key=lambda part: part.stamp_ns, default=self._newest)
        if self._newest is None:
            return None
        grid = self._shared.merged(frame, {name: (part.cells, part.table) for name, part in self._parts.items()})
        stamp_ns = self._newest.stamp_ns
        if not self._parts:
            stamp_ns += round((time.monotonic() - self._newest.received_at) * 1e9)
        return grid, stamp_ns


@dataclass(slots=True)
class _State:
    """One camera; what counts, `frames` and `reason` are touched under the lock."""

    meters: CameraMeters
    rules: GridRules
    frames: deque[MetersFrame] = field(default_factory=deque)  # oldest first
    last_stamp_ns: int | None = None
    placed: int = 0
    without: int = 0
    superseded: int = 0
    reason: str = ""
    log: Throttle = field(default_factory=lambda: Throttle(10.0))


class MetersThread:
    """Publishes the rows of the outputs table that are made of meters.

    The executor's thread switches it on and off and brings each camera_info; the cameras' threads offer their answers;
    its own thread does the rest.

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
        self._on = {name for name, camera in settings.camera_settings.items() if camera.ground.source != "off"}
        rules = self.prepared(settings)
        self._states = {n: _State(CameraMeters(settings.grid, settings.costmap.size), rules[n]) for n in self._on}
        self._grid = _CommonGrid(settings.grid)
        self._free_distance: float | None = None
        output = settings.qos.output
        self._grid_rows = RowPublishers(node, node_outputs.grid_outputs(), output)
        self._points_rows = {
            name: RowPublishers(node, node_outputs.points_outputs(), output, name) for name in settings.cameras
        }
        self._geometry = CameraGeometry(node, self._on, info_topic, self._nudge)
        self._condition = threading.Condition()
        self._changed = False
        self._stop = False
        self._allowed = False
        self._epoch = 0  # what frames of an earlier one say is void: a deactivation ends it, and time that runs back
        self._working_for = 0  # which one the meters' thread took its frames in
        self._farewell: threading.Event | None = None  # set by the meters' thread when it has come to rest
        self._off_log = Throttle(60.0)
        self._thread = threading.Thread(target=self._run, name="meters", daemon=True)
        if self._on:
            self._thread.start()

    # --- executor thread -----------------------------------------------------------------------

    def activate(self) -> None:
        """Listen and publish from now on."""
        self._geometry.listen(self._settings)
        self._allowed = True

    def deactivate(self) -> None:
        """Nothing goes out after this returns, and what cameras said is forgotten; the last grid is all unknown."""
        with self._condition:
            self._allowed = False
            self._void("the node was deactivated while they waited")
            farewell = self._farewell = threading.Event()
            self._wake()
        if self._thread.is_alive() and not farewell.wait(PUBLISHING_TIMEOUT_S):
            self._node.get_logger().error(
                "the middleware has blocked the publishing of a grid or of points for more than "
                f"{PUBLISHING_TIMEOUT_S:g} s; is a subscriber stopped?"
            )
        self._free_distance = None
        self._geometry.stop_listening()

    def destroy(self, timeout: float = 5.0) -> bool:
        """End the thread and give back every publisher; False when it did not come back in time."""
        self.deactivate()
        with self._condition:
            self._stop = True
            self._wake()
        if self._thread.is_alive():
            self._thread.join(timeout)
        for rows in self.publishers:
            rows.destroy()
        return not self._thread.is_alive()

    def add_camera_info(self, camera: str, info: CameraInfo) -> None:
        """A calibration came."""
        if camera in self._on:
            self._geometry.add_camera_info(camera, info)
            self._nudge()

    def prepared(self, settings: NodeSettings) -> dict[str, GridRules]:
        """Rules for changed settings; give them to `apply`.

        Raises:
            SettingsError: they do not fit the model's classes.
        """
        return {
            name: GridRules(settings.grid, self._card.label_set, own.drivable.classes, own.drivable.min_confidence)
            for name, own in settings.camera_settings.items()
        }

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
            return MetersReport(source, 0, 0, 0, "", None, None)
        table = state.meters.table
        pitch = None if table is None else table.pose.pitch
        reason = self._geometry.unheard or state.reason
        return MetersReport(source, state.placed, state.without, state.superseded, reason, pitch, self._free_distance)

    @property
    def publishers(self) -> tuple[RowPublishers, ...]:
        """Of the grid, and of each camera's points."""
        return self._grid_rows, *self._points_rows.values()

    def _warn_who_waits(self) -> None:
        waiting = [] if self._on else [topic for rows in self.publishers for topic in rows.watched()]
        if waiting and self._off_log.due():
            self._node.get_logger().warning(
                f"{', '.join(waiting)} is subscribed to, but ground.source is 'off': set it to 'tf' or 'fixed' to say "
                "where the camera is over the ground (docs/meters.md)"
            )

    # --- the cameras' threads ------------------------------------------------------------------

    def offer(self, camera: str, frame: MetersFrame) -> None:
        """A camera's next answer."""
        if (state := self._states.get(camera)) is None:
            return
        with self._condition:
            if state.last_stamp_ns is not None and frame.stamp_ns < state.last_stamp_ns:
                self._geometry.time_went_back()
                self._void("stamps went back (a looping bag?) while they waited")
            state.last_stamp_ns = frame.stamp_ns
            state.frames.append(frame)
            if len(state.frames) > _MOST_FRAMES:
                missing = self._geometry.why_not(state.frames.popleft().shot(camera), self._settings)
                self._miss(camera, state, missing or "frames came faster than they were worked off")
            self._wake()

    def _nudge(self) -> None:
        with self._condition:
            if any(state.frames for state in self._states.values()):
                self._wake()

    def _wake(self) -> None:
        """The lock is held."""
        self._changed = True
        self._condition.notify()

    def _void(self, why: str) -> None:
        """What came until now is no past of what comes; frames that wait have no grid. The lock is held."""
        self._epoch += 1
        for name, state in self._states.items():
            state.last_stamp_ns = None
            while state.frames:
                state.frames.popleft()
                self._miss(name, state, why)

    # --- meters thread -------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._condition:
                if not self._changed:
                    self._condition.wait(self._patience())
                if self._stop:
                    return
                self._changed = False
                epoch, farewell, self._farewell = self._epoch, self._farewell, None
            try:
                if epoch != self._working_for:
                    self._working_for = epoch
                    if self._grid.drop_older_than(0.0):  # who keeps the last grid would keep what was free
                        self._publish_grid()
                    self._grid.forget()
                self._work_off()
            except Exception as error:  # noqa: BLE001  whatever it is, masks go on, and so must the next frame
                self._node.get_logger().error(f"meters failed: {describe_error(error)}")
                with self._condition:
                    self._void(f"unexpected {describe_error(error)}")
            if farewell is not None:
                farewell.set()

    def _patience(self) -> float:
        """Seconds until a frame has waited enough, or a part of the grid is too old; the lock is held."""
        now = time.monotonic()
        ends = [frame.received_at + PATIENCE_S for s in self._states.values() for frame in s.frames]
        ends += [received_at + self._timeout for received_at in self._grid.received_at()]
        return max(0.005, min([end - now for end in ends], default=1.0))

    @property
    def _timeout(self) -> float:
        return self._settings.diagnostics.frame_timeout_s

    def _work_off(self) -> None:
        grid_wanted = bool(self._grid_rows.watched()) or self._looked_at()
        filled = False
        for name, state in self._states.items():
            if (placed := self._newest_placed(name, state)) is None:
                continue
            try:
                self._fill(name, state, *placed, grid_wanted)
            except Exception as error:  # noqa: BLE001  whatever it is, other cameras and the next frame go on
                with self._condition:
                    expected = isinstance(error, InputError)
                    self._miss(name, state, str(error) if expected else f"unexpected {describe_error(error)}")
                continue
            state.placed += 1
            filled = True
        if not self._may_go_out():
            return
        if self._grid.drop_older_than(self._timeout) or (filled and grid_wanted):
            self._publish_grid()
        elif not grid_wanted:
            self._free_distance = None

    def _may_go_out(self) -> bool:
        """Whether what the frames say that are being worked on may go out, or be noted."""
        return self._allowed and self._working_for == self._epoch

    def _newest_placed(self, name: str, state: _State) -> tuple[MetersFrame, CameraModel, CameraPose] | None:
        """The newest frame whose camera_info and pose are known; it and all before it are taken.

        Frames for which something is wrong, or for which it has not come in time, are taken and counted.
        """
        with self._condition:
            frames = list(state.frames)
        for frame in reversed(frames):
            try:
                model, pose = self._geometry.of(frame.shot(name), self._settings)
            except InputError as error:  # noqa: PERF203  each frame for itself
                if isinstance(error, NotYetError) and time.monotonic() - frame.received_at < PATIENCE_S:
                    continue
                with self._condition:
                    if frame in state.frames:
                        state.frames.remove(frame)
                        self._miss(name, state, str(error))
            else:
                with self._condition:
                    if frame not in state.frames:  # void meanwhile
                        return None
                    while state.frames.popleft() is not frame:
                        state.superseded += 1
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
        if rows.watched() and self._may_go_out():
            rows.publish(PointsAnswer(self._settings.ground.frame, meters, frame.answer), frame.header)
        if not grid_wanted:
            return
        if (age := time.monotonic() - frame.received_at) >= self._timeout:
            raise InputError(
                f"its answer came {age:.1f} s after the image, and after diagnostics.frame_timeout_s "
                f"({self._timeout:g}) nothing is known any more"
            )
        assert meters.table is not None
        part = _Part(meters.cells(frame.answer, state.rules), meters.table, frame.stamp_ns, frame.received_at)
        if self._may_go_out():
            self._grid.fill(name, part)

    def _publish_grid(self) -> None:
        frame = self._settings.ground.frame
        if (merged := self._grid.merged(frame)) is None:
            return
        grid, stamp_ns = merged
        self._grid_rows.publish(grid, _header(stamp_ns, frame))
        self._free_distance = grid.distance if self._grid_rows.watched() else None
        if self._watcher is not None and self._looked_at():
            self._watcher.show_grid(grid, stamp_ns)

    def _looked_at(self) -> bool:
        return self._watcher is not None and self._watcher.watches_grid()

    def _miss(self, name: str, state: _State, reason: str) -> None:
        state.without += 1
        state.reason = reason
        if state.log.due():
            camera = f"camera {name}" if name else "camera"
            self._node.get_logger().warning(f"{camera}: no grid, {state.without} frames so far: {reason}")


def _header(stamp_ns: int, frame: str) -> Any:
    header = RosHeader(frame_id=frame)
    header.stamp.sec, header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
    return header
