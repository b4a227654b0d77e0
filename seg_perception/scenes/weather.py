"""Light and weather: what the air and the sun do to a color, the sky, and what closes the view below it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import cv2
import numpy as np
from numpy.typing import NDArray

from seg_perception.scenes.camera import Camera, Floats, GroundView
from seg_perception.scenes.canvas import Canvas, tileable_noise
from seg_perception.scenes.layout import Plan, SceneClass


class Weather(Enum):
    """The kinds of light a drive can have."""

    SUNNY = "sunny"
    BRIGHT = "bright"  # thin clouds: soft shadows, white sky
    OVERCAST = "overcast"
    DUSK = "dusk"
    NIGHT = "night"
    RAIN = "rain"
    FOG = "fog"
    GLARE = "glare"  # a low sun ahead


WEATHER_SHARES: dict[Weather, float] = {
    Weather.SUNNY: 0.27,
    Weather.BRIGHT: 0.22,
    Weather.OVERCAST: 0.24,
    Weather.DUSK: 0.06,
    Weather.NIGHT: 0.03,
    Weather.RAIN: 0.07,
    Weather.FOG: 0.04,
    Weather.GLARE: 0.07,
}


@dataclass(frozen=True, slots=True)
class Light:
    """The light of one drive. Colors are RGB; `sun` and `ambient` multiply a surface's own color.

    Attributes:
        toward_sun: unit vector to the sun: right, up, forward.
        haze_color: what distance fades to, RGB 0 to 255.
        haze: share lost to haze for each meter.
        shadow: how much darker a shadow on the ground is than lit ground, 0 to 1.
        clouds: 0 clear to 1 closed.
        wet: 0 dry to 1 a mirror of water.
        lamps: 0 lamps unlit to 1 lamps and windows shine.
    """

    weather: Weather
    sun: Floats
    ambient: Floats
    toward_sun: Floats
    haze_color: Floats
    haze: float
    shadow: float
    sky_top: Floats
    sky_low: Floats
    clouds: float
    wet: float
    lamps: float

    def shade(self, albedo: Floats, normals: Floats, distance: Floats | float) -> Floats:
        """Lit, hazed colors of flat surfaces.

        Args:
            albedo: [N, 3] own colors, 0 to 255.
            normals: [N, 3] unit vectors right, up, forward.
            distance: meters, one number or [N].
        """
        facing = np.maximum(normals @ self.toward_sun, 0.0)[:, None]
        # surfaces that look up see more sky than those that look down
        sky_share = (0.8 + 0.2 * normals[:, 1])[:, None]
        lit = albedo * (self.ambient * sky_share + self.sun * facing)
        clear = np.exp(-self.haze * np.asarray(distance, np.float64))
        clear = clear[:, None] if clear.ndim else clear
        shaded: Floats = np.clip(lit * clear + self.haze_color * (1 - clear), 0, 255)
        return shaded

    def gain(self, normal: tuple[float, float, float], wrap: float = 0.0) -> Floats:
        """The factor [3] on a surface's own color; `wrap` lets light reach round soft things such as leaves."""
        facing = (float(np.dot(normal, self.toward_sun)) + wrap) / (1 + wrap)
        total: Floats = self.ambient * (0.8 + 0.2 * normal[1]) + self.sun * max(facing, 0.0)
        return total

    def tint(self, gain: Floats, distance: float) -> Floats:
        """What a gain [3] and the haze make of a color, as a matrix [3, 4] for cv2.transform."""
        clear = float(np.exp(-self.haze * distance))
        return np.column_stack([np.diag(gain * clear), self.haze_color * (1 - clear)])


def _vec(*values: float) -> Floats:
    return np.array(values, np.float64)


def choose_light(weather: Weather, rng: np.random.Generator) -> Light:
    """Draw the light of a drive."""
    azimuth = rng.uniform(-np.pi, np.pi)
    elevation = np.deg2rad(rng.uniform(22, 60))
    warm = rng.uniform(0, 1)
    sun, ambient = _vec(0.78, 0.74, 0.66 - 0.06 * warm), _vec(0.36, 0.40, 0.46)
    haze_color, haze, shadow = _vec(205, 215, 228), rng.uniform(0.0015, 0.004), rng.uniform(0.45, 0.65)
    top, low = _vec(78, 128, 196), _vec(206, 222, 240)
    clouds, wet, lamps = rng.uniform(0.0, 0.55), 0.0, 0.0
    if weather is Weather.SUNNY and rng.random() < 0.45:  # cameras often clip a sunny sky to white
        top, low = _vec(168, 205, 243), _vec(246, 250, 254)
    if weather is Weather.BRIGHT:
        sun, ambient, shadow = sun * 0.4, _vec(0.60, 0.61, 0.63), rng.uniform(0.12, 0.3)
        top, low, clouds = _vec(232, 238, 246), _vec(250, 251, 252), rng.uniform(0.3, 0.9)
        haze_color = _vec(222, 226, 230)
    elif weather in (Weather.OVERCAST, Weather.RAIN):
        level = rng.uniform(0.85, 1.05)
        sun, ambient, shadow = _vec(0.06, 0.06, 0.06), _vec(0.66, 0.68, 0.71) * level, rng.uniform(0.0, 0.08)
        gray = rng.uniform(165, 240)
        top, low, clouds = _vec(gray - 22, gray - 16, gray - 8), _vec(gray + 8, gray + 10, gray + 12), 1.0
        haze_color, haze = _vec(gray - 20, gray - 15, gray - 8) * 0.9, rng.uniform(0.002, 0.005)
        if weather is Weather.RAIN:
            haze_color = haze_color * 0.85
            ambient, haze, wet = ambient * 0.85, rng.uniform(0.004, 0.009), rng.uniform(0.5, 1.0)
            lamps = float(rng.random() < 0.5) * 0.5
    elif weather is Weather.DUSK:
        elevation = np.deg2rad(rng.uniform(4, 10))
        sun, ambient, shadow = _vec(0.40, 0.27, 0.16), _vec(0.44, 0.43, 0.46), 0.2
        top, low = _vec(80, 100, 150), _vec(245, 190, 140)
        haze_color, lamps, clouds = _vec(170, 150, 145), 0.7, rng.uniform(0.2, 0.8)
    elif weather is Weather.NIGHT:
        sun, ambient, shadow = _vec(0.05, 0.05, 0.06), _vec(0.34, 0.30, 0.27), 0.1
        top, low = _vec(14, 16, 30), _vec(58, 48, 46)
        haze_color, haze, lamps = _vec(44, 38, 38), 0.006, 1.0
    elif weather is Weather.FOG:
        level = rng.uniform(165, 215)
        sun, ambient, shadow = _vec(0.03, 0.03, 0.03), _vec(0.64, 0.65, 0.66), 0.0
        top, low, clouds = _vec(level, level + 2, level + 5), _vec(level, level + 2, level + 4), 0.0
        haze_color, haze = _vec(level, level + 2, level + 4), rng.uniform(0.010, 0.024)
    elif weather is Weather.GLARE:
        azimuth, elevation = rng.uniform(-0.35, 0.35), np.deg2rad(rng.uniform(8, 20))
        sun, ambient, shadow = _vec(0.85, 0.72, 0.55), _vec(0.34, 0.35, 0.38), 0.5
        top, low = _vec(170, 200, 235), _vec(252, 246, 236)
        haze_color, haze = _vec(235, 225, 210), rng.uniform(0.003, 0.007)
    toward = _vec(np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation))
    return Light(weather, sun, ambient, toward, haze_color, float(haze), float(shadow), top, low, clouds, wet, lamps)


def paint_sky(pixels: NDArray[np.uint8], light: Light, camera: Camera, variant: int, drift: float, bottom: int) -> None:
    """Fill a canvas [H, W, 4] down to row `bottom` with sky; clouds keep their bearing when the camera turns."""
    height, width = min(pixels.shape[0], bottom + 8), pixels.shape[1]
    small_h, small_w = max(2, height // 4), max(2, width // 4)
    rows = ((np.arange(small_h) + 0.5) * (height / small_h)).astype(np.float32)
    columns = ((np.arange(small_w) + 0.5) * 4).astype(np.float32)
    up = np.clip((camera.horizon - rows) / camera.focal + camera.climb, 0.0, 2.0).astype(np.float32)
    blend = (np.clip(up / 0.55, 0, 1) ** 0.7)[:, None]
    sky = (light.sky_low * (1 - blend) + light.sky_top * blend).astype(np.float32)  # [rows, 3]
    picture = np.repeat(sky[:, None], small_w, axis=1)
    if light.clouds > 0:
        noise = tileable_noise(512, 5, 900 + variant % 4)
        depth = 135 / (up + 0.12)  # a flat ceiling of cloud, seen at a slant
        bearing = (columns - camera.center_x) / camera.focal + camera.heading
        x = (bearing[None, :] * depth[:, None] + drift).astype(np.int32) & 511
        y = (depth.astype(np.int32) & 511)[:, None]
        cover = np.clip((noise[y, x] - (1.0 - light.clouds) * 0.9 + 0.25) * 2.2, 0, 1) * np.float32(0.85)
        bright = (0.84 + 0.3 * noise[(y + 24) & 511, x]) * cover
        base = light.sky_low * (0.5 if light.weather is Weather.NIGHT else 1.0)
        picture *= (1 - cover)[..., None]
        picture += bright[..., None] * base.astype(np.float32)
    if light.toward_sun[2] > 0.2 and light.weather in (Weather.SUNNY, Weather.GLARE, Weather.DUSK, Weather.BRIGHT):
        sun_x, sun_y = sun_place(light, camera)
        far2 = ((columns[None, :] - sun_x) ** 2 + (rows[:, None] - sun_y) ** 2) / camera.focal**2
        glow = np.clip(0.9 * np.exp(-far2 / 0.02) + 0.35 * np.exp(-far2 / 0.25), 0, 1)[..., None].astype(np.float32)
        picture += (np.array([255, 248, 232], np.float32) - picture) * glow
    small = cv2.convertScaleAbs(cv2.GaussianBlur(picture, (3, 3), 0))
    pixels[:height, :, :3] = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    pixels[:height, :, 3] = SceneClass.SKY


def sun_place(light: Light, camera: Camera) -> tuple[float, float]:
    """Image column and row of the sun; only meaningful when it is ahead."""
    sideways, up, ahead = (float(v) for v in light.toward_sun)
    column = camera.center_x + camera.focal * (sideways / ahead - camera.heading)
    return column, camera.horizon - camera.focal * (up / ahead - camera.climb)


_FAR_ALBEDO = {"hills": (72.0, 84.0, 70.0), "wood": (56.0, 68.0, 46.0), "town": (128.0, 118.0, 110.0)}


def paint_backdrop(canvas: Canvas, camera: Camera, light: Light, plan: Plan, view: GroundView) -> None:
    """Paint silhouettes at the horizon; they keep their compass bearing when the camera turns."""
    rng = plan.rng(41)
    bearing = (np.arange(canvas.width) + 0.5 - camera.center_x) / camera.focal + camera.heading
    level = camera.horizon + camera.focal * camera.climb
    layers = [(1200.0, 34.0, 200.0, "hills")] if rng.random() < 0.4 else []
    layers += [(420.0, 11.0, 500.0, "wood" if rng.random() < 0.6 else "town"), (300.0, 8.0, 800.0, "wood")]
    for k, (distance, height, pace, look) in enumerate(layers):
        place = (bearing * pace + rng.uniform(0, 512)).astype(np.int64)
        seed = 110 + (plan.seed + k) % 6
        noise = tileable_noise(512, 6 if look == "wood" else 3, seed)
        if look == "town":
            block = np.random.default_rng([42, plan.seed & 0xFFFF]).uniform(0.35, 1.25, 64)
            profile = block[(place // 28) % 64]
        else:
            profile = 0.35 + 0.9 * noise[(k * 37) % 512, place % 512]
        top = level - camera.focal * profile * height / distance
        _fill_below(canvas, light, view, top, place, min(distance, 500.0), look)


def _fill_below(
    canvas: Canvas, light: Light, view: GroundView, top: Floats, place: NDArray[np.int64], distance: float, look: str
) -> None:
    """Fill from the outline `top` (a row for each column) down to the ground."""
    first, last = int(np.clip(np.floor(top.min()), 0, canvas.height)), min(canvas.height, view.top + 2)
    if last <= first:
        return
    color = light.shade(np.array([_FAR_ALBEDO[look]]), np.array([[0.0, 0.5, -0.86]]), distance)[0]
    rows = np.arange(first, last)
    grain = tileable_noise(512, 5, 140, 0.7, 32)
    tone = 0.8 + 0.4 * grain[((rows - first) * 3)[:, None] % 512, (place * 3) % 512]
    if look == "town":  # rows of windows
        tone = np.where(((rows[:, None] - first) % 6 < 3) & (place % 7 < 3), np.float32(0.78), np.float32(1.0))
    elif look == "hills":
        tone = 0.5 + 0.5 * tone
    region = canvas.pixels[first:last]
    inside = rows[:, None] >= top[None, :]
    label = SceneClass.BACKGROUND if look == "town" else SceneClass.VEGETATION
    shades = [cv2.convertScaleAbs(tone, alpha=float(channel)) for channel in color]
    filled = cv2.merge([*shades, np.full(tone.shape, label, np.uint8)])
    cv2.copyTo(filled, inside.view(np.uint8), region)
