"""The bond with Nav2's lifecycle manager, through bondpy where it is installed.

A manager forms one bond with each node that it activates and brings everything down when a heartbeat is missing for
`bond_timeout`. Topic, id and times are those of Nav2's own nodes.
"""

from __future__ import annotations

import importlib
from typing import Any

from rclpy.node import Node

from seg_perception.ros.compat import all_confirmed

TOPIC = "bond"
HEARTBEAT_PERIOD_S, HEARTBEAT_TIMEOUT_S = 0.1, 4.0
FAREWELL_CONFIRMED_S = 1.0


class ManagerBond:
    """Held while the node is active.

    A node that configures itself (`autostart`) has no manager, and so no bond.
    """

    def __init__(self, node: Node, managed: bool) -> None:
        self._node = node
        self._bond: Any = None
        self._class: Any = None
        self._why_none = "no manager: autostart is on" if not managed else ""
        if managed:
            try:
                self._class = importlib.import_module("bondpy.bondpy").Bond
            except ImportError as error:
                self._why_none = f"bondpy is not installed ({error}): apt install ros-$ROS_DISTRO-bondpy"

    @property
    def description(self) -> str:
        """For diagnostics: held, or why there is none."""
        if self._class is None:
            return f"none: {self._why_none}"
        return "held" if self._bond is not None else "none while inactive"

    def start(self) -> None:
        """Begin to send heartbeats."""
        if self._class is None or self._bond is not None:
            return
        self._bond = self._class(self._node, TOPIC, self._node.get_name(), on_broken=self._broken)
        self._bond.set_heartbeat_period(HEARTBEAT_PERIOD_S)
        self._bond.set_heartbeat_timeout(HEARTBEAT_TIMEOUT_S)
        self._bond.start()

    def stop(self) -> None:
        """Tell the manager that this is no failure, and end.

        bondpy's own `shutdown` destroys its subscription and publisher behind the node's back, and rclpy's executor
        trips over that (Jazzy); so its end is made here, in the order that rclpy knows.
        """
        bond, self._bond = self._bond, None
        if bond is None:
            return
        with bond.lock:
            bond.break_bond()
            bond.is_shutdown = True
            bond.condition.notify_all()
            for timer in ("connect_timer", "heartbeat_timer", "disconnect_timer"):
                if hasattr(bond, timer):
                    getattr(bond, timer).cancel()
        bond.thread.join(1.0)
        # on a busy machine the farewell would end with its publisher, and its lack is a crash to the manager
        if not all_confirmed(bond.pub, FAREWELL_CONFIRMED_S):
            self._node.get_logger().warning("the lifecycle manager has not confirmed the end of the bond: is it gone?")
        self._node.destroy_subscription(bond.sub)
        self._node.destroy_publisher(bond.pub)

    def _broken(self) -> None:
        if self._bond is not None:  # else it was this node that ended it
            self._node.get_logger().warning("the lifecycle manager's bond is broken: it is gone, or never came")
