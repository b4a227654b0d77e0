"""What closes the view far away: hills, woods and roofs at the horizon."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from seg_perception.scenes.camera import Camera, Floats, GroundView
from seg_perception.scenes.canvas import Canvas
from seg_perception.scenes.classes import SceneClass
from seg_perception.scenes.layout import Plan
from seg_perception.scenes.textures import tileable_noise
from seg_perception.scenes.weather import Light

_ALBEDO = {"hills": (72.0, 84.0, 70.0), "wood": (56.0, 68.0, 46.0), "town": (128.0, 118.0, 110.0)}


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
        _fill(canvas, light, view, top, place, min(distance, 500.0), look)


def _fill(
    canvas: Canvas, light: Light, view: GroundView, top: Floats, place: NDArray[np.int64], distance: float, look: str
) -> None:
    """Fill from the outline `top` (a row for each column) down to the ground."""
    first, last = int(np.clip(np.floor(top.min()), 0, canvas.height)), min(canvas.height, view.top + 2)
    if last <= first:
        return
    color = light.shade(np.array([_ALBEDO[look]]), np.array([[0.0, 0.5, -0.86]]), distance)[0]
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
