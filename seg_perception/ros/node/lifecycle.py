"""The lifecycle node: camera images in, labels, confidence and drivable mask out.

The node ties the parts together: parameters to settings, lifecycle transitions to cameras and the
inference thread, and a tick a second to diagnostics. Topics and parameters: docs/node.md.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from rcl_interfaces.msg import SetParametersResult
from rclpy import clock as rclpy_clock
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.time_source import CLOCK_TOPIC
from rclpy.utilities import get_rmw_implementation_identifier

from seg_perception.core.errors import SegPerceptionError
from seg_perception.core.model_card import ModelCard
from seg_perception.node_outputs import DIAGNOSTICS, Facts
from seg_perception.node_parameters import unused_parameter_files
from seg_perception.node_settings import NodeSettings, camera_name_faults
from seg_perception.ros.compat import RCLError
from seg_perception.ros.log import RosLogHandler, describe_error
from seg_perception.ros.node.arguments import RosArguments, unused_rules
from seg_perception.ros.node.bond import ManagerBond
from seg_perception.ros.node.camera import Camera
from seg_perception.ros.node.camera_thread import FrameLanes
from seg_perception.ros.node.diagnostics import TRANSITIONS, NodeWatch, diagnostic_array
from seg_perception.ros.node.engine_holder import OpenEngine, open_configured_engine
from seg_perception.ros.node.inference import EngineState, InferenceThread
from seg_perception.ros.node.lanes import Lanes
from seg_perception.ros.node.lost_frames import leftovers_hint
from seg_perception.ros.node.meters import MetersThread
from seg_perception.ros.node.node_time import TimeWatch, without_impossible_times
from seg_perception.ros.node.outputs import LatchedOutputs, missing_outputs
from seg_perception.ros.node.parameters import NodeParameters
from seg_perception.ros.node.spinning import guard_services
from seg_perception.ros.node.topics import check_topics

if TYPE_CHECKING:
    from seg_perception.ros.node.page import NodePage

DIAGNOSTICS_PERIOD_S = 1.0
STOP_TIMEOUT_S = 10.0  # for an inference under way
OPENING_STEP_S = 0.05
ABANDON_TIMEOUT_S = 0.3  # for an engine that is still opening (that may take minutes), or when the process ends


_SHUTDOWNS = ("shutdown", "unconfigured_shutdown", "inactive_shutdown", "active_shutdown")
_LABELS = {
    Transition.TRANSITION_CONFIGURE: "configure",
    Transition.TRANSITION_CLEANUP: "cleanup",
    Transition.TRANSITION_ACTIVATE: "activate",
    Transition.TRANSITION_DEACTIVATE: "deactivate",
    Transition.TRANSITION_UNCONFIGURED_SHUTDOWN: "unconfigured_shutdown",
    Transition.TRANSITION_INACTIVE_SHUTDOWN: "inactive_shutdown",
    Transition.TRANSITION_ACTIVE_SHUTDOWN: "active_shutdown",
}


def _transition_of(transition: Transition) -> str:
    """The label of a request's transition; by its id if it has none."""
    return str(transition.label or _LABELS.get(transition.id, transition.id))


@dataclass(frozen=True, slots=True)
class _Opening:
    """An engine on its way, for these settings."""

    settings: NodeSettings
    lanes: FrameLanes
    engine: Future[ModelCard]


class _Others:
    """Awaited, it lets the executor run what else is ready, once."""

    def __await__(self) -> Generator[None, None, None]:
        yield


class SegmentationNode(LifecycleNode):
    """The lifecycle node. Every method but `request_stop` runs on the executor's thread.

    Args:
        open_configured: opens the engine that the settings ask for.
        options: passed to rclpy's node (context, namespace, parameter_overrides, ...).
    """

    def __init__(self, open_configured: OpenEngine = open_configured_engine, **options: Any) -> None:
        super().__init__("segmentation_node", **options)
        self._answer_transitions()
        guard_services(self)
        self._open_configured = open_configured
        self._stop_requested = threading.Event()
        self._watch = NodeWatch(self)
        self._inference: InferenceThread | None = None
        self._latched: LatchedOutputs | None = None
        self.meters: MetersThread | None = None
        self._card: ModelCard | None = None
        self._page: NodePage | None = None
        self._engine_failure: tuple[int, str] | None = None  # of which activation, and why
        self._deactivated_because = ""
        self.left_behind = False  # whether a thread could not be ended
        self.cameras: dict[str, Camera] = {}
        self.settings: NodeSettings | None = None
        self._opening: _Opening | None = None  # an engine that configure waits for
        self._abandoned = False  # whether it shall not wait any more
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
        self._time_watch = TimeWatch(self, self._forget_the_past)
        if not managed:
            group = ReentrantCallbackGroup()  # it waits for the engine while others are served
            self._autostart_timer = self.create_timer(
                0.0, self._configure_and_activate, callback_group=group, clock=_steady_clock()
            )

    @property
    def state(self) -> str:
        """The lifecycle state: unconfigured, inactive, active or finalized."""
        return self._watch.state

    @property
    def last_frame_at(self) -> float:
        """When the last frame of any camera came, monotonic seconds; 0: none yet."""
        return max((camera.silence.last_received_at or 0.0 for camera in self.cameras.values()), default=0.0)

    # --- lifecycle -----------------------------------------------------------------------------

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
        return self.settings is not None or self._opening is not None

    def _begin_opening(self) -> _Opening:
        """Read the settings and let the inference thread open the engine."""
        settings = self._settings_source.read()
        self._watch.doubts = check_topics(settings, self)
        for line in self._watch.doubts:
            self.get_logger().warning(line)
        self._watch.misspelt = []
        self._warn_of_parameters(self._settings_source.unknown())
        self._serve_page(settings)
        lanes: FrameLanes = Lanes(settings.cameras)
        self._inference = InferenceThread(
            settings, lanes, self.get_logger(), self._on_engine_failure, self._open_configured
        )
        self._opening = _Opening(settings, lanes, self._inference.open())
        return self._opening

    def _warn_of_parameters(self, unknown: Sequence[str]) -> None:
        """Each in the log, and in the diagnostics what looks misspelt."""
        for line in unknown:
            self.get_logger().warning(f"parameter {line}")
        self._watch.misspelt += [
            line for line in unknown if "did you mean" in line and line not in self._watch.misspelt
        ]

    def _configure(self) -> None:
        opening = self._opening or self._begin_opening()
        card = self._wait_for_engine(opening.engine)
        settings, lanes = (self._opening or opening).settings, opening.lanes  # a live one may have changed meanwhile
        assert self._inference is not None
        self.get_logger().info(f"engine: {self._inference.status().info}; model: {card.id}")
        if card.confidence == "none":
            self.get_logger().warning(
                f"model {card.id} gives no probabilities: the confidence is 255 everywhere and "
                "drivable.min_confidence has no effect"
            )
        meters = self.meters = MetersThread(
            self, settings, card, lambda name: self.cameras[name].listening.info_topic, self._page
        )
        for name in settings.cameras:
            self.cameras[name] = Camera(
                self,
                name,
                settings,
                card,
                partial(lanes.put, name),
                meters,
                self._page,
                self._inference.takes_gpu_images,
            )
        self._latched = LatchedOutputs(self, settings.cameras)
        self.settings, self._card, self._opening = settings, card, None

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

    def _wait_for_engine(self, opened: Future[ModelCard]) -> ModelCard:
        """Block until the engine is open, but let a stop through."""
        began = time.monotonic()
        while not opened.done():
            self._check_not_stopped()
            self._say_that_it_opens(began)
            wait([opened], timeout=OPENING_STEP_S)
        return opened.result()

    async def _let_engine_open(self, opened: Future[ModelCard]) -> None:
        """Wait until the engine is open, or the waiting is given up, while the executor serves others.

        A build takes minutes, in which services, timers and the bond must answer. Each step blocks the executor for a
        moment: rclpy polls what waits as fast as it can.
        """
        began = time.monotonic()
        while not (opened.done() or self._stop_requested.is_set() or self._abandoned):
            self._say_that_it_opens(began)
            wait([opened], timeout=OPENING_STEP_S)
            await _Others()

    def _check_not_stopped(self) -> None:
        if self._stop_requested.is_set() or self._abandoned:
            raise SegPerceptionError("stopped while the engine was opening")

    def _say_that_it_opens(self, began: float) -> None:
        """Once a second in the diagnostics, every five seconds in the log."""
        seconds, said = time.monotonic() - began, self._watch.opening_s or 0.0
        if seconds - said < DIAGNOSTICS_PERIOD_S:
            return
        self._watch.opening_s = seconds
        self.publish_diagnostics()
        if int(seconds) % 5 == 0 and self._inference is not None:
            progress = self._inference.status().opening or "no progress is reported"
            self.get_logger().info(f"still opening the engine, for {seconds:.0f} s: {progress}")

    def _publish_latched(self) -> None:
        assert self.settings is not None
        assert self._card is not None
        assert self._latched is not None
        stamp = self.get_clock().now().to_msg()
        self._latched.publish(
            {name: Facts(self._card, camera, stamp) for name, camera in self.settings.camera_settings.items()}
        )

    def _activate(self, state: LifecycleState) -> None:
        assert self._inference is not None
        if not self._inference.ready:  # it failed in an earlier drive
            self._wait_for_engine(self._inference.open())
        super().on_activate(state)
        self._publish_latched()
        while not self._inference.resume(self.cameras):  # an inference of an earlier drive has just failed
            self._wait_for_engine(self._inference.open())
        if self.meters is not None:
            self.meters.activate()
        for camera in self.cameras.values():
            camera.subscribe()
        self._warn_of_parameters(self._settings_source.unused_qos_overrides())
        self._bond.start()

    def _deactivate(self, state: LifecycleState) -> None:
        self._bond.stop()
        for camera in self.cameras.values():
            camera.unsubscribe()
        if self._inference is not None:
            self._inference.pause()
        if self.meters is not None:
            self.meters.deactivate()
        super().on_deactivate(state)

    def _clean_up(self) -> None:
        if self._inference is not None:
            hurry = self._stop_requested.is_set() or self._inference.status().state is EngineState.OPENING
            if not self._inference.stop(ABANDON_TIMEOUT_S if hurry else STOP_TIMEOUT_S):
                self.left_behind = True
                self.get_logger().warning("the engine is busy; its thread is left behind")
        for camera in self.cameras.values():
            camera.destroy()
        if self.meters is not None and not self.meters.destroy():
            self.left_behind = True
            self.get_logger().warning("the grid's publishing is blocked; its thread is left behind")
        if self._latched is not None:
            self._latched.destroy()
        self._inference, self.cameras, self._latched, self.meters = None, {}, None, None
        self.settings, self._card, self._opening, self._abandoned = None, None, None, False

    def _answer_transitions(self) -> None:
        """Answer requests for transitions while an engine is being built, and those that the state does not have.

        rclpy would block every other service until the build is done, and end the process for the latter.
        """
        service = self._service_change_state
        change_state = service.callback

        async def answer(request: Any, response: Any) -> Any:
            wanted = _transition_of(request.transition)
            if self._opening is not None and wanted not in _SHUTDOWNS:
                self.get_logger().error(f"transition {wanted} is not possible while the engine is being opened")
                response.success = False
                return response
            self._abandoned = self._opening is not None
            while self._opening is not None:  # to shut down, configure has to end
                await _Others()
            await self._open_before(wanted)
            try:
                return change_state(request, response)
            except RCLError:  # its text names neither
                possible = " or ".join(TRANSITIONS[self.state]) or "none"
                self.get_logger().error(
                    f"transition {wanted} is not possible while the node is {self.state}; possible: {possible}"
                )
                response.success = False
                return response

        service.callback = answer  # type: ignore[assignment]  # rclpy awaits coroutines
        service.callback_group = ReentrantCallbackGroup()  # what waits in it holds nobody up
        service.callback_group.add_entity(service)

    async def _open_before(self, transition: str) -> None:
        """Open the engine that a transition needs, if it can be; whatever is wrong, the transition itself says."""
        if transition == "configure" and self.state == "unconfigured":
            try:
                await self._let_engine_open(self._begin_opening().engine)
            except Exception:  # noqa: BLE001  of whatever kind
                self._opening = None
        elif transition == "activate" and self._inference is not None and not self._inference.ready:
            await self._let_engine_open(self._inference.open())

    async def _configure_and_activate(self) -> None:
        self._autostart_timer.cancel()  # once, as soon as the node spins
        await self._open_before("configure")
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

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
        if failure is None or self._inference is None or self.state != "active":
            return
        activation, reason = failure
        if activation != self._inference.activation:
            return
        self._deactivated_because = f"deactivated after an engine failure: {reason}"
        self.get_logger().error(f"{self._deactivated_because}; activate the node to try again")
        try:
            self.trigger_deactivate()
        finally:
            self._deactivated_because = ""

    def _forget_the_past(self) -> None:
        for camera in self.cameras.values():
            camera.forget_the_past()

    def _apply(self, settings: NodeSettings) -> None:
        """All cameras or none: `prepare_update` may refuse."""
        if self._opening is not None:
            self._opening = replace(self._opening, settings=settings)
            return
        commits = [camera.prepare_update(settings) for camera in self.cameras.values()]
        rules = {} if self.meters is None else self.meters.prepared(settings)
        for commit in commits:
            commit()
        if self.meters is not None:
            self.meters.apply(settings, rules)
        self.settings = settings
        if self.state == "active":
            self._publish_latched()  # label_info names the confidence threshold

    # --- diagnostics ---------------------------------------------------------------------------

    def _tick(self) -> None:
        for camera in self.cameras.values():
            camera.follow_publishers()
        self._watch.look_for_namesakes()
        self.publish_diagnostics()

    def publish_diagnostics(self) -> DiagnosticArray:
        """One message, which is returned; called each second, and at once when something important happened."""
        status = None if self._inference is None else self._inference.status()
        meters = {} if self.meters is None else {name: self.meters.report(name) for name in self.cameras}
        self._watch.bond, self._watch.clock_jumps = self._bond.description, self._time_watch.jumps
        self._watch.time_trouble = self._time_watch.trouble()
        report = self._watch.report(self.cameras.values(), status, meters)
        thresholds = self._watch.thresholds(self.settings)
        message = diagnostic_array(self.get_clock().now().to_msg(), report, thresholds)
        self._diagnostics.publish(message)
        if self._page is not None:
            self._page.tell(message)
        return message

    # --- end -----------------------------------------------------------------------------------

    def request_stop(self) -> None:
        """From any thread: do not wait for an engine that is still opening."""
        self._stop_requested.set()

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
