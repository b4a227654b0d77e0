"""House fronts as textures: walls, windows, doors, shops."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from seg_perception.scenes.camera import Floats
from seg_perception.scenes.canvas import Texture, tileable_noise

TEXELS_PER_METER = 20
FACADE_VARIANTS = 40
TOWN_VARIANTS = 24  # the first ones; those after them are small houses


@dataclass(frozen=True, slots=True)
class Facade:
    """A front and the bare side wall that goes with it.

    Attributes:
        front: uint8 RGB [H, W, 3]; lit: the same with some windows lit, for the night.
        wall, roof: plain colors RGB of the side wall and the roof.
        width, height: meters.
        pitched: it has a sloping roof.
    """

    front: Texture
    lit: Texture
    side: Texture
    wall: Floats
    roof: Floats
    width: float
    height: float
    pitched: bool


def _wall(
    rng: np.random.Generator, height: int, width: int, color: Floats, brick: bool, seed: int
) -> NDArray[np.float32]:
    noise = np.tile(tileable_noise(256, 6, 80 + seed % 6), (height // 256 + 1, width // 256 + 1))[:height, :width]
    wall = color[None, None, :] * (0.86 + 0.28 * noise[..., None])
    if brick:
        y, x = np.mgrid[0:height, 0:width]
        row = y // 3
        own = rng.normal(1, 0.09, (height // 3 + 1, width // 6 + 2))[row, (x + 3 * (row % 2)) // 6]
        joint = (y % 3 == 0) | ((x + 3 * (row % 2)) % 6 == 0)
        wall = wall * np.where(joint, 1.12, own)[..., None]
    streaks = cv2.resize(rng.normal(0, 1, (6, width // 8 + 1)).astype(np.float32), (width, height))
    wall *= (1 + 0.025 * streaks)[..., None]
    wall *= np.linspace(1.05, 0.88, height)[:, None, None]  # dirt and less sky towards the ground
    return wall.astype(np.float32)


def _window(
    rng: np.random.Generator,
    front: NDArray[np.float32],
    lit: NDArray[np.float32],
    box: tuple[int, int, int, int],
    frame: Floats,
    bars: bool,
) -> None:
    left, top, right, bottom = box
    for image in (front, lit):
        cv2.rectangle(image, (left - 2, top - 2), (right + 2, bottom + 3), tuple(frame * 0.8), -1)
        cv2.rectangle(image, (left - 3, bottom + 2), (right + 3, bottom + 3), tuple(frame), -1)
        cv2.rectangle(image, (left - 2, top - 3), (right + 2, top - 2), tuple(frame * 0.45), -1)
    height = bottom - top + 1
    sky = rng.uniform(0, 1) ** 3
    glass = np.array([34, 40, 46]) * rng.uniform(0.6, 1.5) + np.array([110, 125, 140]) * 0.5 * sky
    ramp = np.linspace(1.35, 0.75, height)[:, None, None]
    front[top : bottom + 1, left : right + 1] = glass * ramp
    if rng.random() < 0.45:  # curtains
        curtain = int(rng.uniform(0.15, 0.6) * height)
        front[top : top + curtain, left : right + 1] = np.array([150, 146, 138]) * rng.uniform(0.6, 1.1)
    shine = np.array([255, 206, 120]) * rng.uniform(0.6, 1.0) if rng.random() < 0.4 else glass * 0.3
    lit[top : bottom + 1, left : right + 1] = shine
    if bars:
        for image in (front, lit):
            middle = (left + right) // 2
            cv2.line(image, (middle, top), (middle, bottom), tuple(frame), 1)
            cv2.line(image, (left, top + height // 3), (right, top + height // 3), tuple(frame), 1)


def _shop(rng: np.random.Generator, front: NDArray[np.float32], lit: NDArray[np.float32], top: int) -> None:
    height, width = front.shape[:2]
    board = np.clip(rng.uniform(0.2, 1.0, 3) * rng.uniform(60, 190), 0, 255)
    pane = np.array([40, 42, 44]) * rng.uniform(0.7, 1.5)
    for image, glass in ((front, pane), (lit, np.array([250, 222, 170]) * 0.9)):
        cv2.rectangle(image, (2, top), (width - 3, height - 1), tuple(board * 0.45), -1)
        x = 6
        step = max(24, width // max(2, width // 60))
        while x < width - 14:
            right = min(width - 6, x + step - 5)
            cv2.rectangle(image, (x, top + 16), (right, height - 9), tuple(glass), -1)
            cv2.rectangle(image, (x, top + 16), (right, top + 24), tuple(glass * 1.5), -1)
            x += step
        cv2.rectangle(image, (2, top), (width - 3, top + 12), tuple(board), -1)
    ink = (230.0, 228.0, 220.0) if board.mean() < 120 else (30.0, 30.0, 32.0)
    x = int(rng.integers(8, 30))
    while x < width * 0.7:
        step = int(rng.integers(3, 8))
        for image in (front, lit):
            cv2.rectangle(image, (x, top + 3), (x + step, top + 9), ink, -1)
        x += step + 3
    spots = rng.integers(0, max(1, width - 8), 14)
    for spot in spots:  # goods
        y = int(rng.integers(top + 28, max(top + 29, height - 14)))
        front[y : y + 8, spot : spot + 6] = front[y : y + 8, spot : spot + 6] * 0.5 + rng.uniform(20, 130, 3) * 0.5


@lru_cache(maxsize=FACADE_VARIANTS)
def facade(variant: int) -> Facade:
    """House front number `variant`: 0 to 23 are town houses and offices, from 24 on small houses with pitched roofs."""
    rng = np.random.default_rng([71, variant])
    small = variant >= TOWN_VARIANTS
    office = not small and variant % 4 == 3
    width_m = rng.uniform(8, 13) if small else rng.uniform(9, 19)
    floors = int(rng.integers(1, 4)) if small else int(rng.integers(3, 7))
    floor_m = rng.uniform(2.8, 3.4)
    height_m = floors * floor_m + 0.8
    scale = TEXELS_PER_METER
    width, height = int(width_m * scale), int(height_m * scale)
    palette = np.array(
        [
            [172, 164, 150],
            [150, 112, 90],
            [134, 84, 66],
            [196, 190, 178],
            [168, 150, 116],
            [112, 106, 102],
            [186, 160, 130],
            [144, 146, 148],
            [206, 204, 200],
        ]
    )
    wall = palette[rng.integers(len(palette))] * rng.uniform(0.75, 1.1)
    brick = bool(rng.random() < 0.4)
    front = _wall(rng, height, width, wall, brick, variant)
    side = _wall(rng, height, max(64, width // 2), wall * 0.92, brick, variant + 1)
    lit = front.copy()
    frame = np.array([220.0, 218.0, 212.0]) * rng.uniform(0.3, 1.0)
    bays = max(2, round(width_m / rng.uniform(2.0, 3.4)))
    shop = not small and not office and bool(rng.random() < 0.7)
    win_w = (0.82 if office else rng.uniform(0.36, 0.55)) * width / bays
    win_h = (0.62 if office else rng.uniform(0.45, 0.62)) * floor_m * scale
    bars = bool(rng.random() < 0.6)
    for floor in range(floors):
        top = int(height - (floor + 1) * floor_m * scale + 0.24 * floor_m * scale)
        if floor == 0 and shop:
            continue
        door = int(rng.integers(bays)) if floor == 0 else -1
        for bay in range(bays):
            center = (bay + 0.5) * width / bays
            if bay == door:
                box = (int(center - 11), int(height - 44), int(center + 11), height - 1)
                paint = rng.uniform(25, 120, 3)
                for image in (front, lit):
                    cv2.rectangle(image, box[:2], box[2:], tuple(paint), -1)
                    cv2.rectangle(image, (box[0] + 3, box[1] + 3), (box[2] - 3, box[1] + 10), (60, 66, 70), -1)
                continue
            _window(
                rng, front, lit, (int(center - win_w / 2), top, int(center + win_w / 2), int(top + win_h)), frame, bars
            )
        if rng.random() < 0.3:  # string course
            y = int(height - (floor + 1) * floor_m * scale)
            for image in (front, lit):
                cv2.rectangle(image, (0, y), (width, y + 3), tuple(wall * 1.12), -1)
                cv2.rectangle(image, (0, y + 4), (width, y + 5), tuple(wall * 0.6), -1)
    if shop:
        _shop(rng, front, lit, int(height - floor_m * scale * 1.02))
    for image in (front, lit):
        cv2.rectangle(image, (0, 0), (width, 6), tuple(wall * 1.1), -1)
        cv2.rectangle(image, (0, 7), (width, 9), tuple(wall * 0.5), -1)
        if rng.random() < 0.5:
            cv2.line(image, (3, 0), (3, height), tuple(wall * 0.45), 2)
    roof = np.array([[112, 66, 52], [74, 70, 70], [96, 78, 66]][int(rng.integers(3))]) * rng.uniform(0.7, 1.1)
    finished = [Texture(np.clip(image, 0, 255).astype(np.uint8)) for image in (front, lit, side)]
    pitched = small or bool(rng.random() < 0.45 and not office)
    return Facade(finished[0], finished[1], finished[2], wall, roof, width_m, height_m, pitched)
