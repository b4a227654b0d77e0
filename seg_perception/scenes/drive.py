"""A drive: a moving sequence of pictures with exact labels, any of which can be drawn on its own, or into a folder."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from seg_perception.core.errors import InputError
from seg_perception.core.files import make_folder, write_atomically
from seg_perception.core.label_set import load_label_set
from seg_perception.core.types import MAX_PIXELS, LabelImage, RgbImage, Size
from seg_perception.core.visual import colorize, contact_sheet
from seg_perception.scenes.camera import Camera, Floats, GroundView
from seg_perception.scenes.canvas import Canvas, Glow
from seg_perception.scenes.car_mesh import LONGEST_CAR
from seg_perception.scenes.effects import add_effects, choose_sensor, expose
from seg_perception.scenes.ground import GroundPainter, cast_shadows
from seg_perception.scenes.layout import CELL, Cell, Kind, Thing, Traffic, make_cell, make_plan
from seg_perception.scenes.objects import paint_car, paint_house, paint_post, paint_thing, paint_wall
from seg_perception.scenes.weather import WEATHER_SHARES, Weather, choose_light, paint_backdrop, paint_sky

SMALLEST = Size(96, 64)
SIGHT = 170.0
"""Meters ahead in which things are painted."""


@dataclass(frozen=True, slots=True, eq=False)
class SceneFrame:
    """One moment of a drive.

    Attributes:
        image: uint8 [H, W, 3] RGB.
        labels: uint8 [H, W], class ids 0 to 9 of the label set `driving`, without gaps.
        stamp_ns: nanoseconds since the drive's start.
    """

    image: RgbImage
    labels: LabelImage
    stamp_ns: int


class Drive:
    """A drive along an endless road.

    Every picture follows from (seed, size, index) alone: `frame` may be called in any order, from any process.

    Args:
        seed: chooses road, surroundings, traffic, weather and camera.
        size: of the pictures; at least 96x64.
        fps: pictures a second; changes how far the car drives between two pictures.
        weather: a fixed weather instead of the seed's own.

    Raises:
        InputError: the size is too small or too large, or fps is not positive.
    """

    def __init__(self, seed: int, size: Size, fps: float = 15.0, weather: Weather | None = None) -> None:
        if size.width < SMALLEST.width or size.height < SMALLEST.height:
            raise InputError(f"scene size {size} is too small: at least {SMALLEST} is needed")
        if size.width * size.height > MAX_PIXELS:
            raise InputError(f"scene size {size} is too large: at most {MAX_PIXELS} pixels are drawn")
        if not 0 < fps < math.inf:
            raise InputError(f"fps {fps} is not accepted: it must be above 0, and finite")
        self.seed = seed
        self.size = size
        self.fps = fps
        self.plan = make_plan(seed)
        rng = self.plan.rng(2)
        drawn = list(WEATHER_SHARES)[int(rng.choice(len(WEATHER_SHARES), p=_shares()))]
        self.light = choose_light(weather or drawn, rng)
        self.sensor = choose_sensor(self.light, rng)
        self.factor = 2 if size.width * size.height <= 700 * 500 else 1
        wide = size.width / size.height
        self._focal = float(rng.uniform(0.75, 1.15) if wide < 2.4 else rng.uniform(0.55, 0.75))
        self._height = float(rng.uniform(1.25, 1.65))
        self._horizon = float(rng.uniform(0.42, 0.55))
        self._start = float(rng.uniform(0, 900))
        self._sway = rng.uniform(0, 6.28, 4)
        self._ground = GroundPainter(self.plan, self.light)
        self._traffic = Traffic(self.plan)
        self._cells: OrderedDict[int, Cell] = OrderedDict()

    def camera(self, index: int) -> Camera:
        """The camera at a frame, in pixels of the frame's size."""
        seconds = index / self.fps
        a, b, c, e = self._sway
        position = self._start + self.plan.speed * (seconds + 0.8 * np.sin(0.35 * seconds + a))
        side = 0.22 * np.sin(0.5 * seconds + b)
        return Camera(
            course=self.plan.course,
            s=float(position),
            d=float(self.plan.own_lane + side),
            h=self._height,
            focal=self._focal * self.size.width,
            center_x=self.size.width / 2,
            horizon=self._horizon * self.size.height,
            yaw=float(0.012 * np.sin(0.45 * seconds + c)),
            pitch=float(0.0035 * np.sin(6.1 * seconds + e) + 0.003 * np.sin(2.3 * seconds)),
        )

    def frame(self, index: int) -> SceneFrame:
        """Draw one frame.

        Raises:
            InputError: the index is negative.
        """
        if index < 0:
            raise InputError(f"frame index {index} is not accepted: it must be 0 or more")
        canvas = self._paint(index)
        clean, labels = canvas.finish(self.factor)
        glows = [
            Glow(g.column / self.factor, g.row / self.factor, g.radius / self.factor, g.color) for g in canvas.glows
        ]
        clean = add_effects(clean, labels, self.light, self.camera(index), glows, self.plan.rng(22))
        image = expose(clean, self.sensor, self.plan.rng(21, index))
        return SceneFrame(image, labels, round(index / self.fps * 1e9))

    def _cell(self, number: int) -> Cell:
        """A cell of the world, kept while it is near; the same number always gives the same cell."""
        if number not in self._cells:
            self._cells[number] = make_cell(self.plan, number)
            while len(self._cells) > 48:
                self._cells.popitem(last=False)
        return self._cells[number]

    def _paint(self, index: int) -> Canvas:
        seconds = index / self.fps
        small = self.camera(index)
        zoom = self.factor
        camera = Camera(
            small.course,
            small.s,
            small.d,
            small.h,
            small.focal * zoom,
            small.center_x * zoom,
            small.horizon * zoom,
            small.yaw,
            small.pitch,
        )
        canvas = Canvas(self.size.width * zoom, self.size.height * zoom)
        view = GroundView(camera, canvas.height)
        cars = self._traffic.cars(camera.s, seconds)
        first, last = int((camera.s - CELL) // CELL), int((camera.s + SIGHT) // CELL)
        cells = {number: self._cell(number) for number in range(first, last + 1)}
        paint_sky(canvas.pixels, self.light, camera, self.plan.seed, seconds * 0.6, view.top)
        paint_backdrop(canvas, camera, self.light, self.plan, view)
        shadows = cast_shadows(canvas, camera, self.light, view, cells.values(), cars)
        self._ground.paint(canvas.pixels, view, shadows)
        for number in range(last, first - 1, -1):
            self._paint_cell(canvas, camera, view, cells[number], [c for c in cars if c.s // CELL == number], seconds)
        return canvas

    def _paint_cell(
        self, canvas: Canvas, camera: Camera, view: GroundView, cell: Cell, cars: list[Thing], seconds: float
    ) -> None:
        light = self.light

        def hide_behind_crest(s: float) -> None:
            canvas.floor = (
                min(canvas.height, int(np.ceil(view.crest_before(s - camera.s)))) if s - camera.s > 4 else canvas.height
            )

        for house in sorted(cell.houses, key=lambda house: -house.s_near):
            hide_behind_crest(house.s_near)
            paint_house(canvas, camera, light, house)
        for wall in sorted(cell.walls, key=lambda wall: -abs(wall.d)):
            hide_behind_crest(wall.s_near)
            paint_wall(canvas, camera, light, wall)
        queue: list[tuple[float, object]] = [(post.s, post) for post in cell.posts]
        queue += [(thing.s, thing) for thing in (*cell.things, *cars)]
        for s, item in sorted(queue, key=lambda pair: -pair[0]):
            if s - camera.s > (SIGHT if not isinstance(item, Thing) or item.kind is Kind.TREE else 120.0):
                continue
            # a car's near end stands up to half its length before its middle; what is cut there would make it float
            hide_behind_crest(s - LONGEST_CAR / 2 if isinstance(item, Thing) and item.kind is Kind.CAR else s)
            if not isinstance(item, Thing):
                paint_post(canvas, camera, light, item)  # type: ignore[arg-type]
            elif item.kind is Kind.CAR:
                paint_car(canvas, camera, light, item.s, item.d, item.turn, item.variant, braking=item.tone < 0)
            else:
                paint_thing(canvas, camera, light, item, seconds)
        canvas.floor = canvas.height


def _shares() -> Floats:
    shares = np.array(list(WEATHER_SHARES.values()))
    return np.asarray(shares / shares.sum())


def random_scene(seed: int, size: Size) -> SceneFrame:
    """A random moment of a random drive, for training and tests."""
    rng = np.random.default_rng([seed & 0xFFFFFFFF, 99])
    return Drive(int(rng.integers(1 << 31)), size).frame(int(rng.integers(0, 4000)))


_SHOWN = 8


def draw_scenes(
    out: str | Path,
    frames: int = 100,
    size: str | Size | tuple[int, int] = "480x360",
    seed: int = 0,
    fps: float = 15.0,
    random: bool = False,
    png: bool = False,
    progress: bool = False,
) -> dict[str, float]:
    """Draw procedural driving scenes with exact labels into a folder that trainings and evaluations read.

    Args:
        out: folder for images/NNNNNN.jpg, labels/NNNNNN.png (uint8 class ids of the label set "driving") and
            contact_sheet.png; must not hold scenes.
        frames: how many pictures.
        size: of the pictures.
        seed: chooses the drive.
        fps: pictures a second of the drive.
        random: every picture from another drive, for training.
        png: images without compression losses.
        progress: show a bar.

    Returns:
        The share of each class in all pixels, 0 to 1.

    Raises:
        InputError: a wrong size or number, or the folder holds something.
    """
    from tqdm import tqdm

    if frames < 1:
        raise InputError(f"{frames} frames are not accepted: draw at least 1")
    out, size = Path(out), Size.parse(size)
    drive = Drive(seed, size, fps)  # also checks the size when `random` does not need it
    images, labels = out / "images", out / "labels"
    for folder in (images, labels):
        make_folder(folder)
        if any(folder.iterdir()):
            raise InputError(f"{folder} is not empty: name a new folder, or remove this one first")
    suffix = ".png" if png else ".jpg"
    label_set = load_label_set()
    counts = np.zeros(len(label_set), np.int64)
    shown = {round(k) for k in np.linspace(0, frames - 1, min(_SHOWN, frames))}
    rows: list[list[RgbImage]] = []
    for index in tqdm(range(frames), unit="frame", desc="scenes", disable=not progress):
        frame = random_scene(seed + index, size) if random else drive.frame(index)
        write_atomically(images / f"{index:06d}{suffix}", _encoded(suffix, frame.image[..., ::-1]))
        write_atomically(labels / f"{index:06d}.png", _encoded(".png", frame.labels))
        counts += np.bincount(frame.labels.reshape(-1), minlength=len(label_set))
        if index in shown:
            rows.append([frame.image, colorize(frame.labels, label_set)])
    sheet = contact_sheet(rows, tile_width=min(480, size.width))
    write_atomically(out / "contact_sheet.png", _encoded(".png", sheet[..., ::-1]))
    return {name: float(count / counts.sum()) for name, count in zip(label_set.names, counts, strict=True)}


def _encoded(ending: str, pixels: RgbImage | LabelImage) -> bytes:
    quality = [cv2.IMWRITE_JPEG_QUALITY, 95] if ending == ".jpg" else []
    return bytes(cv2.imencode(ending, np.ascontiguousarray(pixels), quality)[1])
