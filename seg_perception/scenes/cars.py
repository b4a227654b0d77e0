"""Painting of cars: paint that mirrors sky and street, glass, lamps."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from seg_perception.scenes.camera import Camera, Floats
from seg_perception.scenes.canvas import Canvas, Glow
from seg_perception.scenes.car_mesh import car_mesh
from seg_perception.scenes.car_parts import SHAPES, Paint
from seg_perception.scenes.layout import SceneClass
from seg_perception.scenes.weather import Light

_BODY_COLORS = np.array(
    [
        [20, 21, 24],
        [36, 40, 48],
        [92, 96, 100],
        [142, 145, 148],
        [186, 188, 190],
        [220, 220, 218],
        [26, 38, 84],
        [112, 18, 20],
        [52, 66, 58],
        [106, 92, 72],
        [166, 34, 26],
        [46, 84, 132],
    ],
    np.float64,
)
_BODY_SHARES = np.array([20, 14, 12, 16, 8, 12, 8, 5, 2, 2, 3, 3], np.float64)
_KIND_SHARES = np.array([0.32, 0.24, 0.18, 0.18, 0.08])
_MIRRORED = np.zeros(len(Paint))  # how much a paint mirrors its surroundings when seen straight on
_MIRRORED[[Paint.BODY, Paint.GLASS, Paint.CHROME, Paint.HEAD_LAMP, Paint.TAIL_LAMP, Paint.RIM]] = (
    0.10,
    0.13,
    0.55,
    0.2,
    0.12,
    0.15,
)
_FINE_FROM = 46.0  # image pixels of car width from which the fine mesh is painted


def paint_car(
    canvas: Canvas, camera: Camera, light: Light, s: float, d: float, turn: float, look: int, braking: bool = False
) -> None:
    """Paint a car whose middle is at (s, d), turned by `turn` radians from the road's direction to the right."""
    kind, table = paintwork(look)
    x0, y0, s0 = camera.position
    away = np.array([s - s0, d + float(camera.course.x(s)) - x0])
    distance = float(np.hypot(*away))
    shape = SHAPES[kind]
    model = car_mesh(kind, camera.focal * shape.width / max(distance, 1.0) > _FINE_FROM)
    forward, right = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])  # in (s, d)
    local = model.points - (shape.length / 2, 0, 0)
    ground = local[:, :1] * forward + local[:, 1:2] * right
    view = camera.view(np.column_stack([s + ground[:, 0], d + ground[:, 1], local[:, 2]]))
    if view[:, 2].max() < 1.0:
        return
    corners = camera.project_view(view)
    # the camera in car coordinates decides which faces are seen
    eye = np.array([-away @ forward + shape.length / 2, -away @ right, y0 - float(camera.course.y(s))])
    ray = eye - model.centers
    ray /= np.linalg.norm(ray, axis=1, keepdims=True)
    facing = np.einsum("ij,ij->i", ray, model.normals)
    seen = np.flatnonzero(facing > 0.01)
    if len(seen) == 0:
        return
    normals, paints = model.normals[seen], model.paints[seen]
    upright = np.column_stack(  # right, up, forward of the world
        [
            normals[:, 0] * forward[1] + normals[:, 1] * right[1],
            normals[:, 2],
            normals[:, 0] * forward[0] + normals[:, 1] * right[0],
        ]
    )
    albedo = table[paints]
    colors = light.shade(albedo, upright, distance)
    colors += _mirrored(light, ray[seen], normals, facing[seen], paints) * np.exp(-light.haze * distance)
    if light.lamps >= 1.0:  # in the ego car's headlights
        colors += albedo * (0.75 * np.exp(-((distance / 22) ** 2))) * np.maximum(facing[seen], 0)[:, None]
    if light.lamps:
        colors[paints == Paint.TAIL_LAMP] = (255, 54, 40)
        colors[paints == Paint.HEAD_LAMP] = (255, 246, 222)
        for paint, color in ((Paint.TAIL_LAMP, (150, 18, 12)), (Paint.HEAD_LAMP, (235, 225, 200))):
            for face in seen[(paints == paint) & (np.abs(normals[:, 1]) < 0.2)]:
                place = corners[model.starts[face] : model.starts[face + 1]].mean(axis=0)
                radius = camera.focal * 0.05 / max(distance, 1.0)
                if place[1] < canvas.floor and distance < 70:
                    canvas.glows.append(Glow(float(place[0]), float(place[1]), radius, color))
    elif braking:
        colors[paints == Paint.TAIL_LAMP] = (236, 44, 34)
    np.clip(colors, 0, 255, out=colors)
    canvas.faces(corners, model.starts, seen, colors, SceneClass.CAR)


def _mirrored(light: Light, ray: Floats, normals: Floats, facing: Floats, paints: NDArray[np.int64]) -> Floats:
    """What faces mirror, RGB [F, 3]: sky from above, a dark band at the horizon, the road from below."""
    bounced_up = 2 * facing * normals[:, 2] - ray[:, 2]
    sky = np.clip(bounced_up * 2.2 - 0.25, 0, 1)[:, None]
    road = np.clip(-bounced_up * 2.5, 0, 1)[:, None]
    street = light.ambient * 62
    seen = sky * (0.35 * light.sky_top + 0.65 * light.sky_low) + (1 - sky) * (
        (1 - road) * street + road * light.gain((0.0, 1.0, 0.0)) * 80
    )
    share = _MIRRORED[paints]
    share = share + (share > 0) * 0.45 * (1 - facing) ** 4  # at a slant everything mirrors more
    mirrored: Floats = seen * share[:, None]
    return mirrored


@lru_cache(maxsize=512)
def paintwork(look: int) -> tuple[int, Floats]:
    """Body shape and own colors, RGB [paints, 3], of a car."""
    rng = np.random.default_rng([81, look])
    kind = int(rng.choice(len(SHAPES), p=_KIND_SHARES))
    body = _BODY_COLORS[rng.choice(len(_BODY_COLORS), p=_BODY_SHARES / _BODY_SHARES.sum())] * rng.uniform(0.85, 1.1)
    table = np.zeros((len(Paint), 3))
    table[Paint.BODY] = body
    table[Paint.SILL] = body * 0.6 if rng.random() < 0.6 else (30, 30, 32)
    table[Paint.GLASS] = np.array([18, 21, 24]) * rng.uniform(0.6, 1.6)
    table[Paint.TYRE] = (20, 20, 21)
    table[Paint.RIM] = np.array([128, 130, 132]) * rng.uniform(0.5, 1.2)
    table[Paint.TAIL_LAMP] = (128, 16, 15)
    table[Paint.HEAD_LAMP] = (176, 180, 184)
    table[Paint.PLATE] = ((222, 222, 214), (222, 222, 214), (216, 184, 60))[int(rng.integers(3))]
    table[Paint.DARK] = (15, 15, 16)
    table[Paint.SEAM] = body * 0.45
    table[Paint.UNDER] = (12, 12, 13)
    table[Paint.CHROME] = (110, 112, 114)
    table[Paint.PILLAR] = (16, 16, 17) if rng.random() < 0.6 else body * 0.9
    return kind, table
