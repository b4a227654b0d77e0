"""What lies between the street and the finished picture.

Wet roads, glowing lamps, glare and rain; the camera's noise, blur, darker corners, exposure, color cast, compression.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

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


@dataclass(frozen=True, slots=True)
class Sensor:
    """One camera's character, fixed over a drive.

    Attributes:
        exposure: factor on brightness; target: gray level of the street that the automatic exposure aims at;
         cast: factor for each of R, G, B; gamma: contrast curve exponent.
        noise: spread in gray levels; blur: sigma in pixels at 480 columns; corners: share of light lost in corners.
        quality: JPEG quality, 0 for no compression.
    """

    exposure: float
    target: float
    cast: tuple[float, float, float]
    gamma: float
    saturation: float
    noise: float
    blur: float
    corners: float
    quality: int


def choose_sensor(light: Light, rng: np.random.Generator) -> Sensor:
    """Draw a camera."""
    warm, green = rng.normal(0, 0.035), rng.choice([0.0, 0.0, 0.05])
    dark = light.weather in (Weather.NIGHT, Weather.DUSK)
    return Sensor(
        exposure=float(np.exp(rng.normal(0.0, 0.22))),
        target={Weather.NIGHT: 50.0, Weather.DUSK: 66.0, Weather.RAIN: 84.0}.get(light.weather, 100.0),
        cast=(1 + warm - green / 2, 1 + green, 1 - warm - green),
        gamma=rng.uniform(0.95, 1.4),
        saturation=rng.uniform(0.65, 1.15),
        noise=rng.uniform(1.0, 4.0) + (4.0 if dark else 0.0),
        blur=float(rng.choice([0.0, rng.uniform(0.3, 0.9)])),
        corners=rng.uniform(0.0, 0.3),
        quality=int(rng.integers(45, 96)) if rng.random() < 0.75 else 0,
    )


def expose(image: RgbImage, sensor: Sensor, rng: np.random.Generator) -> RgbImage:
    """Pass a clean picture through the camera."""
    height, width = image.shape[:2]
    if sensor.blur > 0:
        image = cv2.GaussianBlur(image, (0, 0), sensor.blur * max(1.0, width / 480))
    # automatic exposure looks at the street more than at the sky
    measured = float(cv2.mean(cv2.cvtColor(image[height * 2 // 5 :], cv2.COLOR_RGB2GRAY))[0])
    gain = sensor.exposure * (sensor.target / max(measured, 8.0)) ** 0.75
    ramp = np.arange(256) / 255
    curve = np.clip(ramp * gain, 0, 1.15)
    # a soft S: shadows fall, highlights clip as cameras clip a bright sky
    curve = 255 * np.clip(curve**sensor.gamma * 1.06, 0, 1)
    table = np.stack([np.clip(curve * factor, 0, 255) for factor in sensor.cast], axis=-1).reshape(1, 256, 3)
    graded = cv2.LUT(image, np.rint(table).astype(np.uint8))
    share = sensor.saturation
    gray = np.tile(np.array([0.299, 0.587, 0.114]) * (1 - share), (3, 1))
    graded = cv2.transform(graded, np.eye(3) * share + gray).astype(np.float32)
    if sensor.corners > 0:
        y, x = np.linspace(-1, 1, height, dtype=np.float32), np.linspace(-1, 1, width, dtype=np.float32)
        loss = 1 - np.float32(sensor.corners * 0.5) * (y[:, None] ** 2 + x[None, :] ** 2)
        cv2.multiply(graded, cv2.merge([loss, loss, loss]), dst=graded)
    if sensor.noise > 0:
        row, column = (int(v) for v in rng.integers(0, 256, 2))
        rows, columns = np.arange(row, row + height) & 511, np.arange(column, column + width) & 511
        graded += _noise_tile()[rows[:, None], columns] * np.float32(sensor.noise)
    result: RgbImage = np.clip(graded, 0, 255).astype(np.uint8)
    if sensor.quality:
        _, packed = cv2.imencode(".jpg", result, [cv2.IMWRITE_JPEG_QUALITY, sensor.quality])
        result = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)
    return result


@lru_cache(maxsize=1)
def _noise_tile() -> NDArray[np.float32]:
    """Noise of a color sensor, float32 [512, 512, 3], spread about 1: mostly brightness, a little color."""
    rng = np.random.default_rng(1)
    color = cv2.GaussianBlur(rng.standard_normal((512, 512, 3), np.float32), (0, 0), 0.8)
    return np.asarray(rng.standard_normal((512, 512, 1), np.float32) * np.float32(0.9) + color, np.float32)
