"""The command `segmentation_node`: runs the node until SIGINT, SIGTERM or SIGHUP, which end it with status 0.

Little is imported before signals are handled: ROS and OpenCV take a second, in which Ctrl-C is a matter
of course and no error.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING

from seg_perception.core.stopping import StopEvent, ending_signals

if TYPE_CHECKING:
    from seg_perception.ros.node.arguments import RosArguments

USAGE = """\
usage: segmentation_node [--ros-args [-r image:=TOPIC] [-p PARAMETER:=VALUE] [--params-file FILE.yaml] ...]

Camera images in, labels, confidence and the drivable mask out. Everything is set by ROS arguments:

  segmentation_node --ros-args -r image:=/camera/image_raw -p model:=/path/to/model.onnx

Topics and parameters: docs/node.md; every parameter with its default: config/segmentation.yaml."""


class _Signals:
    """What SIGINT, SIGTERM and SIGHUP do. rclpy's own handlers would destroy the context under the spinning executor,
    which aborts the process.
    """

    def __init__(self) -> None:
        self.stop = StopEvent()
        self.in_order = False  # whether there is something that must be closed
        for number in ending_signals():
            signal.signal(number, self)

    @staticmethod
    def ignore() -> None:
        """What comes when all is closed has been heeded; Python's own end would let it kill the process."""
        for number in ending_signals():
            signal.signal(number, signal.SIG_IGN)

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        if not self.in_order:
            os._exit(0)
        self.stop.ask()


def main(args: Sequence[str] | None = None) -> int:
    """Run the node; exit status 0 after a clean end, 1 if it failed, 2 for arguments that are not accepted."""
    signals = _Signals()
    from seg_perception.ros.node.arguments import RosArguments

    given = sys.argv[1:] if args is None else list(args)
    arguments = RosArguments.of(given)
    own = arguments.others
    if "-h" in own or "--help" in own:
        print(USAGE)
        return 0
    if own:
        return _refuse(f"{' '.join(map(repr, own))} is not accepted: ROS arguments follow --ros-args\n{USAGE}")
    try:
        status = _run(given, arguments, signals)
        signals.ignore()
        return status
    except ModuleNotFoundError as error:
        from seg_perception.core.errors import pip_install

        return _refuse(
            f"the Python package {error.name!r} is missing: source ROS 2 (source /opt/ros/$ROS_DISTRO/setup.bash) "
            f"or, without a ROS install, {pip_install('ros')}"
        )


def _run(args: list[str], arguments: RosArguments, signals: _Signals) -> int:
    import logging

    import rclpy
    from rclpy.exceptions import ParameterException

    from seg_perception.core.errors import SettingsError
    from seg_perception.ros.context import await_discovery, start_ros
    from seg_perception.ros.log import describe_error
    from seg_perception.ros.node.lifecycle import SegmentationNode
    from seg_perception.ros.node.spinning import spin_until

    logging.getLogger("seg_perception").setLevel(logging.INFO)  # passed on to the ROS log
    signals.in_order = True
    try:
        start_ros(args)
    except SettingsError as error:
        return _refuse(str(error))
    left_behind = False
    try:
        try:
            node = SegmentationNode()
        except (RuntimeError, ValueError, ParameterException) as error:  # an impossible name, use_sim_time as text
            return _refuse(f"ROS refuses to make the node: {describe_error(error)}")
        node.warn_of_unused(arguments)
        status = spin_until(node, signals.stop, alone=True)
        left_behind = node.left_behind
        await_discovery(node)
        node.destroy_node()
    finally:
        rclpy.shutdown()
    if left_behind:  # Python's own end would pull the interpreter from under the thread, which aborts the process
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _refuse(reason: str) -> int:
    print(f"segmentation_node: {reason}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
