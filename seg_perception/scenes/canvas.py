"""The canvas: color and label in one four-channel picture, so that they cannot drift apart; and noise to paint with.

Everything is painted far to near with hard edges at twice the final size; the colors are then averaged down and the
labels picked by position, so that no label is ever a mixture. Textures are pure: the same arguments give the same
picture, kept in a cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from seg_perception.core.types import LabelImage, RgbImage
from seg_perception.scenes.camera import Floats

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


@dataclass(frozen=True, slots=True)
class Glow:
    """A light source in the picture: place and radius in pixels, color RGB."""

    column: float
    row: float
    radius: float
    color: tuple[int, int, int]


_SHIFT = 4  # sub-pixel bits of polygon corners
_FARTHEST_PIXEL = 3e4  # polygon corners beyond this are moved to it: OpenCV's fixed point ends there


class Texture:
    """An RGB or RGBA picture, uint8 [h, w, 3 or 4], with halved copies for small appearances."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self.levels = [np.ascontiguousarray(pixels)]
        while min(self.levels[-1].shape[:2]) >= 8:
            height, width = self.levels[-1].shape[:2]
            half = cv2.resize(self.levels[-1], (width // 2, height // 2), interpolation=cv2.INTER_AREA)
            self.levels.append(half)

    @property
    def aspect(self) -> float:
        """Width over height."""
        return self.levels[0].shape[1] / self.levels[0].shape[0]

    def fitting(self, width: float, height: float, start: float = 0.0, end: float = 1.0) -> NDArray[np.uint8]:
        """A copy a little larger than it will appear; `start` and `end` cut it to a share of its width."""
        level = 0
        while level + 1 < len(self.levels):
            rows, columns = self.levels[level].shape[:2]
            if rows < 2.2 * height or columns * (end - start) < 2.2 * width:
                break
            level += 1
        pixels = self.levels[level]
        first, last = int(start * pixels.shape[1]), max(int(np.ceil(end * pixels.shape[1])), 1)
        pixels = pixels[:, min(first, last - 1) : last]
        rows, columns = pixels.shape[:2]
        # a wall seen at a slant is squeezed one way only
        squeezed = (
            max(2, min(columns, int(np.ceil(2 * width)))) if columns > 2.2 * width else columns,
            max(2, min(rows, int(np.ceil(2 * height)))) if rows > 2.2 * height else rows,
        )
        if squeezed != (columns, rows):
            pixels = cv2.resize(pixels, squeezed, interpolation=cv2.INTER_AREA)
        return pixels


class Canvas:
    """A picture being painted: uint8 [H, W, 4], RGB and class id."""

    def __init__(self, width: int, height: int) -> None:
        self.pixels: NDArray[np.uint8] = np.zeros((height, width, 4), np.uint8)
        self.width = width
        self.height = height
        self.glows: list[Glow] = []  # lamps that shine, in this canvas's pixels
        self.floor = height  # rows from here down are hidden behind a crest

    def polygon(self, outline: Floats, color: tuple[float, float, float] | Floats, label: int) -> None:
        """Fill a polygon (image columns and rows [N, 2]) with one color (RGB, 0 to 255) and one label."""
        fill = (float(color[0]), float(color[1]), float(color[2]), float(label))
        cv2.fillPoly(self.pixels[: self.floor], [fixed_point(outline - 0.5)], fill, cv2.LINE_8, _SHIFT)

    def faces(
        self, outline: Floats, starts: NDArray[np.int64], which: NDArray[np.int64], colors: Floats, label: int
    ) -> None:
        """Fill many polygons in order.

        Args:
            outline: image places [P, 2] of all polygons end to end; polygon k is starts[k] to starts[k + 1].
            which: the polygons to fill [N].
            colors: RGB [N, 3], 0 to 255.
        """
        corners = fixed_point(outline - 0.5)
        target = self.pixels[: self.floor]
        begin, end = starts[which].tolist(), starts[which + 1].tolist()
        for first, last, (red, green, blue) in zip(begin, end, colors.tolist(), strict=True):
            cv2.fillPoly(target, [corners[first:last]], (red, green, blue, label), cv2.LINE_8, _SHIFT)

    def sprite(self, texture: Texture, tint: Floats, box: tuple[float, float, float, float], label: int) -> None:
        """Paint an RGBA texture into a box (left, top, right, bottom) where its alpha is at least 128.

        Args:
            tint: [3, 4] what light and haze make of a color, see `Light.tint`.
        """
        left, top, right, bottom = box
        x0, y0 = max(0, int(np.floor(left))), max(0, int(np.floor(top)))
        x1, y1 = min(self.width, int(np.ceil(right))), min(self.floor, int(np.ceil(bottom)))
        if x1 <= x0 or y1 <= y0 or right - left < 0.5 or bottom - top < 0.5:
            return
        pixels = texture.fitting(right - left, bottom - top)
        rows, columns = pixels.shape[:2]
        zoom_x, zoom_y = (right - left) / columns, (bottom - top) / rows
        move = np.array([[zoom_x, 0, left - x0 + 0.5 * zoom_x - 0.5], [0, zoom_y, top - y0 + 0.5 * zoom_y - 0.5]])
        drawn = cv2.warpAffine(_tinted(pixels, tint), move, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR)
        self._stamp(drawn, drawn[..., 3] >= 128, x0, y0, label)

    def textured(
        self, texture: Texture, tint: Floats, quad: Floats, label: int, start: float = 0.0, end: float = 1.0
    ) -> None:
        """Paint a texture onto a quad: corners top left, top right, bottom right, bottom left [4, 2].

        Args:
            tint: [3, 4] what light and haze make of a color, see `Light.tint`.
            start, end: the share of the texture's width that the quad shows.
        """
        x0, y0 = (int(v) for v in np.maximum(0, np.floor(quad.min(axis=0))))
        x1 = min(self.width, int(np.ceil(quad[:, 0].max())))
        y1 = min(self.floor, int(np.ceil(quad[:, 1].max())))
        if x1 - x0 < 1 or y1 - y0 < 1:
            return
        shown = quad.max(axis=0) - quad.min(axis=0)
        pixels = texture.fitting(float(shown[0]), float(shown[1]), start, end)
        rows, columns = pixels.shape[:2]
        source = np.array([[0, 0], [columns, 0], [columns, rows], [0, rows]], np.float32) - np.float32(0.5)
        target = (quad - (x0, y0) - 0.5).astype(np.float32)
        if abs(cv2.contourArea(target)) < 1.0:
            return
        warp = cv2.getPerspectiveTransform(source, target)
        size = (x1 - x0, y1 - y0)
        drawn = cv2.warpPerspective(
            _tinted(pixels, tint), warp, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        mask = np.zeros((size[1], size[0]), np.uint8)
        cv2.fillPoly(mask, [fixed_point(target)], 255, cv2.LINE_8, _SHIFT)
        inside = mask > 0
        if drawn.shape[2] == 4:
            inside &= drawn[..., 3] >= 128
        self._stamp(drawn, inside, x0, y0, label)

    def _stamp(self, drawn: NDArray[np.uint8], inside: NDArray[np.bool_], x0: int, y0: int, label: int) -> None:
        if drawn.shape[2] == 3:
            drawn = cv2.cvtColor(drawn, cv2.COLOR_RGB2RGBA)
        drawn[..., 3] = label
        region = self.pixels[y0 : y0 + drawn.shape[0], x0 : x0 + drawn.shape[1]]
        cv2.copyTo(drawn, inside.view(np.uint8), region)

    def finish(self, factor: int) -> tuple[RgbImage, LabelImage]:
        """Average the colors down by a whole factor and pick the labels at one fixed place of every cell."""
        pick = factor // 2
        labels = np.ascontiguousarray(self.pixels[pick::factor, pick::factor, 3])
        color = self.pixels
        if factor > 1:
            size = (self.width // factor, self.height // factor)
            color = cv2.resize(color, size, interpolation=cv2.INTER_AREA)
        return cv2.cvtColor(color, cv2.COLOR_RGBA2RGB), labels


def fixed_point(outline: Floats | NDArray[np.float32]) -> NDArray[np.int32]:
    """Image points as OpenCV's fixed-point corners with _SHIFT fraction bits."""
    bounded = np.minimum(np.maximum(outline, -_FARTHEST_PIXEL), _FARTHEST_PIXEL)
    corners: NDArray[np.int32] = np.rint(bounded * (1 << _SHIFT)).astype(np.int32)
    return corners


def _tinted(pixels: NDArray[np.uint8], tint: Floats) -> NDArray[np.uint8]:
    if pixels.shape[2] == 3:
        return np.asarray(cv2.transform(pixels, tint), np.uint8)
    matrix = np.zeros((4, 5))
    matrix[:3, :3], matrix[:3, 4], matrix[3, 3] = tint[:, :3], tint[:, 3], 1.0
    return np.asarray(cv2.transform(pixels, matrix), np.uint8)
