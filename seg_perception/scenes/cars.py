"""Cars: small meshes of flat faces, painted back to front.

Car coordinates in metres: x forward from the rear bumper, y to the car's right, z up from the ground.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

import numpy as np

from seg_perception.scenes.camera import Camera, Floats
from seg_perception.scenes.canvas import Canvas
from seg_perception.scenes.classes import SceneClass
from seg_perception.scenes.weather import Light


class Paint(IntEnum):
    """What a face is made of."""

    BODY = 0
    SILL = 1
    GLASS = 2
    GLASS_TOP = 3
    TYRE = 4
    RIM = 5
    TAIL_LAMP = 6
    HEAD_LAMP = 7
    PLATE = 8
    DARK = 9
    SHINE = 10
    SEAM = 11
    UNDER = 12


class Facing(IntEnum):
    """From where a face can be seen."""

    REAR = 0
    FRONT = 1
    LEFT = 2
    RIGHT = 3
    TOP = 4
    ALWAYS = 5


@dataclass(frozen=True, slots=True)
class Shape:
    """Measures of a car body, metres: see `mesh` for where they lie."""

    length: float
    width: float
    height: float
    waist: float  # height of the window line
    boot: float  # x where the rear window begins at the waist
    roof_rear: float
    roof_front: float
    cowl: float  # x of the windscreen's foot
    nose: float  # height of the bonnet's front edge
    clearance: float = 0.22


SHAPES = (
    Shape(3.95, 1.72, 1.48, 0.93, 0.10, 0.55, 2.15, 2.90, 0.76),  # hatchback
    Shape(4.55, 1.80, 1.43, 0.93, 0.62, 1.25, 2.55, 3.35, 0.72),  # saloon
    Shape(4.60, 1.80, 1.48, 0.95, 0.08, 0.35, 2.55, 3.35, 0.74),  # estate
    Shape(4.45, 1.86, 1.70, 1.06, 0.10, 0.40, 2.45, 3.10, 0.92, 0.28),  # sport utility
    Shape(4.80, 1.92, 1.95, 1.12, 0.04, 0.14, 3.35, 4.10, 0.98, 0.26),  # van
)


@dataclass(frozen=True, slots=True)
class Mesh:
    """Faces of one body shape: corner points of all faces end to end, and what each face is."""

    points: Floats  # [P, 3]
    starts: tuple[int, ...]  # first corner of each face, and P at the end
    normals: Floats  # [F, 3]
    paints: tuple[Paint, ...]
    facings: tuple[Facing, ...]
    coarse: tuple[bool, ...]  # also painted when the car is small in the picture


class _Builder:
    def __init__(self) -> None:
        self.points: list[tuple[float, float, float]] = []
        self.starts: list[int] = [0]
        self.normals: list[tuple[float, float, float]] = []
        self.paints: list[Paint] = []
        self.facings: list[Facing] = []
        self.coarse: list[bool] = []

    def face(self, corners: list[tuple[float, float, float]], normal: tuple[float, float, float], paint: Paint, facing: Facing, coarse: bool = False) -> None:
        self.points += corners
        self.starts.append(len(self.points))
        size = float(np.linalg.norm(normal))
        self.normals.append((normal[0] / size, normal[1] / size, normal[2] / size))
        self.paints.append(paint)
        self.facings.append(facing)
        self.coarse.append(coarse)

    def disc(self, x: float, y: float, z: float, radius: float, side: int, paint: Paint, coarse: bool = False) -> None:
        turn = np.linspace(0, 2 * np.pi, 13)[:-1]
        self.face([(x + radius * np.cos(a), y, z + radius * np.sin(a)) for a in turn], (0, side, 0), paint, Facing.RIGHT if side > 0 else Facing.LEFT, coarse)


@lru_cache(maxsize=16)
def mesh(kind: int) -> Mesh:
    """The mesh of one of SHAPES, faces in the order in which they are painted."""
    shape = SHAPES[kind]
    b = _Builder()
    w, length, low, waist = shape.width / 2, shape.length, shape.clearance, shape.waist
    inset = w - 0.06  # the shoulder leans in
    roof_w = w * 0.76
    wheel = 0.31 if shape.height < 1.6 else 0.35
    axles = (0.78, length - 0.82)
    for x in axles:  # tyres seen under the body, from behind and from the front
        for y in (-w + 0.03, w - 0.25):
            for facing, at in ((Facing.REAR, x - wheel * 0.8), (Facing.FRONT, x + wheel * 0.8)):
                b.face([(at, y, 0.0), (at, y + 0.22, 0.0), (at, y + 0.22, 0.45), (at, y, 0.45)], (-1 if facing is Facing.REAR else 1, 0, 0), Paint.TYRE, facing, True)
    b.face([(0.25, -w + 0.05, 0.14), (0.25, w - 0.05, 0.14), (0.25, w - 0.05, 0.45), (0.25, -w + 0.05, 0.45)], (-1, 0, 0), Paint.UNDER, Facing.REAR, True)
    b.face([(length - 0.25, -w + 0.05, 0.16), (length - 0.25, w - 0.05, 0.16), (length - 0.25, w - 0.05, 0.45), (length - 0.25, -w + 0.05, 0.45)], (1, 0, 0), Paint.UNDER, Facing.FRONT, True)
    _top(b, shape, inset)
    _sides(b, shape, w, inset, roof_w, wheel, axles)
    _rear(b, shape, w, inset, roof_w)
    _front(b, shape, w, inset, roof_w)
    return Mesh(np.array(b.points), tuple(b.starts), np.array(b.normals), tuple(b.paints), tuple(b.facings), tuple(b.coarse))


def _top(b: _Builder, shape: Shape, inset: float) -> None:
    length, waist = shape.length, shape.waist
    rise = length - 0.1 - shape.cowl
    b.face([(0.05, -inset, waist), (0.05, inset, waist), (shape.boot + 0.1, inset, waist), (shape.boot + 0.1, -inset, waist)], (0, 0, 1), Paint.BODY, Facing.TOP, True)
    b.face(
        [(shape.cowl, -inset, waist), (shape.cowl, inset, waist), (length - 0.1, inset - 0.05, shape.nose), (length - 0.1, -inset + 0.05, shape.nose)],
        (waist - shape.nose, 0, rise), Paint.BODY, Facing.TOP, True,
    )
    b.face(
        [(shape.cowl + 0.2, -inset + 0.3, waist - 0.02), (shape.cowl + 0.2, inset - 0.3, waist - 0.02), (length - 0.4, inset - 0.35, shape.nose + 0.05), (length - 0.4, -inset + 0.35, shape.nose + 0.05)],
        (0, 0, 1), Paint.SHINE, Facing.TOP,
    )


def _sides(b: _Builder, shape: Shape, w: float, inset: float, roof_w: float, wheel: float, axles: tuple[float, float]) -> None:
    length, low, waist, height = shape.length, shape.clearance, shape.waist, shape.height
    for side, facing in ((-1, Facing.LEFT), (1, Facing.RIGHT)):
        y, yi, yr = side * w, side * inset, side * roof_w
        sill, belt = low + 0.14, waist - 0.16
        b.face([(0.06, y, low), (length - 0.1, y, low), (length - 0.04, y, sill), (0.02, y, sill)], (0, side, -0.2), Paint.SILL, facing, True)
        b.face([(0.02, y, sill), (length - 0.04, y, sill), (length - 0.02, y, 0.55), (length - 0.06, y, shape.nose - 0.1), (shape.cowl, y, belt), (0.04, y, belt)], (0, side, 0), Paint.BODY, facing, True)
        b.face([(0.04, y, belt), (shape.cowl, y, belt), (length - 0.06, y, shape.nose - 0.1), (length - 0.1, yi, shape.nose), (shape.cowl, yi, waist), (0.05, yi, waist)], (0, side, 0.55), Paint.BODY, facing, True)
        for x in axles:
            b.disc(x, y, wheel + 0.02, wheel + 0.07, side, Paint.DARK)
            b.disc(x, y * 1.005, wheel, wheel, side, Paint.TYRE, True)
            b.disc(x, y * 1.01, wheel, wheel * 0.64, side, Paint.RIM)
            b.disc(x, y * 1.012, wheel, wheel * 0.2, side, Paint.DARK)
        lean = (0, side, (w - roof_w) / (height - waist))
        b.face([(shape.boot, yi, waist), (shape.cowl, yi, waist), (shape.roof_front, yr, height), (shape.roof_rear, yr, height)], lean, Paint.BODY, facing, True)

        def on_cabin(x: float, up: float, yi: float = yi, yr: float = yr) -> tuple[float, float, float]:
            return x, yi + (yr - yi) * up, waist + (height - waist) * up

        front, rear = shape.cowl - 0.22, shape.boot + 0.2
        top = 0.86
        front_top = shape.cowl + (shape.roof_front - shape.cowl) * top - 0.14
        rear_top = shape.boot + (shape.roof_rear - shape.boot) * top + 0.14
        b.face([on_cabin(rear, 0.05), on_cabin(front, 0.05), on_cabin(front_top, top), on_cabin(rear_top, top)], lean, Paint.GLASS, facing, True)
        half = 0.5
        b.face([on_cabin((rear + rear_top) / 2, half), on_cabin((front + front_top) / 2, half), on_cabin(front_top, top), on_cabin(rear_top, top)], lean, Paint.GLASS_TOP, facing)
        middle = (shape.roof_front + shape.roof_rear) / 2 + 0.1
        for x in (middle, middle - 1.0 if middle - 1.0 > rear_top + 0.2 else middle + 0.75):
            b.face([on_cabin(x - 0.04, 0.04), on_cabin(x + 0.04, 0.04), on_cabin(x + 0.02, top), on_cabin(x - 0.06, top)], lean, Paint.DARK, facing)
            b.face([(x - 0.012, y * 1.002, sill + 0.03), (x + 0.012, y * 1.002, sill + 0.03), (x + 0.012, y * 1.002, belt), (x - 0.012, y * 1.002, belt)], (0, side, 0), Paint.SEAM, facing)
            b.face([(x - 0.26, y * 1.01, belt - 0.06), (x - 0.08, y * 1.01, belt - 0.06), (x - 0.08, y * 1.01, belt - 0.02), (x - 0.26, y * 1.01, belt - 0.02)], (0, side, 0), Paint.SEAM, facing)
        xm = shape.cowl - 0.35
        b.face([(xm, y * 1.1, waist), (xm + 0.12, y * 1.1, waist), (xm + 0.12, y * 1.1, waist + 0.14), (xm, y * 1.1, waist + 0.14)], (0, side, 0), Paint.DARK, facing)


def _rear(b: _Builder, shape: Shape, w: float, inset: float, roof_w: float) -> None:
    low, waist, height = shape.clearance + 0.04, shape.waist, shape.height

    def rect(x: float, y0: float, y1: float, z0: float, z1: float, paint: Paint, coarse: bool = False) -> None:
        b.face([(x, y0, z0), (x, y1, z0), (x, y1, z1), (x, y0, z1)], (-1, 0, 0.12), paint, Facing.REAR, coarse)

    b.face([(0.06, -w, low), (0.06, w, low), (0.0, w, 0.5), (0.04, w, waist - 0.16), (0.05, inset, waist), (0.05, -inset, waist), (0.04, -w, waist - 0.16), (0.0, -w, 0.5)], (-1, 0, 0.1), Paint.BODY, Facing.REAR, True)
    rect(-0.01, -w * 0.98, w * 0.98, low, 0.36, Paint.SILL, True)
    rect(-0.01, -w, w, 0.355, 0.37, Paint.SEAM)
    rect(0.0, -w * 0.96, w * 0.96, 0.53, 0.545, Paint.SEAM)
    slope = shape.roof_rear - shape.boot
    normal = (-(height - waist), 0.0, slope)

    def window(y: float, up: float) -> tuple[float, float, float]:
        half = inset + (roof_w - inset) * up
        return shape.boot + slope * up, y * half, waist + (height - waist) * up

    b.face([window(-1, 0), window(1, 0), window(1, 1), window(-1, 1)], normal, Paint.BODY, Facing.REAR, True)
    b.face([window(-0.86, 0.1), window(0.86, 0.1), window(0.84, 0.88), window(-0.84, 0.88)], normal, Paint.GLASS, Facing.REAR, True)
    b.face([window(-0.85, 0.55), window(0.85, 0.55), window(0.84, 0.88), window(-0.84, 0.88)], normal, Paint.GLASS_TOP, Facing.REAR)
    tall = 0.30 if shape.height < 1.6 else 0.42
    for side in (-1, 1):
        y0, y1 = sorted((side * w * 0.99, side * (w - 0.24)))
        rect(0.02, y0, y1, waist - 0.08 - tall, waist - 0.06, Paint.TAIL_LAMP, True)
    rect(-0.01, -0.26, 0.26, 0.56, 0.67, Paint.PLATE, True)


def _front(b: _Builder, shape: Shape, w: float, inset: float, roof_w: float) -> None:
    low, waist, height, length, nose = shape.clearance, shape.waist, shape.height, shape.length, shape.nose

    def rect(y0: float, y1: float, z0: float, z1: float, paint: Paint, coarse: bool = False) -> None:
        x = length + 0.01
        b.face([(x, y0, z0), (x, y1, z0), (x, y1, z1), (x, y0, z1)], (1, 0, 0.15), paint, Facing.FRONT, coarse)

    slope = shape.cowl - shape.roof_front
    normal = (height - waist, 0.0, slope)

    def window(y: float, up: float) -> tuple[float, float, float]:
        half = inset + (roof_w - inset) * up
        return shape.cowl - slope * up, y * half, waist + (height - waist) * up

    b.face([window(-1, 0), window(1, 0), window(1, 1), window(-1, 1)], normal, Paint.BODY, Facing.FRONT, True)
    b.face([window(-0.93, 0.04), window(0.93, 0.04), window(0.9, 0.92), window(-0.9, 0.92)], normal, Paint.GLASS, Facing.FRONT, True)
    b.face([window(-0.92, 0.55), window(0.92, 0.55), window(0.9, 0.92), window(-0.9, 0.92)], normal, Paint.GLASS_TOP, Facing.FRONT)
    b.face([(length - 0.1, -w, low), (length - 0.1, w, low), (length, w, 0.55), (length - 0.06, w, nose - 0.1), (length - 0.1, inset, nose), (length - 0.1, -inset, nose), (length - 0.06, -w, nose - 0.1), (length, -w, 0.55)], (1, 0, 0.15), Paint.BODY, Facing.FRONT, True)
    rect(-w * 0.6, w * 0.6, low + 0.04, low + 0.2, Paint.DARK, True)
    rect(-0.42, 0.42, nose - 0.19, nose - 0.05, Paint.DARK, True)
    rect(-0.26, 0.26, 0.45, 0.56, Paint.PLATE, True)
    for side in (-1, 1):
        y0, y1 = sorted((side * w * 0.97, side * (w - 0.42)))
        rect(y0, y1, nose - 0.22, nose - 0.05, Paint.HEAD_LAMP, True)
        y0, y1 = sorted((side * (w - 0.1), side * (w - 0.32)))
        rect(y0, y1, low + 0.08, low + 0.18, Paint.DARK)


_BODY_COLORS = np.array(
    [[26, 27, 30], [40, 44, 52], [96, 100, 104], [150, 153, 156], [196, 198, 200], [226, 226, 224], [30, 44, 92], [124, 22, 24], [60, 72, 66], [112, 96, 74], [178, 40, 30], [52, 96, 148]],
    np.float64,
)
_BODY_SHARES = np.array([20, 14, 12, 16, 8, 12, 8, 5, 2, 2, 3, 3], np.float64)


def paint_car(canvas: Canvas, camera: Camera, light: Light, s: float, d: float, turn: float, look: int, braking: bool = False) -> Floats | None:
    """Paint a car whose middle is at (s, d), turned by `turn` radians from the road's direction to the right.

    Returns:
        image places [2, 2] of the two lamps that face the camera, or None when none does.
    """
    rng = np.random.default_rng([81, look])
    kind = int(rng.choice(len(SHAPES), p=[0.32, 0.24, 0.18, 0.18, 0.08]))
    body = _BODY_COLORS[rng.choice(len(_BODY_COLORS), p=_BODY_SHARES / _BODY_SHARES.sum())] * rng.uniform(0.85, 1.1)
    model, shape = mesh(kind), SHAPES[kind]
    forward, right = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])  # in (s, d)
    local = model.points - (shape.length / 2, 0, 0)
    ground = local[:, :1] * forward + local[:, 1:2] * right
    world = np.column_stack([s + ground[:, 0], d + ground[:, 1], local[:, 2]])
    view = camera.view(world)
    if view[:, 2].max() < 1.0:
        return None
    corners = camera.project_view(view)
    x0, _, s0 = camera.position
    to_camera = np.array([s0 - s, x0 - d - float(camera.course.x(s))])  # (s, d)
    ahead, aside = float(to_camera @ forward), float(to_camera @ right)
    up = camera.position[1] - float(camera.course.y(s))
    half_l, half_w = shape.length / 2, shape.width / 2
    seen = {
        Facing.REAR: ahead < -half_l,
        Facing.FRONT: ahead > half_l,
        Facing.LEFT: aside < -half_w,
        Facing.RIGHT: aside > half_w,
        Facing.TOP: up > shape.waist,
        Facing.ALWAYS: True,
    }
    distance = float(np.hypot(*to_camera))
    normals = np.column_stack(
        [model.normals[:, 0] * forward[1] + model.normals[:, 1] * right[1], model.normals[:, 2], model.normals[:, 0] * forward[0] + model.normals[:, 1] * right[0]]
    )
    albedo = _albedo(body, light, braking, rng)[np.array(model.paints)]
    colors = light.shade(albedo, normals, distance)
    if light.lamps:
        for index, paint in enumerate(model.paints):
            if paint in (Paint.TAIL_LAMP, Paint.HEAD_LAMP):
                colors[index] = (255, 60, 44) if paint is Paint.TAIL_LAMP else (255, 246, 220)
    small = camera.focal * shape.width / distance < 26
    for index, (paint, facing) in enumerate(zip(model.paints, model.facings, strict=True)):
        if seen[facing] and not (small and not model.coarse[index]):
            canvas.polygon(corners[model.starts[index] : model.starts[index + 1]], colors[index], SceneClass.CAR)
    return None


def _albedo(body: Floats, light: Light, braking: bool, rng: np.random.Generator) -> Floats:
    sky = (light.sky_low + light.sky_top) / 2
    table = np.zeros((len(Paint), 3))
    table[Paint.BODY] = body
    table[Paint.SILL] = body * 0.55 + 6 if rng.random() < 0.6 else (34, 34, 36)
    table[Paint.GLASS] = np.array([24, 28, 32]) * rng.uniform(0.7, 1.6)
    table[Paint.GLASS_TOP] = table[Paint.GLASS] * 0.7 + sky * rng.uniform(0.08, 0.34)
    table[Paint.TYRE] = (22, 22, 23)
    table[Paint.RIM] = np.array([132, 134, 136]) * rng.uniform(0.5, 1.2)
    table[Paint.TAIL_LAMP] = (228, 44, 34) if braking else (134, 22, 20)
    table[Paint.HEAD_LAMP] = (206, 210, 214)
    table[Paint.PLATE] = ((222, 222, 214), (222, 222, 214), (216, 184, 60))[int(rng.integers(3))]
    table[Paint.DARK] = (17, 17, 18)
    table[Paint.SHINE] = body * 0.75 + sky * 0.25
    table[Paint.SEAM] = body * 0.45
    table[Paint.UNDER] = (14, 14, 15)
    return table
