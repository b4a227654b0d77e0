"""Stand-ins for what no registry carries: bondpy (Python, of bond_core) and Nav2's lifecycle manager (C++).

Both speak the real bond/msg/Status, as bond_core and nav2_lifecycle_manager do. Where bondpy is installed, tests use
it instead of `StandInBond`.
"""

from __future__ import annotations

import importlib
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.node import Node
from waiting import PATIENCE_S, until_answered, wait_until

from seg_perception.ros.messages import message_class


class StandInBond:
    """One side of a bond, with what of bondpy's interface the node uses: heartbeats, and at the end a farewell."""

    def __init__(self, node: Node, topic: str, bond_id: str, on_broken: Any = None, on_formed: Any = None) -> None:
        self._node, self._topic, self._id = node, topic, bond_id
        self._on_broken, self._on_formed = on_broken, on_formed
        self._instance = str(uuid.uuid4())
        self._status = message_class("bond/msg/Status")
        self.pub = node.create_publisher(self._status, topic, 1)
        self._period, self._timeout = 1.0, 4.0
        self.lock = threading.RLock()
        self.condition = threading.Condition(self.lock)
        self.is_shutdown = False
        self.heard_at: float | None = None
        self.beats = 0  # heard
        self.farewell = False

    def set_heartbeat_period(self, seconds: float) -> None:
        self._period = seconds

    def set_heartbeat_timeout(self, seconds: float) -> None:
        self._timeout = seconds

    def start(self) -> None:
        # of more than one: its own heartbeats come, too, and would push out a farewell that was not heard yet
        self.sub = self._node.create_subscription(self._status, self._topic, self._hear, 10)
        self.thread = threading.Thread(target=self._beat, daemon=True)
        self.thread.start()

    def _hear(self, message: Any) -> None:
        if message.id == self._id and message.instance_id != self._instance:
            self.heard_at, self.farewell = time.monotonic(), not message.active
            self.beats += 1

    def _beat(self) -> None:
        with self.lock:
            while not self.is_shutdown:
                self._publish(True)
                if self.heard_at is not None and time.monotonic() - self.heard_at > self._timeout and self._on_broken:
                    self._on_broken()
                self.condition.wait(self._period)

    def _publish(self, active: bool) -> None:
        self.pub.publish(
            self._status(
                id=self._id,
                instance_id=self._instance,
                active=active,
                heartbeat_timeout=self._timeout,
                heartbeat_period=self._period,
            )
        )

    def break_bond(self) -> None:
        with self.lock:
            self._publish(False)

    def end(self) -> None:
        """Of the manager's side: no farewell."""
        with self.lock:
            self.is_shutdown = True
            self.condition.notify_all()
        self.thread.join(PATIENCE_S)


@contextmanager
def bondpy_or_stand_in(monkeypatch: Any) -> Iterator[str]:
    """Makes `bondpy.bondpy` importable; answers which one it is."""
    try:
        importlib.import_module("bondpy.bondpy")
        yield "bondpy"
    except ImportError:
        package, module = ModuleType("bondpy"), ModuleType("bondpy.bondpy")
        module.Bond = StandInBond  # type: ignore[attr-defined]
        with monkeypatch.context() as patch:
            patch.setitem(__import__("sys").modules, "bondpy", package)
            patch.setitem(__import__("sys").modules, "bondpy.bondpy", module)
            yield "stand-in"


class StandInLifecycleManager:
    """Brings one node up as nav2_lifecycle_manager does: configure, get_state, activate, get_state, bond.

    A request waits for its answer without a limit. The manager gives get_state 2 s and a bond 4 s, this one
    PATIENCE_S: what tests show must not depend on how busy their machine is.
    """

    def __init__(self, node: Node, name: str = "segmentation_node") -> None:
        self._node, self._name = node, name
        self._change = node.create_client(ChangeState, f"/{name}/change_state")
        self._get = node.create_client(GetState, f"/{name}/get_state")
        self.bond: StandInBond | None = None
        self.state()
        wait_until(self._change.service_is_ready, "the service change_state")
        harmless = ChangeState.Request(transition=Transition(id=99))  # for the others are put once
        assert not until_answered(self._change, harmless, "an answer of change_state").success

    def state(self) -> str:
        wait_until(self._get.service_is_ready, "the service get_state")
        return str(until_answered(self._get, GetState.Request(), "an answer of get_state").current_state.label)

    def request(self, transition: int) -> bool:
        answered = self.begin(transition)
        wait_until(lambda: answered() is not None, f"the answer to transition {transition}")
        return bool(answered())

    def begin(self, transition: int) -> Callable[[], bool | None]:
        """Send a request; the answer tells its success, None while there is none."""
        future = self._change.call_async(ChangeState.Request(transition=Transition(id=transition)))
        return lambda: bool(future.result().success) if future.done() else None

    def form_bond(self) -> None:
        self.bond = StandInBond(self._node, "bond", self._name)
        self.bond.set_heartbeat_period(0.1)
        self.bond.set_heartbeat_timeout(PATIENCE_S)
        self.bond.start()
        bond = self.bond
        wait_until(lambda: bond.heard_at is not None and not bond.farewell, "the bond")

    @property
    def bond_holds(self) -> bool:
        assert self.bond is not None
        heard = self.bond.heard_at
        return heard is not None and not self.bond.farewell and time.monotonic() - heard < PATIENCE_S
