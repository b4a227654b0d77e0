"""A page on a running node, from its topics: needs nothing of the node but that it publishes.

Each label image is shown with the camera's image, the confidence and the mask of the same stamp; beside it stands the
newest grid, where the node has one.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PolygonStamped
from lifecycle_msgs.srv import ChangeState
from nav_msgs.msg import OccupancyGrid
from numpy.typing import NDArray
from rcl_interfaces.msg import ParameterType
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from seg_perception.core.errors import InputError, SegPerceptionError
from seg_perception.core.grid import GridSpec
from seg_perception.core.image_message import decode_mono8
from seg_perception.core.label_set import LabelClass, LabelSet
from seg_perception.core.types import RgbImage, Size
from seg_perception.core.visual import draw_grid
from seg_perception.node_outputs import output
from seg_perception.ros import qos
from seg_perception.ros.context import ros_node
from seg_perception.ros.messages import check_topic_name, decode_compressed, decode_image, message_class, stamp_ns_of
from seg_perception.ros.node.page import GridPicture, live_sliders, parameter_for, possible_transitions, status_of
from seg_perception.view.board import Board, Slider, ViewFrame, ViewSettings
from seg_perception.view.server import ViewServer

_KEPT = 8  # outlines that are waited with
_KEPT_S, _KEPT_BYTES = 10.0, 256 << 20
"""Camera messages wait for their answers: those of so many seconds, which a slow engine takes, in so many bytes."""

_MOST_ASKED = 10  # rclpy keeps each question until it is answered, which a node that hangs never does
ANSWER_S = 20.0
"""How long the node's services are waited for, and then an answer of theirs."""


@dataclass
class _Parts:
    """What has come of one stamp.

    Attributes:
        since: when the first of it came, monotonic seconds.
        decode: gives the image; of most frames of a quick camera no answer ever comes.
        size: of all of it, in bytes.
        maps: labels, confidence, drivable.
    """

    since: float
    decode: Callable[[], RgbImage] | None = None
    size: int = 0
    maps: dict[str, Any] = field(default_factory=dict)


class NodeViewer:
    """Shows one node on a board; its callbacks run on the executor's thread.

    Args:
        node: of ours, for subscriptions and clients.
        name: the full name of the node that is shown.
    """

    def __init__(self, node: Node, name: str) -> None:
        self.board = Board(name, self)
        self._node, self._name = node, name
        self._status: dict[str, Any] = {}
        self._label_set: LabelSet | None = None
        self._model = ""
        self._values: dict[str, float] = {}
        self._asked: list[Any] = []  # and not answered yet
        self._cameras: dict[str, _CameraTopics] = {}
        self._numbers: Counter[str] = Counter()
        self._grid = _GridTopics(self)
        self._refused: set[str] = set()  # topics of which a message could not be shown
        self._clients = {
            "set": node.create_client(SetParameters, f"{name}/set_parameters"),
            "get": node.create_client(GetParameters, f"{name}/get_parameters"),
            "state": node.create_client(ChangeState, f"{name}/change_state"),
        }
        self.listen_to("/diagnostics", self._on_diagnostics, 10)
        self.listen_to("palette", self._on_palette, qos.latched())
        node.create_timer(1.0, self._ask_for_values)

    # --- what comes ---

    def listen_to(self, name: str, note: Callable[[Any], None], profile: QoSProfile | int, camera: str = "") -> Any:
        """A subscription to one of the node's outputs."""
        row = output(name)
        return self.listen(message_class(row.type), row.topic(camera, self._name), note, profile)

    def listen(self, kind: type[Any], topic: str, note: Callable[[Any], None], profile: QoSProfile | int) -> Any:
        """A subscription; a message that cannot be shown, anybody may send one, is told once and left out."""

        def heard(message: Any) -> None:
            try:
                note(message)
            except (SegPerceptionError, ValueError, KeyError, TypeError) as error:
                if topic not in self._refused:
                    self._refused.add(topic)
                    self._node.get_logger().warning(f"{topic}: messages that cannot be shown are left out: {error}")

        return self._node.create_subscription(kind, topic, heard, profile)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        status = status_of(message, self._name.lstrip("/"))
        if not status["tables"]:
            return
        self._status = status
        self.board.set_status(status)
        topics = {
            title.removeprefix("camera").strip(): table["topic"]
            for title, table in status["tables"].items()
            if title.startswith("camera") and table.get("topic")
        }
        if topics != {camera: seen.image_topic for camera, seen in self._cameras.items()}:
            for seen in self._cameras.values():
                seen.close()
            self._cameras = {camera: _CameraTopics(self, camera, topic) for camera, topic in topics.items()}
            self._grid.follow(False)
            self.board.set_cameras(tuple(topics))

    def _on_palette(self, message: String) -> None:
        self._label_set, self._model = label_set_of(message.data)

    def show(self, camera: str, stamp_ns: int, parts: _Parts) -> None:
        """All parts of a frame are there."""
        if self._label_set is None or parts.decode is None:
            return
        image, maps = parts.decode(), parts.maps
        size = Size.of(image)
        if any(Size.of(found) != size for found in maps.values()):
            raise InputError(f"labels, confidence and mask are not all of the image's size, {size}")
        if (highest := int(maps["labels"].max())) >= len(self._label_set):
            raise InputError(f"label {highest} is none of the palette's {len(self._label_set)} classes")
        self._numbers[camera] += 1
        self.board.offer(
            ViewFrame(
                camera, self._numbers[camera], stamp_ns, time.monotonic(), image, maps["labels"], maps["confidence"],
                maps["drivable"], self._label_set, self._model, self._grid.picture(stamp_ns),
            )
        )  # fmt: skip

    def _ask_for_values(self) -> None:
        client = self._clients["get"]
        for camera in self._cameras.values():
            camera.follow(self.board.watched(camera.name))
        self._grid.follow(any(map(self.board.watched, self._cameras)))
        if not client.service_is_ready():
            return
        names = [slider.name for slider in live_sliders(lambda _: 0.0)]

        def note(future: Any) -> None:
            values = future.result().values
            numbers = {ParameterType.PARAMETER_DOUBLE: "double_value", ParameterType.PARAMETER_INTEGER: "integer_value"}
            self._values = {
                name: getattr(value, numbers[value.type]) for name, value in zip(names, values) if value.type in numbers
            }

        self._asked = [asked for asked in self._asked if not asked.done()]
        if len(self._asked) >= _MOST_ASKED:
            client.remove_pending_request(self._asked.pop(0))
        self._asked.append(client.call_async(GetParameters.Request(names=names)))
        self._asked[-1].add_done_callback(note)

    # --- view.board.Controls ---

    def sliders(self) -> Sequence[Slider]:
        return live_sliders(self._values.get)

    def set_parameter(self, name: str, value: float) -> str:
        spec, typed = parameter_for(name, value)
        if spec is None:
            return f"{name}: no parameter that may change while the node runs"
        if not self._reachable("set"):
            return f"{self._name} cannot be reached: {name} was not set"
        request = SetParameters.Request(parameters=[Parameter(name, value=typed).to_parameter_msg()])
        answer = self._call("set", request)
        if answer is None:
            return f"{self._name} does not answer"
        if answer.results[0].successful:
            self._values[name] = typed
        return "" if answer.results[0].successful else str(answer.results[0].reason)

    def transitions(self) -> Sequence[str]:
        return possible_transitions(str(self._status.get("state", "")))

    def change_state(self, transition: str) -> str:
        if not self._reachable("state"):
            return f"{self._name} cannot be reached: {transition} was not asked for"
        request = ChangeState.Request()
        request.transition.label = transition
        answer = self._call("state", request)
        if answer is None:  # configuring takes as long as opening the engine
            return f"{self._name} has not answered yet: the state shows what comes of it"
        return "" if answer.success else f"{self._name} refused {transition}: its log says why"

    def pause(self, paused: bool) -> str:  # noqa: ARG002  a robot does not wait for a page
        return ""

    def step(self) -> str:
        return ""

    def _reachable(self, client: str) -> bool:
        """On a thread of the server; discovery may still be at it."""
        return bool(self._clients[client].wait_for_service(timeout_sec=ANSWER_S))

    def _call(self, client: str, request: Any) -> Any:
        """On a thread of the server; the executor's thread brings the answer."""
        done = threading.Event()
        future = self._clients[client].call_async(request)
        future.add_done_callback(lambda _: done.set())
        return future.result() if done.wait(ANSWER_S) else None

    @property
    def node(self) -> Node:
        return self._node


class _CameraTopics:
    """Subscriptions to one camera and the node's answers to it, while somebody looks."""

    def __init__(self, viewer: NodeViewer, name: str, image_topic: str) -> None:
        self.name, self.image_topic = name, image_topic
        self._viewer = viewer
        self._subscriptions: list[Any] = []
        self._parts: OrderedDict[int, _Parts] = OrderedDict()

    def follow(self, watched: bool) -> None:
        if watched == bool(self._subscriptions):
            return
        if not watched:
            self.close()
            return
        compressed = self.image_topic.endswith("/compressed")
        kind, decode = (CompressedImage, decode_compressed) if compressed else (Image, decode_image)
        profile = qos.profile("best_effort", 2)
        self._subscriptions = [
            self._viewer.listen(kind, self.image_topic, lambda m: self._on_image(m, decode), profile),
            *(
                self._viewer.listen_to(part, partial(self._on_map, part), 2, self.name)
                for part in ("labels", "confidence", "drivable")
            ),
        ]

    def close(self) -> None:
        for subscription in self._subscriptions:
            self._viewer.node.destroy_subscription(subscription)
        self._subscriptions, self._parts = [], OrderedDict()

    def _on_image(self, message: Any, decode: Callable[[Any], RgbImage]) -> None:
        self._part(message).decode = partial(decode, message)
        self._complete(stamp_ns_of(message.header))

    def _on_map(self, part: str, message: Any) -> None:
        self._part(message).maps[part] = np.array(decode_mono8(message))
        self._complete(stamp_ns_of(message.header))

    def _part(self, message: Any) -> _Parts:
        now, held = time.monotonic(), sum(parts.size for parts in self._parts.values())
        while self._parts and (held > _KEPT_BYTES or now - next(iter(self._parts.values())).since > _KEPT_S):
            held -= self._parts.popitem(last=False)[1].size
        parts = self._parts.setdefault(stamp_ns_of(message.header), _Parts(now))
        parts.size += len(message.data)
        return parts

    def _complete(self, stamp_ns: int) -> None:
        parts = self._parts.get(stamp_ns)
        if parts is None or parts.decode is None or len(parts.maps) < 3:
            return
        while self._parts.popitem(last=False)[0] != stamp_ns:  # those of before got no answer: superseded, or lost
            pass
        self._viewer.show(self.name, stamp_ns, parts)


class _GridTopics:
    """Subscriptions to the grid of all cameras and what is read from it, while somebody looks."""

    def __init__(self, viewer: NodeViewer) -> None:
        self._viewer = viewer
        self._forget()

    def _forget(self) -> None:
        self._subscriptions: list[Any] = []
        self._outlines: OrderedDict[int, NDArray[np.float64]] = OrderedDict()  # of the last stamps
        self._distances: list[float] = []  # since the last grid: they carry no stamp
        self._newest: tuple[Callable[[str], RgbImage], int] | None = None  # draws the grid; its stamp

    def picture(self, frame_ns: int) -> Mapping[str, RgbImage]:
        """What stands beside a frame: nothing where the node makes no grid."""
        return {} if self._newest is None else GridPicture(*self._newest, frame_ns)

    def follow(self, watched: bool) -> None:
        if watched == bool(self._subscriptions):
            return
        viewer = self._viewer
        if not watched:
            for subscription in self._subscriptions:
                viewer.node.destroy_subscription(subscription)
            self._forget()
            return
        self._subscriptions = [
            viewer.listen_to("free_distance", lambda m: self._distances.append(m.data), 2),
            viewer.listen_to("free_space", self._on_outline, 2),
            viewer.listen_to("drivable_grid", self._on_grid, 2),
        ]

    def _on_outline(self, message: PolygonStamped) -> None:
        corners = [(corner.x, corner.y) for corner in message.polygon.points]
        self._outlines[stamp_ns_of(message.header)] = np.array(corners, np.float64).reshape(-1, 2)
        while len(self._outlines) > _KEPT:
            self._outlines.popitem(last=False)

    def _on_grid(self, message: OccupancyGrid) -> None:
        distances, self._distances = self._distances, []
        distance = distances[0] if len(distances) == 1 else None  # else nobody knows which is this grid's
        stamp_ns, spec, outlines = stamp_ns_of(message.header), GridSpec.of(message.info), self._outlines
        cells = np.array(message.data, np.int8).reshape(spec.height, spec.width)
        self._newest = lambda note: draw_grid(spec, cells, None, outlines.get(stamp_ns), distance, note), stamp_ns


def label_set_of(palette: str) -> tuple[LabelSet, str]:
    """The label set and the model's id in a message of `~/palette`."""
    document = json.loads(palette)
    rows = document["classes"]
    classes = tuple(
        LabelClass(int(row["id"]), str(row["name"]), tuple(row["color"]), bool(row.get("drivable"))) for row in rows
    )
    return LabelSet(str(document["label_set"]), classes), str(document["model"])


def view_node(name: str, settings: ViewSettings, stop: threading.Event, on_url: Callable[[str], object]) -> None:
    """Serve a page on a running node until `stop` is set.

    Raises:
        SegPerceptionError: the port cannot be had, or no node can have this name.
    """
    full = "/" + name.strip("/")
    check_topic_name(full, "node")
    with ros_node("seg_perception_view") as node:
        viewer = NodeViewer(node, full)
        executor = SingleThreadedExecutor(context=node.context)
        executor.add_node(node)
        with ViewServer(viewer.board, settings) as server:
            on_url(server.url)
            while not stop.is_set():
                executor.spin_once(timeout_sec=0.2)
        executor.shutdown()
