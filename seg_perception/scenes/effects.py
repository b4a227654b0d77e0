"""What air, water and the lens add to a finished picture: mirrors on wet roads, glowing lamps, glare, rain."""

from __future__ import annotations

import cv2
import numpy as np

from seg_perception.core.types import LabelImage, RgbImage
from seg_perception.scenes.camera import Camera
from seg_perception.scenes.canvas import Glow
from seg_perception.scenes.layout import SceneClass
from seg_perception.scenes.weather import Light, Weather, sun_place


def add_effects(
    image: RgbImage,
    labels: LabelImage,
    light: Light,
    camera: Camera,
    glows: list[Glow],
    rng: np.random.Generator,
) -> RgbImage:
    """Add the effects of weather and lens to a picture; `camera` and `glows` are in the picture's own pixels.

    `rng` is the drive's own for things that stay (drops), so that they do not flicker.
    """
    if light.wet > 0:
        image = _mirror_on_wet_road(image, labels, light, camera)
    image = _bloom(image, light, glows)
    if light.weather is Weather.GLARE or (light.weather is Weather.DUSK and light.toward_sun[2] > 0.8):
        image = _veil(image, light, camera)
    if light.weather is Weather.RAIN:
        image = _drops(image, rng)
    return image


def _mirror_on_wet_road(image: RgbImage, labels: LabelImage, light: Light, camera: Camera) -> RgbImage:
    height = image.shape[0]
    horizon = int(np.clip(camera.horizon + camera.focal * camera.climb, 4, height - 4))
    below = height - horizon
    rows = np.clip(horizon - 1 - np.arange(below) * 0.8, 0, horizon - 1).astype(int)
    mirrored = cv2.blur(np.ascontiguousarray(image[rows]), (5, max(3, height // 12) | 1))
    wet_ground = np.isin(labels[horizon:], (SceneClass.ROAD, SceneClass.SIDEWALK)).astype(np.float32)
    slant = 0.16 + 0.42 * np.exp(-np.arange(below) / (0.22 * height))  # low angles mirror more
    share = (wet_ground * slant.astype(np.float32)[:, None] * np.float32(light.wet))[..., None]
    ground = image[horizon:].astype(np.float32)
    wet = ground * (1 - share) * (1 - 0.18 * light.wet * (share > 0)) + mirrored * share
    result = image.copy()
    result[horizon:] = np.clip(wet, 0, 255).astype(np.uint8)
    return result


def _bloom(image: RgbImage, light: Light, glows: list[Glow]) -> RgbImage:
    """Scattered light: bright parts bleed a little, lamps a lot."""
    height, width = image.shape[:2]
    small = cv2.resize(image, (max(1, width // 4), max(1, height // 4)), interpolation=cv2.INTER_AREA)
    halo = cv2.GaussianBlur(small, (0, 0), max(1.0, width / 160))
    image = cv2.addWeighted(image, 0.955, cv2.resize(halo, (width, height)), 0.045, 0)
    if glows:
        lamps = np.zeros_like(small)
        for glow in glows:
            place = (int(glow.column * 4), int(glow.row * 4))  # quarter size, four fraction bits
            radius = max(6, int(glow.radius * 4))
            cv2.circle(lamps, place, radius, glow.color, -1, cv2.LINE_AA, 4)
        spread = max(1.0, width / 240)
        lamps = cv2.addWeighted(
            cv2.GaussianBlur(lamps, (0, 0), spread), 0.7, cv2.GaussianBlur(lamps, (0, 0), spread * 4), 1.0, 0
        )
        image = cv2.add(image, cv2.convertScaleAbs(cv2.resize(lamps, (width, height)), alpha=0.25 + 0.75 * light.lamps))
    return np.asarray(image, np.uint8)


def _veil(image: RgbImage, light: Light, camera: Camera) -> RgbImage:
    """A low sun ahead lights up the lens."""
    height, width = image.shape[:2]
    column, row = sun_place(light, camera)
    x, y = np.arange(width, dtype=np.float32) - column, np.arange(height, dtype=np.float32) - row
    far = np.sqrt(x[None, :] ** 2 + y[:, None] ** 2) / camera.focal
    share = (0.06 + 0.5 * np.exp(-far / 0.28)).astype(np.float32)[..., None]
    warm = np.array([255, 246, 228], np.float32)
    return np.asarray(np.clip(image + (warm - image) * share, 0, 255), np.uint8)


def _drops(image: RgbImage, rng: np.random.Generator) -> RgbImage:
    """Water drops on the windscreen: small upside-down, blurred pictures of the scene."""
    height, width = image.shape[:2]
    soft = cv2.GaussianBlur(image[::-1], (0, 0), max(1.0, width / 100))
    mask = np.zeros((height, width), np.uint8)
    for _ in range(int(rng.integers(4, 28))):
        place = (int(rng.uniform(0, width)), int(rng.uniform(0, height)))
        radius = rng.uniform(0.004, 0.016) * width
        axes = (max(1, int(radius)), max(1, int(radius * rng.uniform(1.0, 1.6))))
        cv2.ellipse(mask, place, axes, 0, 0, 360, int(rng.integers(90, 190)), -1, cv2.LINE_AA)
    share = (cv2.GaussianBlur(mask, (0, 0), max(0.8, width / 400)).astype(np.float32) / 255)[..., None]
    return np.asarray(image * (1 - share) + soft * share, np.uint8)
