"""Lifecycle transitions for whoever asks: the change_state service, the page, and the node itself at its start.

rclpy would answer nobody else while an engine is being built. For a transition that the state does not have it would
end the process (7.1), or tell numbers (9.1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from lifecycle_msgs.msg import Transition
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.service import Service

from seg_perception.ros.compat import RCLError
from seg_perception.ros.node.diagnostics import TRANSITIONS
from seg_perception.ros.node.engine_life import EngineLife

if TYPE_CHECKING:
    from seg_perception.ros.node.lifecycle import SegmentationNode

_SHUTDOWNS: Final = ("shutdown", "unconfigured_shutdown", "inactive_shutdown", "active_shutdown")
_LABELS: Final[Mapping[int, str]] = {
    Transition.TRANSITION_CONFIGURE: "configure",
    Transition.TRANSITION_CLEANUP: "cleanup",
    Transition.TRANSITION_ACTIVATE: "activate",
    Transition.TRANSITION_DEACTIVATE: "deactivate",
    Transition.TRANSITION_UNCONFIGURED_SHUTDOWN: "unconfigured_shutdown",
    Transition.TRANSITION_INACTIVE_SHUTDOWN: "inactive_shutdown",
    Transition.TRANSITION_ACTIVE_SHUTDOWN: "active_shutdown",
}


class Transitions:
    """Makes transitions, one at a time, on the executor's thread; none raises.

    Args:
        service: the node's change_state, which is answered here from now on.
        engine: what configuring and activating may have to wait for.
        begin_opening: has the engine opened that the parameters ask for.
    """

    def __init__(
        self, node: SegmentationNode, service: Service, engine: EngineLife, begin_opening: Callable[[], None]
    ) -> None:
        self._node = node
        self._engine = engine
        self._begin_opening = begin_opening
        self._change_state: Callable[[Any, Any], Any] = service.callback
        service.callback = self._answer  # type: ignore[assignment]  # rclpy awaits coroutines
        service.callback_group = ReentrantCallbackGroup()  # what waits in it holds nobody up
        service.callback_group.add_entity(service)

    async def configure_and_activate(self) -> None:
        """What a node does at its start that has no manager."""
        if await self.make("configure"):
            await self.make("activate")

    async def make(self, name: str) -> bool:
        """Configure, activate, deactivate or cleanup; answers whether it was made. If not, the log says why."""
        trigger: Callable[[], TransitionCallbackReturn] = getattr(self._node, f"trigger_{name}")
        return await self._make(name, lambda: trigger() == TransitionCallbackReturn.SUCCESS)

    async def _answer(self, request: Any, response: Any) -> Any:
        transition = request.transition
        name = str(transition.label or _LABELS.get(transition.id, transition.id))
        response.success = await self._make(name, lambda: bool(self._change_state(request, response).success))
        return response

    async def _make(self, name: str, act: Callable[[], bool]) -> bool:
        if self._engine.first is not None and name not in _SHUTDOWNS:
            return self._refuse(name, "while the engine is being opened")
        await self._engine.give_up_first()
        await self._open_before(name)
        state = self._node.state
        possible = TRANSITIONS[state]
        try:
            if name in (*possible, f"{state}_shutdown"):
                return act()
        except RCLError:  # an unknown label; its text names neither
            pass
        finally:
            self._engine.forget_again()
        return self._refuse(name, f"while the node is {state}; possible: {' or '.join(possible) or 'none'}")

    def _refuse(self, name: str, why: str) -> bool:
        self._node.get_logger().error(f"transition {name} is not possible {why}")
        return False

    async def _open_before(self, name: str) -> None:
        """Open the engine that a transition needs, if it can be; whatever is wrong, the transition itself says."""
        if name == "configure" and self._node.state == "unconfigured":
            try:
                self._begin_opening()
                await self._engine.let_first_open()
            except Exception:  # noqa: BLE001  of whatever kind
                self._engine.give_back()
        elif name == "activate" and self._node.state == "inactive":
            await self._engine.let_open_again()
