"""Painting of everything that stands on the ground except cars."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from seg_perception.scenes.camera import NEAREST, Camera, Floats
from seg_perception.scenes.canvas import Canvas, Glow, Texture
from seg_perception.scenes.facades import facade
from seg_perception.scenes.layout import House, Kind, Post, SceneClass, Thing, Wall
from seg_perception.scenes.plants import (
    BUSH_VARIANTS,
    FOREST_VARIANTS,
    bush_sprite,
    forest_texture,
    hedge_texture,
    tree_sprite,
)
from seg_perception.scenes.signs import cyclist_sprite, person_sprite, sign_sprite, traffic_light_sprite
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
