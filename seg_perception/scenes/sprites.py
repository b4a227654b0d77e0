"""Things as RGBA sprites: trees, bushes, hedges and woods; traffic signs, traffic lights and people.

A crown is a height field: balls of leaves, roughened by noise. Its slopes give light and shade, its outline the alpha.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from seg_perception.scenes.camera import Floats
from seg_perception.scenes.canvas import Texture, tileable_noise

TREE_VARIANTS = 40
BUSH_VARIANTS = 16
FOREST_VARIANTS = 5

_GREENS = np.array([[70, 88, 46], [56, 76, 42], [88, 98, 52], [138, 112, 54], [62, 78, 50]], np.float64)


def _noise(height: int, width: int, octaves: int, seed: int, first: int) -> NDArray[np.float32]:
    tile = tileable_noise(512, octaves, seed, 0.6, first)
    return np.roll(tile, seed * 37, axis=(0, 1))[:height, :width]


def _foliage(balls: Floats, height: int, width: int, color: Floats, seed: int, rough: float = 0.9) -> NDArray[np.uint8]:
    """Leaves on balls (x, y, radius_x, radius_y) [N, 4] as RGBA uint8 [height, width, 4]."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    field = np.full((height, width), -2.0, np.float32)
    dome = np.zeros((height, width), np.float32)
    for ball_x, ball_y, radius_x, radius_y in balls:
        bulge = 1 - ((x - ball_x) / radius_x) ** 2 - ((y - ball_y) / radius_y) ** 2
        np.maximum(field, bulge, out=field)
        np.maximum(dome, np.sqrt(np.maximum(bulge, 0)) * radius_x / 40, out=dome)
    leaves = _noise(height, width, 3, 300 + seed % 7, 128)
    twigs = _noise(height, width, 3, 305 + seed % 5, 32)
    clumps = _noise(height, width, 3, 310 + seed % 7, 16)
    solid = field + rough * (1.1 * (clumps - 0.5) + 1.3 * (twigs - 0.5) + 1.0 * (leaves - 0.5))
    relief = dome * 10 + 9 * clumps + 5 * twigs + 1.2 * leaves
    slope_y, slope_x = np.gradient(cv2.GaussianBlur(relief, (0, 0), 0.8))
    light = 0.80 + 0.55 * np.tanh(slope_y * 1.3) - 0.18 * np.tanh(slope_x * 1.2)  # light comes from above
    depth = np.clip(0.25 + 0.5 * clumps + 0.45 * twigs + 0.45 * leaves, 0.2, 1.6)
    depth *= np.clip(0.6 + 0.5 * solid, 0.5, 1.1)
    overall = 1.28 - 0.45 * (y / height)
    tone = np.clip(light * depth * overall * 1.12, 0.12, 2.2)
    hue = 1 + 0.16 * (twigs - 0.5)
    image = np.zeros((height, width, 4), np.uint8)
    image[..., :3] = np.clip(tone[..., None] * color * np.stack([hue, np.ones_like(hue), 2 - hue], axis=-1), 0, 255)
    image[..., 3] = np.where(solid > 0.0, 255, 0)
    return image


def _bark(image: NDArray[np.uint8], outline: Floats, color: Floats) -> None:
    """A trunk [N, 2], darker on its right."""
    cv2.fillPoly(image, [np.rint(outline).astype(np.int32)], (*color, 255))
    shifted = outline.copy()
    middle = (outline[:, 0].min() + outline[:, 0].max()) / 2
    shifted[:, 0] = np.where(shifted[:, 0] < middle, shifted[:, 0] * 0.4 + middle * 0.6, shifted[:, 0])
    cv2.fillPoly(image, [np.rint(shifted).astype(np.int32)], (*(color * 0.68), 255))


def _branches(
    image: NDArray[np.uint8],
    at: Floats,
    angle: float,
    length: float,
    thick: float,
    bark: Floats,
    rng: np.random.Generator,
    depth: int,
) -> None:
    end = at + length * np.array([np.cos(angle), np.sin(angle)])
    ends = (np.rint(at * 8).astype(int), np.rint(end * 8).astype(int))
    cv2.line(
        image, tuple(map(int, ends[0])), tuple(map(int, ends[1])), (*bark, 255), max(1, round(thick)), cv2.LINE_8, 3
    )
    if depth == 0:
        return
    for k in range(2 if depth > 5 else int(rng.integers(2, 4))):
        turn = rng.normal(0, 0.34) + (0.3 if k else -0.3)
        rise = -0.06 * np.cos(angle)
        _branches(image, end, angle + turn + rise, length * rng.uniform(0.66, 0.86), thick * 0.64, bark, rng, depth - 1)


def _over(lower: NDArray[np.uint8], upper: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(np.where(upper[..., 3:] > 127, upper, lower), np.uint8)


@lru_cache(maxsize=TREE_VARIANTS)
def tree_sprite(variant: int) -> Texture:
    """A tree with crown and trunk, RGBA 320 high, 256 wide; every fifth is a conifer, every fifth bare."""
    rng = np.random.default_rng([31, variant])
    height, width = 320, 256
    image = np.zeros((height, width, 4), np.uint8)
    kind = ("broad", "broad", "conifer", "broad", "bare")[variant % 5]
    bark = np.array([82, 73, 64]) * rng.uniform(0.6, 1.15)
    half, lean = rng.uniform(6, 11), rng.uniform(-9, 9)
    if kind == "bare":
        trunk = np.array([[128 - half, 319], [128 + half, 319], [128 + half * 0.7, 214], [128 - half * 0.7, 214]])
        _bark(image, trunk, bark)
        for k in range(3):
            _branches(
                image,
                np.array([128.0, 216.0 - 12 * k]),
                -np.pi / 2 + (-0.5, 0.45, 0.02)[k] + rng.normal(0, 0.1),
                rng.uniform(44, 58),
                half * 1.1,
                bark,
                rng,
                6,
            )
        return Texture(image)
    if kind == "conifer":
        levels = np.arange(22, 292, 13)
        reach = 8 + (levels / 292) ** 0.9 * rng.uniform(60, 92)
        balls = np.column_stack([128 + rng.normal(0, 3, len(levels)), levels, reach, np.full(len(levels), 15.0)])
        sides = np.column_stack(
            [128 + rng.uniform(-0.7, 0.7, len(levels)) * reach, levels + 8, reach * 0.45, np.full(len(levels), 13.0)]
        )
        crown = _foliage(
            np.concatenate([balls, sides]), height, width, np.array([46, 64, 44]) * rng.uniform(0.8, 1.15), variant, 1.0
        )
        _bark(image, np.array([[128 - half, 319], [128 + half, 319], [128 + half, 260], [128 - half, 260]]), bark * 0.8)
        return Texture(_over(image, crown))
    color = _GREENS[rng.choice(5, p=[0.38, 0.27, 0.17, 0.06, 0.12])] * rng.uniform(0.85, 1.2)
    count = int(rng.integers(14, 24))
    angle, away = rng.uniform(0, 2 * np.pi, count), np.sqrt(rng.uniform(0, 1, count))
    radius = rng.uniform(22, 44, count)
    tall = rng.uniform(0.75, 1.05)
    x = 128 + lean + np.cos(angle) * away * 74
    y = 112 + np.sin(angle) * away * 70 * tall
    balls = np.column_stack(
        [np.clip(x, radius + 8, 248 - radius), np.clip(y, radius * 0.85 + 8, 220), radius, radius * 0.85]
    )
    crown = _foliage(balls, height, width, color, variant, rng.uniform(0.9, 1.7))
    _bark(
        image,
        np.array(
            [[128 - half, 319], [128 + half, 319], [128 + lean + half * 0.6, 130], [128 + lean - half * 0.6, 130]]
        ),
        bark,
    )
    for k in range(4):
        start = np.array([128.0 + lean * 0.5, 215.0 - 14 * k])
        _branches(image, start, -np.pi / 2 + (-0.8, 0.8, -0.45, 0.5)[k], 34, half * 0.7, bark * 0.8, rng, 3)
    return Texture(_over(image, crown))


@lru_cache(maxsize=BUSH_VARIANTS)
def bush_sprite(variant: int) -> Texture:
    """A bush, RGBA 128 high, 256 wide, standing on its lower edge."""
    rng = np.random.default_rng([32, variant])
    color = _GREENS[rng.choice([0, 1, 2, 4])] * rng.uniform(0.75, 1.15)
    radius = rng.uniform(24, 46, 10)
    balls = np.column_stack([rng.uniform(50, 206, 10), rng.uniform(60, 118, 10), radius, radius * 0.9])
    return Texture(_foliage(balls, 128, 256, color, variant + 3))


@lru_cache(maxsize=BUSH_VARIANTS)
def hedge_texture(variant: int) -> Texture:
    """A clipped hedge, RGBA 96 high, 512 wide."""
    rng = np.random.default_rng([36, variant])
    color = _GREENS[rng.choice([0, 1, 4])] * rng.uniform(0.7, 1.1)
    x = np.arange(-20, 540, 16.0)
    ragged = rng.normal(0, 2.5, len(x))
    balls = np.concatenate(
        [np.column_stack([x, ragged + y, np.full(len(x), 24.0), np.full(len(x), 24.0)]) for y in (26.0, 52.0, 84.0)]
    )
    return Texture(_foliage(balls, 96, 512, color, variant, 0.3))


@lru_cache(maxsize=FOREST_VARIANTS)
def forest_texture(variant: int) -> Texture:
    """The edge of a wood, RGBA 192 high, 512 wide, ragged on top."""
    rng = np.random.default_rng([34, variant])
    color = np.array([58, 70, 44]) * rng.uniform(0.75, 1.15)
    image: NDArray[np.uint8] = np.zeros((192, 512, 4), np.uint8)
    image[110:] = (*(color * 0.22), 255)
    for layer in range(4):
        count = 16
        x = rng.uniform(0, 512, count)
        radius = rng.uniform(24, 46, count)
        y = np.clip(38 + layer * 40 + rng.uniform(-16, 20, count), radius + 2, 400)
        balls = np.column_stack([x, y, radius, radius])
        own = color * (0.68 + 0.13 * layer) * rng.uniform(0.9, 1.1) + rng.uniform(-2, 2)
        image = _over(image, _foliage(balls, 192, 512, own, variant * 4 + layer, 0.9))
        for trunk in rng.uniform(0, 510, 5 if layer < 3 else 2):
            gray = rng.uniform(50, 96)
            cv2.line(
                image,
                (int(trunk), 90 + 20 * layer),
                (int(trunk + rng.uniform(-6, 6)), 191),
                (gray, gray * 0.93, gray * 0.84, 255),
                int(rng.integers(2, 5)),
            )
    return Texture(image)


SIGN_VARIANTS = 16
WIDE_SIGNS = (9, 10, 11)
LAMP_STATES = ("red", "amber", "green")

_WHITE, _BLACK, _RED = (232, 232, 228, 255), (24, 24, 26, 255), (186, 28, 32, 255)
_BLUE, _YELLOW, _GREEN = (24, 66, 158, 255), (236, 190, 30, 255), (16, 108, 66, 255)


def _polygon(image: NDArray[np.uint8], corners: list[tuple[float, float]], color: tuple[int, int, int, int]) -> None:
    cv2.fillPoly(image, [np.round(np.array(corners) * 16).astype(np.int32)], color, cv2.LINE_8, 4)


def _ring(
    image: NDArray[np.uint8], rim: tuple[int, int, int, int], inside: tuple[int, int, int, int], width: int = 12
) -> None:
    cv2.circle(image, (48, 48), 46, rim, -1)
    cv2.circle(image, (48, 48), 46 - width, inside, -1)


def _scribble(
    image: NDArray[np.uint8],
    rng: np.random.Generator,
    area: tuple[int, int, int, int],
    color: tuple[int, int, int, int],
) -> None:
    """Something that reads as writing from afar."""
    left, top, right, bottom = area
    for y in range(top, bottom - 6, 14):
        x = left
        while x < right - 8:
            step = int(rng.integers(5, 14))
            cv2.rectangle(image, (x, y), (min(right, x + step), y + 7), color, -1)
            x += step + int(rng.integers(3, 6))


@lru_cache(maxsize=SIGN_VARIANTS)
def sign_sprite(variant: int) -> Texture:  # noqa: C901  one branch for each sign
    """A traffic sign, uint8 RGBA [96, 96 or 160, 4], transparent round its outline."""
    rng = np.random.default_rng([51, variant])
    wide = variant in WIDE_SIGNS
    image = np.zeros((96, 160 if wide else 96, 4), np.uint8)
    if variant == 0:  # speed limit
        _ring(image, _RED, _WHITE)
        cv2.putText(image, str(rng.choice([30, 50, 60])), (19, 62), cv2.FONT_HERSHEY_SIMPLEX, 1.35, _BLACK, 5)
    elif variant == 1:  # no entry
        _ring(image, _RED, _RED)
        cv2.rectangle(image, (16, 39), (80, 57), _WHITE, -1)
    elif variant == 2:  # no stopping
        _ring(image, _RED, _BLUE, 10)
        cv2.line(image, (20, 20), (76, 76), _RED, 9)
        if rng.random() < 0.6:
            cv2.line(image, (76, 20), (20, 76), _RED, 9)
    elif variant == 3:  # keep right
        _ring(image, _WHITE, _BLUE, 3)
        cv2.arrowedLine(image, (26, 26), (70, 70), _WHITE, 9, tipLength=0.45)
    elif variant in (4, 5):  # warning
        _polygon(image, [(48, 2), (95, 86), (1, 86)], _RED)
        _polygon(image, [(48, 23), (78, 76), (18, 76)], _WHITE)
        cv2.rectangle(image, (44, 40), (52, 60), _BLACK, -1)
        cv2.circle(image, (48, 68), 4, _BLACK, -1)
    elif variant == 6:  # give way
        _polygon(image, [(1, 8), (95, 8), (48, 92)], _RED)
        _polygon(image, [(19, 19), (77, 19), (48, 70)], _WHITE)
    elif variant == 7:  # stop
        octagon = [(48 + 50 * np.cos(a), 48 + 50 * np.sin(a)) for a in np.pi / 8 + np.arange(8) * np.pi / 4]
        _polygon(image, octagon, _WHITE)
        _polygon(image, [(48 + (x - 48) * 0.92, 48 + (y - 48) * 0.92) for x, y in octagon], _RED)
        cv2.putText(image, "STOP", (12, 59), cv2.FONT_HERSHEY_SIMPLEX, 0.95, _WHITE, 5)
    elif variant == 8:  # priority road
        _polygon(image, [(48, 1), (95, 48), (48, 95), (1, 48)], _WHITE)
        _polygon(image, [(48, 17), (79, 48), (48, 79), (17, 48)], _YELLOW)
    elif wide:  # direction boards
        back, ink = ((_BLUE, _WHITE), (_YELLOW, _BLACK), (_GREEN, _WHITE))[variant - 9]
        cv2.rectangle(image, (0, 2), (159, 93), ink, -1)
        cv2.rectangle(image, (3, 5), (156, 90), back, -1)
        _scribble(image, rng, (14, 16, 110, 88), ink)
        cv2.arrowedLine(image, (134, 78), (134, 22), ink, 6, tipLength=0.35)
    elif variant == 12:  # parking
        cv2.rectangle(image, (8, 2), (87, 93), _WHITE, -1)
        cv2.rectangle(image, (11, 5), (84, 90), _BLUE, -1)
        cv2.putText(image, "P", (26, 76), cv2.FONT_HERSHEY_SIMPLEX, 2.3, _WHITE, 9)
    elif variant == 13:  # pedestrian crossing
        cv2.rectangle(image, (4, 4), (91, 91), _BLUE, -1)
        _polygon(image, [(48, 16), (82, 80), (14, 80)], _WHITE)
        cv2.line(image, (48, 36), (44, 58), _BLACK, 7)
        cv2.line(image, (44, 58), (36, 74), _BLACK, 5)
        cv2.line(image, (44, 58), (54, 74), _BLACK, 5)
    elif variant == 14:  # bend markers
        cv2.rectangle(image, (2, 12), (93, 83), _WHITE, -1)
        for x in (8, 38, 68):
            _polygon(image, [(x, 14), (x + 12, 14), (x + 24, 48), (x + 12, 82), (x, 82), (x + 12, 48)], _RED)
    else:  # small white plate
        cv2.rectangle(image, (6, 20), (89, 75), _BLACK, -1)
        cv2.rectangle(image, (9, 23), (86, 72), _WHITE, -1)
        _scribble(image, rng, (16, 30, 80, 70), _BLACK)
    return Texture(image)


@lru_cache(maxsize=3)
def traffic_light_sprite(state: str) -> Texture:
    """A housing with three lamps, one lit, uint8 RGBA [144, 60, 4]."""
    image = np.zeros((144, 60, 4), np.uint8)
    cv2.rectangle(image, (0, 0), (59, 143), (16, 17, 18, 255), -1)
    cv2.rectangle(image, (4, 3), (55, 140), (30, 32, 33, 255), -1)
    lit = {"red": (255, 62, 40), "amber": (255, 190, 60), "green": (70, 255, 190)}
    dark = {"red": (58, 18, 16), "amber": (56, 42, 18), "green": (14, 44, 34)}
    for row, name in enumerate(LAMP_STATES):
        center = (30, 27 + 45 * row)
        cv2.ellipse(image, center, (21, 20), 0, 180, 360, (8, 8, 8, 255), 5)
        color = lit[name] if name == state else dark[name]
        cv2.circle(image, center, 17, (*color, 255), -1)
        if name == state:
            cv2.circle(image, center, 9, (*(min(255, c + 70) for c in color), 255), -1)
    return Texture(image)


@lru_cache(maxsize=64)
def person_sprite(variant: int, step: int) -> Texture:
    """A walking person, uint8 RGBA [176, 80, 4]; `step` 0 to 7 is the moment of the stride."""
    rng = np.random.default_rng([61, variant])
    image = np.zeros((176, 80, 4), np.uint8)

    def cloth(bright: bool = False) -> tuple[float, ...]:
        return (*np.clip(rng.uniform(0.25, 1.0, 3) * rng.uniform(40, 150 if bright else 85), 0, 255), 255.0)

    coat, trousers, skin, hair = (
        cloth(True),
        cloth(),
        (196, 152, 128, 255),
        (*(np.array([52, 40, 32]) * rng.uniform(0.5, 2)), 255),
    )
    dark_coat = (*(c * 0.72 for c in coat[:3]), 255.0)
    swing = np.sin(2 * np.pi * step / 8)
    for side, color in ((-1, (*(c * 0.75 for c in trousers[:3]), 255.0)), (1, trousers)):
        knee = (int(40 + side * swing * 10), 128)
        foot = (int(40 + side * swing * 19), 167 - int(3 * max(0, side * swing)))
        cv2.line(image, (40, 92), knee, color, 13)
        cv2.line(image, knee, foot, color, 10)
        cv2.ellipse(image, (foot[0] + 3, foot[1] + 3), (8, 4), 0, 0, 360, (22, 20, 20, 255), -1)
    cv2.line(image, (40, 48), (int(40 + swing * 17), 96), dark_coat, 9)
    _polygon(image, [(27, 38), (53, 38), (55, 70), (53, 102), (27, 102), (25, 70)], tuple(int(c) for c in coat))  # type: ignore[arg-type]
    _polygon(image, [(27, 38), (36, 38), (36, 102), (27, 102), (25, 70)], tuple(int(c) for c in dark_coat))  # type: ignore[arg-type]
    cv2.line(image, (40, 46), (int(40 - swing * 17), 96), coat, 9)
    cv2.circle(image, (int(40 - swing * 17), 98), 4, skin, -1)
    cv2.line(image, (40, 30), (40, 40), skin, 9)
    cv2.ellipse(image, (40, 19), (10, 13), 0, 0, 360, skin, -1)
    cv2.ellipse(image, (39, 14), (11, 10), 0, 150, 370, hair, -1)
    return Texture(image)


@lru_cache(maxsize=64)
def cyclist_sprite(variant: int, step: int) -> Texture:
    """A cyclist from behind, uint8 RGBA [176, 80, 4]."""
    rng = np.random.default_rng([62, variant])
    image = np.zeros((176, 80, 4), np.uint8)
    coat = (*np.clip(rng.uniform(0.2, 1.0, 3) * 170, 20, 255), 255.0)
    legs = (*(rng.uniform(0.4, 1, 3) * 60), 255.0)
    cv2.ellipse(image, (40, 138), (5, 36), 0, 0, 360, (26, 26, 28, 255), -1)
    cv2.line(image, (20, 82), (60, 82), (40, 40, 42, 255), 4)
    up = int(9 * np.sin(2 * np.pi * step / 8))
    cv2.line(image, (33, 88), (29, 128 + up), legs, 12)
    cv2.line(image, (47, 88), (51, 128 - up), legs, 12)
    _polygon(image, [(28, 40), (52, 40), (56, 92), (24, 92)], tuple(int(c) for c in coat))  # type: ignore[arg-type]
    cv2.line(image, (29, 44), (22, 78), coat, 8)
    cv2.line(image, (51, 44), (58, 78), coat, 8)
    cv2.ellipse(image, (40, 24), (10, 13), 0, 0, 360, (190, 148, 124, 255), -1)
    cv2.ellipse(image, (40, 19), (12, 11), 0, 170, 370, (*(rng.uniform(0.2, 1, 3) * 200), 255.0), -1)
    cv2.rectangle(image, (37, 96), (43, 101), (200, 24, 20, 255), -1)
    return Texture(image)
