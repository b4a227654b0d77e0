"""Noise and surface textures. Every function is pure: the same arguments give the same picture, kept in a cache."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from seg_perception.scenes.camera import Floats

GROUND_TILE = 512
"""Texels along each side of a ground tile."""
GROUND_TEXEL = 0.025
"""Metres along each side of a ground texel."""
GROUND_LEVELS = 6
"""Ground tiles come this often, each blurred to twice the length of the one before."""
MATERIALS = ("asphalt", "paving", "grass", "soil")


@lru_cache(maxsize=64)
def tileable_noise(size: int, octaves: int, seed: int, persistence: float = 0.55, first: int = 4) -> NDArray[np.float32]:
    """Noise of several scales, float32 [size, size], 0 to 1, that continues over its own edges."""
    rng = np.random.default_rng([7, seed])
    total = np.zeros((size, size), np.float32)
    weight = 1.0
    for octave in range(octaves):
        cells = min(size, first << octave)
        grid = rng.random((cells, cells), np.float32)
        wrapped = np.pad(grid, 2, mode="wrap")
        zoom = size // cells
        large = cv2.resize(wrapped, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
        total += weight * large[2 * zoom : 2 * zoom + size, 2 * zoom : 2 * zoom + size]
        weight *= persistence
    low, high = np.percentile(total, (1, 99))
    scaled: NDArray[np.float32] = np.clip((total - low) / (high - low), 0, 1).astype(np.float32)
    return scaled


def _grain(seed: int, sigma: float) -> NDArray[np.float32]:
    """White noise of unit spread blurred a little, wrapping round."""
    noise = np.random.default_rng([8, seed]).standard_normal((GROUND_TILE, GROUND_TILE)).astype(np.float32)
    if sigma > 0:
        noise = _blur_wrapped(noise, sigma, sigma)
    return noise / float(noise.std())


def _blur_wrapped(image: NDArray[np.float32], sigma_x: float, sigma_y: float) -> NDArray[np.float32]:
    pad = min(GROUND_TILE // 2, int(3 * max(sigma_x, sigma_y)) + 1)
    wide = np.pad(image, pad, mode="wrap")
    blurred = cv2.GaussianBlur(wide, (0, 0), sigmaX=max(sigma_x, 0.01), sigmaY=max(sigma_y, 0.01))
    return np.ascontiguousarray(blurred[pad:-pad, pad:-pad])


def _asphalt() -> NDArray[np.float32]:
    rng = np.random.default_rng(11)
    tile = 1 + 0.055 * _grain(1, 0.6) + 0.04 * _grain(2, 2.0) + 0.10 * (tileable_noise(512, 5, 3) - 0.5)
    cracks = np.zeros((GROUND_TILE, GROUND_TILE), np.float32)
    for _ in range(5):
        start = rng.uniform(0, GROUND_TILE, 2)
        walk = np.cumsum(rng.normal(0, 1.0, (160, 2)) + rng.normal(0, 0.9, 2), axis=0) * 1.6 + start
        cv2.polylines(cracks, [np.round(walk * 8).astype(np.int32)], False, 1.0, 1, cv2.LINE_AA, 3)
    return np.asarray(tile * (1 - 0.35 * cracks), np.float32)


def _paving() -> NDArray[np.float32]:
    """Slabs of 0.4 m (16 texels) in a running bond: 32 rows of 32 slabs, each of its own brightness."""
    rng = np.random.default_rng(12)
    y, x = np.mgrid[0:GROUND_TILE, 0:GROUND_TILE]
    row = y // 16
    shifted = (x + 8 * (row % 2)) % GROUND_TILE
    brightness = rng.normal(1.0, 0.06, (32, 32))[row, shifted // 16]
    joint = (y % 16 < 1) | (shifted % 16 < 1)
    tile = brightness * np.where(joint, 0.72, 1.0) + 0.035 * _grain(4, 0.8) + 0.12 * (tileable_noise(512, 4, 5) - 0.5)
    return np.asarray(tile, np.float32)


def _grass() -> NDArray[np.float32]:
    blades = 0.16 * _grain(6, 0.7) + 0.12 * _grain(7, 2.5)
    return np.asarray(1 + blades + 0.5 * (tileable_noise(512, 5, 8) - 0.5), np.float32)


def _soil() -> NDArray[np.float32]:
    return np.asarray(1 + 0.09 * _grain(9, 1.0) + 0.3 * (tileable_noise(512, 6, 10) - 0.5), np.float32)


@lru_cache(maxsize=1)
def ground_tiles() -> NDArray[np.uint8]:
    """Brightness of all ground materials, uint8, 128 = unchanged.

    [material, level, along the road, across the road], flattened; a level is blurred twice as far as the one before,
    more along the road than across, as the ground's slant needs.
    """
    stack = []
    for tile in (_asphalt(), _paving(), _grass(), _soil()):
        for level in range(GROUND_LEVELS):
            across, along = (0.0, 0.0) if level == 0 else (0.16 * 2.0**level, 0.6 * 2.0**level)
            blurred = tile if level == 0 else _blur_wrapped(tile, across, along)
            stack.append(np.clip(blurred * 128, 0, 255).astype(np.uint8))
    return np.stack(stack).reshape(-1)


@lru_cache(maxsize=1)
def coarse_ground() -> NDArray[np.float32]:
    """Slow brightness changes of the ground: float32 [512, 512], mean about 1, 0.25 m a texel."""
    return np.asarray(0.84 + 0.32 * tileable_noise(512, 6, 21, 0.6, 8), np.float32)


@lru_cache(maxsize=32)
def tree_sprite(variant: int) -> NDArray[np.uint8]:
    """A tree's crown and trunk, uint8 RGBA [320, 256, 4]; about every fifth is bare, every fifth a conifer."""
    rng = np.random.default_rng([31, variant])
    height, width = 320, 256
    image = np.zeros((height, width, 4), np.uint8)
    kind = ("broad", "broad", "conifer", "broad", "bare")[variant % 5]
    bark = np.array([78, 68, 58]) * rng.uniform(0.6, 1.1)
    trunk_w = rng.uniform(7, 12)
    lean = rng.uniform(-8, 8)
    trunk = np.array([[128 - trunk_w, 319], [128 + trunk_w, 319], [128 + lean + trunk_w * 0.5, 120], [128 + lean - trunk_w * 0.5, 120]])
    cv2.fillPoly(image, [trunk.astype(np.int32)], (*bark, 255))
    if kind == "bare":
        _branches(image, np.array([128.0 + lean * 0.5, 215.0]), -np.pi / 2, 62.0, trunk_w * 1.1, bark, rng, 7)
    elif kind == "conifer":
        green = np.array([44, 66, 42]) * rng.uniform(0.7, 1.1)
        for y in np.arange(14, 285, 2.0):
            reach = (y - 6) / 285 * 88 * (0.78 + 0.22 * ((y * 0.07) % 1.0))
            _leaves(image, rng, np.array([128.0, y]), np.array([reach, 6.0]), green, int(6 + reach * 0.55), 4.5, lit=1.0 - 0.25 * y / 285)
    else:
        hue = rng.choice(4, p=[0.45, 0.3, 0.15, 0.1])
        green = np.array([[66, 84, 44], [52, 74, 40], [86, 96, 50], [132, 104, 46]][hue]) * rng.uniform(0.75, 1.15)
        centre = np.array([128 + lean, 108.0])
        blobs = [(centre + rng.normal(0, 1, 2) * (40, 32), rng.uniform(30, 58)) for _ in range(13)]
        blobs.sort(key=lambda blob: -blob[0][1])
        for place, radius in blobs:
            place = np.clip(place, (radius + 2, radius * 0.8 + 2), (254 - radius, 215))
            _leaves(image, rng, place, np.array([radius, radius * 0.82]), green, int(radius * 5), 4.2)
    return _mottle(image, variant)


def _branches(
    image: NDArray[np.uint8], at: Floats, angle: float, length: float, thick: float, bark: Floats, rng: np.random.Generator, depth: int
) -> None:
    end = at + length * np.array([np.cos(angle), np.sin(angle)])
    cv2.line(image, (int(at[0]), int(at[1])), (int(end[0]), int(end[1])), (*bark, 255), max(1, round(thick)))
    if depth == 0:
        return
    for _ in range(2 if depth > 5 else int(rng.integers(2, 4))):
        turn = rng.normal(0, 0.42)
        _branches(image, end, angle + turn - 0.08 * np.cos(angle), length * rng.uniform(0.62, 0.85), thick * 0.66, bark, rng, depth - 1)


def _leaves(
    image: NDArray[np.uint8], rng: np.random.Generator, centre: Floats, reach: Floats, color: Floats, count: int, size: float, lit: float | None = None
) -> None:
    """Scatter leaf clumps in an ellipse; lower ones are darker, as the sky lights the crown from above."""
    spots = rng.normal(0, 0.5, (count, 2))
    spots = spots[(spots**2).sum(axis=1) < 1.0]
    spots = spots[np.argsort(-spots[:, 1])]
    for spot in spots:
        x, y = centre + spot * reach
        tone = (lit if lit is not None else 0.95 - 0.5 * spot[1]) * rng.uniform(0.65, 1.3)
        radius = max(1, round(size * rng.uniform(0.6, 1.5)))
        cv2.ellipse(image, (int(x), int(y)), (radius, max(1, int(radius * rng.uniform(0.5, 1)))), rng.uniform(0, 180), 0, 360, (*np.clip(color * tone, 0, 255), 255), -1)


def _mottle(image: NDArray[np.uint8], seed: int, strength: float = 0.5) -> NDArray[np.uint8]:
    """Break flat colours with fine and coarse noise."""
    height, width = image.shape[:2]
    noise = np.random.default_rng([33, seed]).random((height, width, 1), np.float32)
    coarse = np.tile(tileable_noise(128, 5, 40 + seed % 5), (height // 128 + 1, width // 128 + 1))[:height, :width, None]
    factor = 1 + strength * (noise - 0.5) * 0.8 + strength * (coarse - 0.5)
    image[..., :3] = np.clip(image[..., :3] * factor, 0, 255)
    return image


@lru_cache(maxsize=16)
def bush_sprite(variant: int) -> NDArray[np.uint8]:
    """A bush or a piece of hedge, uint8 RGBA [128, 256, 4], filling its lower edge; even variants are cut square."""
    rng = np.random.default_rng([32, variant])
    image = np.zeros((128, 256, 4), np.uint8)
    green = np.array([54, 72, 40]) * rng.uniform(0.7, 1.25) + rng.uniform(-6, 10, 3)
    if variant % 2 == 0:
        cv2.rectangle(image, (4, 10), (251, 127), (*(green * 0.62), 255), -1)
        for _ in range(1500):
            x, y = rng.uniform(4, 252), rng.uniform(8, 127)
            tone = rng.uniform(0.5, 1.25) * (1.2 - 0.45 * y / 128)
            cv2.ellipse(image, (int(x), int(y)), (4, 3), rng.uniform(0, 180), 0, 360, (*np.clip(green * tone, 0, 255), 255), -1)
    else:
        cv2.rectangle(image, (14, 84), (241, 127), (*(green * 0.5), 255), -1)
        for _ in range(9):
            radius = rng.uniform(26, 50)
            place = np.array([rng.uniform(radius, 256 - radius), rng.uniform(55, 105)])
            _leaves(image, rng, place, np.array([radius, 42.0]), green, 220, 3.6)
    return _mottle(image, variant + 50)


@lru_cache(maxsize=8)
def forest_texture(variant: int) -> NDArray[np.uint8]:
    """A wall of trees, uint8 RGBA [160, 512, 4], ragged on top; its sides meet when laid side by side."""
    rng = np.random.default_rng([34, variant])
    image = np.zeros((160, 512, 4), np.uint8)
    green = np.array([46, 60, 38]) * rng.uniform(0.75, 1.15)
    cv2.rectangle(image, (0, 90), (511, 159), (*(green * 0.45), 255), -1)
    for layer in range(3):
        for _ in range(26):
            x, radius = rng.uniform(0, 512), rng.uniform(22, 44)
            y = 60 + layer * 32 + rng.uniform(-16, 16)
            own = green * rng.uniform(0.75, 1.3) + rng.uniform(-4, 9, 3)
            for wrapped in (x - 512, x, x + 512):
                if -60 < wrapped < 572:
                    _leaves(image, np.random.default_rng([35, variant, int(x * 7)]), np.array([wrapped, y]), np.array([radius, radius * 0.9]), own, 170, 4.0)
    return _mottle(image, variant + 70)
