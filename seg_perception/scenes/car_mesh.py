"""Cars as small meshes of flat faces: paints, measures, the builder, and the bodies made with it.

Car coordinates in meters: x forward from the rear bumper, y to the car's right, z up from the ground.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from seg_perception.scenes.camera import Floats


class Paint(IntEnum):
    """What a face is made of."""

    BODY = 0
    SILL = 1
    GLASS = 2
    TYRE = 3
    RIM = 4
    TAIL_LAMP = 5
    HEAD_LAMP = 6
    PLATE = 7
    DARK = 8
    SEAM = 9
    UNDER = 10
    CHROME = 11
    PILLAR = 12


@dataclass(frozen=True, slots=True)
class Shape:
    """Measures of a car body, meters.

    Attributes:
        waist: height of the window line; nose: height of the bonnet's front edge.
        boot, cowl: x where rear window and windscreen meet the waist; roof_rear, roof_front: where they meet the roof.
    """

    length: float
    width: float
    height: float
    waist: float
    boot: float
    roof_rear: float
    roof_front: float
    cowl: float
    nose: float
    clearance: float
    wheel: float = 0.31


SHAPES = (
    Shape(3.95, 1.74, 1.48, 0.93, 0.10, 0.55, 2.05, 2.95, 0.74, 0.20),  # hatchback
    Shape(4.55, 1.80, 1.44, 0.94, 0.62, 1.25, 2.45, 3.35, 0.70, 0.19),  # saloon
    Shape(4.60, 1.80, 1.48, 0.94, 0.08, 0.40, 2.45, 3.35, 0.72, 0.19),  # estate
    Shape(4.45, 1.86, 1.70, 1.04, 0.10, 0.42, 2.35, 3.10, 0.92, 0.26, 0.35),  # sport utility
    Shape(4.80, 1.92, 1.94, 1.10, 0.04, 0.14, 3.25, 4.10, 0.96, 0.24, 0.33),  # van
)
LONGEST_CAR = max(shape.length for shape in SHAPES)


@dataclass(frozen=True, slots=True)
class Mesh:
    """Faces of one body shape in painting order: corner points end to end, and what each face is."""

    points: Floats  # [P, 3]
    starts: NDArray[np.int64]  # [F + 1] first corner of each face, and P at the end
    centers: Floats  # [F, 3]
    normals: Floats  # [F, 3] unit, outwards
    paints: NDArray[np.int64]  # [F]


class MeshBuilder:
    def __init__(self) -> None:
        self.faces: list[Floats] = []
        self.normals: list[Floats] = []
        self.paints: list[Paint] = []

    def face(self, corners: Floats, outwards: Floats, paint: Paint) -> None:
        """Add a face; `outwards` only tells on which side the outside is."""
        across = np.cross(corners[2] - corners[0], corners[-1] - corners[1])
        size = float(np.linalg.norm(across))
        if size < 1e-9:
            return
        normal = across / size
        self.faces.append(corners)
        self.normals.append(normal if float(normal @ outwards) >= 0 else -normal)
        self.paints.append(paint)

    def rect(
        self,
        x: float,
        y: tuple[float, float],
        z: tuple[float, float],
        rearwards: bool,
        paint: Paint,
        round_off: float = 0.0,
    ) -> None:
        """A plate across the car, seen from behind or from the front."""
        r = round_off
        corners = [
            (y[0], z[0] + r),
            (y[0] + r, z[0]),
            (y[1] - r, z[0]),
            (y[1], z[0] + r),
            (y[1], z[1] - r),
            (y[1] - r, z[1]),
            (y[0] + r, z[1]),
            (y[0], z[1] - r),
        ]
        if r == 0:
            corners = corners[1::2]
            corners = [(y[0], z[0]), (y[1], z[0]), (y[1], z[1]), (y[0], z[1])]
        self.face(np.array([(x, *c) for c in corners]), np.array([-1.0 if rearwards else 1.0, 0, 0]), paint)

    def disc(self, x: float, y: float, z: float, radius: float, side: int, paint: Paint, corners: int) -> None:
        turn = np.linspace(0, 2 * np.pi, corners, endpoint=False)
        ring = np.column_stack([x + radius * np.cos(turn), np.full(corners, y), z + radius * np.sin(turn)])
        self.face(ring, np.array([0.0, side, 0]), paint)

    def mesh(self) -> Mesh:
        counts = [len(face) for face in self.faces]
        return Mesh(
            np.concatenate(self.faces),
            np.concatenate([[0], np.cumsum(counts)]),
            np.array([face.mean(axis=0) for face in self.faces]),
            np.array(self.normals),
            np.array([int(p) for p in self.paints]),
        )


@lru_cache(maxsize=16)
def car_mesh(kind: int, fine: bool) -> Mesh:
    """The mesh of one of SHAPES; the coarse one is for cars far away."""
    shape = SHAPES[kind]
    b = MeshBuilder()
    _underneath(b, shape)
    _body(b, shape, fine)
    _wheels(b, shape, fine)
    _rear_details(b, shape, fine)
    _front_details(b, shape, fine)
    _cabin(b, shape, fine)
    return b.mesh()


def _underneath(b: MeshBuilder, shape: Shape) -> None:
    w = shape.width / 2
    for x in (0.78, shape.length - 0.82):
        for rearwards in (True, False):
            at = x + (-1 if rearwards else 1) * shape.wheel * 0.85
            for y in (-w + 0.05, w - 0.25):
                b.rect(at, (y, y + 0.2), (0.0, 0.4), rearwards, Paint.TYRE)
    b.rect(0.3, (-w + 0.06, w - 0.06), (0.13, 0.5), True, Paint.UNDER)
    b.rect(shape.length - 0.3, (-w + 0.06, w - 0.06), (0.15, 0.5), False, Paint.UNDER)


def _sections(shape: Shape, fine: bool) -> tuple[Floats, Floats]:
    """The lower body's skin: stations along the car by points up the side, x and z and half width [S, 5, 3]."""
    length, w = shape.length, shape.width / 2
    rise = length - 0.12 - shape.cowl
    if fine:
        stations = np.array(
            [
                0.0,
                0.05,
                0.16,
                0.34,
                shape.boot + 0.5,
                1.7,
                shape.cowl,
                shape.cowl + rise * 0.5,
                length - 0.42,
                length - 0.18,
                length - 0.06,
                length,
            ]
        )
        girth = np.array([0.80, 0.90, 0.96, 0.99, 1.0, 1.0, 1.0, 0.995, 0.965, 0.90, 0.80, 0.66])
    else:
        stations = np.array([0.0, 0.14, shape.cowl, length - 0.2, length])
        girth = np.array([0.84, 0.97, 1.0, 0.92, 0.72])
    along = np.clip((stations - shape.cowl) / rise, 0, 1)
    top = shape.waist - (shape.waist - shape.nose) * along**1.5
    belt = top - 0.10 - 0.06 * (1 - along)
    up = np.array([1.0, 1.0, 1.0, 1.0, 1.0])
    heights = np.column_stack(
        [
            np.full(len(stations), shape.clearance),
            np.full(len(stations), shape.clearance + 0.13),
            np.full(len(stations), 0.56 if shape.nose > 0.65 else 0.5),
            belt,
            top,
        ]
    )
    widths = girth[:, None] * w * np.array([0.95, 0.99, 1.0, 0.985, 0.925]) * up
    skin = np.empty((len(stations), 5, 3))
    skin[..., 0] = stations[:, None]
    skin[0, :, 0] += (0.05, 0.0, -0.01, 0.035, 0.07)  # the tail leans
    skin[-1, :, 0] -= (0.06, 0.0, 0.0, 0.06, 0.14)
    skin[..., 1] = widths
    skin[..., 2] = heights
    return skin, stations


def _body(b: MeshBuilder, shape: Shape, fine: bool) -> None:
    skin, _ = _sections(shape, fine)
    middle = np.array([shape.length / 2, 0.0, 0.6])
    for side in (-1, 1):
        half = skin * (1, side, 1)
        for i in range(len(skin) - 1):
            for j in range(4):
                corners = np.array([half[i, j], half[i + 1, j], half[i + 1, j + 1], half[i, j + 1]])
                out = corners.mean(axis=0) - middle
                b.face(
                    corners,
                    out * (0.3, 1, 1) if 0.2 < corners[:, 0].mean() < shape.length - 0.5 else out,
                    Paint.SILL if j == 0 else Paint.BODY,
                )
    left, right = skin * (1, -1, 1), skin
    for i in range(len(skin) - 1):  # bonnet and boot lid, a little arched
        crown_a, crown_b = (skin[k, 4] * (1, 0, 1) + (0, 0, 0.03) for k in (i, i + 1))
        for edge in (left, right):
            b.face(np.array([edge[i, 4], edge[i + 1, 4], crown_b, crown_a]), np.array([0.0, 0, 1]), Paint.BODY)
    for k, out in ((0, -1.0), (-1, 1.0)):
        for j in range(4):
            corners = np.array([left[k, j], right[k, j], right[k, j + 1], left[k, j + 1]])
            b.face(corners, np.array([out, 0, 0]), Paint.SILL if j == 0 else Paint.BODY)


def _wheels(b: MeshBuilder, shape: Shape, fine: bool) -> None:
    w, wheel = shape.width / 2, shape.wheel
    corners = 18 if fine else 8
    for side in (-1, 1):
        y = side * w
        for x in (0.78, shape.length - 0.82):
            b.disc(x, y * 0.995, wheel + 0.03, wheel + 0.06, side, Paint.DARK, corners)
            b.disc(x, y * 1.0, wheel, wheel, side, Paint.TYRE, corners)
            b.disc(x, y * 1.005, wheel, wheel * 0.66, side, Paint.RIM, corners)
            if fine:
                for spoke in np.arange(5) * 2 * np.pi / 5 + 0.4:
                    b.disc(
                        x + wheel * 0.42 * np.cos(spoke),
                        y * 1.007,
                        wheel + wheel * 0.42 * np.sin(spoke),
                        wheel * 0.15,
                        side,
                        Paint.DARK,
                        6,
                    )
                b.disc(x, y * 1.008, wheel, wheel * 0.12, side, Paint.DARK, 8)
        if fine:
            sill, belt = shape.clearance + 0.16, shape.waist - 0.16
            middle = (shape.cowl + shape.boot) / 2 + 0.15
            for x in (shape.cowl - 0.25, middle, middle - 0.95):
                line = np.array(
                    [
                        (x - 0.010, y * 1.003, sill),
                        (x + 0.010, y * 1.003, sill),
                        (x + 0.010, y * 0.995, belt),
                        (x - 0.010, y * 0.995, belt),
                    ]
                )
                b.face(line, np.array([0.0, side, 0]), Paint.SEAM)
            for x in (middle + 0.1, middle - 0.85):
                grip = np.array(
                    [
                        (x, y * 1.01, belt - 0.05),
                        (x + 0.2, y * 1.01, belt - 0.05),
                        (x + 0.2, y * 1.01, belt - 0.015),
                        (x, y * 1.01, belt - 0.015),
                    ]
                )
                b.face(grip, np.array([0.0, side, 0]), Paint.SEAM)
            trim = np.array(
                [
                    (0.5, y * 1.004, 0.5),
                    (shape.length - 0.6, y * 1.004, 0.5),
                    (shape.length - 0.6, y * 1.004, 0.53),
                    (0.5, y * 1.004, 0.53),
                ]
            )
            b.face(trim, np.array([0.0, side, 0]), Paint.SEAM)


def _rear_details(b: MeshBuilder, shape: Shape, fine: bool) -> None:
    w, waist = shape.width / 2, shape.waist
    high = waist - 0.10
    low = high - (0.17 if shape.height < 1.6 else 0.34)
    for side in (-1, 1):  # lamps wrap round the corner
        y0, y1 = sorted((side * w * 0.80, side * w * 0.52))
        b.rect(-0.005, (y0, y1), (low, high), True, Paint.TAIL_LAMP)
        corner = np.array(
            [
                (0.0, side * w * 0.79, low),
                (0.12, side * w * 0.965, low),
                (0.14, side * w * 0.955, high),
                (0.03, side * w * 0.79, high),
            ]
        )
        b.face(corner, np.array([-1.0, side * 0.6, 0]), Paint.TAIL_LAMP)
        if fine:
            y0, y1 = sorted((side * w * 0.72, side * w * 0.56))
            b.rect(-0.01, (y0, y1), (low + 0.02, low + 0.075), True, Paint.HEAD_LAMP)
            y0, y1 = sorted((side * w * 0.74, side * w * 0.58))
            b.rect(-0.02, (y0, y1), (0.38, 0.42), True, Paint.TAIL_LAMP)
    b.rect(-0.01, (-0.27, 0.27), (0.56, 0.67), True, Paint.PLATE)
    b.rect(-0.005, (-w * 0.7, w * 0.7), (shape.clearance + 0.02, shape.clearance + 0.12), True, Paint.DARK)
    if fine:
        b.rect(-0.015, (-w * 0.8, w * 0.8), (0.505, 0.52), True, Paint.SEAM)
        b.rect(-0.02, (-0.06, 0.06), (0.74, 0.79), True, Paint.CHROME)
        b.rect(-0.015, (-0.20, 0.20), (0.695, 0.71), True, Paint.CHROME)


def _front_details(b: MeshBuilder, shape: Shape, fine: bool) -> None:
    w, nose, length = shape.width / 2, shape.nose, shape.length
    high, low = nose - 0.05, nose - 0.19
    for side in (-1, 1):
        y0, y1 = sorted((side * w * 0.66, side * w * 0.40))
        b.rect(length + 0.005, (y0, y1), (low, high - 0.01), False, Paint.HEAD_LAMP)
        corner = np.array(
            [
                (length, side * w * 0.65, low),
                (length - 0.16, side * w * 0.9, low + 0.02),
                (length - 0.20, side * w * 0.88, high + 0.02),
                (length - 0.04, side * w * 0.65, high),
            ]
        )
        b.face(corner, np.array([1.0, side * 0.7, 0]), Paint.HEAD_LAMP)
        if fine:
            y0, y1 = sorted((side * w * 0.62, side * w * 0.44))
            b.rect(length + 0.01, (y0, y1), (0.30, 0.38), False, Paint.DARK, 0.02)
    b.rect(length + 0.005, (-w * 0.37, w * 0.37), (low + 0.01, high), False, Paint.DARK, 0.02)
    b.rect(
        length + 0.005, (-w * 0.42, w * 0.42), (shape.clearance + 0.04, shape.clearance + 0.16), False, Paint.DARK, 0.02
    )
    b.rect(length + 0.01, (-0.26, 0.26), (0.42, 0.53), False, Paint.PLATE)
    if fine:
        b.rect(length + 0.012, (-w * 0.36, w * 0.36), (low + 0.06, low + 0.075), False, Paint.CHROME)
        b.rect(length + 0.015, (-0.06, 0.06), (low + 0.03, low + 0.11), False, Paint.CHROME)


def _cabin(b: MeshBuilder, shape: Shape, fine: bool) -> None:
    """Windows, pillars and roof: a ring of corners at several heights, drawn in towards the roof."""
    w = shape.width / 2 * 0.925
    roof_w = shape.width / 2 * 0.70
    middle = (shape.cowl + shape.boot) / 2 + 0.15
    length = shape.cowl - shape.boot
    # the ring on the right side from rear to front: x share of the length, width share, paint of the face that follows
    right: list[tuple[float, float, Paint]] = [
        (0.0, 0.82, Paint.BODY),
        (0.05, 0.96, Paint.BODY),
        (0.13, 1.0, Paint.GLASS),
        ((middle - 0.06 - shape.boot) / length, 1.0, Paint.PILLAR),
        ((middle + 0.06 - shape.boot) / length, 1.0, Paint.GLASS),
        (0.90, 0.99, Paint.BODY),
        (0.965, 0.93, Paint.PILLAR),
        (1.0, 0.84, Paint.GLASS),
    ]
    levels = (0.0, 0.05, 0.3, 0.6, 0.87, 1.0) if fine else (0.0, 0.08, 0.87, 1.0)

    def ring(level: float) -> Floats:
        bow = 1 - (1 - level) ** 1.15 if fine else level
        x0 = shape.boot + (shape.roof_rear - shape.boot) * level**1.1
        x1 = shape.cowl + (shape.roof_front - shape.cowl) * level
        half = w + (roof_w - w) * (0.35 * bow + 0.65 * level**1.5)
        z = shape.waist + (shape.height - shape.waist) * (1 - (1 - level) ** 1.25 if fine else level)
        one = [(x0 + (x1 - x0) * u, half * v, z) for u, v, _ in right]
        return np.array(one + [(x, -y, z) for x, y, z in reversed(one)])

    paints = [p for *_, p in right] + [p for *_, p in reversed(right[:-1])] + [Paint.GLASS]
    center = np.array([middle, 0.0, shape.waist])
    for low, high in pairwise(levels):
        below, above = ring(low), ring(high)
        glazed = low >= 0.04 and high <= 0.9
        for k in range(len(below)):
            n = (k + 1) % len(below)
            corners = np.array([below[k], below[n], above[n], above[k]])
            b.face(corners, corners.mean(axis=0) - center, paints[k] if glazed else Paint.BODY)
    roof = ring(1.0)
    b.face(roof, np.array([0.0, 0, 1]), Paint.BODY)
    for side in (-1, 1):  # mirrors, turned outwards so that the far one is not seen through the cabin
        for facing in (-1.0, 1.0):
            base = np.array([shape.cowl - 0.42, side * shape.width / 2 * 0.98, shape.waist])
            tip = base + np.array([-facing * 0.12, side * 0.13, 0.02])
            rise = np.array([0.0, 0.0, 0.13])
            plate = np.array([base, tip, tip + 0.9 * rise, base + rise])
            b.face(plate, np.array([facing, side, 0]), Paint.DARK if facing < 0 else Paint.BODY)
