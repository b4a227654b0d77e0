"""The lifecycle node: camera images in, labels, confidence and drivable mask out.

The node ties the parts together: parameters to settings, lifecycle transitions to cameras and the
inference thread, and a tick a second to diagnostics. Topics and parameters: docs/node.md.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy import clock as rclpy_clock
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.time_source import CLOCK_TOPIC
from rclpy.utilities import get_rmw_implementation_identifier

from seg_perception.core.errors import SegPerceptionError
from seg_perception.node_outputs import DIAGNOSTICS
from seg_perception.node_parameters import unused_parameter_files
from seg_perception.node_settings import NodeSettings, camera_name_faults
from seg_perception.ros.log import RosLogHandler, describe_error
from seg_perception.ros.node.arguments import RosArguments, unused_rules
from seg_perception.ros.node.bond import ManagerBond
from seg_perception.ros.node.camera import Camera
from seg_perception.ros.node.camera_rig import CameraRig
from seg_perception.ros.node.diagnostics import NodeWatch, diagnostic_array
from seg_perception.ros.node.engine_holder import OpenEngine, open_configured_engine
from seg_perception.ros.node.engine_life import EngineLife
from seg_perception.ros.node.lost_frames import leftovers_hint
from seg_perception.ros.node.meters import MetersThread
from seg_perception.ros.node.node_time import TimeWatch, without_impossible_times
from seg_perception.ros.node.outputs import missing_outputs
from seg_perception.ros.node.parameters import NodeParameters
from seg_perception.ros.node.spinning import guard_services
from seg_perception.ros.node.topics import check_topics
from seg_perception.ros.node.transitions import Transitions

if TYPE_CHECKING:
    from seg_perception.ros.node.page import NodePage

DIAGNOSTICS_PERIOD_S = 1.0


class SegmentationNode(LifecycleNode):
    """The lifecycle node. Every method but `request_stop` runs on the executor's thread.

    Args:
        open_configured: opens the engine that the settings ask for.
        options: passed to rclpy's node (context, namespace, parameter_overrides, ...).
    """

    def __init__(self, open_configured: OpenEngine = open_configured_engine, **options: Any) -> None:
        super().__init__("segmentation_node", **options)
        self._engine = EngineLife(self.get_logger(), open_configured, self._engine_opens, self._on_engine_failure)
        self.transitions = Transitions(self, self._service_change_state, self._engine, self._begin_opening)
        guard_services(self)
        self._watch = NodeWatch(self)
        self._rig = CameraRig(self)
        self._page: NodePage | None = None
        self._engine_failure: tuple[int, str] | None = None  # of which activation, and why
        self._deactivated_because = ""
        self._settings_source = NodeParameters(self, self._is_configured, self._apply)
        managed = not self.get_parameter("autostart").value
        self._bond = ManagerBond(self, managed)
        self._log_handler = RosLogHandler(self.get_logger())
        logging.getLogger("seg_perception").addHandler(self._log_handler)
        self._watch.missing_outputs = missing_outputs()
        for name, reason in self._watch.missing_outputs.items():
            self.get_logger().warning(f"~/{name} is not published: {reason} (docs/node.md says how)")
        if "fastrtps" in get_rmw_implementation_identifier() and (hint := leftovers_hint()) is not None:
            self.get_logger().warning(hint)
        # diagnostics must go out in every state, and also while simulated time stands still
        self._diagnostics = Node.create_publisher(self, DiagnosticArray, DIAGNOSTICS.name, 10)
        self._tick_timer = self.create_timer(DIAGNOSTICS_PERIOD_S, self._tick, clock=_steady_clock())
        self._engine_failed = self.create_guard_condition(self._deactivate_after_failure)
        self._time_watch = TimeWatch(self, self._rig.forget_the_past)
        if not managed:
            group = ReentrantCallbackGroup()  # it waits for the engine while others are served
            self._autostart_timer = self.create_timer(0.0, self._start, callback_group=group, clock=_steady_clock())

    @property
    def state(self) -> str:
        """The lifecycle state: unconfigured, inactive, active or finalized."""
        return self._watch.state

    @property
    def cameras(self) -> Mapping[str, Camera]:
        """By name; none while the node is not configured."""
        return self._rig.cameras

    @property
    def settings(self) -> NodeSettings | None:
        """What the parameters say; None while the node is not configured."""
        return self._rig.settings

    @property
    def meters(self) -> MetersThread | None:
        """None while the node is not configured."""
        return self._rig.meters

    @property
    def last_frame_at(self) -> float:
        """When the last frame of any camera came, monotonic seconds; 0: none yet."""
        return max((camera.silence.last_received_at or 0.0 for camera in self.cameras.values()), default=0.0)

    @property
    def left_behind(self) -> bool:
        """Whether a thread could not be ended."""
        return self._engine.left_behind or self._rig.left_behind

    # --- lifecycle -----------------------------------------------------------------------------

    async def _start(self) -> None:
        self._autostart_timer.cancel()  # once, as soon as the node spins
        await self.transitions.configure_and_activate()

    def warn_of_unused(self, arguments: RosArguments) -> None:
        """Say, in the log and in the diagnostics, which parameter files and rules are not for this node."""
        cameras = tuple(self.get_parameter("cameras").value or ())
        if camera_name_faults(cameras):  # configuring says so
            cameras = ("",)
        self._watch.unused_arguments = unused = [
            *unused_parameter_files(arguments.parameter_files, self.get_fully_qualified_name()),
            *unused_rules(arguments.rules, self, cameras),
        ]
        for line in unused:
            self.get_logger().warning(line)

    def on_configure(self, _state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition("configure", self._configure, undo=self._clean_up)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition("activate", lambda: self._activate(state), undo=lambda: self._deactivate(state))

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition("deactivate", lambda: self._deactivate(state))

    def on_cleanup(self, _state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition("clean up", self._clean_up)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition("shut down", lambda: self._undo_all(state))

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Reached only when undoing a failed transition failed as well."""
        return self._transition("error processing", lambda: self._undo_all(state))

    def _undo_all(self, state: LifecycleState) -> None:
        self._deactivate(state)
        self._clean_up()

    def _transition(
        self, name: str, act: Callable[[], None], undo: Callable[[], None] | None = None
    ) -> TransitionCallbackReturn:
        """Catch, log, undo and return: rclpy swallows exceptions from transitions."""
        before = self.state
        try:
            act()
        except Exception as error:  # noqa: BLE001  whatever failed, the node must stay usable
            expected = isinstance(error, (SegPerceptionError, OSError))
            reason = str(error) if expected else describe_error(error)
            self.get_logger().error(f"{name} failed, the node stays {before}: {reason}")
            if undo is not None:
                undo()
            self._watch.failed(f"{name} failed: {reason}")
            self.publish_diagnostics()
            return TransitionCallbackReturn.FAILURE
        self._watch.succeeded(name, failure=self._deactivated_because)
        self.get_logger().info(f"{name}: now {self.state}")
        self.publish_diagnostics()
        return TransitionCallbackReturn.SUCCESS

    def _is_configured(self) -> bool:
        return self.settings is not None or self._engine.first is not None

    def _begin_opening(self) -> None:
        """Read the settings and have the engine opened."""
        settings = self._settings_source.read()
        self._watch.doubts = check_topics(settings, self)
        for line in self._watch.doubts:
            self.get_logger().warning(line)
        self._watch.misspelt = []
        self._warn_of_parameters(self._settings_source.unknown())
        self._serve_page(settings)
        self._engine.begin(settings)

    def _warn_of_parameters(self, unknown: Sequence[str]) -> None:
        """Each in the log, and in the diagnostics what looks misspelt."""
        for line in unknown:
            self.get_logger().warning(f"parameter {line}")
        self._watch.misspelt += [
            line for line in unknown if "did you mean" in line and line not in self._watch.misspelt
        ]

    def _configure(self) -> None:
        if self._engine.first is None:
            self._begin_opening()
        card = self._engine.wait_for_first()
        first, thread = self._engine.first, self._engine.thread
        assert first is not None
        assert thread is not None
        self.get_logger().info(f"engine: {thread.status().info}; model: {card.id}")
        if not card.has_confidence:
            self.get_logger().warning(
                f"model {card.id} gives no probabilities: the confidence is 255 everywhere and "
                "drivable.min_confidence has no effect"
            )
        self._rig.make(first.settings, card, first.lanes, self._page, thread.takes_gpu_images)
        self._engine.configured()

    def _serve_page(self, settings: NodeSettings) -> None:
        """As the settings say; a page outlives cleaning up, so that it can configure the node again."""
        wanted = settings.view
        if self._page is not None and self._page.settings != wanted:
            self._page.close()
            self._page = None
        if self._page is None and wanted.port:
            from seg_perception.ros.node.page import NodePage  # brings aiohttp, which a node without a page lacks

            self._page = NodePage(self, wanted)
        if self._page is not None:
            self._page.set_cameras(settings.cameras)

    def _engine_opens(self, seconds: float) -> None:
        self._watch.opening_s = seconds
        self.publish_diagnostics()

    def _activate(self, state: LifecycleState) -> None:
        thread = self._engine.thread
        assert thread is not None
        self._engine.wait_until_ready()  # it may have failed in an earlier drive
        super().on_activate(state)
        self._rig.publish_latched()
        while not thread.resume(self.cameras):  # an inference of an earlier drive has just failed
            self._engine.wait_until_ready()
        self._rig.subscribe()
        self._warn_of_parameters(self._settings_source.unused_qos_overrides())
        self._bond.start()

    def _deactivate(self, state: LifecycleState) -> None:
        self._bond.stop()
        self._rig.unsubscribe()
        if self._engine.thread is not None:
            self._engine.thread.pause()
        self._rig.stop_meters()
        super().on_deactivate(state)

    def _clean_up(self) -> None:
        self._engine.give_back()
        self._rig.destroy()

    # --- what rclpy leaves open ----------------------------------------------------------------

    def create_subscription(self, msg_type: Any, topic: str, callback: Any, *args: Any, **options: Any) -> Any:
        """As rclpy's; but a /clock before 1970 is left out."""
        guarded = without_impossible_times(callback, self) if topic == CLOCK_TOPIC else callback
        return super().create_subscription(msg_type, topic, guarded, *args, **options)

    # --- parameters ----------------------------------------------------------------------------

    def set_parameters_atomically(self, parameter_list: list[Parameter]) -> SetParametersResult:
        """As rclpy's, also for the parameter services; but an unknown name is answered with the nearest that is
        known, an integer is taken for a number, and an unchanged value is no change.
        """
        changes, refusal = self._settings_source.prepared(parameter_list)
        if refusal or not changes:
            return SetParametersResult(successful=not refusal, reason=refusal)
        result = super().set_parameters_atomically(changes)
        self._settings_source.changed(changes)
        return result

    def set_parameters(self, parameter_list: list[Parameter]) -> list[SetParametersResult]:
        """One after the other, each as `set_parameters_atomically`."""
        return [self.set_parameters_atomically([parameter]) for parameter in parameter_list]

    # --- failures, time, changes ---------------------------------------------------------------

    def _on_engine_failure(self, activation: int, reason: str) -> None:
        """On the inference thread: hand over to the executor's."""
        self._engine_failure = (activation, reason)
        self._engine_failed.trigger()

    def _deactivate_after_failure(self) -> None:
        """Unless somebody has deactivated the node since, or has activated it anew with a new engine."""
        failure, self._engine_failure = self._engine_failure, None
        thread = self._engine.thread
        if failure is None or thread is None or self.state != "active":
            return
        activation, reason = failure
        if activation != thread.activation:
            return
        self._deactivated_because = f"deactivated after an engine failure: {reason}"
        self.get_logger().error(f"{self._deactivated_because}; activate the node to try again")
        try:
            self.trigger_deactivate()
        finally:
            self._deactivated_because = ""

    def _apply(self, settings: NodeSettings) -> None:
        if self._engine.first is not None:
            self._engine.apply(settings)
            return
        self._rig.apply(settings)
        if self.state == "active":
            self._rig.publish_latched()  # label_info names the confidence threshold

    # --- diagnostics ---------------------------------------------------------------------------

    def _tick(self) -> None:
        for camera in self.cameras.values():
            camera.follow_publishers()
        self._watch.look_for_namesakes()
        self.publish_diagnostics()

    def publish_diagnostics(self) -> DiagnosticArray:
        """One message, which is returned; called each second, and at once when something important happened."""
        self._watch.bond, self._watch.clock_jumps = self._bond.description, self._time_watch.jumps
        self._watch.time_trouble = self._time_watch.trouble()
        report = self._watch.report(
            self.cameras.values(), self._rig.publishers(), self._engine.status(), self._rig.meters_reports()
        )
        thresholds = self._watch.thresholds(self.settings)
        message = diagnostic_array(self.get_clock().now().to_msg(), report, thresholds)
        self._diagnostics.publish(message)
        if self._page is not None:
            self._page.tell(message)
        return message

    # --- end -----------------------------------------------------------------------------------

    def request_stop(self) -> None:
        """From any thread: do not wait for an engine that is still opening."""
        self._engine.request_stop()

    def close(self) -> None:
        """Shut the lifecycle down; call it when no executor spins this node any more."""
        if self.state != "finalized":
            self.trigger_shutdown()
        if self._page is not None:
            self._page.close()
        self._time_watch.close()
        logging.getLogger("seg_perception").removeHandler(self._log_handler)


def _steady_clock() -> rclpy_clock.Clock:
    return rclpy_clock.Clock(clock_type=rclpy_clock.ClockType.STEADY_TIME)  # type: ignore[attr-defined]
