"""What closes the view far away: hills, woods and roofs at the horizon."""

from __future__ import annotations

import numpy as np

from seg_perception.scenes.camera import Camera, GroundView
from seg_perception.scenes.canvas import Canvas
from seg_perception.scenes.classes import SceneClass
from seg_perception.scenes.layout import Plan
from seg_perception.scenes.textures import tileable_noise
from seg_perception.scenes.weather import Light


def paint_backdrop(canvas: Canvas, camera: Camera, light: Light, plan: Plan, view: GroundView) -> None:
    """Paint silhouettes at the horizon; they keep their compass bearing when the camera turns."""
    rng = plan.rng(41)
    columns = np.arange(0, canvas.width + 6, 3.0)
    bearing = (columns - camera.centre_x) / camera.focal + camera.heading
    level = camera.horizon + camera.focal * camera.climb
    bottom = np.full(len(columns), float(view.top + 2))
    layers = [(1200.0, 26.0, 3.0, "hills")] if rng.random() < 0.4 else []
    layers += [(420.0, 11.0, 40.0, "wood" if rng.random() < 0.6 else "town"), (300.0, 8.0, 70.0, "wood")]
    for k, (distance, height, pace, look) in enumerate(layers):
        noise = tileable_noise(512, 6 if look == "wood" else 4, 110 + (plan.seed + k) % 6)
        place = bearing * pace * 12 + rng.uniform(0, 512)
        if look == "town":
            block = np.floor(place / 9)
            heights = np.random.default_rng(plan.seed % 1000).uniform(0.35, 1.2, 256)[block.astype(int) % 256]
        else:
            heights = 0.35 + 0.9 * noise[(k * 37) % 512, place.astype(int) % 512]
        top = level - camera.focal * heights * height / distance
        albedo = {"hills": [72, 84, 70], "wood": [52, 64, 44], "town": [128, 118, 110]}[look]
        color = light.shade(np.array([albedo], np.float64), np.array([[0.0, 0.5, -0.86]]), min(distance, 600.0))[0]
        label = SceneClass.BACKGROUND if look == "town" else SceneClass.VEGETATION
        for start in range(0, len(columns) - 1, 2):
            part = slice(start, start + 3)
            mottle = 0.85 + 0.3 * float(noise[(start * 7) % 512, int(place[start]) % 512])
            outline = np.concatenate([np.column_stack([columns[part], top[part]]), np.column_stack([columns[part], bottom[part]])[::-1]])
            canvas.polygon(outline, color * mottle, label)
