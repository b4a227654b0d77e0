"""The contract of every row of `node_outputs.OUTPUTS`, over real DDS: one suite, whatever the output is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from node_harness import RELIABLE_INPUT, SMALL, Running, image_message, picture, running, stamp, wait_until
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Float64, Header

from seg_perception import node_outputs
from seg_perception.core.image_file import decode_rgb
from seg_perception.node_outputs import (
    CAMERA_INFO,
    DIAGNOSTICS,
    OUTPUTS,
    FrameOutput,
    LatchedOutput,
    Output,
    outputs_table,
)
from seg_perception.ros import qos
from seg_perception.ros.messages import message_class, why_not_installed

OVER_THE_GROUND = {  # so that everything in meters is made, too
    "ground.source": "fixed",
    "ground.height": 1.5,
    "ground.pitch": 10.0,
    "ground.rectified": True,
    "costmap.size": "64x48",
}
MATRIX = [50.0, 0.0, 32.0, 0.0, 50.0, 24.0, 0.0, 0.0, 1.0]
PROJECTION = [50.0, 0.0, 32.0, 0.0, 0.0, 50.0, 24.0, 0.0, 0.0, 0.0, 1.0, 0.0]
START = 1_700_000_000_123_456_789
FRAME_ID = "camera_optical"


@dataclass
class Drive:
    """A running node that notes which outputs it makes, and a camera before it."""

    run: Running
    made: list[str]
    camera: Any
    infos: Any
    sent: int = 0
    seen: dict[str, list[Any]] = field(default_factory=dict)

    def send(self) -> Header:
        """Send a frame with its camera_info, and wait until the node has booked it."""
        header = Header(stamp=stamp(START + self.sent), frame_id=FRAME_ID)
        self.infos.publish(CameraInfo(header=header, width=SMALL.width, height=SMALL.height, p=PROJECTION, k=MATRIX))
        self.camera.publish(image_message(picture(self.sent), START + self.sent, FRAME_ID))
        self.sent += 1
        wait_until(lambda: self.run.settled().received == self.sent, "the frame to be booked")
        return header

    def watch(self, row: Output) -> list[Any]:
        if row.name not in self.seen:
            profile = qos.latched() if isinstance(row, LatchedOutput) else 10
            topic = row.topic(node="/segmentation_node")
            self.seen[row.name] = self.run.peer.subscribe(message_class(row.type), topic, profile)
        return self.seen[row.name]


@pytest.fixture(scope="module")
def drive(tiny_model: Path) -> Iterator[Drive]:
    made: list[str] = []

    def noting(row: Output) -> Output:
        if not hasattr(row, "make"):
            return row
        real: Any = row.make
        return replace(row, make=lambda of: (made.append(row.name), real(of))[1])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(node_outputs, "OUTPUTS", tuple(map(noting, OUTPUTS)))
        with running({"model": str(tiny_model), **RELIABLE_INPUT, **OVER_THE_GROUND}) as run:
            run.wait_state("active")
            camera, infos = run.peer.publisher(Image, "/image"), run.peer.publisher(CameraInfo, "/camera_info")
            yield Drive(run, made, camera, infos)


def is_of_frames(row: Output) -> bool:
    return hasattr(row, "make") and not isinstance(row, LatchedOutput)


def rows(kind: type[Output]) -> list[Any]:
    """Those of a kind that a camera has; those whose message is not installed here are skipped, with the reason."""
    chosen = [row for row in OUTPUTS if isinstance(row, kind) and row is not DIAGNOSTICS]
    reasons = {row.name: why_not_installed(row.type) for row in chosen}
    return [
        pytest.param(row, id=row.name, marks=[pytest.mark.skip(reasons[row.name])] if reasons[row.name] else [])
        for row in chosen
    ]


@pytest.mark.parametrize("row", [param for param in rows(Output) if is_of_frames(param.values[0])])
def test_it_is_made_for_a_listener_only_and_then_says_of_which_frame_it_is(drive: Drive, row: Any) -> None:
    before = len(drive.made)
    drive.send()
    assert row.name not in drive.seen
    assert row.name not in drive.made[before:]
    received = drive.watch(row)
    header = drive.send()

    def answers() -> list[Any]:  # what is made beside the inference may still be at the frame before
        return [message for message in received if not row.stamped or message.header.stamp == header.stamp]

    (message,) = wait_until(answers, f"{row.name} of that frame, to the nanosecond")[-1:]
    assert len(received) == 1 or not isinstance(row, FrameOutput)
    assert row.stamped == hasattr(message, "header")
    if row.stamped:
        assert message.header.frame_id in (header.frame_id, "base_footprint")  # the camera's, or of what is in meters
    check_content(message)


def check_content(message: Any) -> None:
    if isinstance(message, Image):
        channels = {"mono8": 1, "rgb8": 3}[message.encoding]
        assert (message.width, message.height, message.step) == (SMALL.width, SMALL.height, SMALL.width * channels)
        assert len(message.data) == message.step * message.height
    elif isinstance(message, CompressedImage):
        assert decode_rgb(bytes(message.data), "output").shape == (SMALL.height, SMALL.width, 3)
    elif isinstance(message, Float64):
        assert isinstance(message.data, float)


@pytest.mark.parametrize("row", rows(Output))
def test_nothing_goes_out_while_inactive_and_everything_again_afterwards(drive: Drive, row: Output) -> None:
    received = drive.watch(row)
    if isinstance(row, LatchedOutput):
        wait_until(lambda: received, "what was published before")
    drive.run.call(drive.run.node.trigger_deactivate)
    before = len(received)
    drive.camera.publish(image_message(picture(0), START, FRAME_ID))
    drive.run.call(drive.run.node.trigger_activate)
    wait_until(drive.camera.get_subscription_count, "the node to subscribe again")
    wait_until(drive.infos.get_subscription_count, "the node to subscribe again")
    drive.sent = drive.run.counts().received
    header = None if isinstance(row, LatchedOutput) else drive.send()
    wait_until(lambda: len(received) > before, f"{row.name} after activation")
    assert len(received) == before + 1
    if header is not None and row.stamped:
        assert received[-1].header.stamp == header.stamp


def test_latched_ones_reach_late_listeners(drive: Drive) -> None:
    for row in OUTPUTS:
        if isinstance(row, LatchedOutput) and not why_not_installed(row.type):
            late: list[Any] = drive.run.peer.subscribe(
                message_class(row.type), row.topic(node="/segmentation_node"), qos.latched(), wait=False
            )
            wait_until(lambda late=late: late, f"{row.name}, published before")


def test_a_camera_info_goes_out_with_its_frame(drive: Drive) -> None:
    received = drive.watch(CAMERA_INFO)
    before = len(received)
    header = drive.send()
    wait_until(lambda: len(received) == before + 1, "camera_info")
    assert received[-1].header == header


def test_every_row_has_a_name_of_its_own_and_words() -> None:
    assert len({row.name for row in OUTPUTS}) == len(OUTPUTS)
    assert all(row.description and not row.description.endswith(".") for row in OUTPUTS)


def test_the_documentation_has_the_table(repository: Path) -> None:
    assert outputs_table() in (repository / "docs" / "node.md").read_text(encoding="utf-8")


def test_one_output_s_overrides_are_its_own(tiny_model: Path) -> None:
    override = {"qos_overrides./segmentation_node/drivable.publisher.reliability": "best_effort"}
    with running({"model": str(tiny_model), **RELIABLE_INPUT, **override}) as run:
        run.wait_state("active")
        offered = {p.topic_name: p.qos_profile.reliability.name for p in run.node.publishers}
        assert offered["/segmentation_node/drivable"] == "BEST_EFFORT"
        others = [
            row.topic(node="/segmentation_node") for row in node_outputs.frame_outputs() if row.name != "drivable"
        ]
        assert {offered[topic] for topic in others} == {"RELIABLE"}
