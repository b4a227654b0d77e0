"""The camera's own traces: noise, blur, darker corners, exposure, color cast, compression."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from seg_perception.core.types import RgbImage
from seg_perception.scenes.weather import Light, Weather


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
