"""Shadows on the ground, as brightness of the light that arrives there."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from seg_perception.scenes.camera import Camera, Floats, GroundView
from seg_perception.scenes.canvas import Canvas
from seg_perception.scenes.facades import facade
from seg_perception.scenes.layout import Cell, Kind, Thing
from seg_perception.scenes.textures import tileable_noise
from seg_perception.scenes.weather import Light

_REACH = 80.0


def cast_shadows(
    canvas: Canvas, camera: Camera, light: Light, view: GroundView, cells: Iterable[Cell], cars: list[Thing]
) -> NDArray[np.float32]:
    """The share of light that arrives on the ground, float32 [H, W], 0 to 1."""
    small = np.full((canvas.height // 2, canvas.width // 2), 255, np.uint8)
    length = min(2.5, float(np.hypot(light.toward_sun[0], light.toward_sun[2])) / max(0.2, float(light.toward_sun[1])))
    away = -np.array([light.toward_sun[2], light.toward_sun[0]])
    away = away / max(1e-6, float(np.hypot(*away))) * length  # (s, d) metres for each metre of height
    sharp = light.shadow > 0.1

    def outline(ground: Floats, value: int, onto: NDArray[np.uint8] = small) -> None:
        """Fill the hull of ground points (s, d) [N, 2]."""
        ground = ground.copy()
        ground[:, 0] = np.maximum(ground[:, 0], camera.s + 0.9)
        points = camera.project(np.column_stack([ground, np.zeros(len(ground))]))
        hull = cv2.convexHull((np.clip(points / 2 - 0.5, -2e4, 2e4)).astype(np.float32))
        cv2.fillPoly(onto, [np.round(hull * 16).astype(np.int32)], value, cv2.LINE_8, 4)

    things: list[Thing] = []
    for cell in cells:
        things += [t for t in cell.things if camera.s - 12 < t.s < camera.s + _REACH]
        if not sharp:
            continue
        for house in cell.houses:
            if house.s_near - camera.s > _REACH or house.s_far < camera.s - 10:
                continue
            look = facade(house.variant)
            base = np.array(
                [
                    [house.s_near, house.d],
                    [house.s_far, house.d],
                    [house.s_far, house.d * 1.5],
                    [house.s_near, house.d * 1.5],
                ]
            )
            outline(np.concatenate([base, base + away * look.height]), 20)
        for post in cell.posts:
            if camera.s - 8 < post.s < camera.s + 40:
                base = np.array([[post.s - 0.04, post.d - post.radius], [post.s + 0.04, post.d + post.radius]])
                outline(np.concatenate([base, base + away * post.height]), 60)
    if sharp:
        turn = np.linspace(0, 2 * np.pi, 13)[:-1]
        for thing in things:
            if thing.kind is Kind.TREE:
                crown = np.array([thing.s, thing.d]) + away * thing.height * 0.62
                ring = (
                    np.column_stack([np.cos(turn), np.sin(turn)])
                    * thing.width
                    * 0.42
                    * np.array([max(1.0, length * 0.7), 1.0])
                )
                outline(crown + ring, 55)
                outline(
                    np.array([[thing.s, thing.d - 0.15], [thing.s, thing.d + 0.15]])[[0, 1, 1, 0]]
                    + np.array([[0, 0], [0, 0], away * thing.height * 0.4, away * thing.height * 0.4]),
                    60,
                )
            elif thing.kind in (Kind.PERSON, Kind.LAMP_POST, Kind.BUSH):
                half = {Kind.PERSON: 0.22, Kind.LAMP_POST: 0.07, Kind.BUSH: thing.width * 0.45}[thing.kind]
                base = np.array([[thing.s - half * 0.5, thing.d - half], [thing.s + half * 0.5, thing.d + half]])
                outline(np.concatenate([base, base + away * thing.height]), 60)
        dapple = tileable_noise(512, 5, 77)
        _break_up(small, dapple, camera, view)
    if sharp:
        for car in (*[t for t in things if t.kind is Kind.CAR], *cars):
            if -8 < car.s - camera.s < _REACH:
                base = _footprint(car, 1.0)
                outline(np.concatenate([base, base + away * 1.2]), 40)
    soft = cv2.blur(small, (5, 3))
    contact = np.full_like(small, 255)
    for car in (*[t for t in things if t.kind is Kind.CAR], *cars):
        if -8 < car.s - camera.s < _REACH * 1.5:
            for grow, value in ((1.14, 160), (1.04, 90), (0.95, 40)):
                outline(_footprint(car, grow), value, contact)
    contact = cv2.blur(contact, (7, 3))
    factor = (1 - light.shadow * (1 - soft.astype(np.float32) / 255)) * (contact.astype(np.float32) / 255)
    return np.asarray(cv2.resize(factor, (canvas.width, canvas.height), interpolation=cv2.INTER_LINEAR), np.float32)


def _footprint(car: Thing, grow: float) -> Floats:
    """The corners (s, d) of the ground under a car."""
    forward, right = np.array([np.cos(car.turn), np.sin(car.turn)]), np.array([-np.sin(car.turn), np.cos(car.turn)])
    corners = np.array([[-2.1, -0.82], [-2.1, 0.82], [2.1, 0.82], [2.1, -0.82]]) * grow
    return np.asarray(np.array([car.s, car.d]) + corners @ np.stack([forward, right]))


def _break_up(small: NDArray[np.uint8], dapple: NDArray[np.float32], camera: Camera, view: GroundView) -> None:
    """Let spots of sun through leaves: brighten shadow pixels of the tree kind by a ground-fixed noise."""
    rows = view.rows()
    top = (rows.top + 1) // 2
    every = np.arange(top, small.shape[0]) * 2 - rows.top
    lines = every[(every >= 0) & (every < len(rows.distance))]
    if len(lines) == 0:
        return
    top = small.shape[0] - len(lines)
    d = rows.d_start[lines, None] + rows.d_step[lines, None] * (np.arange(small.shape[1]) * 2)
    s = camera.s + rows.distance[lines]
    spots = dapple[((s * 24).astype(np.int64) % 512)[:, None], (d * 24).astype(np.int64) % 512]
    area = small[top:]
    leafy = area == 55
    area[leafy] = np.where(spots[leafy] > 0.62, 215, 50)
