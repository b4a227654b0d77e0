"""Speaks to a running node from outside, as `ros2` does: parameters, lifecycle state, topics, diagnostics."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import GetParameters, ListParameters, SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter, parameter_value_to_python

from seg_perception.core.errors import EngineError, InputError
from seg_perception.core.settings import check_seconds
from seg_perception.node_outputs import DIAGNOSTICS
from seg_perception.node_settings import NODE_NAME
from seg_perception.ros import qos
from seg_perception.ros.context import ros_node
from seg_perception.ros.messages import check_topic_name, message_class

TRANSITIONS = {
    "configure": Transition.TRANSITION_CONFIGURE,
    "activate": Transition.TRANSITION_ACTIVATE,
    "deactivate": Transition.TRANSITION_DEACTIVATE,
    "cleanup": Transition.TRANSITION_CLEANUP,
}
_SHUTDOWNS = {
    "unconfigured": Transition.TRANSITION_UNCONFIGURED_SHUTDOWN,
    "inactive": Transition.TRANSITION_INACTIVE_SHUTDOWN,
    "active": Transition.TRANSITION_ACTIVE_SHUTDOWN,
}
_SPIN_S = 0.05
_THERE_S = 60.0
"""How long a node that is seen may take until its services are, and then for an answer: its machine may be busy."""
_AGAIN_S = 2.0
"""After which a question is put again: a first answer is dropped where the node does not know of its reader yet."""
_SHOWN_ITEMS = 16


class RemoteNode:
    """A node that runs somewhere, by its name. Not thread-safe.

    Args:
        node: ours, in the same domain.
        name: of the other, with its namespace.
        patience_s: how long to look for it, and to wait for one message.

    Raises:
        InputError: no node can have this name.
        SettingsError: the patience is no time.
    """

    def __init__(self, node: Node, executor: SingleThreadedExecutor, name: str, patience_s: float) -> None:
        self.name = "/" + name.strip("/")
        check_topic_name(self.name, "node")
        check_seconds(patience_s, "a wait of", or_none=True)
        self._node = node
        self._executor = executor
        self._patience = patience_s

    def parameters(self, names: Sequence[str] = ()) -> dict[str, Any]:
        """Values by name, sorted; all that the node has unless names are given.

        Raises:
            InputError: a name that it does not have.
            EngineError: it is not there or does not answer.
        """
        every = sorted(self._call(ListParameters, "list_parameters", ListParameters.Request()).result.names)
        if unknown := [name for name in names if name not in every]:
            raise InputError(f"{self.name} has no parameter {', '.join(unknown)}; `node get` lists what it has")
        wanted = list(names) or every
        values = self._call(GetParameters, "get_parameters", GetParameters.Request(names=wanted)).values
        return dict(zip(wanted, map(parameter_value_to_python, values), strict=True))

    def set_parameters(self, values: Mapping[str, Any]) -> dict[str, str]:
        """Set one after the other; returns what was refused, each with the node's reason.

        Raises:
            InputError: a value that is no parameter's.
            EngineError: the node is not there or does not answer.
        """
        try:
            kinds = {name: Parameter.Type.STRING_ARRAY if value == [] else None for name, value in values.items()}
            messages = [Parameter(name, kinds[name], value).to_parameter_msg() for name, value in values.items()]
        except TypeError as error:
            raise InputError(f"a value is no parameter's: {error}") from error
        results = self._call(SetParameters, "set_parameters", SetParameters.Request(parameters=messages)).results
        return {
            name: result.reason or "refused without a reason"
            for name, result in zip(values, results, strict=True)
            if not result.successful
        }

    def state(self) -> str:
        """The lifecycle state: unconfigured, inactive, active or finalized.

        Raises:
            EngineError: the node is not there or does not answer.
        """
        return str(self._call(GetState, "get_state", GetState.Request()).current_state.label)

    def change_state(self, transition: str, patience_s: float = 900.0) -> str:
        """Make a transition and return the state after it; configuring may build an engine, which takes minutes.

        Args:
            transition: a name in `TRANSITIONS`, or "shutdown".

        Raises:
            EngineError: the node refused, with its reason where it gives one, or does not answer.
        """
        before = self.state()
        number = TRANSITIONS[transition] if transition != "shutdown" else _SHUTDOWNS.get(before, 0)
        request = ChangeState.Request(transition=Transition(id=number))

        def changed() -> bool:
            return self.state() in {*_SHUTDOWNS, "finalized"} - {before}

        answer = self._call(ChangeState, "change_state", request, patience_s, changed)
        if answer is None or answer.success:
            return self.state()
        status = self.diagnostics()[0]
        reason = "not possible in this state" if status.message == before else status.message
        raise EngineError(f"{self.name} is {before} and did not {transition}: {reason}")

    def diagnostics(self) -> list[DiagnosticStatus]:
        """The node's next report, the engine's status first.

        Raises:
            EngineError: none came.
        """
        prefix = f"{self.name.lstrip('/')}: "
        patience = max(self._patience, _THERE_S) if self._is_there() else self._patience
        deadline = time.monotonic() + patience  # other nodes report there, too
        for message in self.messages(DIAGNOSTICS.name, DiagnosticArray, patience):
            if ours := [status for status in message.status if status.name.startswith(prefix)]:
                return ours
            if time.monotonic() > deadline:
                break
        raise EngineError(f"{self.name} sent no diagnostics within {patience:g} s: is it running? {self._others()}")

    def messages(self, topic: str, message_type: Any = None, patience_s: float | None = None) -> Iterator[Any]:
        """The messages of a topic as they come, until none comes for `patience_s`.

        Args:
            message_type: the class; found in the graph unless given.
            patience_s: None: that of this object.

        Raises:
            InputError: no such topic, several types, or a type that is not installed.
        """
        check_topic_name(topic)
        kind = message_type or message_class(self._type_of(topic))
        offers = [publisher.qos_profile for publisher in self._node.get_publishers_info_by_topic(topic)]
        latched = bool(offers) and all(qos.describe(offer).endswith("transient_local") for offer in offers)
        profile = qos.latched() if latched else qos.profile(qos.best_available(offers).name, 50)
        received: list[Any] = []
        subscription = self._node.create_subscription(kind, topic, received.append, profile)
        try:
            while self._spin_until(lambda: bool(received), patience_s or self._patience):
                yield received.pop(0)
        finally:
            self._node.destroy_subscription(subscription)

    def _type_of(self, topic: str) -> str:
        def types() -> list[str]:
            return dict(self._node.get_topic_names_and_types()).get(topic, [])

        self._spin_until(lambda: bool(types()), self._patience)
        if len(found := types()) != 1:
            known = ", ".join(sorted(name for name, _ in self._node.get_topic_names_and_types()))
            raise InputError(
                f"topic {topic} has several types: {', '.join(found)}"
                if found
                else f"no topic {topic}; there are: {known}"
            )
        return found[0]

    def _call(
        self,
        service_type: Any,
        name: str,
        request: Any,
        patience_s: float | None = None,
        in_vain: Callable[[], bool] | None = None,
    ) -> Any:
        """A service's answer.

        Args:
            patience_s: for the answer; None: as long as a node may take that is there.
            in_vain: of a request that must not be put again: whether its answer need not be waited for any more.
                Then the answer may be None.
        """
        patience = patience_s or max(self._patience, _THERE_S)
        client = self._node.create_client(service_type, f"{self.name}/{name}")
        try:
            if not self._spin_until(client.service_is_ready, self._patience) and not (
                self._is_there() and self._spin_until(client.service_is_ready, _THERE_S)
            ):
                raise EngineError(f"no node {self.name} was found within {self._patience:g} s. {self._others()}")
            asked, asked_at = [client.call_async(request)], time.monotonic()

            def is_over() -> bool:
                nonlocal asked_at
                if any(future.done() for future in asked):
                    return True
                if time.monotonic() - asked_at > _AGAIN_S:
                    if in_vain is None:
                        asked.append(client.call_async(request))
                    elif in_vain():
                        return True
                    asked_at = time.monotonic()
                return False

            if not self._spin_until(is_over, patience):
                raise EngineError(
                    f"{self.name} did not answer {name} within {patience:g} s: "
                    "its executor is busy, with building an engine for example"
                )
            return next((future.result() for future in asked if future.done()), None)
        finally:
            self._node.destroy_client(client)

    def _is_there(self) -> bool:
        return self.name in self._names()

    def _names(self) -> set[str]:
        found = {f"{ns.rstrip('/')}/{name}" for name, ns in self._node.get_node_names_and_namespaces()}
        return found - {self._node.get_fully_qualified_name()}

    def _others(self) -> str:
        if names := self._names():
            return f"Running here: {', '.join(sorted(names))}"
        return "No node at all is seen: ROS_DOMAIN_ID and ROS_AUTOMATIC_DISCOVERY_RANGE must be the node's"

    def _spin_until(self, done: Callable[[], bool], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not done():
            if time.monotonic() > deadline:
                return False
            self._executor.spin_once(timeout_sec=_SPIN_S)
        return True


@contextmanager
def remote_node(name: str = NODE_NAME, patience_s: float = 5.0) -> Iterator[RemoteNode]:
    """A running node to speak to until the block ends."""
    with ros_node("seg_perception_remote") as node:
        executor = SingleThreadedExecutor(context=node.context)
        executor.add_node(node)
        try:
            yield RemoteNode(node, executor, name, patience_s)
        finally:
            executor.shutdown()


def plain(value: Any) -> Any:
    """A message as plain Python values for people; long arrays are cut and say how long they are."""
    if hasattr(value, "get_fields_and_field_types"):
        return {name: plain(getattr(value, name)) for name in value.get_fields_and_field_types()}
    if isinstance(value, (array, np.ndarray, bytes)):
        value = list(value)
    if isinstance(value, (list, tuple)):
        shown = [plain(item) for item in value[:_SHOWN_ITEMS]]
        return shown if len(value) <= _SHOWN_ITEMS else [*shown, f"... {len(value)} items"]
    return value.item() if isinstance(value, np.generic) else value
