"""Painting of everything that stands on the ground: houses, walls, posts, plants, people, and cars that mirror it."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from seg_perception.scenes.camera import NEAREST, Camera, Floats
from seg_perception.scenes.canvas import Canvas, Glow, Texture
from seg_perception.scenes.car_mesh import SHAPES, Paint, car_mesh
from seg_perception.scenes.facades import facade
from seg_perception.scenes.layout import House, Kind, Post, SceneClass, Thing, Wall
from seg_perception.scenes.sprites import (
    BUSH_VARIANTS,
    FOREST_VARIANTS,
    bush_sprite,
    cyclist_sprite,
    forest_texture,
    hedge_texture,
    person_sprite,
    sign_sprite,
    traffic_light_sprite,
    tree_sprite,
)
from seg_perception.scenes.weather import Light, Weather

_NEAR_S = 0.8  # meters ahead of the camera where long things are cut


def _place(camera: Camera, s: float, d: float, h: float) -> Floats:
    return camera.project(np.array([s, d, h]))


def _upright(
    camera: Camera, s: float, d: float, bottom: float, top: float, width: float
) -> tuple[float, float, float, float]:
    """The image box of an upright card that faces the camera."""
    ends = camera.project(np.array([[s, d - width / 2, bottom], [s, d + width / 2, top]]))
    return ends[0, 0], ends[1, 1], ends[1, 0], ends[0, 1]


def _facing_camera(light: Light, side: float) -> Floats:
    """Light on an upright soft thing that stands beside the road."""
    return light.gain((-0.35 * float(np.sign(side)), 0.35, -0.85), wrap=0.6)


def _cut(near: float, far: float, camera: Camera) -> tuple[float, float, float] | None:
    """Cut a long thing at the camera: its near end, far end, and the share of its length cut off."""
    if far <= camera.s + _NEAR_S + 0.05:
        return None
    cut = max(near, camera.s + _NEAR_S)
    return cut, far, (cut - near) / (far - near)


def _wall_quad(camera: Camera, near: float, far: float, d: float, bottom: float, top: float, side: float) -> Floats:
    """Image corners of an upright wall along the road: top left, top right, bottom right, bottom left as seen."""
    left, right = (near, far) if side < 0 else (far, near)
    return camera.project(np.array([[left, d, top], [right, d, top], [right, d, bottom], [left, d, bottom]]))


def paint_house(canvas: Canvas, camera: Camera, light: Light, house: House) -> None:
    """Paint a building: the end that faces the camera, the front along the road, the roof."""
    look = facade(house.variant)
    side = float(np.sign(house.d))
    cut = _cut(house.s_near, house.s_far, camera)
    if cut is None:
        return
    near, far, share = cut
    distance = max(2.0, (near + far) / 2 - camera.s)
    back = house.d + side * house.depth
    dark = house.tone
    if share == 0 and near - camera.s > 2:  # the end wall
        ends = (house.d, back) if side > 0 else (back, house.d)
        quad = camera.project(
            np.array(
                [[near, ends[0], look.height], [near, ends[1], look.height], [near, ends[1], 0.0], [near, ends[0], 0.0]]
            )
        )
        gain = light.gain((0.0, 0.0, -1.0)) * dark
        wall = look.front if house.variant % 3 == 0 else look.side  # some have windows at the end too
        canvas.textured(wall, light.tint(gain, near - camera.s), quad, SceneClass.BACKGROUND)
        if look.pitched:
            middle = (house.d + back) / 2
            gable = camera.project(
                np.array([[near, house.d, look.height], [near, back, look.height], [near, middle, look.height + 3.2]])
            )
            color = light.shade(look.wall[None] * dark * 0.95, np.array([[0.0, 0.0, -1.0]]), near - camera.s)[0]
            canvas.polygon(gable, color, SceneClass.BACKGROUND)
    if look.pitched:
        middle = (house.d + back) / 2
        ridge = look.height + 3.2
        slope = camera.project(
            np.array(
                [
                    [near, house.d - side * 0.3, look.height - 0.1],
                    [far, house.d - side * 0.3, look.height - 0.1],
                    [far, middle, ridge],
                    [near, middle, ridge],
                ]
            )
        )
        color = light.shade(look.roof[None] * dark, np.array([[-side * 0.6, 0.8, 0.0]]), distance)[0]
        canvas.polygon(slope, color, SceneClass.BACKGROUND)
    front = look.lit if light.lamps >= 0.7 else look.front
    # the texture's left edge is the near end on the left side of the road, the far end on the right
    start, end = (share, 1.0) if side < 0 else (0.0, 1.0 - share)
    gain = light.gain((-side, 0.0, 0.0)) * dark
    if light.lamps >= 1.0:
        gain = gain * 1.6
    quad = _wall_quad(camera, near, far, house.d, 0.0, look.height, side)
    canvas.textured(front, light.tint(gain, distance), quad, SceneClass.BACKGROUND, start, end)


@lru_cache(maxsize=3)
def _fence_texture(look: str) -> Texture:
    """RGBA [64, 512, 4]: a railing, a guard rail or a stone wall."""
    image = np.zeros((64, 512, 4), np.uint8)
    if look == "fence":
        image[4:8] = image[52:56] = (62, 64, 64, 255)
        for x in range(0, 512, 8):
            image[4:60, x : x + 3] = (54, 56, 56, 255)
        for x in range(0, 512, 128):
            image[0:64, x : x + 6] = (48, 50, 50, 255)
    elif look == "rail":
        ramp = np.array([0.75, 1.1, 0.8, 0.6, 0.85, 1.15, 0.8, 0.6]).repeat(4)
        image[2:34, :, :3] = (np.array([150, 154, 156]) * ramp[:, None])[:, None]
        image[2:34, :, 3] = 255
        for x in range(0, 512, 102):
            image[20:64, x : x + 9] = (96, 98, 98, 255)
    else:
        rng = np.random.default_rng(91)
        y, x = np.mgrid[0:64, 0:512]
        row = y // 10
        own = rng.uniform(0.75, 1.2, (7, 32))[row, ((x + 9 * row) // 18) % 32]
        joint = (y % 10 == 0) | ((x + 9 * row) % 18 == 0)
        grain = rng.normal(1, 0.06, (64, 512))
        image[..., :3] = np.clip(
            (np.array([138, 126, 108])[None, None] * (own * grain * np.where(joint, 0.7, 1.0))[..., None]), 0, 255
        )
        image[0:4, :, :3] = (150, 146, 138)
        image[..., 3] = 255
    return Texture(image)


def paint_wall(canvas: Canvas, camera: Camera, light: Light, wall: Wall) -> None:
    """Paint a hedge, fence, wall, guard rail or edge of a wood along the road."""
    cut = _cut(wall.s_near, wall.s_far, camera)
    if cut is None:
        return
    near, far, share = cut
    side = float(np.sign(wall.d))
    distance = max(2.0, (near + far) / 2 - camera.s)
    if wall.look == "forest":
        texture, label = forest_texture(wall.variant % FOREST_VARIANTS), SceneClass.VEGETATION
        gain = light.gain((-side * 0.8, 0.4, -0.4), wrap=0.5) * wall.tone
    elif wall.look == "hedge":
        texture, label = hedge_texture(wall.variant % BUSH_VARIANTS), SceneClass.VEGETATION
        gain = light.gain((-side * 0.8, 0.4, -0.4), wrap=0.4) * wall.tone
    else:
        texture, label = _fence_texture(wall.look), SceneClass.BACKGROUND
        gain = light.gain((-side, 0.1, 0.0)) * wall.tone
    start, end = (share, 1.0) if side < 0 else (0.0, 1.0 - share)
    quad = _wall_quad(camera, near, far, wall.d, 0.0, wall.height, side)
    canvas.textured(texture, light.tint(gain, distance), quad, label, start, end)


def _rod(
    canvas: Canvas, camera: Camera, light: Light, ends: Floats, radius: float, albedo: float, label: SceneClass
) -> None:
    """A round rod between two world points (s, d, h), lighter on the sunny side."""
    view = camera.view(ends)
    if view[:, 2].min() < NEAREST + 0.2:
        return
    picture = camera.project_view(view)
    along = picture[1] - picture[0]
    length = float(np.hypot(*along))
    if length < 0.5:
        return
    normal = np.array([-along[1], along[0]]) / length
    half = np.maximum(camera.focal * radius / view[:, 2], 0.55)[:, None]
    distance = float(view[:, 2].mean())
    shades = light.shade(
        np.full((3, 3), albedo) * (1.0, 1.01, 1.02),
        np.array([[-0.8, 0.0, -0.6], [0.0, 0.0, -1.0], [0.8, 0.0, -0.6]]),
        distance,
    )
    canvas.polygon(np.concatenate([picture - normal * half, (picture + normal * half)[::-1]]), shades[1], label)
    if half.max() > 1.6:
        flip = 1.0 if normal[0] > 0 else -1.0
        for shade, start, end in ((shades[0], -1.0, -0.35), (shades[2], 0.45, 1.0)):
            low, high = normal * half * flip * start, normal * half * flip * end
            canvas.polygon(
                np.concatenate([picture + low, (picture + high)[::-1]]), shade * (0.8 if start > 0 else 1.05), label
            )


def paint_post(canvas: Canvas, camera: Camera, light: Light, post: Post) -> None:
    """Paint a pole and the signs and lights on it."""
    distance = post.s - camera.s
    if distance < 1.2:
        return
    albedo = 104 * post.shade
    _rod(
        canvas,
        camera,
        light,
        np.array([[post.s, post.d, 0.0], [post.s, post.d, post.height]]),
        post.radius,
        albedo,
        SceneClass.POLE,
    )
    if post.arm:
        _rod(
            canvas,
            camera,
            light,
            np.array([[post.s, post.d, post.height - 0.15], [post.s, post.d + post.arm, post.height]]),
            post.radius * 0.7,
            albedo,
            SceneClass.POLE,
        )
    gain = light.gain((0.0, 0.2, -1.0), wrap=0.35) * 1.05
    if light.lamps >= 1.0:
        gain = gain * 2.6  # signs throw headlights back
    for variant, height, size in post.signs:
        sprite = sign_sprite(variant)
        width = size * sprite.aspect
        box = _upright(camera, post.s - 0.06, post.d, height - size / 2, height + size / 2, width)
        canvas.sprite(sprite, light.tint(np.minimum(gain, 1.15), distance), box, SceneClass.TRAFFIC_SIGN)
    for state, height, offset in post.lights:
        box = _upright(camera, post.s - 0.1, post.d + offset, height - 0.46, height + 0.46, 0.36)
        lamp = np.maximum(light.gain((0.0, 0.0, -1.0)), 0.75)
        canvas.sprite(traffic_light_sprite(state), light.tint(lamp, distance * 0.4), box, SceneClass.TRAFFIC_LIGHT)
        if light.lamps > 0 or light.weather is Weather.FOG:
            row = {"red": 0.19, "amber": 0.5, "green": 0.81}[state]
            color = {"red": (120, 18, 8), "amber": (120, 70, 10), "green": (16, 110, 60)}[state]
            middle = ((box[0] + box[2]) / 2, box[1] + (box[3] - box[1]) * row)
            canvas.glows.append(Glow(middle[0], middle[1], (box[2] - box[0]) * 0.3, color))


def paint_thing(canvas: Canvas, camera: Camera, light: Light, thing: Thing, seconds: float) -> None:
    """Paint a tree, bush, person, cyclist, lamp post or bollard."""
    distance = thing.s - camera.s
    if distance < 1.5:
        return
    if thing.kind is Kind.TREE or thing.kind is Kind.BUSH:
        tree = thing.kind is Kind.TREE
        sprite = tree_sprite(thing.variant) if tree else bush_sprite(thing.variant)
        gain = _facing_camera(light, thing.d) * thing.tone
        box = _upright(camera, thing.s, thing.d, -0.05, thing.height, thing.width)
        canvas.sprite(sprite, light.tint(gain, distance), box, SceneClass.VEGETATION)
    elif thing.kind is Kind.PERSON or thing.kind is Kind.CYCLIST:
        moment = int((seconds * 1.1 + thing.variant * 0.13) * 8) % 8 if thing.speed else 1
        walker = thing.kind is Kind.PERSON
        sprite = person_sprite(thing.variant, moment) if walker else cyclist_sprite(thing.variant, moment)
        box = _upright(camera, thing.s, thing.d, 0.0, thing.height, thing.height * 80 / 176)
        gain = light.gain((0.0, 0.3, -0.9), wrap=0.4)
        canvas.sprite(sprite, light.tint(gain, distance), box, SceneClass.BACKGROUND)
    elif thing.kind is Kind.LAMP_POST:
        foot, top = np.array([thing.s, thing.d, 0.0]), np.array([thing.s, thing.d, thing.height])
        albedo = 100 * thing.tone
        head = np.array([thing.s, thing.d + thing.width, thing.height + 0.25])
        _rod(canvas, camera, light, np.stack([foot, top]), 0.075, albedo, SceneClass.POLE)
        _rod(canvas, camera, light, np.stack([top, head]), 0.05, albedo, SceneClass.POLE)
        tip = head + np.array([0.0, 0.55 * float(np.sign(thing.width)), 0.02])
        if light.lamps >= 0.7:
            place = _place(camera, float(tip[0]), float(tip[1]), float(tip[2]))
            canvas.glows.append(Glow(float(place[0]), float(place[1]), camera.focal * 0.16 / distance, (230, 190, 120)))
        _rod(
            canvas,
            camera,
            light,
            np.stack([head, tip]),
            0.10,
            250.0 if light.lamps >= 0.7 else albedo * 1.2,
            SceneClass.POLE,
        )
    elif thing.kind is Kind.BOLLARD:
        foot, top = np.array([thing.s, thing.d, 0.0]), np.array([thing.s, thing.d, thing.height])
        _rod(canvas, camera, light, np.stack([foot, top]), 0.07, 40.0, SceneClass.POLE)


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
