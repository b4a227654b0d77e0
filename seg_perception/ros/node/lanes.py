"""What lies between the node's threads: each camera has a lane with one slot before every step.

    receive -> [waiting] -> prepare -> [prepared] -> infer -> [answered] -> finish, publish

The executor's thread fills the first slot, each camera has a thread that prepares and finishes, and one thread
infers. Nothing here can grow: a newer frame replaces an older one in its slot, which is booked as superseded.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from seg_perception.ros.node.accounting import Fate, Ticket

PATIENCE_S = 0.05
"""A batch that could go waits at most this long for cameras whose frames are about to be prepared."""

STALE_S = 0.25
"""A prepared frame that the engine has not taken for so long, because it hangs, gives way to a newer one."""

_LEAD_MARGIN_S = 0.002  # begin to prepare so much earlier than it usually takes


class Ticketed(Protocol):
    """A frame that is accounted for, at whatever step."""

    @property
    def ticket(self) -> Ticket: ...


FrameT = TypeVar("FrameT", bound=Ticketed)
WorkT = TypeVar("WorkT", bound=Ticketed)
AnswerT = TypeVar("AnswerT", bound=Ticketed)


@dataclass(frozen=True, slots=True)
class Job(Generic[FrameT, AnswerT]):
    """What a camera's thread shall do next: finish an answer, or else prepare a frame.

    Attributes:
        epoch: see `Lanes.epoch`; what is made of this job belongs to it.
    """

    epoch: int
    answer: AnswerT | None = None
    frame: FrameT | None = None


@dataclass(slots=True)
class UsualTime:
    """How long something takes, by the last times (smoothed as round trips are, RFC 6298).

    Attributes:
        mean_s: 0 before the first.
        deviation_s: the mean distance from it.
    """

    mean_s: float = 0.0
    deviation_s: float = 0.0

    def note(self, took_s: float) -> None:
        """The newest time."""
        if self.mean_s:
            self.deviation_s += 0.2 * (abs(took_s - self.mean_s) - self.deviation_s)
        self.mean_s += (0.2 if self.mean_s else 1.0) * (took_s - self.mean_s)

    @property
    def early_s(self) -> float:
        """What it seldom is shorter than: what must be ready at its end begins by this."""
        return max(0.0, self.mean_s - self.deviation_s)


@dataclass(slots=True)
class _Lane(Generic[FrameT, WorkT, AnswerT]):
    waiting: FrameT | None = None
    prepared: WorkT | None = None
    prepared_at: float = 0.0
    answered: AnswerT | None = None
    latest: int = 0  # number of the newest frame that was answered
    busy_since: float | None = None  # the camera's thread is at a job
    preparing: bool = False  # and that job is to prepare a frame
    lead_s: float = 0.0  # how long preparing takes

    def take_prepared(self) -> WorkT | None:
        work, self.prepared = self.prepared, None
        return work

    def patient_until(self, could_go: float) -> float:
        """Until when a batch that could go at that moment shall wait for this camera's next frame."""
        if self.prepared is not None or not (self.preparing or self.waiting is not None):
            return could_go  # nothing to wait for
        began = could_go if self.busy_since is None else self.busy_since
        ready = began + self.lead_s if self.preparing else began
        return could_go if ready > could_go + PATIENCE_S else min(ready, could_go) + PATIENCE_S


class Lanes(Generic[FrameT, WorkT, AnswerT]):
    """The slots of all cameras; thread-safe.

    Args:
        cameras: which there are, by name.
    """

    def __init__(self, cameras: Iterable[str]) -> None:
        self._lanes: dict[str, _Lane[FrameT, WorkT, AnswerT]] = {name: _Lane() for name in cameras}
        self._changed = threading.Condition()
        self._open = True
        self._nudged = False
        self._stopped = False
        self._epoch = 0
        self._engine_free_at = 0.0
        self._came = self._pushed_out = 0

    @property
    def epoch(self) -> int:
        """Rises whenever all that is under way becomes void."""
        return self._epoch

    # --- executor's thread ---------------------------------------------------------------------

    def put(self, camera: str, frame: FrameT) -> None:
        """A camera's newest frame; never blocks on preparing or inference.

        Raises:
            KeyError: no such camera.
        """
        lane = self._lanes[camera]
        with self._changed:
            if not self._open:
                frame.ticket.book(Fate.FAILED)
                return
            self._came += 1
            if lane.waiting is not None:
                self._pushed_out += 1
                lane.waiting.ticket.book(Fate.SUPERSEDED)
            lane.waiting = frame
            self._changed.notify_all()

    def pressure(self) -> tuple[int, int]:
        """Frames that came while open, and how many of them a newer one replaced before it was prepared."""
        return self._came, self._pushed_out

    # --- the camera's thread -------------------------------------------------------------------

    def next_job(self, camera: str, timeout: float) -> Job[FrameT, AnswerT] | None:
        """What to do next; None after `timeout` seconds without anything, or at once after `stop`.

        An answer goes first. A frame is taken when the engine will soon be free for it, so that it is the newest
        there is.
        """
        lane = self._lanes[camera]
        deadline = time.monotonic() + timeout
        with self._changed:
            self._idle(lane)
            while not self._stopped:
                now = time.monotonic()
                if lane.answered is not None:
                    answer, lane.answered = lane.answered, None
                    lane.busy_since = now
                    return Job(self._epoch, answer=answer)
                begin_at = self._engine_free_at - lane.lead_s
                if lane.waiting is not None and (lane.prepared is None or now - lane.prepared_at > STALE_S):
                    if now >= begin_at:
                        frame, lane.waiting = lane.waiting, None
                        lane.busy_since, lane.preparing = now, True
                        return Job(self._epoch, frame=frame)
                    self._changed.wait(max(0.0, min(begin_at, deadline) - now))
                else:
                    self._changed.wait(max(0.0, deadline - now))
                if time.monotonic() >= deadline:
                    break
            return None

    def prepared(self, camera: str, epoch: int, work: WorkT | None, took_s: float) -> None:
        """A job's frame is ready for the engine; None: it could not be used, and is booked."""
        lane = self._lanes[camera]
        with self._changed:
            if work is not None:
                usual = lane.lead_s - _LEAD_MARGIN_S
                lane.lead_s = max(took_s, 0.9 * usual + 0.1 * took_s) + _LEAD_MARGIN_S
                if epoch != self._epoch or not self._open:
                    work.ticket.book(Fate.FAILED)
                else:
                    if lane.prepared is not None:
                        lane.prepared.ticket.book(Fate.SUPERSEDED)
                    lane.prepared, lane.prepared_at = work, time.monotonic()
            self._idle(lane)
            self._changed.notify_all()

    # --- inference thread ----------------------------------------------------------------------

    def take_prepared(self, timeout: float, *, oldest_only: bool = False) -> dict[str, WorkT]:
        """Every camera's prepared frame at once, as soon as there is one.

        A camera whose frame is about to be prepared is waited for, but not longer than PATIENCE_S, and not if it
        usually takes longer or takes longer than usual; one without a frame is absent and delays nobody. Empty after
        `timeout` seconds, or at once after `nudge`.

        Args:
            oldest_only: take the frame that was prepared first, and wait for no other.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while not self._nudged:
                now = time.monotonic()
                go_at = self._first_prepared_at() if oldest_only else self._go_at()
                if go_at <= now:
                    break
                if now >= deadline:
                    return {}
                self._changed.wait(min(go_at, deadline) - now)
            if self._nudged:
                self._nudged = False
                return {}
            ready = [name for name, lane in self._lanes.items() if lane.prepared is not None]
            if oldest_only:
                ready = [min(ready, key=lambda name: self._lanes[name].prepared_at)]
            return {name: work for name in ready if (work := self._lanes[name].take_prepared()) is not None}

    def _first_prepared_at(self) -> float:
        """When the oldest prepared frame was; infinity without one."""
        return min((lane.prepared_at for lane in self._lanes.values() if lane.prepared is not None), default=math.inf)

    def _go_at(self) -> float:
        """Until when the next batch waits for more frames; infinity while it has none."""
        could_go = max(self._first_prepared_at(), self._engine_free_at)
        return max(lane.patient_until(could_go) for lane in self._lanes.values())

    def expect_engine(self, free_in_s: float) -> None:
        """When the engine will be free: at once (0.0), in so many seconds, or nobody knows (infinity)."""
        with self._changed:
            self._engine_free_at = time.monotonic() + free_in_s
            self._changed.notify_all()

    def answer(self, camera: str, epoch: int, answer: AnswerT) -> None:
        """An answer to be finished; one that is still there is older, and superseded.

        So is this one where a newer frame's came before it: what is published stays in order.
        """
        lane = self._lanes[camera]
        with self._changed:
            if epoch != self._epoch or not self._open:
                answer.ticket.book(Fate.FAILED)
                return
            if answer.ticket.number < lane.latest:
                answer.ticket.book(Fate.SUPERSEDED)
                return
            lane.latest = answer.ticket.number
            if lane.answered is not None:
                lane.answered.ticket.book(Fate.SUPERSEDED)
            lane.answered = answer
            self._changed.notify_all()

    def fail_prepared(self) -> None:
        """The engine failed: what was prepared for it or answered by it is void; what waits is not."""
        with self._changed:
            self._void(waiting=False)

    # --- whoever owns the threads --------------------------------------------------------------

    def nudge(self) -> None:
        """Make `take_prepared` return now, so that its thread looks at something else."""
        with self._changed:
            self._nudged = True
            self._changed.notify_all()

    def open(self) -> None:
        """Accept frames."""
        with self._changed:
            self._open = True

    def close(self) -> None:
        """Void what is under way and whatever still comes; each frame is counted as failed."""
        with self._changed:
            self._open = False
            self._void(waiting=True)

    def stop(self) -> None:
        """End the waiting of all threads, for good."""
        with self._changed:
            self._stopped = self._nudged = True
            self._changed.notify_all()

    def _void(self, *, waiting: bool) -> None:
        self._epoch += 1
        for lane in self._lanes.values():
            for frame in (lane.waiting if waiting else None, lane.prepared, lane.answered):
                if frame is not None:
                    frame.ticket.book(Fate.FAILED)
            lane.prepared = lane.answered = None
            if waiting:
                lane.waiting = None
        self._changed.notify_all()

    @staticmethod
    def _idle(lane: _Lane[FrameT, WorkT, AnswerT]) -> None:
        lane.busy_since, lane.preparing = None, False
