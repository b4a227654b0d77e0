"""Notices frames that were lost before they reached the node."""

from __future__ import annotations

import fcntl
import statistics
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from seg_perception.core.files import share_path

LARGE_MESSAGE_BYTES = 512 * 1024
"""Fast DDS's default shared-memory segment: a message near or above it is lost easily."""

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  where POSIX shared memory is on Linux; nothing is made there
LEFTOVERS_WORTH_A_WORD = 50_000_000  # bytes: one segment of config/fastdds_large_images.xml has 70 MB
_SURELY_LOCKED_S = 10.0  # a segment younger than that may not be locked yet

_PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")


def large_images_hint(lost: int, total: int, topic: str, size_bytes: int, environment: Mapping[str, str]) -> str:
    """What to do about large frames that are lost before the node.

    Args:
        lost: of the last `total` frames.
        environment: of this process; tells whether a Fast DDS profile is in use.
    """
    return (
        f"{lost} of the last {total} frames on {topic} ({size_bytes // 1024} KB each) were lost before this node. "
        + large_images_remedy(environment)
    )


def large_images_remedy(environment: Mapping[str, str]) -> str:
    """What helps best-effort images through Fast DDS."""
    if any(environment.get(name) for name in _PROFILE_VARIABLES):
        return (
            "a Fast DDS profile is set here: check that the publisher has it too, and that this machine is not "
            "overloaded; a reliable publisher also helps"
        )
    return (
        "Fast DDS loses best-effort images that do not fit its shared-memory segment of 512 KB (640x480 in color "
        f"does not): let the publisher offer reliable, or start publisher and node with {_PROFILE_VARIABLES[0]}="
        f"{_profile()}"
    )


def leftovers_hint(folder: Path = SHARED_MEMORY) -> str | None:
    """What killed processes have left in shared memory, and how to be rid of it; None: little or nothing.

    Fast DDS removes its segments when a process ends, not when it is killed. Each segment has a file NAME_el
    that its process keeps locked as long as it lives.
    """
    # fastrtps_ or, from Fast DDS 3, fastdds_
    sizes = [size for lock in folder.glob("fast*_el") if (size := _unlocked_size(lock))]
    if sum(sizes) < LEFTOVERS_WORTH_A_WORD:
        return None
    return (
        f"{len(sizes)} Fast DDS segments of processes that were killed hold {sum(sizes) / 1e6:.0f} MB of {folder}: "
        "'fastdds shm clean' removes them (nothing that is in use)"
    )


def _unlocked_size(lock: Path) -> int:
    """Bytes of a segment whose process is gone; 0: it lives, or cannot be asked."""
    try:
        size = lock.with_name(lock.name.removesuffix("_el")).stat().st_size
        if time.time() - lock.stat().st_mtime < _SURELY_LOCKED_S:
            return 0
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # locked, or gone meanwhile, or another user's
        return 0
    return size


def _profile() -> str:
    try:
        return str(share_path("config/fastdds_large_images.xml"))
    except FileNotFoundError:  # only the code was installed
        return "<share of seg_perception>/config/fastdds_large_images.xml"


class LossMeter:
    """Counts lost frames of one camera, by the middleware's sequence numbers or else by stamps.

    Args:
        window: frames looked back.
        share: of lost frames in a full window from which the loss deserves a word.
    """

    def __init__(self, window: int = 30, share: float = 0.1) -> None:
        self._share = share
        self._lost_before: deque[int] = deque(maxlen=window)
        self._intervals: deque[int] = deque(maxlen=window)
        self._sequence: int | None = None
        self._stamp: int | None = None
        self.lost = 0

    def begin_anew(self) -> None:
        """Frames of before are no measure of those that come: nobody listened meanwhile."""
        self._sequence = self._stamp = None

    def note(self, sequence: int | None, stamp_ns: int) -> None:
        """A frame came.

        Args:
            sequence: the publisher's sequence number; None where the middleware does not tell, or
                where several publishers share the topic, so that their numbers mix.
            stamp_ns: the frame's header stamp; used only without a sequence number.
        """
        lost = self._by_sequence(sequence) if sequence is not None else self._by_stamp(stamp_ns)
        self._sequence, self._stamp = sequence, stamp_ns
        self._lost_before.append(lost)
        self.lost += lost

    def worth_a_hint(self) -> bool:
        """Whether so many of the last frames were lost that the user should know."""
        lost, kept = sum(self._lost_before), len(self._lost_before)
        return kept == self._lost_before.maxlen and lost >= self._share * (lost + kept)

    def recent(self) -> tuple[int, int]:
        """Lost frames, and all frames sent, over the window."""
        lost = sum(self._lost_before)
        return lost, lost + len(self._lost_before)

    def _by_sequence(self, sequence: int) -> int:
        if self._sequence is None or sequence <= self._sequence:  # first, or the publisher restarted
            return 0
        return sequence - self._sequence - 1

    def _by_stamp(self, stamp_ns: int) -> int:
        interval = 0 if self._stamp is None else stamp_ns - self._stamp
        if interval <= 0:
            return 0
        self._intervals.append(interval)
        typical = statistics.median_low(self._intervals)
        # a pause of seconds is a stopped camera, not lost frames
        return 0 if interval > 20 * typical else max(0, round(interval / typical) - 1)
