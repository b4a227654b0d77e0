"""The node's clock, simulated or the system's: its jumps are counted and said, and no /clock ends the process."""

from __future__ import annotations

from collections.abc import Callable

from rclpy.clock import JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.time_source import CLOCK_TOPIC
from rosgraph_msgs.msg import Clock

from seg_perception.ros import qos
from seg_perception.ros.log import Throttle


class TimeWatch:
    """Notices when a node's time goes back, or comes from elsewhere.

    Args:
        forget: called after either, on the executor's thread: what was before is no past of what comes.

    Attributes:
        jumps: how often it went back.
    """

    def __init__(self, node: Node, forget: Callable[[], None]) -> None:
        self.jumps = 0
        self._node = node
        self._forget = forget
        self._jump_log, self._trouble_log = Throttle(5.0), Throttle(10.0)
        self._handle = node.get_clock().create_jump_callback(
            JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=True),
            post_callback=self._on_jump,
        )

    def close(self) -> None:
        """Notice nothing any more."""
        self._handle.unregister()

    def _on_jump(self, jump: TimeJump) -> None:
        change = jump.clock_change.name
        if change.endswith("ACTIVATED"):  # also DEACTIVATED
            source = "the system's" if change.endswith("DEACTIVATED") else f"that of {CLOCK_TOPIC}"
            self._node.get_logger().info(f"the node's time is now {source}; the masks' memory is reset")
        else:
            self.jumps += 1
            if self._jump_log.due():
                self._node.get_logger().warning(
                    f"the node's clock jumped by {jump.delta.nanoseconds * 1e-9:.3f} s (jumps so far: {self.jumps}); "
                    "the masks' memory is reset"
                )
        self._forget()

    def trouble(self) -> str:
        """Why the node's time means nothing; '' if it does. Also logged, at most every ten seconds."""
        clock = self._node.get_clock()
        if not clock.ros_time_is_active:  # type: ignore[attr-defined]  # a node's clock is a ROSClock
            return ""
        publishers = sorted(qos.full_name(p) for p in self._node.get_publishers_info_by_topic(CLOCK_TOPIC))
        if len(publishers) > 1:
            text = f"{' and '.join(publishers)} publish {CLOCK_TOPIC}, and time jumps between them: end all but one"
        elif clock.now().nanoseconds == 0:
            text = (
                f"use_sim_time is set, but no {CLOCK_TOPIC} has come from {''.join(publishers) or 'anybody'}: play the "
                "bag with --clock, or set use_sim_time to false"
            )
        else:
            return ""
        if self._trouble_log.due():
            self._node.get_logger().warning(text)
        return text


def without_impossible_times(callback: Callable[[Clock], None], node: Node) -> Callable[[Clock], None]:
    """A callback of /clock that leaves out times before 1970, which end the process in rclpy's own."""
    log = Throttle(5.0)

    def on_clock(message: Clock) -> None:
        if message.clock.sec >= 0:
            callback(message)
        elif log.due():
            node.get_logger().error(f"{CLOCK_TOPIC} says {message.clock.sec} s, before 1970: left out")

    return on_clock
