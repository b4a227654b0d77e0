"""The ground: which surface lies where, how it looks, and which share of the light arrives there past the shadows."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from seg_perception.scenes.camera import Camera, Floats, GroundView
from seg_perception.scenes.canvas import (
    GROUND_LEVELS,
    GROUND_TEXEL,
    GROUND_TILE,
    Canvas,
    coarse_ground,
    fixed_point,
    ground_tiles,
    tileable_noise,
)
from seg_perception.scenes.facades import facade
from seg_perception.scenes.layout import CELL, Cell, Kind, Plan, SceneClass, Thing
from seg_perception.scenes.weather import Light


class Surface(IntEnum):
    """What the ground can be made of."""

    GRASS = 0
    ASPHALT = 1
    PATCH = 2  # newer, darker asphalt
    GUTTER = 3
    WHITE = 4
    YELLOW = 5
    KERB_TOP = 6
    KERB_FACE = 7
    PAVING = 8
    PAVED_PATH = 9
    SOIL = 10
    YARD = 11
    MANHOLE = 12
    STUD = 13  # tactile paving


_MATERIAL = {
    Surface.GRASS: 2,
    Surface.ASPHALT: 0,
    Surface.PATCH: 0,
    Surface.GUTTER: 1,
    Surface.WHITE: 0,
    Surface.YELLOW: 0,
    Surface.KERB_TOP: 1,
    Surface.KERB_FACE: 0,
    Surface.PAVING: 1,
    Surface.PAVED_PATH: 0,
    Surface.SOIL: 3,
    Surface.YARD: 1,
    Surface.MANHOLE: 3,
    Surface.STUD: 1,
}
_WALKED = (Surface.KERB_TOP, Surface.KERB_FACE, Surface.PAVING, Surface.PAVED_PATH, Surface.YARD, Surface.STUD)
_GROWN = (Surface.GRASS, Surface.SOIL)


def class_of(surface: Surface) -> SceneClass:
    """The class a surface belongs to; kerbs count as pavement, lane markings as road."""
    if surface in _WALKED:
        return SceneClass.SIDEWALK
    return SceneClass.TERRAIN if surface in _GROWN else SceneClass.ROAD


_CLASSES = np.zeros(256, np.uint8)
_CLASSES[: len(Surface)] = [class_of(surface) for surface in Surface]


class Strip(Protocol):
    """Fills the ground between two lateral positions along s with one surface."""

    def __call__(self, at: Floats, left: Floats | float, right: Floats | float, surface: Surface) -> None: ...


class _Lines:
    """Painted lines along the road; they stop at junctions."""

    def __init__(self, plan: Plan, strip: Strip, s0: float) -> None:
        self.strip = strip
        self.s0 = s0
        self.end = s0 + 150
        cells = range(int(s0 // CELL) - 1, int(self.end // CELL) + 1)
        self.gaps = [((c + 0.5) * CELL - 9.2, (c + 0.5) * CELL + 8) for c in cells if plan.is_junction(c)]

    def dashes(self, d: float, width: float, length: float, pause: float) -> None:
        period = length + pause
        for k in range(int(self.s0 // period), int(self.end // period) + 1):
            near, far = k * period, k * period + length
            if far > self.s0 + 1 and all(far < start or near > end for start, end in self.gaps):
                self.strip(np.linspace(near, far, 3), d - width / 2, d + width / 2, Surface.WHITE)

    def solid(self, d: float, width: float, surface: Surface) -> None:
        ends = [self.s0 + 0.9, *(x for gap in self.gaps if gap[1] > self.s0 + 1 for x in gap), self.end]
        for near, far in zip(ends[::2], ends[1::2], strict=True):
            if far > near:
                along = np.geomspace(near - self.s0, far - self.s0, 24) + self.s0
                self.strip(along, d - width / 2, d + width / 2, surface)


class GroundPainter:
    """Paints the ground of one drive."""

    def __init__(self, plan: Plan, light: Light) -> None:
        self.plan = plan
        self.light = light
        rng = plan.rng(11)
        gray = rng.uniform(66, 118)
        tint = rng.normal(0, 2.0, 3)
        paving = rng.uniform(92, 150) * np.array([1.0, 0.97, 0.93]) + rng.normal(0, 3, 3)
        asphalt = gray * np.array([1.0, 1.0, 1.01]) + tint
        grass = np.array([84, 98, 52]) * rng.uniform(0.75, 1.15) + np.array(
            [rng.uniform(-8, 22), rng.uniform(-4, 8), 0]
        )
        worn = rng.uniform(0.75, 1.0)
        colors = {
            Surface.GRASS: grass,
            Surface.ASPHALT: asphalt,
            Surface.PATCH: asphalt * rng.uniform(0.78, 0.92),
            Surface.GUTTER: asphalt * 1.12,
            Surface.WHITE: np.array([222, 222, 216]) * worn,
            Surface.YELLOW: np.array([214, 170, 58]) * worn,
            Surface.KERB_TOP: np.array([158, 156, 150]) * rng.uniform(0.75, 1.05),
            Surface.KERB_FACE: np.array([88, 87, 84]) * rng.uniform(0.8, 1.1),
            Surface.PAVING: paving if rng.random() < 0.65 else asphalt * 1.1,
            Surface.PAVED_PATH: asphalt * rng.uniform(1.02, 1.2),
            Surface.SOIL: np.array([112, 94, 70]) * rng.uniform(0.8, 1.1),
            Surface.YARD: paving * 0.9,
            Surface.MANHOLE: asphalt * 0.6,
            Surface.STUD: paving * np.array([1.0, 0.82, 0.6]),
        }
        self.colors = np.array([colors[surface] for surface in Surface], np.float32)
        material = [_MATERIAL[surface] for surface in Surface]
        if colors[Surface.PAVING] is not paving:
            material[Surface.PAVING] = 0
        self.material = np.zeros(256, np.int32)
        self.material[: len(Surface)] = np.array(material) * (GROUND_LEVELS * GROUND_TILE * GROUND_TILE)
        self.cobbled = rng.random() < 0.05
        if self.cobbled:
            self.material[[Surface.ASPHALT, Surface.PATCH]] = GROUND_LEVELS * GROUND_TILE * GROUND_TILE
        self.kerb = not (rng.random() < 0.1)
        rng.random()  # decides nothing any more; drawn so that the pictures of a seed stay what they were
        self.double_yellow = plan.traffic < 0 and rng.random() < 0.5

    def surfaces(self, view: GroundView, width: int) -> NDArray[np.uint8]:
        """The surface of every pixel, uint8 [H, W]; meaningful from view.top down."""
        picture = np.full((view.height, width), Surface.GRASS, np.uint8)
        plan, s0 = self.plan, view.camera.s
        s = s0 + np.concatenate([[0.8, 1.6], np.geomspace(2.4, 380, 72)])
        edge = np.full(len(s), plan.edge)

        def strip(at: Floats, left: Floats | float, right: Floats | float, surface: Surface) -> None:
            full = np.zeros(len(at))
            outline = view.strip(at, left + full, right + full)
            corners = np.round(np.clip(outline - 0.5, -1e5, 1e5) * 16).astype(np.int32)
            cv2.fillPoly(picture, [corners], int(surface), cv2.LINE_8, 4)

        for side in (-1, 1):
            verge, walk, line = plan.bounds(s, side)
            self._side(strip, s, side, verge, walk, line)
        strip(s, -edge, edge, Surface.ASPHALT)
        if self.kerb:
            for side in (-1, 1):
                strip(s, side * (edge - 0.32), side * edge, Surface.GUTTER)
        first, last = int(s0 // CELL), int((s0 + 200) // CELL)
        for cell in range(last, first - 1, -1):
            if plan.is_junction(cell):
                self._junction(strip, cell)
        self._wear(strip, first, last)
        if plan.marked:
            self._markings(strip, s0)
        return picture

    def _side(self, strip: Strip, s: Floats, side: int, verge: Floats, walk: Floats, line: Floats) -> None:
        edge = self.plan.edge
        rng = self.plan.rng(12, side)
        strip(s, side * walk, side * line, Surface.GRASS)
        zones = np.array([self.plan.zone_of(float(at)) for at in s])
        paved = np.where((zones == 0) & (line - walk < 3), line + 14, walk)
        strip(s, side * verge, side * paved, Surface.PAVING)
        if rng.random() < 0.5:
            strip(s, side * (walk - 0.12), side * walk, Surface.KERB_TOP)
        if self.kerb:
            strip(s, side * edge, side * (edge + 0.07), Surface.KERB_FACE)
            strip(s, side * (edge + 0.07), side * (edge + 0.24), Surface.KERB_TOP)

    def _junction(self, strip: Strip, cell: int) -> None:
        plan = self.plan
        middle = (cell + 0.5) * CELL
        # the side road opens with rounded corners of 4 m
        along = np.concatenate([np.linspace(-8, -4, 9), np.linspace(4, 8, 9)])
        depth = np.where(np.abs(along) > 4, 4 - np.sqrt(np.maximum(16 - (8 - np.abs(along)) ** 2, 0)), 60.0)
        for side in (-1, 1):
            strip(middle + along, side * (plan.edge - 0.4), side * (plan.edge + depth), Surface.ASPHALT)
            strip(middle + np.array([-4.0, 4.0]), side * (plan.edge - 0.4), side * (plan.edge + 60), Surface.ASPHALT)
        rng = plan.rng(13, cell)
        if rng.random() < 0.6:  # crossings on both sides of the junction
            for place in (middle - 7.6, middle + 4.8):
                strip(np.array([place, place + 2.8]), -plan.edge, plan.edge, Surface.ASPHALT)
                for stripe in np.arange(-plan.edge + 0.4, plan.edge - 0.4, 1.0).tolist():
                    strip(np.array([place, place + 2.8]), stripe, stripe + 0.5, Surface.WHITE)
        left, right = sorted((0.0, plan.traffic * (plan.edge - plan.parking)))
        strip(np.array([middle - 9.2, middle - 8.8]), left + 0.15, right - 0.15, Surface.WHITE)

    def _wear(self, strip: Strip, first: int, last: int) -> None:
        plan = self.plan
        for cell in range(first, min(last, first + 5)):
            rng = plan.rng(14, cell)
            for _ in range(rng.poisson(0.9)):
                at = cell * CELL + rng.uniform(0, 14)
                d = rng.uniform(-plan.edge + 0.5, plan.edge - 2.5)
                strip(np.array([at, at + rng.uniform(0.8, 7)]), d, d + rng.uniform(0.6, 2.2), Surface.PATCH)
            if rng.random() < 0.4:
                at, d = cell * CELL + rng.uniform(0, 18), rng.uniform(-plan.edge + 1, plan.edge - 1)
                turn = np.linspace(-0.32, 0.32, 9)
                half = np.sqrt(np.maximum(0.33**2 - turn**2, 0))
                strip(at + turn, d - half, d + half, Surface.MANHOLE)

    def _markings(self, strip: Strip, s0: float) -> None:
        plan = self.plan
        rng = plan.rng(15)
        lines = _Lines(plan, strip, s0)
        solid_center = plan.lanes > 1 or rng.random() < 0.25
        dash, gap = ((3.0, 6.0), (4.0, 2.0), (6.0, 12.0))[int(rng.integers(3))]
        edge_line = bool(rng.random() < 0.55) or plan.parking > 0
        if solid_center:
            for d in (-0.12, 0.12) if plan.lanes > 1 else (0.0,):
                lines.solid(d, 0.12, Surface.WHITE)
        else:
            lines.dashes(0.0, 0.12, dash, gap)
        for side in (-1, 1):
            for lane in range(1, plan.lanes):
                lines.dashes(side * lane * plan.lane_width, 0.12, dash, gap)
            if edge_line:
                lines.solid(
                    side * (plan.edge - plan.parking - (0.25 if plan.parking == 0 else 0.0)), 0.12, Surface.WHITE
                )
            if self.double_yellow and not plan.parking:
                for inside in (0.45, 0.62):
                    lines.solid(side * (plan.edge - inside), 0.08, Surface.YELLOW)

    def paint(self, pixels: NDArray[np.uint8], view: GroundView, shadows: NDArray[np.float32]) -> None:
        """Paint the ground onto a canvas [H, W, 4].

        Args:
            shadows: float32 [H, W], the share of light that arrives, 0 to 1.
        """
        camera, light, top = view.camera, self.light, view.top
        width = pixels.shape[1]
        rows = view.rows()
        surface = self.surfaces(view, width)[top:]
        columns = np.arange(width, dtype=np.float32)
        d = rows.d_start.astype(np.float32)[:, None] + rows.d_step.astype(np.float32)[:, None] * columns
        s = camera.s + rows.distance
        # how many texels one pixel covers along the road chooses the level of blur
        along = rows.distance**2 / (camera.focal * camera.h) / GROUND_TEXEL
        level = np.clip(np.ceil(np.log2(np.maximum(along, 1e-3)) + 0.3), 0, GROUND_LEVELS - 1).astype(np.int32)
        tile_row = (s / GROUND_TEXEL).astype(np.int64) % GROUND_TILE
        offset = (level * GROUND_TILE * GROUND_TILE + tile_row * GROUND_TILE).astype(np.int32)
        index = (d * np.float32(1 / GROUND_TEXEL)).astype(np.int32)
        index &= GROUND_TILE - 1
        index += offset[:, None]
        index += cv2.LUT(surface, self.material)
        fine = np.take(ground_tiles(), index).astype(np.float32)
        weight = (np.clip(12.0 / along, 0.15, 1.0) / 128).astype(np.float32)[:, None]
        fine *= weight
        fine += 1 - 128 * weight
        # slow brightness changes, sampled sparsely
        sparse = (d[::2, ::4] * 4).astype(np.int32) & 511
        slow = coarse_ground()[((s[::2] * 4).astype(np.int64) % 512)[:, None], sparse]
        fine *= cv2.resize(slow, (width, len(s)), interpolation=cv2.INTER_LINEAR)
        fine *= shadows[top:]
        clear = np.exp(-light.haze * rows.distance).astype(np.float32)
        fine *= clear[:, None]
        if light.lamps >= 1.0:  # headlights
            reach = (2.4 * np.exp(-(((rows.distance - 9) / 16) ** 2))).astype(np.float32)
            fine *= 1 + reach[:, None] * np.exp(-(((d - np.float32(camera.d)) / 4.5) ** 2))
        layers = []
        gain = light.gain((0.0, 1.0, 0.0))
        for channel in range(3):
            own = np.zeros(256, np.float32)
            own[: len(Surface)] = self.colors[:, channel] * gain[channel]
            layer = cv2.LUT(surface, own)
            layer *= fine
            layer += (light.haze_color[channel] * (1 - clear[:, None])).astype(np.float32)
            layers.append(cv2.convertScaleAbs(layer))
        pixels[top:] = cv2.merge([*layers, cv2.LUT(surface, _CLASSES)])


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
