"""Writes labels, a model's or a dataset's, as annotations that other tools open: CVAT, labelme, COCO.

A label image's regions become what an annotator drags or paints: polygons, or masks of every pixel. Polygons have no
holes. They are given from the largest to the smallest, so that what lies in a hole covers it; a region around pixels
that nothing is known of is cut, so that they stay uncovered.
"""

from __future__ import annotations

import base64
import json
import os
import xml.etree.ElementTree as ET
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, ClassVar, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from seg_perception.core.errors import DatasetError, SettingsError
from seg_perception.core.files import make_folder, make_room_for, write_atomically
from seg_perception.core.label_set import LabelSet, load_label_mapping
from seg_perception.core.types import UNLABELED, LabelImage, parse_choice, parse_fields
from seg_perception.datasets.base import describe_left_out
from seg_perception.datasets.convert.coco import to_text
from seg_perception.datasets.folder import folder_pairs


class ShapeKind(Enum):
    """How a region is written: corners to drag, or every pixel."""

    POLYGON = "polygon"
    MASK = "mask"


@dataclass(frozen=True, slots=True)
class ShapeSettings:
    """What becomes a shape.

    Attributes:
        kind: polygons or masks.
        tolerance: how far a polygon's side may lie from the region's edge, in pixels; 0 keeps every corner.
        least_pixels: smaller regions are left out (and counted).
    """

    kind: ShapeKind = ShapeKind.POLYGON
    tolerance: float = 1.0
    least_pixels: int = 20

    def __post_init__(self) -> None:
        parse_fields(self, kind=partial(parse_choice, ShapeKind, name="kind"))
        faults = []
        if not 0 <= self.tolerance <= 100:
            faults.append(f"tolerance: {self.tolerance} is not in 0 to 100")
        if self.least_pixels < 0:
            faults.append(f"least_pixels: {self.least_pixels} is below 0")
        if faults:
            raise SettingsError("\n".join(faults))


@dataclass(frozen=True, slots=True)
class Region:
    """One connected region of a class: its pixels in their bounding box, 1 inside, uint8 [h, w]."""

    name: str
    mask: NDArray[np.uint8]
    left: int
    top: int

    @property
    def pixels(self) -> int:
        return int(np.count_nonzero(self.mask))

    def corners(self, tolerance: float, on_edges: bool) -> NDArray[np.float64]:
        """The outline, [N, 2] of x and y: through the centers of its outer pixels, or along their edges."""
        mask = cv2.resize(self.mask, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST) if on_edges else self.mask
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        outline = max(contours, key=len)
        if tolerance:
            simpler = cv2.approxPolyDP(outline, tolerance * (2 if on_edges else 1), closed=True)
            outline = simpler if len(simpler) >= 3 else outline
        points = outline.reshape(-1, 2).astype(np.float64)
        points = (points + 0.5) / 2 if on_edges else points
        if len(points) < 3:  # a dot or a line: give it the three corners that a polygon needs
            points = np.concatenate([points, points[:1], points[-1:]])[:3]
        return np.asarray(points + np.array([self.left, self.top]), np.float64)


@dataclass(frozen=True, slots=True)
class Regions:
    """What a label image becomes.

    Attributes:
        shapes: from the largest to the smallest.
        left_out: regions that were too small, and their pixels.
    """

    shapes: list[Region]
    left_out: int
    left_out_pixels: int


def regions_of(labels: LabelImage, label_set: LabelSet, settings: ShapeSettings) -> Regions:
    """The regions of every class; neighbors by their sides only.

    Then no region reaches through a corner into the hole of another.
    """
    shapes: list[Region] = []
    small = small_pixels = 0
    for c in label_set.classes:
        count, numbers, stats, _ = cv2.connectedComponentsWithStats((labels == c.id).astype(np.uint8), connectivity=4)
        for index in range(1, count):
            left, top, width, height, pixels = (int(value) for value in stats[index])
            if pixels < settings.least_pixels:
                small, small_pixels = small + 1, small_pixels + pixels
                continue
            box = np.s_[top : top + height, left : left + width]
            region = Region(c.name, (numbers[box] == index).astype(np.uint8), left, top)
            if settings.kind is ShapeKind.POLYGON:
                shapes += _cut_open(region, labels[box] == UNLABELED)
            else:
                shapes.append(region)
    shapes.sort(key=lambda region: -region.mask.size)  # what lies in a hole has the smaller box
    return Regions(shapes, small, small_pixels)


def _cut_open(region: Region, unknown: NDArray[np.bool_]) -> Iterator[Region]:
    """The region, cut from top to bottom until no part encloses unknown pixels."""
    waiting = [(region, unknown)]
    while waiting:
        part, open_ = waiting.pop()
        columns = np.flatnonzero((_holes(part.mask) & open_).any(axis=0)) if open_.any() else open_[:0, 0]
        if not columns.size:
            yield part
            continue
        cut = int(columns[len(columns) // 2]) + 1
        for begin, end in ((0, cut), (cut, part.mask.shape[1])):
            piece = np.ascontiguousarray(part.mask[:, begin:end])
            count, numbers, stats, _ = cv2.connectedComponentsWithStats(piece, connectivity=4)
            for index in range(1, count):
                left, top, width, height = (int(value) for value in stats[index][:4])
                box = np.s_[top : top + height, left : left + width]
                mask = (numbers[box] == index).astype(np.uint8)
                inner = Region(part.name, mask, part.left + begin + left, part.top + top)
                waiting.append((inner, open_[:, begin:end][box]))


def _holes(mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where a region's outline encloses what is not of it, [h, w]: outlines pass from corner to corner."""
    around = np.pad(1 - mask, 1, constant_values=1)
    _, numbers = cv2.connectedComponents(around, connectivity=4)
    return np.asarray((numbers[1:-1, 1:-1] != numbers[0, 0]) & (mask == 0))


@dataclass(frozen=True, slots=True)
class Labeled:
    """A picture's file, its labels, uint8 [H, W] class ids, and the name by which the tool knows it.

    Attributes:
        name: a path below the folder of the pictures; empty: the file's own name.
    """

    image: Path
    labels: LabelImage
    name: str = ""


@dataclass(frozen=True, slots=True)
class AnnotationReport:
    """What was written.

    Attributes:
        images: annotated pictures.
        shapes: polygons or masks, of all pictures.
        left_out: regions that were too small.
        left_out_pixels: pixels of those.
    """

    images: int
    shapes: int
    left_out: int
    left_out_pixels: int

    def text(self, settings: ShapeSettings) -> str:
        """For people, in one line."""
        small = (
            f"; {self.left_out} regions of under {settings.least_pixels} pixels left out ({self.left_out_pixels} "
            "pixels)"
        )
        return f"{self.images} images, {self.shapes} shapes{small if self.left_out else ''}"


class Export(ABC):
    """Takes pictures one by one, and writes them in one format.

    Args:
        out: the file, or for labelme the folder.
        label_set: the classes.
        settings: what becomes a shape.
    """

    file_name: ClassVar[str]
    """What `out` is called where nobody says it."""

    def __init__(self, out: Path, label_set: LabelSet, settings: ShapeSettings) -> None:
        self.out, self.label_set, self.settings = out, label_set, settings
        self._images = self._shapes = self._left_out = self._left_out_pixels = 0

    def add(self, item: Labeled) -> None:
        """Take one picture.

        Raises:
            DatasetError: a label that the label set does not have.
            OSError: it cannot be written.
        """
        unknown = sorted(set(np.unique(item.labels).tolist()) - {*range(len(self.label_set)), UNLABELED})
        if unknown:
            raise DatasetError(f"{item.image}: label {unknown[0]} is no class of {self.label_set.name!r}")
        found = regions_of(item.labels, self.label_set, self.settings)
        self._write(item, PurePosixPath(item.name or item.image.name), found.shapes)
        self._images, self._shapes = self._images + 1, self._shapes + len(found.shapes)
        self._left_out += found.left_out
        self._left_out_pixels += found.left_out_pixels

    def finish(self) -> AnnotationReport:
        """Write what is left to write.

        Raises:
            OSError: it cannot be written.
        """
        self._finish()
        return AnnotationReport(self._images, self._shapes, self._left_out, self._left_out_pixels)

    @abstractmethod
    def _write(self, item: Labeled, name: PurePosixPath, regions: list[Region]) -> None: ...

    @abstractmethod
    def _finish(self) -> None: ...


class CvatExport(Export):
    """CVAT for images 1.1: one XML file."""

    file_name = "pre_labels.xml"

    def __init__(self, out: Path, label_set: LabelSet, settings: ShapeSettings) -> None:
        super().__init__(out, label_set, settings)
        self._root = ET.Element("annotations")
        ET.SubElement(self._root, "version").text = "1.1"
        labels = ET.SubElement(ET.SubElement(ET.SubElement(self._root, "meta"), "task"), "labels")
        for c in label_set.classes:
            label = ET.SubElement(labels, "label")
            ET.SubElement(label, "name").text = c.name
            ET.SubElement(label, "color").text = "#{:02x}{:02x}{:02x}".format(*c.color)

    def _write(self, item: Labeled, name: PurePosixPath, regions: list[Region]) -> None:
        height, width = item.labels.shape
        place = {"id": str(self._images), "name": str(name), "width": str(width), "height": str(height)}
        image = ET.SubElement(self._root, "image", place)
        for order, region in enumerate(regions):
            common = {"label": region.name, "source": "auto", "occluded": "0", "z_order": str(order)}
            if self.settings.kind is ShapeKind.MASK:
                rows, columns = region.mask.shape
                box = {"left": region.left, "top": region.top, "width": columns, "height": rows}
                runs = ", ".join(map(str, _runs(region.mask.reshape(-1))))
                ET.SubElement(image, "mask", {**common, "rle": runs, **{key: str(value) for key, value in box.items()}})
            else:
                corners = region.corners(self.settings.tolerance, on_edges=True)
                ET.SubElement(image, "polygon", {**common, "points": ";".join(f"{x:.2f},{y:.2f}" for x, y in corners)})

    def _finish(self) -> None:
        ET.indent(self._root)
        write_atomically(self.out, ET.tostring(self._root, encoding="utf-8", xml_declaration=True))


class LabelmeExport(Export):
    """labelme: a folder of JSON files, one a picture, that name the pictures where they are."""

    file_name = "pre_labels"

    def _write(self, item: Labeled, name: PurePosixPath, regions: list[Region]) -> None:
        file = self.out / name.with_suffix(".json")
        make_folder(file.parent)
        height, width = item.labels.shape
        document: dict[str, Any] = {
            "version": "5.5.0",
            "flags": {},
            "shapes": [self._shape(region) for region in regions],
            "imagePath": os.path.relpath(item.image, file.parent),
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        write_atomically(file, json.dumps(document, indent=1).encode())

    def _shape(self, region: Region) -> dict[str, Any]:
        shape: dict[str, Any] = {"label": region.name, "group_id": None, "description": "", "flags": {}}
        if self.settings.kind is ShapeKind.POLYGON:
            corners = region.corners(self.settings.tolerance, on_edges=False)
            return shape | {"shape_type": "polygon", "points": corners.tolist()}
        height, width = region.mask.shape
        encoded = cv2.imencode(".png", region.mask * np.uint8(255))[1].tobytes()
        return shape | {
            "shape_type": "mask",
            "points": [[region.left, region.top], [region.left + width - 1, region.top + height - 1]],
            "mask": base64.b64encode(encoded).decode(),
        }

    def _finish(self) -> None:
        make_folder(self.out)


class CocoExport(Export):
    """COCO: one JSON file."""

    file_name = "pre_labels.json"

    def __init__(self, out: Path, label_set: LabelSet, settings: ShapeSettings) -> None:
        super().__init__(out, label_set, settings)
        self._entries: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def _write(self, item: Labeled, name: PurePosixPath, regions: list[Region]) -> None:
        height, width = item.labels.shape
        self._entries.append({"id": self._images + 1, "file_name": str(name), "width": width, "height": height})
        for region in regions:
            rows, columns = region.mask.shape
            segmentation: Any
            if self.settings.kind is ShapeKind.MASK:
                whole = np.zeros((height, width), np.uint8)
                whole[region.top : region.top + rows, region.left : region.left + columns] = region.mask
                segmentation = {"size": [height, width], "counts": to_text(_runs(whole.T.reshape(-1)))}
            else:
                segmentation = [region.corners(self.settings.tolerance, on_edges=True).round(2).reshape(-1).tolist()]
            self._annotations.append(
                {
                    "id": len(self._annotations) + 1,
                    "image_id": self._images + 1,
                    "category_id": self.label_set.id_of(region.name) + 1,
                    "segmentation": segmentation,
                    "area": region.pixels,
                    "bbox": [region.left, region.top, columns, rows],
                    "iscrowd": 0,
                }
            )

    def _finish(self) -> None:
        categories = [{"id": c.id + 1, "name": c.name, "supercategory": ""} for c in self.label_set.classes]
        document = {"images": self._entries, "annotations": self._annotations, "categories": categories}
        write_atomically(self.out, json.dumps(document).encode())


def _runs(flat: NDArray[np.uint8]) -> list[int]:
    """Run lengths of 0 and 1 in turn, beginning with 0."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [1 - flat[-1]]])))
    return [int(run) for run in np.diff(np.concatenate([[0], edges]))]


EXPORTS: Final[Mapping[str, type[Export]]] = MappingProxyType(
    {"cvat": CvatExport, "labelme": LabelmeExport, "coco": CocoExport}
)


def export_type(name: str) -> type[Export]:
    """The export of a name.

    Raises:
        SettingsError: there is none.
    """
    if name not in EXPORTS:
        raise SettingsError(f"no format {name!r} to export; known: {', '.join(EXPORTS)}")
    return EXPORTS[name]


def export_labels(
    images: str | Path,
    labels: str | Path,
    out: str | Path,
    format: str,  # noqa: A002 - as the command's option
    mapping: str | Path | None = None,
    settings: ShapeSettings | None = None,
) -> tuple[AnnotationReport, str]:
    """Write label files as annotations that another tool opens; `convert_dataset` brings them back.

    Args:
        images: folder of the pictures.
        labels: folder of label files of the same names.
        out: a file; for "labelme" a folder.
        format: "cvat", "coco" or "labelme".
        mapping: what the label files hold: a shipped name or a YAML file; None: the mapping.yaml beside their folder,
            as `convert_dataset` writes it, or our ids ("identity") where there is none.
        settings: what becomes a shape.

    Returns:
        What was written, and notes, a line each: images that were left out, a mapping.yaml that was found.

    Raises:
        DatasetError: a folder is missing or empty, an image has no label file, or a file cannot be read.
        SettingsError: an unknown format or mapping.
        OSError: it cannot be written.
    """
    images, labels, out = Path(images), Path(labels), Path(out)
    beside = labels.parent / "mapping.yaml"
    found = mapping is None and beside.is_file()
    dataset = folder_pairs(images, labels, load_label_mapping(beside if found else mapping or "identity"))
    export_type(format)
    if format != "labelme":
        make_room_for(out)
    items = (
        Labeled(pair.image, dataset.load(index).labels, pair.image.relative_to(images).as_posix())
        for index, pair in enumerate(dataset.pairs)
    )
    report = write_annotations(format, items, dataset.label_set, out, settings)
    notes = [describe_left_out(dataset.left_out), f"labels read by {beside}" if found else ""]
    return report, "\n".join(filter(None, notes))


def write_annotations(
    name: str, items: Iterable[Labeled], label_set: LabelSet, out: Path, settings: ShapeSettings | None = None
) -> AnnotationReport:
    """Write labels in a format: "cvat" and "coco" one file, "labelme" a folder of files.

    Raises:
        SettingsError: an unknown format.
        DatasetError: a label that the label set does not have.
        OSError: it cannot be written.
    """
    export = export_type(name)(out, label_set, settings or ShapeSettings())
    for item in items:
        export.add(item)
    return export.finish()
