"""The image subscription requests what the publishers offer, over real DDS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from node_harness import Running, image_message, picture, running, wait_until
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from seg_perception.core.types import Size
from seg_perception.ros import qos

START = 1_700_000_000_000_000_000
BEST_EFFORT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
RELIABLE = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)


def requested(run: Running) -> list[str]:
    return [e.qos_profile.reliability.name for e in run.node.get_subscriptions_info_by_topic("/image")]


def publish_until_counted(run: Running, publisher: Any) -> None:
    """A best-effort frame may be lost while both sides still match."""
    before = run.counts().received

    def arrived() -> bool:
        publisher.publish(image_message(picture(0), START))
        return run.counts().received > before

    wait_until(arrived, "a frame")


def test_the_first_large_image_of_a_reliable_publisher_arrives(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1280x720: six times Fast DDS's default shared memory, which drops a best-effort one."""
    for name in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"):
        monkeypatch.delenv(name, raising=False)
    with running({"model": str(tiny_model)}) as run:
        run.wait_state("active")
        images = run.peer.publisher(Image, "/image", RELIABLE)
        labels = run.peer.subscribe(Image, "/segmentation_node/labels")
        for index in range(10):
            images.publish(image_message(picture(index, Size(1280, 720)), START + index))
            wait_until(lambda n=index: len(labels) > n, f"the answer to image {index}, sent once")
        assert run.settled().received == 10
        assert requested(run) == ["RELIABLE"]


def test_it_follows_what_is_offered(tiny_model: Path) -> None:
    with running({"model": str(tiny_model)}) as run:
        run.wait_state("active")
        assert requested(run) == ["RELIABLE"]  # nobody publishes yet
        sensor = run.peer.publisher(Image, "/image", BEST_EFFORT, wait=False)
        wait_until(lambda: requested(run) == ["BEST_EFFORT"], "the request that meets it")
        publish_until_counted(run, sensor)
        other = run.peer.publisher(Image, "/image", RELIABLE)  # beside it: best effort takes both
        publish_until_counted(run, other)
        assert requested(run) == ["BEST_EFFORT"]
        run.peer.node.destroy_publisher(sensor)
        wait_until(lambda: requested(run) == ["RELIABLE"], "the request as the remaining one offers")
        publish_until_counted(run, other)
        assert not run.peer.lines("incompatible QoS")  # nothing that the user should do
        assert len(run.peer.lines("is requested as its publishers offer it now")) == 2


def test_a_publisher_that_is_there_first_is_asked_for_what_it_offers(tiny_model: Path) -> None:
    with running({"model": str(tiny_model), "autostart": False}) as run:
        run.peer.publisher(Image, "/image", BEST_EFFORT, wait=False)
        wait_until(lambda: run.node.get_publishers_info_by_topic("/image"), "discovery")
        run.call(run.node.trigger_configure)
        run.call(run.node.trigger_activate)
        assert requested(run) == ["BEST_EFFORT"]


@pytest.mark.parametrize(
    "parameters",
    [
        {"qos.input.reliability": "best_effort"},
        {"qos_overrides./image.subscription.reliability": "best_effort"},
    ],
)
def test_what_is_asked_for_stays(tiny_model: Path, parameters: dict[str, str]) -> None:
    with running({"model": str(tiny_model), **parameters}) as run:
        run.wait_state("active")
        publish_until_counted(run, run.peer.publisher(Image, "/image", RELIABLE))
        run.call(run.node.cameras[""].follow_publishers)
        assert requested(run) == ["BEST_EFFORT"]


def test_an_override_of_the_durability_counts(tiny_model: Path) -> None:
    """For a driver that latches its pictures, a map server's for example."""
    override = {"qos_overrides./image.subscription.durability": "transient_local"}
    with running({"model": str(tiny_model), **override}) as run:
        run.wait_state("active")
        (subscription,) = (s for s in run.node.subscriptions if s.topic_name == "/image")
        assert subscription.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL


def test_the_rule() -> None:
    reliable, best_effort = qos.profile("reliable", 1), qos.profile("best_effort", 1)
    assert qos.best_available([]) == qos.best_available([reliable]) == ReliabilityPolicy.RELIABLE
    assert qos.best_available([reliable, best_effort]) == ReliabilityPolicy.BEST_EFFORT
