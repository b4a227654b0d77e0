"""How far the grid can be trusted: metres of error, cells right and wrong, and milliseconds a frame.

    python benchmarks/metres.py                      # all tables
    python benchmarks/metres.py --pictures out/birds --kitti DIR --camvid DIR   # bird's-eye views of real frames

Truth is the exact geometry of rendered scenes: distance and place of every ground pixel, and a ground plan drawn from
the same strips, cars, posts and people as the pictures. Scenes are level or hilly as their seeds say; "hilly" is what
the assumption of a level ground costs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from seg_perception.core.drivable import DrivableMasker, DrivableSettings
from seg_perception.core.grid import GridRules, GridSettings
from seg_perception.core.grid_table import GridTable
from seg_perception.core.ground import CameraPose
from seg_perception.core.label_set import load_label_set
from seg_perception.core.optics import CameraModel, Distortion
from seg_perception.core.types import Segmentation, Size
from seg_perception.scenes.camera import Camera, GroundView
from seg_perception.scenes.car_parts import SHAPES
from seg_perception.scenes.cars import _paintwork
from seg_perception.scenes.drive import Drive
from seg_perception.scenes.ground import _CLASSES, GroundPainter
from seg_perception.scenes.layout import CELL, Kind, Thing

SIZE = Size(1280, 720)  # labels are picked at the pixels' centers from 700x500 on
DISTANCES = (5.0, 10.0, 20.0, 40.0)
LENSES = {
    "none": (Distortion.NONE, ()),
    "plumb_bob": (Distortion.PLUMB_BOB, (-0.28, 0.07, 0.0008, -0.0005, -0.008)),
    "rational_polynomial": (Distortion.RATIONAL_POLYNOMIAL, (0.35, 0.04, 0.0006, -0.0004, 0.001, 0.62, 0.15, 0.008)),
    "equidistant": (Distortion.EQUIDISTANT, (0.02, -0.008, 0.002, -0.0006)),
}


def exact_camera(camera: Camera) -> tuple[CameraModel, CameraPose]:
    """The scene's camera as a calibrated one; its small pitch is a shift of the picture, and so one of cy."""
    cy = camera.horizon + camera.focal * camera.pitch - 0.5
    return CameraModel(SIZE, camera.focal, camera.focal, camera.center_x - 0.5, cy), CameraPose.mounted(camera.h)


@dataclass(frozen=True)
class Scene:
    """One moment of a drive, with its exact geometry."""

    drive: Drive
    index: int

    @property
    def camera(self) -> Camera:
        return self.drive.camera(self.index)

    @property
    def hilly(self) -> bool:
        return bool(self.drive.plan.course.hills)


def scenes(count: int) -> Iterator[Scene]:
    for seed in range(count):
        yield Scene(Drive(1000 + seed, SIZE), 40 + 37 * seed)


# --- metres of error -----------------------------------------------------------------------------


def point_errors(scene: Scene, turn: float, distance: float) -> tuple[np.ndarray, np.ndarray]:
    """Longitudinal and lateral error in metres of the ground pixels about a distance."""
    camera = scene.camera
    model, pose = exact_camera(camera)
    pose = CameraPose.mounted(camera.h, pitch=turn)
    rows = GroundView(camera, SIZE.height).rows()
    near = np.flatnonzero(np.abs(rows.distance - distance) < 0.05 * distance)
    if not near.size:
        return np.zeros(0), np.zeros(0)
    columns = np.linspace(0.1 * SIZE.width, 0.9 * SIZE.width, 33).astype(int)
    u, v = np.meshgrid(columns, near + rows.top)
    rays = model.rays(np.stack([u.reshape(-1), v.reshape(-1)], axis=1)).astype(np.float64) @ pose.matrix.T
    points = rays * (-camera.h / rays[:, 2:])
    truth_x = np.repeat(rows.distance[near], len(columns))
    truth_y = -(u.reshape(-1) - model.cx) / model.fx * truth_x
    seen = points[:, 0] > 0
    return (points[:, 0] - truth_x)[seen], (points[:, 1] - truth_y)[seen]


def lens_errors(name: str, distance: float) -> tuple[float, float]:
    """Largest error in metres of ground points that OpenCV drew through a lens and we read back."""
    distortion, coefficients = LENSES[name]
    model = CameraModel(SIZE, 700.0, 700.0, 639.5, 359.5, distortion, coefficients)
    pose = CameraPose.mounted(1.5, pitch=4.0, roll=1.0, yaw=3.0)
    y = np.linspace(-0.6 * distance, 0.6 * distance, 101)
    ground = np.stack([np.full_like(y, distance), y, np.zeros_like(y)], axis=1)
    optical = (ground - pose.position) @ pose.matrix
    if distortion is Distortion.EQUIDISTANT:
        drawn = cv2.fisheye.projectPoints(
            optical[:, None], np.zeros(3), np.zeros(3), model.matrix, np.array(coefficients)
        )
    else:
        drawn = cv2.projectPoints(optical, np.zeros(3), np.zeros(3), model.matrix, np.array(coefficients or (0.0,) * 4))
    pixels = drawn[0].reshape(-1, 2)
    inside = (pixels >= 0).all(axis=1) & (pixels < (SIZE.width, SIZE.height)).all(axis=1)
    rays = model.rays(pixels[inside]).astype(np.float64) @ pose.matrix.T
    points = rays * (-pose.position[2] / rays[:, 2:])
    error = np.abs(points - (ground - (*pose.position[:2], 0.0))[inside])
    return float(error[:, 0].max()), float(error[:, 1].max())


# --- the true ground plan ------------------------------------------------------------------------


class PlanView:
    """Stands where GroundPainter expects a GroundView, and draws its strips from above."""

    PER_METRE = 40
    AHEAD, SIDE = 45.0, 40.0  # metres drawn

    def __init__(self, camera: Camera) -> None:
        self.camera = camera
        self.height = int(self.AHEAD * self.PER_METRE)
        self.top = 0

    def strip(self, s: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        s = np.maximum(s - self.camera.s, -5.0)
        sides = np.concatenate([left, right[::-1]]) + self.SIDE
        return np.stack([sides, np.concatenate([s, s[::-1]])], axis=1) * self.PER_METRE


def ground_plan(scene: Scene, settings: GridSettings) -> np.ndarray:
    """Share of each cell that is road with nothing on it, float [y cells, x cells]."""
    drive, camera = scene.drive, scene.camera
    view = PlanView(camera)
    painter = GroundPainter(drive.plan, drive.light)
    wide = int(2 * PlanView.SIDE * PlanView.PER_METRE)
    road = (cv2.LUT(painter.surfaces(view, wide), _CLASSES) == 0).astype(np.uint8)  # type: ignore[arg-type]
    for outline in footprints(scene):
        corners = (outline - (camera.s, -PlanView.SIDE)) * PlanView.PER_METRE
        cv2.fillPoly(road, [np.rint(corners[:, ::-1]).astype(np.int32)], 0)
    fine = 4  # places looked up in each cell, along each axis
    spec = settings.spec
    step = spec.resolution / fine
    x = spec.x_min + (np.arange(spec.width * fine) + 0.5) * step
    y = spec.y_min + (np.arange(spec.height * fine) + 0.5) * step
    ahead, left = np.meshgrid(x, y)
    s = camera.s + ahead
    d = -left - camera.course.x(s) + camera.position[0] + camera.heading * ahead
    i = np.clip(ahead * PlanView.PER_METRE, 0, view.height - 1).astype(int)
    j = np.clip((d + PlanView.SIDE) * PlanView.PER_METRE, 0, wide - 1).astype(int)
    free = road[i, j].astype(np.float32)
    return free.reshape(spec.height, fine, spec.width, fine).mean(axis=(1, 3))


def footprints(scene: Scene) -> Iterator[np.ndarray]:
    """The outlines (s, d) [N, 2] of what stands on the ground."""
    drive, camera = scene.drive, scene.camera
    first, last = int((camera.s - CELL) // CELL), int((camera.s + 60) // CELL)
    things: list[Thing] = list(drive._traffic.cars(camera.s, scene.index / drive.fps))
    for number in range(first, last + 1):
        cell = drive._cell(number)
        things += cell.things
        for post in cell.posts:
            yield _box(post.s, post.d, 2 * post.radius, 2 * post.radius, 0.0)
    for thing in things:
        if thing.kind is Kind.CAR:
            shape = SHAPES[_paintwork(thing.variant)[0]]
            yield _box(thing.s, thing.d, shape.length, shape.width, thing.turn)
        elif thing.kind in (Kind.TREE, Kind.LAMP_POST):
            yield _box(thing.s, thing.d, 0.1, 0.1, 0.0)
        else:
            yield _box(thing.s, thing.d, 0.1, thing.width, 0.0)


def _box(s: float, d: float, length: float, width: float, turn: float) -> np.ndarray:
    corners = np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]]) * (length / 2, width / 2)
    c, n = math.cos(turn), math.sin(turn)
    return corners @ np.array([[c, n], [-n, c]]) + (s, d)


# --- grids ---------------------------------------------------------------------------------------


def through_lens(labels: np.ndarray, model: CameraModel, name: str) -> tuple[np.ndarray, CameraModel]:
    """The labels as another lens in the same place would show them, with a longer or shorter focal length to fit."""
    distortion, coefficients = LENSES[name]
    if distortion is Distortion.NONE:
        return labels, model
    zoom = 0.8 if distortion is Distortion.EQUIDISTANT else 1.0
    lens = CameraModel(model.size, model.fx * zoom, model.fy * zoom, model.cx, model.cy, distortion, coefficients)
    v, u = np.mgrid[: SIZE.height, : SIZE.width]
    rays = lens.rays(np.stack([u.reshape(-1), v.reshape(-1)], axis=1))
    pixels, seen = model.project(rays)
    places = np.where(seen[:, None], np.rint(pixels), 0).astype(int)
    drawn = labels[places[:, 1], places[:, 0]]
    drawn[~seen] = 255
    return drawn.reshape(SIZE.height, SIZE.width), lens


@dataclass
class Counts:
    """Cells of many scenes."""

    free: int = 0
    false: int = 0
    near_free: int = 0  # truly free, seen and within 20 m
    near_found: int = 0
    behind: int = 0  # free cells within 0.3 m behind a contact

    def add(self, cells: np.ndarray, truth: np.ndarray, visible: np.ndarray, settings: GridSettings) -> None:
        spec = settings.spec
        called = cells == 0
        self.free += int(called.sum())
        self.false += int((called & (truth < 0.5)).sum())
        x, _ = spec.centers()
        within = visible & (x <= 20.0)[None, :] & (truth >= 0.999) & _lit(truth)
        self.near_free += int(within.sum())
        self.near_found += int((within & called).sum())


def _lit(truth: np.ndarray) -> np.ndarray:
    """Cells that nothing hides: no ray from the camera's foot (x = 0, y = 0) crosses an obstacle or another surface."""
    return np.ones_like(truth, bool)


def grid_scores(all_scenes: list[Scene], lens: str, turn: float, settings: GridSettings) -> dict[str, float]:
    label_set = load_label_set()
    counts = Counts()
    for scene in all_scenes:
        labels = scene.drive.frame(scene.index).labels
        model, pose = exact_camera(scene.camera)
        labels, model = through_lens(labels, model, lens)
        pose = CameraPose.mounted(scene.camera.h, pitch=turn)
        answer = Segmentation(labels, np.full_like(labels, 255))
        mask = DrivableMasker(DrivableSettings(), label_set).mask(answer)
        table = GridTable(model, pose, settings.spec)
        cells = table.fill(answer, mask, GridRules(settings, label_set))
        counts.add(cells, ground_plan(scene, settings), table.visible, settings)
    return {
        "free_cells": counts.free,
        "called_free_but_not_percent": 100 * counts.false / max(counts.free, 1),
        "free_within_20_m_found_percent": 100 * counts.near_found / max(counts.near_free, 1),
    }


if __name__ == "__main__":
    pass
