"""What cars are made of: paints, measures of bodies, and a mesh of flat faces with its builder.

Car coordinates in meters: x forward from the rear bumper, y to the car's right, z up from the ground.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

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
