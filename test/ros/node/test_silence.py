"""Why no frame comes: the words, and what they advise."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from seg_perception.ros import qos
from seg_perception.ros.node.image_input import COMPRESSED, RAW, Listening
from seg_perception.ros.node.silence import explain_silence

RELIABLE, BEST_EFFORT = ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT


def endpoint(topic_type: str, reliability: ReliabilityPolicy = RELIABLE) -> SimpleNamespace:
    profile = QoSProfile(depth=1, reliability=reliability, durability=DurabilityPolicy.VOLATILE)
    return SimpleNamespace(node_name="cam", node_namespace="/car", topic_type=topic_type, qos_profile=profile)


def explain(
    kind: str = "raw",
    publishers: tuple[SimpleNamespace, ...] = (),
    topics: dict[str, str] | None = None,
    image_topic: str = "/image",
    requested: str = "reliable",
    camera: str = "",
    environment: dict[str, str] | None = None,
) -> str:
    prefix = f"{camera}/" if camera else ""
    listening = Listening(
        parameter=f"{camera}.input" if camera else "input",
        remapped=f"{prefix}image",
        image_topic=image_topic,
        topic=image_topic if kind == "raw" else f"{image_topic}/compressed",
        accepted_type=RAW if kind == "raw" else COMPRESSED,
    )
    graph = [(name, [kind]) for name, kind in (topics or {}).items()]
    wanted = qos.profile(requested, 1)
    return explain_silence(listening, wanted, publishers, graph, fast_dds=True, environment=environment or {})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "requested, offered, expected",
    [
        ("reliable", RELIABLE, "on /image: /car/cam publishes sensor_msgs/msg/Image (reliable, volatile)"),
        (
            "reliable",
            BEST_EFFORT,
            (
                "on /image: /car/cam publishes sensor_msgs/msg/Image (best_effort, volatile), which does not fit "
                "this node's request (reliability: offered best_effort, requested reliable)"
            ),
        ),
    ],
)
def test_who_publishes_and_whether_it_fits(requested: str, offered: ReliabilityPolicy, expected: str) -> None:
    assert explain(publishers=(endpoint(RAW, offered),), requested=requested) == expected


def test_large_best_effort_images_are_named_with_their_remedy() -> None:
    text = explain(publishers=(endpoint(RAW, BEST_EFFORT),), requested="best_effort")
    assert "shared-memory segment of 512 KB (640x480 in color does not)" in text
    assert "let the publisher offer reliable, or start publisher and node with FASTRTPS_DEFAULT_PROFILES_FILE=/" in text
    assert text.endswith("/config/fastdds_large_images.xml")
    with_profile = explain(
        publishers=(endpoint(RAW, BEST_EFFORT),),
        requested="best_effort",
        environment={"FASTRTPS_DEFAULT_PROFILES_FILE": "x.xml"},
    )
    assert "check that the publisher has it too" in with_profile


@pytest.mark.parametrize(
    "kind, image_topic, topics, expected",
    [
        ("raw", "/image", {}, "nobody publishes on /image"),
        ("raw", "/image", {"/chatter": "std_msgs/msg/String"}, "nobody publishes on /image"),
        (
            "raw",
            "/cam/image",
            {"/cam/image/compressed": COMPRESSED},
            (
                "nobody publishes on /cam/image, but sensor_msgs/msg/CompressedImage is published on "
                "/cam/image/compressed: set input to compressed"
            ),
        ),
        (
            "compressed",
            "/cam/image",
            {"/cam/image": RAW},
            (
                "nobody publishes on /cam/image/compressed, but sensor_msgs/msg/Image is published on /cam/image: "
                "set input to raw"
            ),
        ),
        (  # image_transport's topic was remapped, not its base
            "compressed",
            "/cam/image/compressed",
            {"/cam/image/compressed": COMPRESSED, "/cam/other": RAW},
            (
                "nobody publishes on /cam/image/compressed/compressed, but sensor_msgs/msg/CompressedImage is "
                "published on /cam/image/compressed: remap image:=/cam/image"
            ),
        ),
        (
            "raw",
            "/image",
            {"/b/image_raw": RAW, "/a/image_raw": RAW},
            (
                "nobody publishes on /image; sensor_msgs/msg/Image is published on /a/image_raw, /b/image_raw: "
                "remap image:=/a/image_raw"
            ),
        ),
        (
            "compressed",
            "/image",
            {"/a/image/compressed": COMPRESSED},
            (
                "nobody publishes on /image/compressed; sensor_msgs/msg/CompressedImage is published on "
                "/a/image/compressed: remap image:=/a/image"
            ),
        ),
        (
            "compressed",
            "/image",
            {"/jpeg": COMPRESSED},
            (
                "nobody publishes on /image/compressed; sensor_msgs/msg/CompressedImage is published on /jpeg: "
                "remap /image/compressed:=/jpeg"
            ),
        ),
        (
            "raw",
            "/cam/image",
            {"/cam/image/ffmpeg": "ffmpeg_image_transport_msgs/msg/FFMPEGPacket", "/cam/other": RAW},
            (
                "nobody publishes on /cam/image, but ffmpeg_image_transport_msgs/msg/FFMPEGPacket is published on "
                "/cam/image/ffmpeg, which this node does not take: let the publisher offer raw or compressed, or run "
                "image_transport's republish from ffmpeg to raw"
            ),
        ),
        (
            "raw",
            "/image",
            {"/cam/image/compressed": COMPRESSED},
            (
                "nobody publishes on /image; sensor_msgs/msg/CompressedImage is published on /cam/image/compressed: "
                "set input to compressed and remap image:=/cam/image"
            ),
        ),
        (  # what is hardly a picture of a camera comes last, though it is first in the alphabet
            "raw",
            "/image",
            {"/cam/aligned_depth/image_raw": RAW, "/cam/color/image_raw": RAW, "/a/image/compressed": COMPRESSED},
            (
                "nobody publishes on /image; sensor_msgs/msg/Image is published on /cam/color/image_raw, "
                "/cam/aligned_depth/image_raw: remap image:=/cam/color/image_raw"
            ),
        ),
        (
            "compressed",
            "/image",
            {"/cam/depth/compressedDepth": COMPRESSED, "/cam/color/compressed": COMPRESSED},
            (
                "nobody publishes on /image/compressed; sensor_msgs/msg/CompressedImage is published on "
                "/cam/color/compressed: remap image:=/cam/color"
            ),
        ),
    ],
)
def test_nobody_publishes_here(kind: str, image_topic: str, topics: dict[str, str], expected: str) -> None:
    assert explain(kind, topics=topics, image_topic=image_topic) == expected


@pytest.mark.parametrize(
    "kind, offered, image_topic, advice",
    [
        (
            "raw",
            COMPRESSED,
            "/front/image/compressed",
            ": set front.input to compressed and remap front/image:=/front/image",
        ),
        ("raw", COMPRESSED, "/jpeg", ": set front.input to compressed and remap /jpeg/compressed:=/jpeg"),
        ("compressed", RAW, "/cam", ": set front.input to raw and remap front/image:=/cam/compressed"),
        ("raw", "std_msgs/msg/String", "/image", ""),
    ],
)
def test_another_type_on_the_topic(kind: str, offered: str, image_topic: str, advice: str) -> None:
    text = explain(kind, (endpoint(offered),), image_topic=image_topic, camera="front")
    accepted = RAW if kind == "raw" else COMPRESSED
    assert text.endswith(
        f"/car/cam publishes {offered} (reliable, volatile), but this node takes {accepted} there{advice}"
    )


def test_long_lists_are_cut_and_say_so() -> None:
    assert explain(publishers=(endpoint(RAW),) * 8).endswith("; and 3 more")
    topics = {f"/cam{index}/image": RAW for index in range(8)}
    assert "/cam4/image and 3 more: remap image:=/cam0/image" in explain(topics=topics)
