"""Textures of no driving scene, over which a network learns to be unsure.

None is plain: a road, a wall or the sky can be plain.
"""

from __future__ import annotations

import cv2
import numpy as np

from seg_perception.core.types import RgbImage, Size


def unknown_texture(rng: np.random.Generator, size: Size) -> RgbImage:
    """uint8 [h, w, 3] RGB: blotches, or flat shapes that cover one another."""
    draw = _blotches if rng.random() < 0.5 else _dead_leaves
    return draw(rng, size)


def _blotches(rng: np.random.Generator, size: Size) -> RgbImage:
    """Colored noise of one to three widths, from single pixels to a third of the picture.

    Gray would be too like asphalt.
    """
    total = np.zeros((size.height, size.width, 3), np.float32)
    for _ in range(rng.integers(1, 4)):
        width = np.exp(rng.uniform(0, np.log(max(size.width / 3, 2))))
        small = (max(round(size.height / width), 2), max(round(size.width / width), 2), 3)
        layer = cv2.resize(rng.random(small, np.float32), (size.width, size.height), interpolation=cv2.INTER_CUBIC)
        total += layer * rng.uniform(0.3, 1)
    low, high = total.min(), total.max()
    dark, bright = rng.uniform(0, 80), rng.uniform(150, 255)
    image = dark + (total - low) / max(high - low, 1e-6) * (bright - dark)
    return np.asarray(np.rint(image), np.uint8)


def _dead_leaves(rng: np.random.Generator, size: Size) -> RgbImage:
    """Shapes of one color each and of sizes that follow a power law, as in the dead leaves model of natural
    images (Lee, Mumford and Huang, International Journal of Computer Vision 41, 2001); a little blurred and noisy.
    """
    image = np.empty((size.height, size.width, 3), np.uint8)
    image[:] = rng.integers(0, 256, 3)
    longest = 0.6 * max(size.width, size.height)
    for _ in range(rng.integers(20, 120)):
        center = (float(rng.uniform(0, size.width)), float(rng.uniform(0, size.height)))
        # the areas' reciprocals are uniform: many small shapes, few large ones
        length = longest / np.sqrt(rng.uniform(1, 60))
        sides = (float(length * rng.uniform(0.3, 1)), float(length * rng.uniform(0.3, 1)))
        box = (center, sides, float(rng.uniform(0, 180)))
        color = tuple(int(c) for c in rng.integers(0, 256, 3))
        corners = (0, 4, 3)[rng.integers(3)]
        if corners == 0:
            cv2.ellipse(image, box, color, -1, cv2.LINE_AA)
        else:
            outline = np.rint(cv2.boxPoints(box)[:corners]).astype(np.int32)
            cv2.fillConvexPoly(image, outline, color, cv2.LINE_AA)
    image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.3, 1.5)))
    noise = rng.normal(0, rng.uniform(0, 6), image.shape)
    return np.asarray(np.clip(np.rint(image + noise), 0, 255), np.uint8)
