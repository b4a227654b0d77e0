"""Meters from a bag: its own /tf, /tf_static and camera_info tell where each camera was at each image."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from seg_perception.bags import messages
from seg_perception.bags.reader import BagReader
from seg_perception.core.drivable import DrivableSettings
from seg_perception.core.errors import InputError
from seg_perception.core.grid import Cells, GridRules
from seg_perception.core.grid_table import GridTable
from seg_perception.core.ground import CameraPose, TransformBuffer
from seg_perception.core.label_set import LabelSet
from seg_perception.core.meters import CameraMeters, MetersSettings, PointsAnswer, SharedGrid
from seg_perception.core.optics import camera_model
from seg_perception.core.types import MaskImage, Segmentation, Size
from seg_perception.node_outputs import GridOutput, PointsOutput, grid_outputs, points_outputs

_NUMBER = re.compile(r"-?\d[\d.]*(e-?\d+)?|nan|inf")


def meters_outputs() -> dict[str, GridOutput | PointsOutput]:
    """The rows of the outputs table that are made of meters, by name."""
    rows: tuple[GridOutput | PointsOutput, ...] = (*grid_outputs(), *points_outputs())
    return {row.name: row for row in rows}


@dataclass(slots=True)
class _Camera:
    meters: CameraMeters
    rules: GridRules
    infos: dict[int, Any] = field(default_factory=dict)
    part: tuple[int, Cells, GridTable] | None = None  # stamp


class BagMeters:
    """Makes the wanted outputs of each image.

    Args:
        bag: read once for transforms and calibrations, whenever they were recorded.
        cameras: image topic -> prefix of its outputs.
        names: image topic -> the camera's name.
        wanted: of `meters_outputs`.
        drivable: image topic -> how its mask was judged.
    """

    def __init__(
        self,
        bag: BagReader,
        settings: MetersSettings,
        cameras: Mapping[str, str],
        names: Mapping[str, str],
        prefix: str,
        wanted: tuple[str, ...],
        label_set: LabelSet,
        drivable: Mapping[str, DrivableSettings],
    ) -> None:
        self._settings, self._prefixes, self._prefix, self._names = settings, cameras, prefix, names
        rows = meters_outputs()
        self._grid_rows = [row for name in wanted if isinstance(row := rows[name], GridOutput)]
        self._points_rows = [row for name in wanted if isinstance(row := rows[name], PointsOutput)]
        self._on = [topic for topic in cameras if settings.mount_of(names[topic]).source != "off"]
        self.without: Counter[str] = Counter()  # images without meters, by reason
        self._reasons: dict[tuple[str, str], str] = {}
        self._shared = SharedGrid(settings.grid)
        self._cameras = {
            topic: _Camera(
                CameraMeters(settings.grid, settings.points_size),
                GridRules(settings.grid, label_set, drivable[topic].classes, drivable[topic].min_confidence),
            )
            for topic in self._on
        }
        self._transforms = TransformBuffer(kept_ns=None)
        self._read(bag)

    def _read(self, bag: BagReader) -> None:
        present = {topic.name for topic in bag.topics}
        infos: dict[str, list[str]] = {}
        for topic in self._on:
            infos.setdefault(info_topic(topic), []).append(topic)
        needs_tf = any(self._settings.mount_of(self._names[topic]).source == "tf" for topic in self._on)
        wanted = {*infos, *(("/tf", "/tf_static") if needs_tf else ())} & present
        if not wanted:
            return
        for message in bag.messages(sorted(wanted)):
            decoded = bag.decode(message)
            name = message.topic.name
            if name in infos:
                for topic in infos[name]:
                    self._cameras[topic].infos[messages.stamp_ns_of(decoded)] = decoded
            else:
                for refused in self._transforms.add_message(decoded, static=name == "/tf_static"):
                    self._miss(f"a transform on {name} is refused", refused)

    def _miss(self, what: str, reason: str) -> None:
        """Reasons that differ only in numbers are one; the first's are kept."""
        self.without[self._reasons.setdefault((what, _NUMBER.sub("#", reason)), f"{what}: {reason}")] += 1

    def topics(self) -> dict[str, str]:
        """The topics that are written, with their types."""
        if not self._on:
            return {}
        grid = {row.topic(node=self._prefix): row.type for row in self._grid_rows}
        points = {f"{self._prefixes[t]}/{row.name}": row.type for t in self._on for row in self._points_rows}
        return grid | points

    def make(
        self, topic: str, header: Any, answer: Segmentation, mask: MaskImage, ignored: MaskImage | None
    ) -> Iterator[tuple[str, Any]]:
        """The messages of one image, each with its topic; none, and counted, where its place is not known."""
        if topic not in self._cameras:
            return
        camera = self._cameras[topic]
        stamp_ns = int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)
        try:
            self._place(topic, camera, header, stamp_ns, Size.of(answer.labels))
        except InputError as error:
            self._miss(topic, str(error))
            return
        camera.meters.look(answer, mask, camera.rules, ignored)
        if self._points_rows:
            points = PointsAnswer(self._settings.frame, camera.meters, answer)
            for row in self._points_rows:
                yield f"{self._prefixes[topic]}/{row.name}", messages.build(row.type, row.make(points), header)
        if self._grid_rows:
            assert camera.meters.table is not None
            camera.part = stamp_ns, camera.meters.cells(answer, camera.rules), camera.meters.table
            parts = {
                name: c.part
                for name, c in self._cameras.items()
                if c.part is not None and abs(stamp_ns - c.part[0]) <= 1e9 * self._settings.part_max_age_s
            }
            grid = self._shared.merged(self._settings.frame, {name: part[1:] for name, part in parts.items()})
            newest = messages.header(max(part[0] for part in parts.values()), header.frame_id)
            for grid_row in self._grid_rows:
                made = messages.build(grid_row.type, grid_row.make(grid), newest)
                yield grid_row.topic(node=self._prefix), made

    def _place(self, topic: str, camera: _Camera, header: Any, stamp_ns: int, size: Size) -> None:
        info = camera.infos.get(stamp_ns)
        if info is None:
            apart = min((abs(stamp - stamp_ns) for stamp in camera.infos), default=None)
            nearest = "none is there" if apart is None else "other stamps are there"
            raise InputError(f"no camera_info on {info_topic(topic)} has the image's stamp ({nearest})")
        mount = self._settings.mount_of(self._names[topic])
        pose: CameraPose
        if mount.source == "fixed":
            pose = mount.pose()
        else:
            pose = self._transforms.pose(self._settings.frame, header.frame_id, stamp_ns)
        camera.meters.place(camera_model(info, size, mount.rectified), pose)


def info_topic(image_topic: str) -> str:
    """Where the camera_info of an image topic is expected: beside it, and beside the raw one of a compressed one."""
    return f"{image_topic.removesuffix('/compressed').rpartition('/')[0]}/camera_info"
