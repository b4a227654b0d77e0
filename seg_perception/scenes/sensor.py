"""The camera's own traces: noise, blur, darker corners, exposure, colour cast, compression."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from seg_perception.core.types import RgbImage
from seg_perception.scenes.weather import Light, Weather


@dataclass(frozen=True, slots=True)
class Sensor:
    """One camera's character, fixed over a drive.

    Attributes:
        exposure: factor on brightness; cast: factor for each of R, G, B; gamma: contrast curve exponent.
        noise: spread in grey levels; blur: sigma in pixels at 480 columns; corners: share of light lost in corners.
        quality: JPEG quality, 0 for no compression.
    """

    exposure: float
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
        exposure=float(np.exp(rng.normal(-0.05, 0.2))),
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
    ramp = np.arange(256) / 255
    curve = np.clip(ramp * sensor.exposure, 0, 1.15)
    # a soft S: shadows fall, highlights roll off
    curve = 255 * np.clip(curve**sensor.gamma * 1.06, 0, 1)
    table = np.stack([np.clip(curve * factor, 0, 255) for factor in sensor.cast], axis=-1).reshape(1, 256, 3)
    graded = cv2.LUT(image, table.astype(np.float32))
    grey = cv2.cvtColor(graded, cv2.COLOR_RGB2GRAY)[..., None]
    graded = grey + (graded - grey) * np.float32(sensor.saturation)
    if sensor.corners > 0:
        y, x = np.linspace(-1, 1, height, dtype=np.float32), np.linspace(-1, 1, width, dtype=np.float32)
        graded *= (1 - sensor.corners * 0.5 * (y[:, None] ** 2 + x[None, :] ** 2))[..., None]
    if sensor.noise > 0:
        luminance = rng.standard_normal((height, width, 1), np.float32)
        color = rng.standard_normal((height // 2 + 1, width // 2 + 1, 3), np.float32)
        graded += luminance * np.float32(sensor.noise * 0.8)
        graded += cv2.resize(color, (width, height)) * np.float32(sensor.noise * 0.5)
    result: RgbImage = np.clip(graded, 0, 255).astype(np.uint8)
    if sensor.quality:
        _, packed = cv2.imencode(".jpg", result, [cv2.IMWRITE_JPEG_QUALITY, sensor.quality])
        result = cv2.imdecode(packed, cv2.IMREAD_COLOR)
    return result
