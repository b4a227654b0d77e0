"""What `seg-perception view` asks of a node: its topics as the node has them, its services once they are there."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image
from std_msgs.msg import Header, String
from waiting import PATIENCE_S, wait_until

from seg_perception.node_outputs import OUTPUTS
from seg_perception.ros import viewer
from seg_perception.ros.context import ros_node
from seg_perception.ros.messages import encode_image, message_class, stamp_ns_of


def test_topics_have_the_nodes_types() -> None:
    with ros_node("viewer") as node:
        page = viewer.NodeViewer(node, "/car/segmentation_node")
        page.board.watch("front")
        table = DiagnosticStatus(name="car/segmentation_node: camera front")
        table.values = [KeyValue(key="topic", value="/front/image")]
        node.create_publisher(DiagnosticArray, "/diagnostics", 1).publish(DiagnosticArray(status=[table]))
        executor = SingleThreadedExecutor(context=node.context)
        executor.add_node(node)
        few = len(list(node.subscriptions))
        wait_until(lambda: executor.spin_once(timeout_sec=0.1) or len(list(node.subscriptions)) > few, "subscriptions")
        executor.shutdown()
        heard = {subscription.topic_name: subscription.msg_type for subscription in node.subscriptions}
    published = {row.topic("front", "/car/segmentation_node"): row.type for row in OUTPUTS}
    published |= {row.topic("", "/car/segmentation_node"): row.type for row in OUTPUTS}
    assert len(heard) == 9
    assert heard.pop("/front/image").__name__ == "Image"
    assert heard == {topic: message_class(published[topic]) for topic in heard}


def test_an_image_waits_for_a_slow_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 30 Hz, an engine that takes a second answers thirty images late."""
    heard = set()

    def note(header: Header) -> int:
        heard.add(header.stamp.sec)
        return stamp_ns_of(header)

    monkeypatch.setattr(viewer, "stamp_ns_of", note)
    with ros_node("viewer") as node:
        page = viewer.NodeViewer(node, "/slow")
        page.board.watch("")
        executor = SingleThreadedExecutor(context=node.context)
        executor.add_node(node)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        rows = [{"id": 0, "name": "road", "color": [128, 64, 128], "drivable": True}]
        palette = String(data=json.dumps({"label_set": "one", "model": "m", "classes": rows}))
        node.create_publisher(String, "/slow/palette", latched).publish(palette)
        table = DiagnosticStatus(name="slow: camera", values=[KeyValue(key="topic", value="/image")])
        node.create_publisher(DiagnosticArray, "/diagnostics", latched).publish(DiagnosticArray(status=[table]))
        topics = {
            name: node.create_publisher(Image, f"/slow/{name}", 5) for name in ("labels", "confidence", "drivable")
        }
        images = node.create_publisher(Image, "/image", 5)

        def say(publisher: Publisher, second: int, pixels: np.ndarray) -> None:
            header = Header()
            header.stamp.sec = second
            publisher.publish(encode_image(pixels, header))
            executor.spin_once(timeout_sec=0.05)

        def arrives(second: int) -> bool:
            say(images, second, np.full((4, 6, 3), second, np.uint8))
            return second in heard

        for second in range(1, 31):
            wait_until(lambda second=second: arrives(second), f"image {second}")
        blank = np.zeros((4, 6), np.uint8)
        wait_until(
            lambda: [say(topic, 1, blank) for topic in topics.values()] and page.board.latest(""), "the first frame"
        )
        frame = page.board.latest("")
        executor.shutdown()
    assert frame is not None
    assert (frame.stamp_ns, frame.image[0, 0].tolist()) == (1_000_000_000, [1, 1, 1])


def test_services_are_waited_for_and_missing_ones_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with ros_node("viewer") as node, ThreadPoolExecutor() as server:
        page = viewer.NodeViewer(node, "/late")
        monkeypatch.setattr(viewer, "ANSWER_S", 0.01)
        nobody = page.set_parameter("overlay.opacity", 0.3)
        assert nobody == "/late cannot be reached: overlay.opacity was not set"
        assert page.change_state("activate") == "/late cannot be reached: activate was not asked for"
        monkeypatch.setattr(viewer, "ANSWER_S", PATIENCE_S)
        answer = server.submit(page.set_parameter, "overlay.opacity", 0.3)
        late = Node("late", context=node.context)
        late.declare_parameter("overlay.opacity", 0.5)
        executor = SingleThreadedExecutor(context=node.context)
        executor.add_node(node)
        executor.add_node(late)
        try:
            wait_until(lambda: executor.spin_once(timeout_sec=0.05) or answer.done(), "an answer")
            assert answer.result() == ""
            assert late.get_parameter("overlay.opacity").value == 0.3
        finally:
            executor.shutdown()
            late.destroy_node()
