"""Writes labels, a model's or a dataset's, as annotations that other tools open: CVAT, labelme, COCO.

Each region of one class becomes a polygon, or a mask. Polygons have no holes: they are given from the largest to the
smallest, so that what lies in a hole covers it.
"""

from __future__ import annotations

import base64
import json
import os
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from seg_perception.core.errors import DatasetError, SettingsError
from seg_perception.core.files import write_atomically
from seg_perception.core.label_set import LabelSet
from seg_perception.core.types import UNLABELED, LabelImage
from seg_perception.datasets.convert.coco import to_text


class ShapeKind(Enum):
    """How a region is written: corners to drag, or every pixel."""

    POLYGON = "polygon"
    MASK = "mask"


@dataclass(frozen=True, slots=True)
class ExportSettings:
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
        faults = []
        if not 0 <= self.tolerance <= 100:
            faults.append(f"tolerance: {self.tolerance} is not in 0 to 100")
        if self.least_pixels < 0:
            faults.append(f"least_pixels: {self.least_pixels} is below 0")
        if faults:
            raise SettingsError("\n".join(faults))


@dataclass(frozen=True, slots=True)
class Labeled:
    """A picture's file and its labels, uint8 [H, W] class ids."""

    image: Path
    labels: LabelImage


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written: pictures, shapes, and regions that were too small."""

    images: int
    shapes: int
    left_out: int


@dataclass(frozen=True, slots=True)
class _Region:
    """One connected region of a class: its pixels in their bounding box, 1 inside, uint8 [h, w]."""

    name: str
    mask: NDArray[np.uint8]
    left: int
    top: int
    pixels: int

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


def _regions(labels: LabelImage, label_set: LabelSet, settings: ExportSettings) -> tuple[list[_Region], int]:
    """The regions from the largest to the smallest, and how many were too small.

    Neighbors by their sides only: then no region reaches through a corner into the hole of another.
    """
    regions, small = [], 0
    for c in label_set.classes:
        count, numbers, stats, _ = cv2.connectedComponentsWithStats((labels == c.id).astype(np.uint8), connectivity=4)
        for index in range(1, count):
            left, top, width, height, pixels = (int(value) for value in stats[index])
            if pixels < settings.least_pixels:
                small += 1
                continue
            mask = (numbers[top : top + height, left : left + width] == index).astype(np.uint8)
            regions.append(_Region(c.name, mask, left, top, pixels))
    regions.sort(key=lambda region: -region.mask.size)  # what lies in a hole has the smaller box
    return regions, small


def _checked(items: Iterable[Labeled], label_set: LabelSet) -> Iterator[Labeled]:
    for item in items:
        unknown = sorted(set(np.unique(item.labels).tolist()) - {*range(len(label_set)), UNLABELED})
        if unknown:
            raise DatasetError(f"{item.image}: label {unknown[0]} is no class of {label_set.name!r}")
        yield item


def write_annotations(
    name: str, items: Iterable[Labeled], label_set: LabelSet, out: Path, settings: ExportSettings | None = None
) -> ExportReport:
    """Write labels in a format: "cvat" and "coco" one file, "labelme" a folder of files.

    Raises:
        SettingsError: an unknown format.
        DatasetError: a label that the label set does not have.
        OSError: it cannot be written.
    """
    if name not in EXPORTS:
        raise SettingsError(f"no format {name!r} to export; known: {', '.join(EXPORTS)}")
    return EXPORTS[name](_checked(items, label_set), label_set, out, settings or ExportSettings())


def _write_cvat(items: Iterable[Labeled], label_set: LabelSet, out: Path, settings: ExportSettings) -> ExportReport:
    root = ET.Element("annotations")
    ET.SubElement(root, "version").text = "1.1"
    labels = ET.SubElement(ET.SubElement(ET.SubElement(root, "meta"), "task"), "labels")
    for c in label_set.classes:
        label = ET.SubElement(labels, "label")
        ET.SubElement(label, "name").text = c.name
        ET.SubElement(label, "color").text = "#{:02x}{:02x}{:02x}".format(*c.color)
    images = shapes = left_out = 0
    for item in items:
        height, width = item.labels.shape
        place = {"id": str(images), "name": item.image.name, "width": str(width), "height": str(height)}
        image = ET.SubElement(root, "image", place)
        regions, small = _regions(item.labels, label_set, settings)
        for order, region in enumerate(regions):
            common = {"label": region.name, "source": "auto", "occluded": "0", "z_order": str(order)}
            if settings.kind is ShapeKind.MASK:
                runs = ", ".join(map(str, _runs(region.mask.reshape(-1))))
                box = {
                    "left": region.left,
                    "top": region.top,
                    "width": region.mask.shape[1],
                    "height": region.mask.shape[0],
                }
                ET.SubElement(image, "mask", {**common, "rle": runs, **{key: str(value) for key, value in box.items()}})
            else:
                corners = region.corners(settings.tolerance, on_edges=True)
                ET.SubElement(image, "polygon", {**common, "points": ";".join(f"{x:.2f},{y:.2f}" for x, y in corners)})
        images, shapes, left_out = images + 1, shapes + len(regions), left_out + small
    ET.indent(root)
    write_atomically(out, ET.tostring(root, encoding="utf-8", xml_declaration=True))
    return ExportReport(images, shapes, left_out)


def _write_labelme(items: Iterable[Labeled], label_set: LabelSet, out: Path, settings: ExportSettings) -> ExportReport:
    out.mkdir(parents=True, exist_ok=True)
    images = shapes = left_out = 0
    for item in items:
        regions, small = _regions(item.labels, label_set, settings)
        written = []
        for region in regions:
            shape: dict[str, Any] = {"label": region.name, "group_id": None, "description": "", "flags": {}}
            if settings.kind is ShapeKind.MASK:
                height, width = region.mask.shape
                far = [region.left + width - 1, region.top + height - 1]
                encoded = cv2.imencode(".png", region.mask * np.uint8(255))[1].tobytes()
                shape |= {
                    "shape_type": "mask",
                    "points": [[region.left, region.top], far],
                    "mask": base64.b64encode(encoded).decode(),
                }
            else:
                corners = region.corners(settings.tolerance, on_edges=False)
                shape |= {"shape_type": "polygon", "points": corners.tolist()}
            written.append(shape)
        height, width = item.labels.shape
        document: dict[str, Any] = {
            "version": "5.5.0",
            "flags": {},
            "shapes": written,
            "imagePath": os.path.relpath(item.image, out),
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        write_atomically(out / f"{item.image.stem}.json", json.dumps(document, indent=1).encode())
        images, shapes, left_out = images + 1, shapes + len(regions), left_out + small
    return ExportReport(images, shapes, left_out)


def _write_coco(items: Iterable[Labeled], label_set: LabelSet, out: Path, settings: ExportSettings) -> ExportReport:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    left_out = 0
    for item in items:
        height, width = item.labels.shape
        images.append({"id": len(images) + 1, "file_name": item.image.name, "width": width, "height": height})
        regions, small = _regions(item.labels, label_set, settings)
        left_out += small
        for region in regions:
            segmentation: Any
            if settings.kind is ShapeKind.MASK:
                whole = np.zeros((height, width), np.uint8)
                rows, columns = region.mask.shape
                whole[region.top : region.top + rows, region.left : region.left + columns] = region.mask
                segmentation = {"size": [height, width], "counts": to_text(_runs(whole.T.reshape(-1)))}
            else:
                segmentation = [region.corners(settings.tolerance, on_edges=True).round(2).reshape(-1).tolist()]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": len(images),
                    "category_id": label_set.id_of(region.name) + 1,
                    "segmentation": segmentation,
                    "area": region.pixels,
                    "bbox": [region.left, region.top, region.mask.shape[1], region.mask.shape[0]],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": c.id + 1, "name": c.name, "supercategory": ""} for c in label_set.classes]
    document: dict[str, Any] = {"images": images, "annotations": annotations, "categories": categories}
    write_atomically(out, json.dumps(document).encode())
    return ExportReport(len(images), len(annotations), left_out)


def _runs(flat: NDArray[np.uint8]) -> list[int]:
    """Run lengths of 0 and 1 in turn, beginning with 0."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [1 - flat[-1]]])))
    return [int(run) for run in np.diff(np.concatenate([[0], edges]))]


EXPORTS: Final = {"cvat": _write_cvat, "labelme": _write_labelme, "coco": _write_coco}
