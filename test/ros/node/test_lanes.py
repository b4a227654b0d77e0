"""What lies between the node's threads: nothing grows, nothing is lost from the account, nobody waits for another."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import pytest
from waiting import PATIENCE_S as LONG_S

from seg_perception.ros.node.accounting import Fate, FrameAccount, FrameCounts, Ticket
from seg_perception.ros.node.lanes import PATIENCE_S, Lanes, UsualTime


@dataclass(frozen=True)
class Numbered:
    """A frame, its work and its answer as the lanes see them."""

    ticket: Ticket
    number: int


NumberedLanes: TypeAlias = Lanes[Numbered, Numbered, Numbered]


def take(lanes: NumberedLanes, camera: str = "") -> Numbered:
    """As the camera's thread does."""
    job = lanes.next_job(camera, timeout=LONG_S)
    assert job is not None
    assert job.frame is not None
    return job.frame


def prepare(lanes: NumberedLanes, camera: str = "") -> Numbered:
    job = lanes.next_job(camera, timeout=LONG_S)
    assert job is not None
    assert job.frame is not None
    lanes.prepared(camera, job.epoch, job.frame, took_s=0.0)
    return job.frame


def numbers(work: dict[str, Numbered]) -> dict[str, int]:
    return {name: item.number for name, item in work.items()}


def test_the_newest_frame_replaces_a_waiting_one_and_others_are_not_delayed() -> None:
    front, rear = FrameAccount(), FrameAccount()
    lanes: NumberedLanes = Lanes(("front", "rear"))
    for number in (1, 2, 3):
        lanes.put("front", Numbered(front.receive(), number))
    held = [prepare(lanes, "front")]
    assert lanes.next_job("front", timeout=0.0) is None
    assert numbers(lanes.take_prepared(timeout=0.0)) == {"front": 3}
    assert lanes.take_prepared(timeout=0.0) == {}
    assert front.counts() == FrameCounts(received=3, superseded=2, in_flight=1)
    assert rear.counts() == FrameCounts()
    assert held
    with pytest.raises(KeyError):
        lanes.put("left", Numbered(rear.receive(), 1))


def test_one_frame_is_prepared_ahead_and_no_more() -> None:
    account = FrameAccount()
    lanes: NumberedLanes = Lanes([""])
    lanes.put("", Numbered(account.receive(), 1))
    prepare(lanes)
    lanes.put("", Numbered(account.receive(), 2))
    assert lanes.next_job("", timeout=0.01) is None  # the first is not taken yet
    lanes.put("", Numbered(account.receive(), 3))
    assert numbers(lanes.take_prepared(0.0)) == {"": 1}
    assert take(lanes).number == 3


def test_a_prepared_frame_gives_way_when_the_engine_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    account = FrameAccount()
    lanes: NumberedLanes = Lanes([""])
    lanes.put("", Numbered(account.receive(), 1))
    prepare(lanes)
    lanes.put("", Numbered(account.receive(), 2))
    assert lanes.next_job("", timeout=0.0) is None
    monkeypatch.setattr("seg_perception.ros.node.lanes.STALE_S", -1.0)  # as if that time had passed
    prepare(lanes)
    assert numbers(lanes.take_prepared(0.0)) == {"": 2}
    assert account.counts().superseded == 1


def test_an_answer_goes_before_a_frame_and_a_newer_answer_supersedes() -> None:
    account = FrameAccount()
    lanes: NumberedLanes = Lanes([""])
    answers = [Numbered(account.receive(), number) for number in (1, 2)]
    for answer in answers:
        lanes.answer("", lanes.epoch, answer)
    lanes.put("", Numbered(account.receive(), 3))
    job = lanes.next_job("", timeout=0.0)
    assert job is not None
    assert job.answer is answers[1]
    assert account.counts() == FrameCounts(received=3, superseded=1, in_flight=2)
    assert take(lanes).number == 3


def test_a_frame_is_prepared_just_before_the_engine_is_free() -> None:
    account = FrameAccount()
    lanes: NumberedLanes = Lanes([""])
    lanes.expect_engine(3600.0)
    lanes.put("", Numbered(account.receive(), 1))
    assert lanes.next_job("", timeout=0.01) is None
    lanes.put("", Numbered(account.receive(), 2))  # so it is the newest that is prepared
    asked = time.monotonic()
    lanes.expect_engine(0.05)
    assert take(lanes).number == 2
    assert time.monotonic() - asked > 0.01
    lanes.expect_engine(float("inf"))  # it is being rebuilt
    lanes.put("", Numbered(account.receive(), 3))
    assert lanes.next_job("", timeout=0.01) is None
    lanes.expect_engine(0.0)
    assert take(lanes).number == 3


def test_the_engine_is_expected_as_early_as_it_may_well_be_free() -> None:
    usual = UsualTime()
    assert usual.early_s == 0.0  # before the first nobody knows
    for took_s in (0.050, 0.070):
        usual.note(took_s)
    assert usual.mean_s == pytest.approx(0.054)  # 0.8 x 50 + 0.2 x 70 ms
    assert usual.early_s == pytest.approx(0.050)  # less a fifth of the 20 ms between them


def test_a_batch_waits_for_a_camera_that_is_about_to_be_ready() -> None:
    account = FrameAccount()
    lanes: NumberedLanes = Lanes(("front", "rear"))
    for name in ("front", "rear"):
        lanes.put(name, Numbered(account.receive(), 1))
    prepare(lanes, "front")
    rear = threading.Timer(PATIENCE_S / 5, lambda: prepare(lanes, "rear"))
    rear.start()
    taken = lanes.take_prepared(timeout=LONG_S)
    rear.join()
    assert "front" in taken  # and rear, unless this machine is very slow
    if "rear" not in taken:
        assert numbers(lanes.take_prepared(timeout=LONG_S)) == {"rear": 1}


class Clock:
    """A stand-in for the time module, so that the test decides how late it is."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_patience_begins_when_a_batch_could_go_and_ends_for_a_camera_that_is_stuck(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr("seg_perception.ros.node.lanes.time", clock)
    account = FrameAccount()
    lanes: NumberedLanes = Lanes(("front", "rear"))

    def put_and_prepare_front(number: int) -> None:
        lanes.put("front", Numbered(account.receive(), number))
        prepare(lanes, "front")

    lanes.put("rear", Numbered(account.receive(), 1))
    clock.now += 10.0  # the engine was busy all the while
    put_and_prepare_front(1)
    lanes.expect_engine(0.0)
    assert lanes.take_prepared(timeout=0.0) == {}  # rear has a frame, and its thread may take it
    stuck = take(lanes, "rear")
    clock.now += 0.9 * PATIENCE_S
    assert lanes.take_prepared(timeout=0.0) == {}
    clock.now += 0.2 * PATIENCE_S
    assert numbers(lanes.take_prepared(timeout=0.0)) == {"front": 1}
    put_and_prepare_front(2)
    lanes.put("rear", Numbered(account.receive(), 2))
    assert numbers(lanes.take_prepared(timeout=0.0)) == {"front": 2}  # rear takes longer than usual: nobody waits
    assert lanes.next_job("rear", timeout=0.0) is not None  # it came back
    lanes.prepared("rear", lanes.epoch, stuck, took_s=10 * PATIENCE_S)
    lanes.take_prepared(timeout=0.0)
    lanes.put("rear", Numbered(account.receive(), 3))
    take(lanes, "rear")
    put_and_prepare_front(3)
    assert numbers(lanes.take_prepared(timeout=0.0)) == {"front": 3}  # it usually takes longer than the patience


def test_a_camera_that_takes_long_stops_no_other() -> None:
    account = FrameAccount()
    lanes: NumberedLanes = Lanes(("front", "rear"))
    lanes.put("rear", Numbered(account.receive(), 1))
    stuck = take(lanes, "rear")
    for number in (1, 2, 3):
        lanes.put("front", Numbered(account.receive(), number))
        lanes.put("rear", Numbered(account.receive(), 10 + number))  # newer frames do not renew the patience
        prepare(lanes, "front")
        assert numbers(lanes.take_prepared(timeout=LONG_S)) == {"front": number}
    assert stuck.number == 1


def test_closed_lanes_void_what_is_under_way() -> None:
    account = FrameAccount()
    lanes: NumberedLanes = Lanes([""])
    lanes.put("", Numbered(account.receive(), 1))
    job = lanes.next_job("", timeout=0.0)
    assert job is not None
    assert job.frame is not None
    lanes.put("", Numbered(account.receive(), 2))
    lanes.close()
    lanes.put("", Numbered(account.receive(), 3))
    assert account.counts() == FrameCounts(received=3, failed=2, in_flight=1)
    lanes.open()
    lanes.prepared("", job.epoch, job.frame, took_s=0.0)  # begun before, so it is void
    assert lanes.take_prepared(0.0) == {}
    lanes.answer("", job.epoch, Numbered(account.receive(), 4))
    assert account.counts() == FrameCounts(received=4, failed=4)
    lanes.put("", Numbered(account.receive(), 5))
    assert prepare(lanes).number == 5


def test_an_engine_failure_voids_what_was_made_for_it_and_keeps_what_waits() -> None:
    account = FrameAccount()
    lanes: NumberedLanes = Lanes([""])
    lanes.put("", Numbered(account.receive(), 1))
    prepare(lanes)
    lanes.put("", Numbered(account.receive(), 2))
    lanes.fail_prepared()
    assert account.counts() == FrameCounts(received=2, failed=1, in_flight=1)
    assert take(lanes).number == 2


def test_the_account_balances_with_threads_on_all_sides() -> None:
    accounts = {name: FrameAccount() for name in ("a", "b")}
    lanes: NumberedLanes = Lanes(accounts)
    unbalanced: list[FrameCounts] = []
    done = threading.Event()

    def receive(name: str) -> None:
        for number in range(3000):
            lanes.put(name, Numbered(accounts[name].receive(), number))

    def work(name: str) -> None:
        while not done.is_set():
            job = lanes.next_job(name, timeout=0.05)
            if job is not None and job.answer is not None:
                job.answer.ticket.book(Fate.PUBLISHED)
            elif job is not None:
                lanes.prepared(name, job.epoch, job.frame, took_s=0.0)
            del job

    def infer() -> None:
        while not done.is_set():
            epoch = lanes.epoch
            for name, frame in lanes.take_prepared(0.05).items():
                lanes.answer(name, epoch, frame)

    def watch() -> None:
        while not done.is_set():
            unbalanced.extend(c for account in accounts.values() if (c := account.counts()).unaccounted)

    def start(target: Callable[..., None], *arguments: str) -> threading.Thread:
        thread = threading.Thread(target=target, args=arguments)
        thread.start()
        return thread

    others = [start(infer), start(watch), *(start(work, name) for name in accounts)]
    for thread in [start(receive, name) for name in accounts]:
        thread.join()
    lanes.close()
    done.set()
    lanes.stop()
    for thread in others:
        thread.join()
    lanes.close()
    assert not unbalanced
    for account in accounts.values():
        counts = account.counts()
        assert counts.received == 3000
        assert counts.in_flight == counts.unaccounted == 0


def test_nudge_and_stop_wake_whoever_waits() -> None:
    lanes: NumberedLanes = Lanes([""])
    answers: list[object] = []
    threads = [threading.Thread(target=lambda: answers.append(lanes.take_prepared(timeout=LONG_S)))]
    threads[0].start()
    lanes.nudge()
    threads[0].join(LONG_S)
    assert answers == [{}]
    threads.append(threading.Thread(target=lambda: answers.append(lanes.next_job("", timeout=LONG_S))))
    threads[1].start()
    lanes.stop()
    threads[1].join(LONG_S)
    assert answers == [{}, None]


def test_the_answer_to_an_older_frame_that_comes_late_is_not_published() -> None:
    account = FrameAccount()
    lanes: NumberedLanes = Lanes([""])
    frames = [Numbered(account.receive(), number) for number in (1, 2)]
    lanes.answer("", lanes.epoch, frames[1])
    job = lanes.next_job("", timeout=0.0)
    assert job is not None
    assert job.answer is frames[1]
    lanes.answer("", lanes.epoch, frames[0])
    assert lanes.next_job("", timeout=0.0) is None
    assert account.counts() == FrameCounts(received=2, superseded=1, in_flight=1)


def test_frames_are_taken_alone_and_in_order_for_inferences_side_by_side() -> None:
    account = FrameAccount()
    lanes: NumberedLanes = Lanes(("front", "rear"))
    held = []
    for number, camera in enumerate(("rear", "front", "front")):
        lanes.put(camera, Numbered(account.receive(), number))
        if number < 2:
            held.append(prepare(lanes, camera))
    assert numbers(lanes.take_prepared(0.0, oldest_only=True)) == {"rear": 0}  # nor does it wait for front's next
    assert numbers(lanes.take_prepared(0.0, oldest_only=True)) == {"front": 1}
    assert lanes.take_prepared(0.0, oldest_only=True) == {}
    assert lanes.pressure() == (3, 0)
    lanes.put("front", Numbered(account.receive(), 3))
    assert lanes.pressure() == (4, 1)
    assert held
