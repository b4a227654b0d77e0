"""The page that the node itself serves (parameter view.port), and what diagnostics look like on a page.

Without a page nothing is done: a frame is handed over only while a page looks at its camera.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import Executor
from rclpy.parameter import Parameter

from seg_perception.core.errors import EngineError
from seg_perception.core.meters import GridAnswer
from seg_perception.core.types import MaskImage, RgbImage, Segmentation
from seg_perception.core.visual import draw_grid
from seg_perception.node_settings import PARAMETERS, PageSettings, ParameterSpec
from seg_perception.ros.log import describe_error
from seg_perception.ros.node.diagnostics import TRANSITIONS
from seg_perception.view.board import Board, Slider, ViewFrame, ViewSettings
from seg_perception.view.server import ViewServer

if TYPE_CHECKING:
    from seg_perception.ros.node.lifecycle import SegmentationNode

SILENT_S = 5.0
"""Diagnostics come every second; a state that is older than this is not the node's any more."""

_LEVELS = ("OK", "WARN", "ERROR", "STALE")
_SLIDER_CEILING = 1000.0  # a parameter that may be larger is no matter of a slider


def status_of(message: DiagnosticArray, node: str) -> dict[str, Any]:
    """What a page shows of the diagnostics of one node.

    Args:
        node: its full name without the leading slash; statuses of others are left out.
    """
    ours = [status for status in message.status if status.name.startswith(f"{node}: ")]
    tables = {
        status.name.removeprefix(f"{node}: "): {"": status.message, **{pair.key: pair.value for pair in status.values}}
        for status in ours
    }
    level = max((ord(status.level) for status in ours), default=0)
    found: dict[str, Any] = {"level": _LEVELS[min(level, 3)], "tables": tables, "silent_s": SILENT_S}
    for table in tables.values():
        if "lifecycle_state" in table:
            found["state"] = table["lifecycle_state"]
        times = [table.get(f"latency_node_{name}_ms", "") for name in ("p50", "p95")]
        if "latency_ms" not in found and all(_is_number(text) for text in times):
            found["latency_ms"] = {"p50": float(times[0]), "p95": float(times[1])}
    return found


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def live_sliders(value_of: Callable[[str], Any]) -> list[Slider]:
    """The parameters that may change while the node runs and have a range, with their values."""
    return [
        Slider(spec.name, spec.description, float(value), spec.minimum, spec.maximum, type(spec.default) is int)
        for spec in PARAMETERS
        if spec.live and spec.minimum is not None and spec.maximum is not None and spec.maximum <= _SLIDER_CEILING
        if type(value := value_of(spec.name)) in (int, float) and math.isfinite(value)
    ]


def parameter_for(name: str, value: float) -> tuple[ParameterSpec | None, Any]:
    """The node's own parameter of that name, and the value in its type; None if it is none of them."""
    spec = next((spec for spec in PARAMETERS if spec.name == name and spec.live), None)
    return spec, round(value) if spec is not None and type(spec.default) is int else value


def possible_transitions(state: str) -> Sequence[str]:
    """Names of the transitions that a lifecycle state has."""
    return tuple(name for name in TRANSITIONS.get(state, ()) if name != "shutdown")  # a page does not end the node


class GridPicture(Mapping[str, RgbImage]):
    """The grid as a frame's further picture, drawn when a page asks for it.

    Args:
        draw: takes a line to write below it, see `draw_grid`.
        grid_ns: the stamp of the grid.
        frame_ns: the stamp of the frame beside which it stands; masks do not wait for the grid.
    """

    def __init__(self, draw: Callable[[str], RgbImage], grid_ns: int, frame_ns: int) -> None:
        self._draw, self._older_ms = draw, round((frame_ns - grid_ns) / 1e6)

    def __getitem__(self, name: str) -> RgbImage:
        if name != "grid":
            raise KeyError(name)
        return self._draw(f"{self._older_ms} ms older than the frame" if self._older_ms > 0 else "")

    def __iter__(self) -> Iterator[str]:
        return iter(("grid",))

    def __len__(self) -> int:
        return 1


class NodePage:
    """Serves the node's page from its own process.

    Raises:
        SegPerceptionError: the port cannot be had.
    """

    def __init__(self, node: SegmentationNode, settings: PageSettings) -> None:
        self._node = node
        self.settings = settings
        self._numbers: dict[str, int] = {}
        self._cameras: tuple[str, ...] = ()
        self._grid: tuple[Callable[[str], RgbImage], int] | None = None  # draws the newest; its stamp
        self.board = Board(node.get_fully_qualified_name(), self)
        self._server = ViewServer(
            self.board, ViewSettings(settings.port, settings.address, settings.rate, settings.control)
        )
        node.get_logger().info(f"the page of this node: {self._server.url}")

    def close(self) -> None:
        """Stop serving."""
        self._server.close()

    def set_cameras(self, names: Iterable[str]) -> None:
        self._cameras, self._grid = tuple(names), None
        self.board.set_cameras(self._cameras)

    def watches_grid(self) -> bool:
        """Whether any page looks, on the meters' thread."""
        return any(map(self.board.watched, self._cameras))

    def show_grid(self, grid: GridAnswer, stamp_ns: int) -> None:
        """The newest grid; it stands beside the frames that come from now on."""
        self._grid = lambda note: draw_grid(grid.spec, grid.cells, None, grid.outline, grid.distance, note), stamp_ns

    def show(
        self,
        camera: str,
        stamp_ns: int,
        decode: Callable[[], RgbImage],
        segmentation: Segmentation,
        mask: MaskImage,
        card: Any,
    ) -> None:
        """On the publishing thread, for each frame: costs nothing unless a page looks at this camera."""
        if not self.board.watched(camera):
            return
        number = self._numbers[camera] = self._numbers.get(camera, 0) + 1
        self.board.offer(
            ViewFrame(
                camera, number, stamp_ns, time.monotonic(), decode(), segmentation.labels, segmentation.confidence,
                mask, card.label_set, card.id, {} if self._grid is None else GridPicture(*self._grid, stamp_ns),
            )
        )  # fmt: skip

    def tell(self, message: DiagnosticArray) -> None:
        """The diagnostics that go out now."""
        self.board.set_status(status_of(message, self._node.get_fully_qualified_name().lstrip("/")))

    # --- view.board.Controls, on the server's threads ---

    def sliders(self) -> Sequence[Slider]:
        return live_sliders(lambda name: self._node.get_parameter(name).value)

    def set_parameter(self, name: str, value: float) -> str:
        spec, typed = parameter_for(name, value)
        if spec is None:
            return f"{name}: no parameter that may change while the node runs"
        result = self._on_executor(lambda: self._node.set_parameters([Parameter(name, value=typed)])[0])
        return "" if result.successful else str(result.reason)

    def transitions(self) -> Sequence[str]:
        return possible_transitions(self._node.state)

    def change_state(self, transition: str) -> str:
        if transition not in self.transitions():
            return f"{transition}: not possible while {self._node.state}"
        # configuring may take minutes; log and status say what came of it, also where another was quicker
        self._executor().create_task(self._node.transitions.make, transition)
        return ""

    def pause(self, paused: bool) -> str:  # noqa: ARG002  a robot does not wait for a page
        return ""

    def step(self) -> str:
        return ""

    def _executor(self) -> Executor:
        if (executor := self._node.executor) is None:
            raise EngineError("the node ends")
        return executor

    def _on_executor(self, call: Callable[[], Any]) -> Any:
        answer: Future[Any] = Future()

        def run() -> None:
            try:
                answer.set_result(call())
            except Exception as error:  # noqa: BLE001  whatever a page asked for, the node goes on
                answer.set_exception(EngineError(f"the node cannot do that: {describe_error(error)}"))

        self._executor().create_task(run)
        try:
            return answer.result(5.0)
        except FutureTimeoutError:
            raise EngineError("the node did not answer within 5 s") from None
