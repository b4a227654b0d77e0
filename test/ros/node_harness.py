"""A real node on a real executor over real DDS, with a tiny real ONNX graph as a fast engine."""

from __future__ import annotations

import threading
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from onnx import TensorProto, helper
from rcl_interfaces.msg import Log
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from seg_perception.core.label_set import load_label_set
from seg_perception.core.model_card import METADATA_KEY, ModelCard
from seg_perception.core.types import Size
from seg_perception.ros.inference import OpenEngine, open_configured_engine
from seg_perception.ros.segmentation_node import SegmentationNode, spin_until

TIMEOUT = 20.0
RELIABLE = QoSProfile(depth=400, reliability=ReliabilityPolicy.RELIABLE)


def write_tiny_model(path: Path, work: int = 0) -> Path:
    """labels = red // 26 (so 0 to 9), confidence = green; `work` adds that many 3x3 convolutions of 32 channels."""
    nodes = [
        helper.make_node("Cast", ["image"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["numbers"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Split", ["planes"], ["red", "green", "blue"], axis=1, num_outputs=3),
        helper.make_node("Squeeze", ["red", "axis"], ["red_plane"]),
        helper.make_node("Squeeze", ["green", "axis"], ["green_plane"]),
        helper.make_node("Div", ["red_plane", "step"], ["fraction"]),
        helper.make_node("Floor", ["fraction"], ["whole"]),
        helper.make_node("Cast", ["whole"], ["labels"], to=TensorProto.UINT8),
    ]
    constants = [
        helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
        helper.make_tensor("step", TensorProto.FLOAT, [], [26.0]),
    ]
    green = "green_plane"
    if work:  # convolutions whose result, times zero, is added: same answer, more time
        rng = np.random.default_rng(0)
        last, channels = "planes", 3
        for i in range(work):
            weight = rng.normal(0, 0.05, (32, channels, 3, 3)).astype(np.float32)
            constants.append(onnx.numpy_helper.from_array(weight, f"w{i}"))
            nodes.append(helper.make_node("Conv", [last, f"w{i}"], [f"c{i}"], pads=[1, 1, 1, 1]))
            last, channels = f"c{i}", 32
        constants += [
            helper.make_tensor("one", TensorProto.FLOAT, [1, 32, 1, 1], [1.0] * 32),
            helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
        ]
        nodes += [
            helper.make_node("ReduceMean", [last, "axis"], ["mean"], keepdims=0),
            helper.make_node("Clip", ["mean", "zero", "zero"], ["nothing"]),
            helper.make_node("Add", ["green_plane", "nothing"], ["green_sum"]),
        ]
        constants = [c for c in constants if c.name != "one"]
        green = "green_sum"
    nodes.append(helper.make_node("Cast", [green], ["confidence"], to=TensorProto.UINT8))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 3])],
        [
            helper.make_tensor_value_info("labels", TensorProto.UINT8, ["N", "H", "W"]),
            helper.make_tensor_value_info("confidence", TensorProto.UINT8, ["N", "H", "W"]),
        ],
        constants,
    )
    card = ModelCard(
        name="tiny",
        version="1",
        network="none",
        label_set=load_label_set(),
        input_size=Size(64, 48),
        size_multiple=16,
        precision="fp32",
        weights_sha256="ab" * 32,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    helper.set_model_props(model, {METADATA_KEY: card.to_json()})
    path.write_bytes(model.SerializeToString())
    return path


SMALL = Size(64, 48)


def picture(index: int, size: Size = SMALL) -> np.ndarray:
    """A striped picture, different for each index: uint8 [H, W, 3]."""
    columns = np.arange(size.width)[None, :] * 255 // max(1, size.width - 1)
    rows = np.arange(size.height)[:, None] * 255 // max(1, size.height - 1)
    image = np.empty((size.height, size.width, 3), np.uint8)
    image[..., 0] = (columns + 7 * index) % 256
    image[..., 1] = (rows + 3 * index) % 256
    image[..., 2] = index % 256
    return image


def stamp(nanoseconds: int) -> Time:
    return Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)


def image_message(pixels: np.ndarray, stamp_ns: int, frame_id: str = "camera_optical") -> Image:
    data = array("B")
    data.frombytes(np.ascontiguousarray(pixels).tobytes())
    return Image(
        header=Header(stamp=stamp(stamp_ns), frame_id=frame_id),
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding="rgb8",
        step=pixels.shape[1] * 3,
        data=data,
    )


def stamp_of(message: Any) -> int:
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def wait_until(condition: Callable[[], Any], what: str, timeout: float = TIMEOUT) -> Any:
    """Wait for a condition, never for a fixed time."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if result := condition():
            return result
        time.sleep(0.01)
    raise AssertionError(f"not within {timeout} s: {what}")


@dataclass
class Peer:
    """The other side: publishes images, remembers what the node said."""

    node: Node
    diagnostics: list[DiagnosticArray] = field(default_factory=list)
    log: list[Log] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self.diagnostics.append, RELIABLE)
        self.node.create_subscription(Log, "/rosout", self.log.append, 100)

    def subscribe(self, message_type: Any, topic: str, qos: Any = RELIABLE, wait: bool = True) -> list[Any]:
        received: list[Any] = []
        subscription = self.node.create_subscription(message_type, topic, received.append, qos)
        if wait:
            wait_until(subscription.get_publisher_count, f"a publisher on {topic}")
        return received

    def publisher(self, message_type: Any, topic: str, qos: Any = RELIABLE, wait: bool = True) -> Any:
        publisher = self.node.create_publisher(message_type, topic, qos)
        if wait:
            wait_until(publisher.get_subscription_count, f"a subscriber on {topic}")
        return publisher

    def statuses(self, name_end: str) -> list[DiagnosticStatus]:
        return [s for array in list(self.diagnostics) for s in array.status if s.name.endswith(name_end)]

    def lines(self, part: str) -> list[str]:
        return [line.msg for line in list(self.log) if part in line.msg]


def values(status: DiagnosticStatus) -> dict[str, str]:
    return {v.key: v.value for v in status.values}


def level(status: DiagnosticStatus) -> int:
    return status.level[0] if isinstance(status.level, bytes) else status.level


@dataclass
class Running:
    """A node that spins, and its peer."""

    node: SegmentationNode
    peer: Peer

    def wait_state(self, state: str, timeout: float = TIMEOUT) -> None:
        wait_until(lambda: self.node.state == state, f"state {state}, it is {self.node.state}", timeout)

    def counts(self, camera: str = "") -> Any:
        return self.node.cameras[camera].account.counts()

    def settled(self, camera: str = "") -> Any:
        """The counts once nothing is in flight."""
        wait_until(lambda: self.counts(camera).in_flight == 0, "nothing in flight")
        return self.counts(camera)


@contextmanager
def running(
    parameters: dict[str, Any], open_configured: OpenEngine = open_configured_engine, **options: Any
) -> Iterator[Running]:
    """Run a node with these parameters until the block ends; everything is torn down in order."""
    context = Context()
    rclpy.init(context=context)
    overrides = [
        Parameter(name, Parameter.Type.STRING_ARRAY, value) if isinstance(value, list) else Parameter(name, value=value)
        for name, value in parameters.items()
    ]
    node = SegmentationNode(open_configured, context=context, parameter_overrides=overrides, **options)
    stop = threading.Event()
    status: list[int] = []
    node_thread = threading.Thread(target=lambda: status.append(spin_until(node, stop)))
    peer_node = Node("peer", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(peer_node)
    peer = Peer(peer_node)
    peer_thread = threading.Thread(target=executor.spin)
    node_thread.start()
    peer_thread.start()
    try:
        yield Running(node, peer)
    finally:
        stop.set()
        node_thread.join(TIMEOUT)
        executor.shutdown()
        peer_thread.join(TIMEOUT)
        assert not node_thread.is_alive()
        assert not peer_thread.is_alive()
        peer_node.destroy_node()
        node.destroy_node()
        rclpy.shutdown(context=context)
    assert status == [0], "a callback of the node raised"
