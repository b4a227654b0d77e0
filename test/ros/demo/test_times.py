"""Where unstamped messages go in a recorded drive."""

from __future__ import annotations

from seg_perception.ros.bag_tools.recorder import RecordedMessage
from seg_perception.ros.demo.session import recorded_outputs
from seg_perception.ros.demo.times import DriveTimes

SHARE, PALETTE, DIAGNOSTICS = "/segmentation_node/drivable_share", "/segmentation_node/palette", "/diagnostics"


def drive_times() -> DriveTimes:
    return DriveTimes({topic: recorded_outputs()[topic] for topic in (SHARE, PALETTE, DIAGNOSTICS)})


def dated(times: DriveTimes) -> list[tuple[int, str, bytes]]:
    return [(stamp, message.topic, message.data) for stamp, message in times.dated()]


def test_every_message_goes_to_its_frame_and_none_from_before_the_drive_is_kept() -> None:
    times = drive_times()
    for topic, received in ((SHARE, 5), (DIAGNOSTICS, 6), (PALETTE, 7)):  # before the first frame
        times.keep(RecordedMessage(topic, received, b""))
    times.sent(10, 1000)
    times.sent(20, 2000)  # sent before the first frame's labels come back
    times.labeled(25, 1000)
    times.keep(RecordedMessage(SHARE, 26, b"first"))
    times.keep(RecordedMessage(DIAGNOSTICS, 27, b""))
    times.keep(RecordedMessage(SHARE, 31, b"second"))
    times.labeled(30, 2000)  # taken by the executor after its number
    assert times.complete
    assert dated(times) == [
        (1000, SHARE, b"first"),
        (2000, SHARE, b"second"),
        (1000, PALETTE, b""),
        (2000, DIAGNOSTICS, b""),
    ]


def test_numbers_are_dated_by_their_order_whatever_overtook_what() -> None:
    times = drive_times()
    times.labeled(5, None)  # of a warm-up frame
    times.keep(RecordedMessage(SHARE, 4, b"warm-up"))
    times.sent(10, 1000)
    times.sent(20, 2000)
    times.keep(RecordedMessage(SHARE, 24, b"first"))  # small messages overtake large ones
    times.labeled(25, 1000)
    times.labeled(30, 2000)
    assert not times.complete
    times.keep(RecordedMessage(SHARE, 31, b"second"))
    assert dated(times) == [(1000, SHARE, b"first"), (2000, SHARE, b"second")]


def test_numbers_of_which_some_were_lost_are_dated_by_time() -> None:
    times = drive_times()
    times.sent(10, 1000)
    times.sent(20, 2000)
    times.labeled(25, 1000)
    times.labeled(30, 2000)
    times.keep(RecordedMessage(SHARE, 26, b"first"))
    assert not times.complete
    assert dated(times) == [(1000, SHARE, b"first")]
