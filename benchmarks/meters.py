"""How far the grid can be trusted: meters of error, cells right and wrong, and milliseconds a frame.

    python benchmarks/meters.py                      # all tables
    python benchmarks/meters.py --pictures out/birds --kitti DIR --camvid DIR   # bird's-eye views of real frames

Truth is the exact geometry of rendered scenes: distance and place of every ground pixel, and a ground plan drawn from
the same strips, cars, posts and people as the pictures. Scenes are level or hilly as their seeds say; "hilly" is what
the assumption of a level ground costs.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from seg_perception.core.drivable import DrivableMasker, DrivableSettings
from seg_perception.core.files import DEFAULT_MODEL
from seg_perception.core.grid import GridRules, GridSettings
from seg_perception.core.grid_table import GridTable
from seg_perception.core.ground import CameraPose
from seg_perception.core.label_set import load_label_set
from seg_perception.core.meters import CameraMeters, GridAnswer, SharedGrid
from seg_perception.core.optics import CameraModel, Distortion
from seg_perception.core.resizing import resize_image
from seg_perception.core.types import Segmentation, Size
from seg_perception.core.visual import GroundDrawing
from seg_perception.engines.opening import open_engine
from seg_perception.scenes.camera import Camera, GroundView
from seg_perception.scenes.car_mesh import SHAPES
from seg_perception.scenes.drive import Drive
from seg_perception.scenes.ground import _CLASSES, GroundPainter
from seg_perception.scenes.layout import CELL, Kind, Thing, Traffic, make_cell
from seg_perception.scenes.objects import paintwork
from seg_perception.segmenter import Segmenter

SIZE = Size(1280, 720)  # labels are picked at the pixels' centers from 700x500 on
DISTANCES = (5.0, 10.0, 20.0, 40.0)
BANDS = (10.0, 20.0, 30.0, 40.0)  # each of ten meters, up to
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


# --- meters of error -----------------------------------------------------------------------------


def point_errors(scene: Scene, turn: float, distance: float) -> tuple[np.ndarray, np.ndarray]:
    """Longitudinal and lateral error in meters of the ground pixels about a distance."""
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
    """Largest error in meters of ground points that OpenCV drew through a lens and we read back."""
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

    PER_METER = 40
    AHEAD, SIDE = 45.0, 40.0  # meters drawn

    def __init__(self, camera: Camera) -> None:
        self.camera = camera
        self.height = int(self.AHEAD * self.PER_METER)
        self.top = 0

    def strip(self, s: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        s = np.maximum(s - self.camera.s, -5.0)
        sides = np.concatenate([left, right[::-1]]) + self.SIDE
        return np.stack([sides, np.concatenate([s, s[::-1]])], axis=1) * self.PER_METER


def ground_plan(scene: Scene, settings: GridSettings) -> np.ndarray:
    """Share of each cell that is road with nothing on it, float [y cells, x cells]."""
    drive, camera = scene.drive, scene.camera
    view = PlanView(camera)
    painter = GroundPainter(drive.plan, drive.light)
    wide = int(2 * PlanView.SIDE * PlanView.PER_METER)
    road = (cv2.LUT(painter.surfaces(view, wide), _CLASSES) == 0).astype(np.uint8)  # type: ignore[arg-type]
    for outline in footprints(scene):
        corners = (outline - (camera.s, -PlanView.SIDE)) * PlanView.PER_METER
        cv2.fillPoly(road, [np.rint(corners[:, ::-1]).astype(np.int32)], 0)
    fine = 4  # places looked up in each cell, along each axis
    spec = settings.spec
    step = spec.resolution / fine
    x = spec.x_min + (np.arange(spec.width * fine) + 0.5) * step
    y = spec.y_min + (np.arange(spec.height * fine) + 0.5) * step
    ahead, left = np.meshgrid(x, y)
    s = camera.s + ahead
    d = -left - camera.course.x(s) + camera.position[0] + camera.heading * ahead
    i = np.clip(ahead * PlanView.PER_METER, 0, view.height - 1).astype(int)
    j = np.clip((d + PlanView.SIDE) * PlanView.PER_METER, 0, wide - 1).astype(int)
    free = road[i, j].astype(np.float32)
    return free.reshape(spec.height, fine, spec.width, fine).mean(axis=(1, 3))


def footprints(scene: Scene) -> Iterator[np.ndarray]:
    """The outlines (s, d) [N, 2] of what stands on the ground."""
    drive, camera = scene.drive, scene.camera
    first, last = int((camera.s - CELL) // CELL), int((camera.s + 60) // CELL)
    things: list[Thing] = list(Traffic(drive.plan).cars(camera.s, scene.index / drive.fps))
    for number in range(first, last + 1):
        cell = make_cell(drive.plan, number)
        things += cell.things
        for post in cell.posts:
            yield _box(post.s, post.d, 2 * post.radius, 2 * post.radius, 0.0)
    for thing in things:
        if thing.kind is Kind.CAR:
            shape = SHAPES[paintwork(thing.variant)[0]]
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
    wrong: int = 0  # called free, and less than half of it is free road
    near_free: int = 0  # truly free, seen, within 20 m and hidden by nothing
    near_found: int = 0
    behind: int = 0  # called free within 0.3 m behind the contact line of what stands on the road
    free_at: np.ndarray = field(default_factory=lambda: np.zeros(len(BANDS)))  # `free` by distance, see BANDS
    wrong_at: np.ndarray = field(default_factory=lambda: np.zeros(len(BANDS)))


def add_scene(counts: Counts, scene: Scene, lens: str, turn: float, settings: GridSettings) -> None:
    label_set = load_label_set()
    model, pose = exact_camera(scene.camera)
    labels, model = through_lens(scene.drive.frame(scene.index).labels, model, lens)
    answer = Segmentation(labels, np.full_like(labels, 255))
    mask = DrivableMasker(DrivableSettings(), label_set).mask(answer)
    table = GridTable(model, CameraPose.mounted(pose.position[2], pitch=turn), settings.spec)
    rules = GridRules(settings, label_set)
    unseen = np.where(labels == 255, np.uint8(255), np.uint8(0))  # by the scene's camera, through the other lens
    ends = table.look(answer, mask, rules, unseen)
    cells, truth = table.cells(answer, rules, ends), ground_plan(scene, settings)
    free = cells == 0
    x, _ = settings.spec.centers()
    counts.free += int(free.sum())
    counts.wrong += int((free & (truth < 0.5)).sum())
    for band, farthest in enumerate(BANDS):
        within = free[:, (x > farthest - 10.0) & (x <= farthest)]
        counts.free_at[band] += int(within.sum())
        counts.wrong_at[band] += int((within & (truth[:, (x > farthest - 10.0) & (x <= farthest)] < 0.5)).sum())
    near = table.visible & (x <= 20.0)[None, :] & (truth >= 0.999) & ~hidden(scene, settings)
    near &= drawn_cells(labels, model, table.pose, settings)
    counts.near_free += int(near.sum())
    counts.near_found += int((near & free).sum())
    view = table.level
    columns = np.flatnonzero(ends > -1e8).astype(np.float32)
    for meters in np.arange(0.05, 0.31, 0.05):  # along each ray, from the contact on
        rows = ends[columns.astype(int)] - view.cy
        ahead = view.fy * view.height / np.maximum(rows, 1e-3) + meters
        cell = view.cell_at(columns, (view.cy + view.fy * view.height / ahead).astype(np.float32))
        counts.behind += int((cells.reshape(-1)[cell] == 0).sum())


def drawn_cells(labels: np.ndarray, model: CameraModel, pose: CameraPose, settings: GridSettings) -> np.ndarray:
    """Cells whose centers the scene's own camera had drawn, where another lens sees more than it did."""
    x, y = (a.reshape(-1) for a in np.meshgrid(*settings.spec.centers()))
    pixels, seen = model.project((np.stack([x, y, np.zeros_like(x)], axis=1) - pose.position) @ pose.matrix)
    places = np.where(seen[:, None], np.rint(pixels), 0).astype(int)
    drawn = seen & (labels[places[:, 1], places[:, 0]] != 255)
    return drawn.reshape(settings.spec.height, settings.spec.width)


def hidden(scene: Scene, settings: GridSettings) -> np.ndarray:
    """Cells whose ray from the camera crosses a car's outline (taller than the camera looks over) or its shadow."""
    spec, camera = settings.spec, scene.camera
    picture = np.zeros((spec.height, spec.width), np.uint8)
    for outline in footprints(scene):
        ahead = outline[:, 0] - camera.s
        right = camera.course.x(outline[:, 0]) + outline[:, 1] - camera.position[0] - camera.heading * ahead
        if ahead.max() < 1.0:
            continue
        corners = np.stack([np.maximum(ahead, 0.5), -right], axis=1)
        shadow = np.concatenate([corners, corners * 40.0])
        hull = cv2.convexHull(((shadow - (spec.x_min, spec.y_min)) / spec.resolution).astype(np.float32))
        cv2.fillPoly(picture, [np.rint(np.clip(hull, -1e4, 1e4)).astype(np.int32)], 1)
    return picture.astype(bool)


# --- milliseconds --------------------------------------------------------------------------------


def times(repeats: int = 200) -> dict[str, tuple[float, float]]:
    """CPU milliseconds of a frame at 1280x720 on one core, tables made before; and of making tables."""
    cv2.setNumThreads(1)
    settings, label_set = GridSettings(), load_label_set()
    scene = next(scenes(1))
    labels = scene.drive.frame(scene.index).labels
    model, pose = exact_camera(scene.camera)
    answer = Segmentation(labels, np.full_like(labels, 255))
    mask = DrivableMasker(DrivableSettings(), label_set).mask(answer)
    rules, meters, shared = GridRules(settings, label_set), CameraMeters(settings, None), SharedGrid(settings)
    meters.place(model, pose)

    def cpu_ms(act: Callable[[], object], count: int = repeats) -> tuple[float, float]:
        """Median, and the fastest: what a machine that does other things, too, would do alone."""
        spent = []
        for _ in range(count):
            began = time.thread_time()
            act()
            spent.append((time.thread_time() - began) * 1e3)
        return float(np.median(spent)), min(spent)

    def grid() -> GridAnswer:
        meters.look(answer, mask, rules)
        assert meters.table is not None
        return shared.merged("base_footprint", {"": (meters.cells(answer, rules), meters.table)})

    def points() -> None:
        meters.ground_points(answer)

    def everything() -> None:
        made = grid()
        _ = made.outline, made.distance
        points()

    def outline() -> None:
        made = replace(answered)
        _ = made.outline, made.distance

    answered = grid()
    poses = [CameraPose.mounted(pose.position[2], pitch=p) for p in (0.1, 0.2, 0.3, 0.4)]

    def moved() -> None:
        poses.append(poses.pop(0))
        meters.place(model, poses[0])

    result = {"grid": cpu_ms(grid), "outline and distance": cpu_ms(outline), "points": cpu_ms(points)}
    result["all three"] = cpu_ms(everything)
    result["tables, when the pose has turned"] = cpu_ms(moved, 20)
    result["tables, of a new camera"] = cpu_ms(lambda: CameraMeters(settings, None).place(model, pose), 5)
    return result


# --- real pictures -------------------------------------------------------------------------------

# published: the rectified color camera's calibration, its height over the ground
KITTI = {"fx": 721.5377, "fy": 721.5377, "cx": 609.5593, "cy": 172.854, "height": 1.65, "pitch": 0.0}
# CamVid publishes no calibration that could be found: focal length from the vanishing points of the pictures
CAMVID = {"fx": 530.0, "fy": 530.0, "cx": 240.0, "cy": 180.0, "height": 1.35, "pitch": 0.0}


def bird_pictures(name: str, folder: Path, out: Path, camera: dict[str, Any], count: int = 5) -> None:
    """Frame and bird's-eye view below it; lanes must be parallel."""
    label_set = load_label_set()
    settings = GridSettings()
    files = sorted((folder / "images").glob("*.jpg"))
    with open_model() as model:
        for path in files[:: max(1, len(files) // count)][:count]:
            image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
            height, width = image.shape[:2]
            sx, sy = (width / 1242, height / 375) if name == "kitti" else (width / 480, height / 360)
            size = Size(width, height)
            lens = CameraModel(size, camera["fx"] * sx, camera["fy"] * sy, camera["cx"] * sx, camera["cy"] * sy)
            pose = CameraPose.mounted(camera["height"], pitch=camera["pitch"])
            answer = model.segment(image)
            mask = DrivableMasker(DrivableSettings(), label_set).mask(answer)
            table = GridTable(lens, pose, settings.spec)
            cells = table.fill(answer, mask, GridRules(settings, label_set))
            above = GroundDrawing(table).draw(image, cells)
            scaled = resize_image(image, Size(above.shape[1], round(height * above.shape[1] / width)))
            picture = np.concatenate([scaled, above])
            out.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(out / f"{name}_{path.stem}.jpg"), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))


@contextmanager
def open_model() -> Iterator[Segmenter]:
    engine = open_engine(DEFAULT_MODEL, "onnxruntime", 2)
    try:
        yield Segmenter(engine)
    finally:
        engine.close()


# --- tables --------------------------------------------------------------------------------------


def print_by_distance(every: list[Scene], settings: GridSettings, result: dict[str, Any]) -> None:
    print("\nCalled free and are not, by distance (no lens, right pitch)\n")
    print("| scenes |", " | ".join(f"{far - 10:g} to {far:g} m" for far in BANDS), "|\n|---|" + "---|" * len(BANDS))
    for kind, hilly in (("level", False), ("hilly", True)):
        counts = Counts()
        for scene in (scene for scene in every if scene.hilly is hilly):
            add_scene(counts, scene, "none", 0.0, settings)
        shares = 100 * counts.wrong_at / np.maximum(1, counts.free_at)
        result[f"by distance {kind}"] = [shares.tolist(), counts.free_at.tolist()]
        print(
            f"| {kind} |", " | ".join(f"{v:.2f} % of {n:.0f}" for v, n in zip(shares, counts.free_at, strict=True)), "|"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=24)
    parser.add_argument("--out", type=Path, default=Path("out/meters.json"))
    parser.add_argument("--pictures", type=Path, help="folder for bird's-eye views of real frames")
    parser.add_argument("--kitti", type=Path, help="folder with images/ of KITTI")
    parser.add_argument("--camvid", type=Path, help="folder with images/ of CamVid")
    arguments = parser.parse_args()
    every = list(scenes(arguments.scenes))
    level = [scene for scene in every if not scene.hilly]
    result: dict[str, Any] = {"scenes": len(every), "level": len(level)}
    print(f"{len(every)} scenes at {SIZE}, {len(level)} of them level\n")
    print("Error of ground points in meters, |error| median / p95\n")
    print("| pitch wrong by | scenes |", " | ".join(f"{d:g} m: along, across" for d in DISTANCES), "|")
    print("|---|---|" + "---|" * len(DISTANCES))
    for turn in (0.0, 0.5, 1.0):
        for kind, chosen in (("level", level), ("all", every)):
            cells = []
            for distance in DISTANCES:
                pairs = [point_errors(scene, turn, distance) for scene in chosen]
                along, across = (np.abs(np.concatenate([p[i] for p in pairs])) for i in (0, 1))
                numbers = [
                    float(np.percentile(v, q)) if len(v) else math.nan for v in (along, across) for q in (50, 95)
                ]
                result[f"pitch {turn} {kind} {distance:g} m"] = numbers
                cells.append("{:.2f} / {:.2f}, {:.2f} / {:.2f}".format(*numbers))
            print(f"| {turn:g}° | {kind} |", " | ".join(cells), "|")
    print("\nLargest error through a lens (drawn by OpenCV, read back), meters along, across\n")
    print("| lens |", " | ".join(f"{d:g} m" for d in DISTANCES), "|\n|---|" + "---|" * len(DISTANCES))
    for name in LENSES:
        errors = [lens_errors(name, distance) for distance in DISTANCES]
        result[f"lens {name}"] = errors
        print(f"| {name} |", " | ".join(f"{a:.4f}, {b:.4f}" for a, b in errors), "|")
    print("\nGrid against the true ground plan\n")
    print(
        "| scenes | lens | pitch wrong by | free cells | called free, are not | free within 20 m found | free behind |"
    )
    print("|---|---|---|---|---|---|---|")
    settings = GridSettings()
    runs = [("level", level, lens, 0.0) for lens in LENSES] + [("all", every, "none", 0.0)]
    runs += [("level", level, "none", turn) for turn in (0.5, -0.5, 1.0, -1.0)]
    for kind, chosen, lens, turn in runs:
        counts = Counts()
        for scene in chosen:
            add_scene(counts, scene, lens, turn, settings)
        wrong, found = 100 * counts.wrong / max(1, counts.free), 100 * counts.near_found / max(1, counts.near_free)
        result[f"grid {kind} {lens} {turn}"] = [counts.free, wrong, found, counts.behind]
        print(f"| {kind} | {lens} | {turn:g}° | {counts.free} | {wrong:.2f} % | {found:.1f} % | {counts.behind} |")
    print_by_distance(every, settings, result)
    print("\nCPU milliseconds a frame at 1280x720, one core\n")
    result["cpu_ms"] = times()
    print("| | median | fastest |\n|---|---|---|")
    for name, (median, fastest) in result["cpu_ms"].items():
        print(f"| {name} | {median:.2f} | {fastest:.2f} |")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1), encoding="utf-8")
    if arguments.pictures:
        for name, folder, camera in (("kitti", arguments.kitti, KITTI), ("camvid", arguments.camvid, CAMVID)):
            if folder:
                bird_pictures(name, folder, arguments.pictures, camera)


if __name__ == "__main__":
    main()
