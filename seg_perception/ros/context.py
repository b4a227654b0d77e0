"""A node in a ROS context of its own, or in a process of its own, begun and ended in the order that is safe; its
environment.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import rclpy
from rclpy.context import Context
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import get_rmw_implementation_identifier

from seg_perception.core.errors import EngineError, SettingsError
from seg_perception.core.files import share_path

_PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")  # the same by two names
_QUIET_S = 0.1
_DOMAINS = 100  # the ports of more meet those that Linux gives to clients
_LAST_DOMAIN = 232  # the ports of more are above 65535
_DOMAIN_PORTS = (0, 1, *range(10, 76))  # of a domain's multicast, and of its first 33 participants (RTPS 2.5, 9.6.2.4)


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the participants and processes of a block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def large_images() -> dict[str, str]:
    """Variables that give Fast DDS room for large images; none where the user has chosen a profile.

    With the default shared-memory segment, best-effort subscribers (such as the node) lose most
    images of 640x480 and more.
    """
    if any(os.environ.get(name) for name in _PROFILE_VARIABLES):
        return {}
    try:
        profile = share_path("config/fastdds_large_images.xml")
    except FileNotFoundError:
        return {}  # an installation without it works, with Fast DDS's own defaults
    return dict.fromkeys(_PROFILE_VARIABLES, str(profile))


def own_domain() -> dict[str, str]:
    """Variables that keep the traffic on this machine and in a domain of its own; none that the user has chosen.

    Raises:
        EngineError: see `unused_domain`.
    """
    own = {}
    if "ROS_DOMAIN_ID" not in os.environ:
        own["ROS_DOMAIN_ID"] = str(unused_domain(os.getpid()))
    if "ROS_AUTOMATIC_DISCOVERY_RANGE" not in os.environ:
        own["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    return own


def unused_domain(first: int) -> int:
    """A ROS domain that nobody on this machine is in: the first such from `first`, of those that every system allows.

    Raises:
        EngineError: there is none.
    """
    for domain in ((first + offset) % _DOMAINS + 1 for offset in range(_DOMAINS)):
        if not any(_is_bound(7400 + 250 * domain + port) for port in _DOMAIN_PORTS):
            return domain
    raise EngineError(f"each of the ROS domains 1 to {_DOMAINS} is in use on this machine: set ROS_DOMAIN_ID to one")


def _is_bound(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as tried:
        try:
            tried.bind(("", port))
        except OSError:
            return True
    return False


def check_domain() -> None:
    """Refuse a ROS_DOMAIN_ID that is none: rcl takes "5x" for 5, and of one that is too high Fast DDS ends the process.

    Raises:
        SettingsError: says what came and what is accepted.
    """
    text = os.environ.get("ROS_DOMAIN_ID", "")
    try:
        accepted = not text or 0 <= int(text, 0) <= _LAST_DOMAIN  # as rcl, which takes 0x10, too
    except ValueError:
        accepted = False
    if not accepted:
        raise SettingsError(f"ROS_DOMAIN_ID {text!r} is not accepted: a whole number from 0 to {_LAST_DOMAIN} is")


def start_ros(args: list[str] | None = None, context: Context | None = None) -> None:
    """Initialize rclpy; signals stay a matter of the caller.

    Raises:
        SettingsError: ROS refuses its arguments or environment, such as a parameter file that cannot be read.
    """
    check_domain()
    try:
        rclpy.init(args=args, context=context, signal_handler_options=SignalHandlerOptions.NO)
    except (RuntimeError, ValueError) as error:
        remedy = "; set ROS_LOG_DIR to a folder that can be written" if "logging" in str(error) else ""
        if isinstance(error, UnicodeError):
            remedy = "; they must be UTF-8, and Python must know: set LC_ALL=C.UTF-8"
        refused = "refuses the arguments" if args else "does not start"
        raise SettingsError(f"ROS {refused}: {error}{remedy}") from error


@contextmanager
def ros_node(name: str) -> Iterator[Node]:
    """A node in its own context; Ctrl-C stays a matter of the caller, so that bags can be closed.

    Whoever spins the node must have stopped before the block ends: destroying a context under a
    spinning thread aborts the process.
    """
    context = Context()
    start_ros(context=context)
    try:
        node = Node(name, context=context, enable_rosout=False, start_parameter_services=False)
        young_until = time.monotonic() + 0.3  # until then it may not even have begun to hear of others
        try:
            yield node
        finally:
            await_discovery(node, max(_QUIET_S, young_until - time.monotonic()))
            node.destroy_node()
    finally:
        rclpy.shutdown(context=context)


def await_discovery(node: Node, quiet_s: float = _QUIET_S, longest_s: float = 0.5) -> None:
    """Wait until a node's view of the graph has not changed for `quiet_s` seconds, at most `longest_s`: before the
    last node of a context is destroyed.

    Fast DDS of the PyPI wheels hangs for ever, holding the interpreter's lock, when a participant is destroyed in the
    microseconds in which it takes note of another's endpoint: `set_listener` waits for that to end without giving the
    lock back that it needs. Two of 1,400 ends did, beside nodes that come and go.
    """
    if not get_rmw_implementation_identifier().startswith("rmw_fastrtps"):
        return
    began = changed = time.monotonic()
    seen = None
    while (now := time.monotonic()) - changed < quiet_s and now - began < longest_s:
        topics = [name for name, _ in node.get_topic_names_and_types()]
        view = (
            node.get_node_names_and_namespaces(),
            [(name, node.count_publishers(name), node.count_subscribers(name)) for name in topics],
            node.get_service_names_and_types(),
        )
        if view != seen:
            seen, changed = view, now
        time.sleep(0.01)


NODE_MODULE = "seg_perception.ros.node.segmentation_node"


class NodeProcess:
    """Runs a node until the `with` block ends.

    Args:
        log: file that takes what the node prints.
        arguments: its command line, such as ["--ros-args", "-p", "model:=x.onnx"].
        module: what to run with `python -m`.
    """

    def __init__(self, log: Path, arguments: Sequence[str] = (), module: str = NODE_MODULE) -> None:
        self.log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
                start_new_session=True,  # the terminal's Ctrl-C is for us; we end the node
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def log_tail(self, lines: int = 30) -> str:
        """The last lines of the node's log."""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def check(self) -> None:
        """Pass if the node runs.

        Raises:
            EngineError: it ended; with its exit status and log.
        """
        if (status := self._process.poll()) is not None:
            how = f"by signal {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
            raise EngineError(f"the node ended {how}; its log ({self.log}) ends:\n{self.log_tail()}")

    def stop(self) -> int:
        """End the node as Ctrl-C would, harder if it does not listen; returns its exit status."""
        for number, patience in ((signal.SIGINT, 30.0), (signal.SIGTERM, 10.0)):  # a busy machine takes seconds
            if self._process.poll() is None:
                self._process.send_signal(number)
                try:
                    return self._process.wait(patience)
                except subprocess.TimeoutExpired:
                    continue
        if self._process.poll() is None:
            self._process.kill()
        return self._process.wait()

    def __enter__(self) -> NodeProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
