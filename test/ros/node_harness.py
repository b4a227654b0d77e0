"""A real node on a real executor over real DDS, with a tiny real ONNX graph as a fast engine."""

from __future__ import annotations

import gc
import os
import re
import sys
import tempfile
import threading
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from onnx import TensorProto, helper
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from waiting import PATIENCE_S, wait_until

from seg_perception.core.label_set import load_label_set
from seg_perception.core.model_card import METADATA_KEY, ModelCard
from seg_perception.core.types import Size
from seg_perception.ros.compat import finish, publisher_count
from seg_perception.ros.context import await_discovery
from seg_perception.ros.node.engine_holder import OpenEngine, open_configured_engine
from seg_perception.ros.node.lifecycle import SegmentationNode
from seg_perception.ros.node.spinning import SpinningEnd, spin_until

# for tests that count single frames: a best-effort one may be lost while the subscriber still matches,
# and the publisher, already matched, cannot see that
RELIABLE_INPUT = {"qos.input.reliability": "reliable"}
RELIABLE = QoSProfile(depth=400, reliability=ReliabilityPolicy.RELIABLE)


def write_tiny_model(path: Path) -> Path:
    """labels = red // 26 (so 0 to 9), confidence = green."""
    nodes = [
        helper.make_node("Cast", ["image"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["numbers"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Split", ["planes"], ["red", "green", "blue"], axis=1, num_outputs=3),
        helper.make_node("Squeeze", ["red", "axis"], ["red_plane"]),
        helper.make_node("Squeeze", ["green", "axis"], ["green_plane"]),
        helper.make_node("Div", ["red_plane", "step"], ["fraction"]),
        helper.make_node("Floor", ["fraction"], ["whole"]),
        helper.make_node("Cast", ["whole"], ["labels"], to=TensorProto.UINT8),
        helper.make_node("Cast", ["green_plane"], ["confidence"], to=TensorProto.UINT8),
    ]
    constants = [
        helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
        helper.make_tensor("step", TensorProto.FLOAT, [], [26.0]),
    ]
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


@dataclass
class Peer:
    """The other side: publishes images, remembers what the node said."""

    node: Node
    observed: Node  # the node under test
    log: Path
    diagnostics: list[DiagnosticArray] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self.diagnostics.append, RELIABLE)

    def subscribe(
        self,
        message_type: Any,
        topic: str,
        qos: Any = RELIABLE,
        wait: bool = True,
        keep: Callable[[Any], Any] = lambda message: message,
    ) -> list[Any]:
        """Subscribe and wait for both ends: each discovers the other in its own time, and what the node offers
        before its publisher knows of the subscription is never sent."""
        received: list[Any] = []
        known = self.subscriptions_known_to_the_node(topic)
        subscription = self.node.create_subscription(message_type, topic, lambda m: received.append(keep(m)), qos)
        if wait:
            wait_until(lambda: publisher_count(self.node, subscription), f"a publisher on {topic}")
            wait_until(lambda: self.subscriptions_known_to_the_node(topic) > known, f"the node hears of {topic}'s peer")
        return received

    def subscriptions_known_to_the_node(self, topic: str) -> int:
        return sum(p.get_subscription_count() for p in self.observed.publishers if p.topic_name == topic)

    def publisher(self, message_type: Any, topic: str, qos: Any = RELIABLE, wait: bool = True) -> Any:
        publisher = self.node.create_publisher(message_type, topic, qos)
        if wait:
            wait_until(publisher.get_subscription_count, f"a subscriber on {topic}")
        return publisher

    def statuses(self, name_end: str) -> list[DiagnosticStatus]:
        return [s for array in list(self.diagnostics) for s in array.status if s.name.endswith(name_end)]

    def status(self, name_end: str) -> DiagnosticStatus:
        """The newest; the first is waited for."""
        return wait_until(lambda: self.statuses(name_end), f"diagnostics of '{name_end}'")[-1]

    def lines(self, part: str) -> list[str]:
        """What the node logged, entry by entry (an entry may hold several lines)."""
        written = self.log.read_text(encoding="utf-8", errors="replace")
        entries = re.split(r"^\[[A-Z]+\] \[[\d.]+\] ", written, flags=re.MULTILINE)
        ours = [entry.partition(": ")[2].rstrip() for entry in entries if entry.startswith("[segmentation_node]")]
        return [entry for entry in ours if part in entry]


def values(status: DiagnosticStatus) -> dict[str, str]:
    return {v.key: v.value for v in status.values}


def level(status: DiagnosticStatus) -> int:
    return status.level[0] if isinstance(status.level, bytes) else status.level


@dataclass
class Running:
    """A node that spins, and its peer."""

    node: SegmentationNode
    peer: Peer

    def wait_state(self, state: str) -> None:
        wait_until(lambda: self.node.state == state, f"state {state}", lambda: self.node.state)

    def call(self, action: Callable[[], Any]) -> Any:
        """Run something on the node's executor thread, as a service call would be, and return its result."""
        task = self.executor().create_task(action)
        wait_until(task.done, "the call's end")
        return task.result()

    def report(self, name_end: str) -> DiagnosticStatus:
        """Diagnostics of now."""
        (status,) = [s for s in self.call(self.node.publish_diagnostics).status if s.name.endswith(name_end)]
        return status

    def executor(self) -> Any:
        return wait_until(lambda: self.node.executor, "an executor")

    def set(self, name: str, value: Any) -> str:
        """Set a parameter as `ros2 param set` does; returns the reason of a refusal, else ''."""
        kind = Parameter.Type.STRING_ARRAY if isinstance(value, list) else Parameter.Type.from_parameter_value(value)
        (result,) = self.call(lambda: self.node.set_parameters([Parameter(name, kind, value)]))
        return "" if result.successful else result.reason or "refused"

    def counts(self, camera: str = "") -> Any:
        return self.node.cameras[camera].account.counts()

    def settled(self, camera: str = "") -> Any:
        """The counts once nothing is in flight."""
        wait_until(lambda: self.counts(camera).in_flight == 0, "nothing in flight", lambda: self.counts(camera))
        return self.counts(camera)


@contextmanager
def stderr_in(path: Path) -> Iterator[None]:
    """What rclpy's logger writes, in a file: /rosout is as prompt as discovery, and that is not prompt."""
    sys.stderr.flush()
    saved = os.dup(2)
    with path.open("wb") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)
        sys.stderr.write(path.read_text(encoding="utf-8", errors="replace"))


@contextmanager
def running(
    parameters: dict[str, Any], open_configured: OpenEngine = open_configured_engine, **options: Any
) -> Iterator[Running]:
    """Run a node with these parameters until the block ends; everything is torn down in order."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.txt"
        with stderr_in(log), _running(log, parameters, open_configured, options) as run:
            yield run


@contextmanager
def _running(
    log: Path, parameters: dict[str, Any], open_configured: OpenEngine, options: dict[str, Any]
) -> Iterator[Running]:
    gc.collect()  # of a node before, rclpy keeps the lifecycle services till then, and they take our requests
    context, peer_context = Context(), Context()  # two participants, so that everything really goes through DDS
    rclpy.init(context=context)
    rclpy.init(context=peer_context)
    overrides = [
        Parameter(name, Parameter.Type.STRING_ARRAY, value) if isinstance(value, list) else Parameter(name, value=value)
        for name, value in parameters.items()
    ]
    node = SegmentationNode(open_configured, context=context, parameter_overrides=overrides, **options)
    stop = threading.Event()
    status: list[int] = []
    node_thread = threading.Thread(target=lambda: status.append(spin_until(node, stop)))
    peer_node = Node("peer", context=peer_context)
    executor = SingleThreadedExecutor(context=peer_context)
    executor.add_node(peer_node)
    peer = Peer(peer_node, node, log)
    stopped = SpinningEnd()
    peer_thread = threading.Thread(target=lambda: executor.spin_until_future_complete(stopped))
    node_thread.start()
    peer_thread.start()
    try:
        yield Running(node, peer)
    except BaseException:
        print(f"the node is {node.state}; its last report: {peer.diagnostics[-1:]}")  # its log is in stderr
        raise
    finally:
        stop.set()
        node_thread.join(PATIENCE_S)
        finish(executor, stopped)
        peer_thread.join(PATIENCE_S)
        executor.shutdown()
        assert not node_thread.is_alive()
        assert not peer_thread.is_alive()
        await_discovery(peer_node, quiet_s=0.02)
        peer_node.destroy_node()
        await_discovery(node, quiet_s=0.02)  # of the peer's end
        node.destroy_node()
        rclpy.shutdown(context=peer_context)
        rclpy.shutdown(context=context)
    assert status == [0], "a callback of the node raised"
