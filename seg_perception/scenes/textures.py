"""Noise and surface textures. Every function is pure: the same arguments give the same picture, kept in a cache."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

GROUND_TILE = 512
"""Texels along each side of a ground tile."""
GROUND_TEXEL = 0.025
"""Meters along each side of a ground texel."""
GROUND_LEVELS = 6
"""Ground tiles come this often, each blurred to twice the length of the one before."""


@lru_cache(maxsize=64)
def tileable_noise(
    size: int, octaves: int, seed: int, persistence: float = 0.55, first: int = 4
) -> NDArray[np.float32]:
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
