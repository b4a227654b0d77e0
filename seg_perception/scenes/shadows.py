"""Shadows on the ground, as the share of light that arrives there."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from seg_perception.scenes.camera import Camera, Floats, GroundView
from seg_perception.scenes.canvas import Canvas, fixed_point
from seg_perception.scenes.facades import facade
from seg_perception.scenes.layout import Cell, Kind, Thing
from seg_perception.scenes.textures import tileable_noise
from seg_perception.scenes.weather import Light

_REACH = 80.0  # meters ahead in which shadows are cast
_LEAFY = 55  # marks shadow of leaves until spots of sun are let through
_SOLID = 25


class _ShadowMap:
    """Shadows in a picture of half the canvas's size: uint8, 255 in full light."""

    def __init__(self, canvas: Canvas, camera: Camera, light: Light) -> None:
        self.camera = camera
        self.pixels = np.full((canvas.height // 2, canvas.width // 2), 255, np.uint8)
        sideways, up, ahead = (float(v) for v in light.toward_sun)
        flat = max(1e-6, float(np.hypot(sideways, ahead)))
        length = min(2.5, flat / max(0.2, up))
        self.away = -np.array([ahead, sideways]) / flat * length  # (s, d) meters of shadow for a meter of height

    def outline(self, ground: Floats, value: int) -> None:
        """Fill the hull of ground points (s, d) [N, 2]."""
        ground = ground.copy()
        ground[:, 0] = np.maximum(ground[:, 0], self.camera.s + 0.9)
        points = self.camera.project(np.column_stack([ground, np.zeros(len(ground))]))
        hull = cv2.convexHull((points / 2 - 0.5).clip(-2e4, 2e4).astype(np.float32))
        cv2.fillPoly(self.pixels, [fixed_point(hull)], value, cv2.LINE_8, 4)

    def cast(self, base: Floats, height: float, value: int = _SOLID) -> None:
        """The shadow of an upright thing that stands on ground points (s, d) [N, 2]."""
        self.outline(np.concatenate([base, base + self.away * height]), value)

    def tree(self, tree: Thing) -> None:
        """A crown's shadow: some balls of leaves, and the trunk."""
        foot = np.array([tree.s, tree.d])
        self.cast(foot + np.array([[0, -0.13], [0, 0.13]]), tree.height * 0.5, _LEAFY + 1)
        rng = np.random.default_rng([82, tree.variant, int(tree.s) & 0xFFFF])
        turn = np.linspace(0, 2 * np.pi, 11)[:-1]
        circle = np.column_stack([np.cos(turn), np.sin(turn)])
        for _ in range(6):
            middle = foot + self.away * tree.height * rng.uniform(0.48, 0.85) + rng.normal(0, 0.17, 2) * tree.width
            self.outline(middle + circle * tree.width * rng.uniform(0.16, 0.28), _LEAFY)

    def let_sun_through(self, view: GroundView) -> None:
        """Brighten spots in shadows of leaves, fixed to the ground."""
        rows = view.rows()
        every = np.arange(self.pixels.shape[0]) * 2 - rows.top
        lines = every[(every >= 0) & (every < len(rows.distance))]
        if len(lines) == 0:
            return
        area = self.pixels[-len(lines) :]
        d = rows.d_start[lines, None] + rows.d_step[lines, None] * (np.arange(area.shape[1]) * 2)
        s = self.camera.s + rows.distance[lines]
        noise = tileable_noise(512, 4, 77, 0.7, 32)
        spots = noise[((s * 10).astype(np.int64) % 512)[:, None], (d * 14).astype(np.int64) % 512]
        leafy = area == _LEAFY
        area[leafy] = np.where(spots[leafy] > 0.54, 220, 45)


def cast_shadows(
    canvas: Canvas, camera: Camera, light: Light, view: GroundView, cells: Iterable[Cell], cars: list[Thing]
) -> NDArray[np.float32]:
    """The share of light that arrives on the ground, float32 [H, W], 0 to 1."""
    cells = list(cells)
    standing = [t for cell in cells for t in cell.things if camera.s - 12 < t.s < camera.s + _REACH]
    parked = [t for t in standing if t.kind is Kind.CAR]
    cars = [car for car in (*parked, *cars) if -8 < car.s - camera.s < _REACH]
    sun = _ShadowMap(canvas, camera, light)
    if light.shadow > 0.1:
        for thing in standing:
            if thing.kind is Kind.TREE:
                sun.tree(thing)
        sun.let_sun_through(view)
        _cast_solid(sun, camera, cells, standing)
        for car in cars:
            sun.cast(_footprint(car, 1.0), 1.2)
    contact = _ShadowMap(canvas, camera, light)
    for car in cars:  # whatever the weather, no light gets under a car
        for grow, value in ((1.14, 160), (1.04, 90), (0.95, 40)):
            contact.outline(_footprint(car, grow), value)
    soft = cv2.blur(sun.pixels, (5, 3)).astype(np.float32)
    under = cv2.blur(contact.pixels, (7, 3)).astype(np.float32)
    share = (1 - light.shadow * (1 - soft / 255)) * (under / 255)
    large = cv2.resize(share, (canvas.width, canvas.height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(large, np.float32)


def _cast_solid(sun: _ShadowMap, camera: Camera, cells: list[Cell], standing: list[Thing]) -> None:
    for cell in cells:
        for house in cell.houses:
            if house.s_far > camera.s - 10 and house.s_near < camera.s + _REACH:
                back = house.d * 1.5
                base = [
                    [house.s_near, house.d],
                    [house.s_far, house.d],
                    [house.s_far, back],
                    [house.s_near, back],
                ]
                sun.cast(np.array(base), facade(house.variant).height)
        for post in cell.posts:
            if camera.s - 8 < post.s < camera.s + 40:
                base = [[post.s - 0.04, post.d - post.radius], [post.s + 0.04, post.d + post.radius]]
                sun.cast(np.array(base), post.height)
    halves = {Kind.PERSON: 0.22, Kind.LAMP_POST: 0.07}
    for thing in standing:
        half = thing.width * 0.45 if thing.kind is Kind.BUSH else halves.get(thing.kind)
        if half is not None:
            corner = np.array([half * 0.5, half])
            foot = np.array([thing.s, thing.d])
            sun.cast(np.stack([foot - corner, foot + corner]), thing.height)


def _footprint(car: Thing, grow: float) -> Floats:
    """The corners (s, d) of the ground under a car."""
    cos, sin = np.cos(car.turn), np.sin(car.turn)
    corners = np.array([[-2.1, -0.82], [-2.1, 0.82], [2.1, 0.82], [2.1, -0.82]]) * grow
    return np.asarray(np.array([car.s, car.d]) + corners @ np.array([[cos, sin], [-sin, cos]]))
