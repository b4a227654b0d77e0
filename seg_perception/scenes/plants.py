"""Trees, bushes, hedges and woods as textures.

A crown is a height field: balls of leaves, roughened by noise. Its slopes give light and shade, its outline the alpha.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from seg_perception.scenes.camera import Floats
from seg_perception.scenes.canvas import Texture
from seg_perception.scenes.textures import tileable_noise

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
