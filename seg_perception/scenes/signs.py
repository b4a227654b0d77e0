"""Small painted things: traffic signs, traffic lights and people, as RGBA sprites."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from seg_perception.scenes.canvas import Texture

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
