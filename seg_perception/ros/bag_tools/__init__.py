"""Bags to topics and back, on the running ROS graph. Importing it needs no rclpy; calling does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seg_perception.core.errors import InputError
from seg_perception.core.settings import check_seconds

if TYPE_CHECKING:
    from seg_perception.bags.reader import BagReader
    from seg_perception.bags.types import BagMessage
    from seg_perception.ros.bag_tools.player import PlayReport
    from seg_perception.ros.bag_tools.recorder import RecordedMessage, RecordReport


def play_bag(
    bag: str | Path | BagReader,
    stop: threading.Event | None = None,
    on_message: Callable[[BagMessage], object] = lambda _: None,
    on_waiting: Callable[[str], object] = lambda _: None,
    on_open: Callable[[BagReader], object] = lambda _: None,
    **settings: Any,
) -> PlayReport:
    """Publish a bag's messages, byte for byte, with the time between them that was recorded.

    Args:
        bag: bag folder, .mcap or .db3 file; or opened.
        stop: set it to end early.
        on_message: called after each message.
        on_waiting: told what the player waits for: subscribers, or a message after a long pause.
        on_open: called with the opened bag before anything is published.
        **settings: fields of `ros.bag_tools.player.PlaySettings`: rate=2.0, loop=True, topics=("/image",),
            leave_out=("/segmentation_node/",), start_s, delay_s, wait_for, wait_timeout_s, settle_s, discovery_s,
            clock_hz.

    Raises:
        FileNotFoundError, InputError: the bag; a value out of range; a topic that it does not have or ROS cannot
            have; nobody subscribed to a topic of `wait_for`.
    """
    from seg_perception.ros.bag_tools.player import PlaySettings, play

    source = Path(bag) if isinstance(bag, str) else bag
    return play(source, PlaySettings(**settings), stop, on_message, on_waiting, on_open)


def record_bag(
    out: str | Path,
    topics: Sequence[str] | None = None,
    seconds: float | None = None,
    stop: threading.Event | None = None,
    compress: bool = False,
    overwrite: bool = False,
    on_message: Callable[[RecordedMessage], object] = lambda _: None,
    on_topic: Callable[[str], object] = lambda _: None,
) -> RecordReport:
    """Record topics into an MCAP bag. Whatever ends it, the bag is closed properly.

    Args:
        out: x.mcap for one file, other names for a bag folder.
        topics: names; None: every topic except /clock and /rosout.
        seconds: end after this time; None: when `stop` is set.
        stop: set it to end.
        compress: zstd; costs CPU time while recording.
        overwrite: replace an existing bag.
        on_message: called after each message was written.
        on_topic: called when a topic is first recorded.

    Raises:
        FileExistsError: the bag exists.
        InputError: a topic cannot be recorded, ROS has no topics of such a name, or nothing would end it.
        SettingsError: `seconds` is no time.
        OSError: the disk is full; what was written so far is kept.
    """
    from seg_perception.ros.bag_tools.recorder import record

    out, stop = Path(out), stop or threading.Event()
    if out.suffix == ".db3":
        raise InputError(f"{out}: recording writes MCAP, which survives a crash: end the name in .mcap")
    names = None if topics is None else tuple(name if name.startswith("/") else f"/{name}" for name in topics)
    timer = None
    if seconds is not None:
        check_seconds(seconds, "a duration of")
        timer = threading.Timer(seconds, stop.set)
        timer.daemon = True
        timer.start()
    try:
        return record(names, out, stop, compress, overwrite, on_message, on_topic)
    finally:
        if timer is not None:
            timer.cancel()
