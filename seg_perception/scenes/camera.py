"""The course of the road through the world and the camera that drives along it.

World coordinates, in meters: `s` along the world's forward axis, `d` right of the road's center line, `h` above the
ground. The center line runs at x = bend(s), the ground lies at y = hill(s). The camera looks along the center line's
tangent. Its yaw and pitch are applied as a shear (a shift of the picture), not a rotation, which keeps one distance for
every image row of ground. The price: where the road runs at a slope m to the forward axis, things along it appear
shorter by 1 / sqrt(1 + m x m): 2 % at a slope of 0.2, 14 % at 0.6, the steepest that `make_plan` can draw.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = "NDArray[np.floating[Any]]"  # a text: NumPy 1.21, of Ubuntu 22.04, cannot subscript it

NEAREST = 0.4
"""Meters in front of the camera where geometry is cut off."""


@dataclass(frozen=True, slots=True)
class Wave:
    """One sine of a bend or hill: amplitude in meters, wavelength in meters, phase in radians."""

    amplitude: float
    length: float
    phase: float

    def at(self, s: Floats | float) -> Floats:
        return np.asarray(self.amplitude * np.sin(2 * np.pi * np.asarray(s) / self.length + self.phase))

    def slope(self, s: float) -> float:
        turn = 2 * np.pi / self.length
        return float(self.amplitude * turn * np.cos(turn * s + self.phase))


@dataclass(frozen=True, slots=True)
class Course:
    """Where the center line runs: sums of waves sideways (bends) and up and down (hills)."""

    bends: tuple[Wave, ...] = ()
    hills: tuple[Wave, ...] = ()

    def x(self, s: Floats | float) -> Floats:
        return _sum(self.bends, s)

    def y(self, s: Floats | float) -> Floats:
        return _sum(self.hills, s)

    def x_slope(self, s: float) -> float:
        return sum(wave.slope(s) for wave in self.bends)

    def y_slope(self, s: float) -> float:
        return sum(wave.slope(s) for wave in self.hills)


def _sum(waves: tuple[Wave, ...], s: Floats | float) -> Floats:
    if not waves:
        return np.zeros(np.shape(s))
    total = waves[0].at(s)
    for wave in waves[1:]:
        total = total + wave.at(s)
    return total


@dataclass(frozen=True)
class Camera:
    """A pinhole camera over the road at one moment.

    Attributes:
        course: the road it follows.
        s, d, h: where it is: meters along, right of the center line, above the ground.
        focal: focal length in pixels.
        center_x: image column of the optical axis, in pixels.
        horizon: image row of the optical axis, in pixels, for a level road.
        yaw, pitch: small extra turns to the right and upwards, in radians.
    """

    course: Course
    s: float
    d: float
    h: float
    focal: float
    center_x: float
    horizon: float
    yaw: float = 0.0
    pitch: float = 0.0

    @cached_property
    def heading(self) -> float:
        """Tangent of the angle between the world's forward axis and the view, positive to the right."""
        return self.course.x_slope(self.s) + self.yaw

    @cached_property
    def climb(self) -> float:
        """Tangent of the upward angle of the view."""
        return self.course.y_slope(self.s) + self.pitch

    @cached_property
    def position(self) -> tuple[float, float, float]:
        """World x, y, s of the camera."""
        return float(self.course.x(self.s)) + self.d, float(self.course.y(self.s)) + self.h, self.s

    def view(self, points: Floats) -> Floats:
        """Turn world points (s, d, h) [..., 3] into camera space: right, up, forward in meters [..., 3]."""
        s, d, h = points[..., 0], points[..., 1], points[..., 2]
        x0, y0, s0 = self.position
        view = np.empty(points.shape)
        forward = view[..., 2] = s - s0
        view[..., 0] = self.course.x(s) + d - x0 - self.heading * forward
        view[..., 1] = self.course.y(s) + h - y0 - self.climb * forward
        return view

    def project_view(self, view: Floats) -> Floats:
        """Camera space [..., 3] to image columns and rows [..., 2]; nearer than NEAREST counts as NEAREST."""
        scale = self.focal / np.maximum(view[..., 2], NEAREST)
        picture = np.empty((*view.shape[:-1], 2))
        picture[..., 0] = self.center_x + view[..., 0] * scale
        picture[..., 1] = self.horizon - view[..., 1] * scale
        return picture

    def project(self, points: Floats) -> Floats:
        """World points (s, d, h) [..., 3] to image columns and rows [..., 2]."""
        return self.project_view(self.view(points))


@dataclass(frozen=True, slots=True)
class GroundRows:
    """What ground each image row shows; rows run from the topmost ground row to the bottom of the image.

    Attributes:
        top: the first image row with ground.
        distance: forward distance in meters, one a row.
        d_start: lateral position d (meters) at the image column 0, one a row.
        d_step: meters of d for each column, one a row.
    """

    top: int
    distance: Floats
    d_start: Floats
    d_step: Floats


class GroundView:
    """Ground seen by one camera, with crests hiding what lies behind them."""

    FARTHEST = 400.0

    def __init__(self, camera: Camera, height: int) -> None:
        self.camera = camera
        self.samples = np.geomspace(1.0, self.FARTHEST, 320)
        points = np.stack([self.samples + camera.s, np.zeros(320), np.zeros(320)], axis=-1)
        rows = camera.project(points)[:, 1]
        self.crest = np.minimum.accumulate(rows)  # the highest picture row that ground up to here reaches
        self.top = int(np.clip(np.ceil(self.crest[-1]), 0, height - 1))
        self.height = height

    def crest_before(self, distance: float) -> float:
        """The image row above which an object at this distance stays visible."""
        return float(np.interp(distance, self.samples, self.crest))

    def rows(self) -> GroundRows:
        """Distances and lateral positions of every ground row (sampled at pixel centers)."""
        camera = self.camera
        wanted = np.arange(self.top, self.height) + 0.5
        strictly = self.crest - np.arange(320) * 1e-7  # interp needs strictly falling rows
        # 1/distance is close to linear in the row, so interpolate that
        distance = 1 / np.interp(-wanted, -strictly, 1 / self.samples)
        below = wanted > strictly[0]
        if below.any():
            distance[below] = self.samples[0] * (strictly[0] - camera.horizon) / (wanted[below] - camera.horizon)
        x0, _, s0 = camera.position
        d_step = distance / camera.focal
        offset = x0 + camera.heading * distance - camera.course.x(s0 + distance)
        return GroundRows(self.top, distance, (0.5 - camera.center_x) * d_step + offset, d_step)

    def strip(self, s: Floats, left: Floats, right: Floats) -> Floats:
        """The image outline [2N, 2] of a ground strip between two lateral positions along s [N]."""
        camera = self.camera
        keep = s - camera.s
        s = camera.s + np.maximum(keep, 0.8)
        zeros = np.zeros(len(s))
        outline = np.concatenate(
            [
                camera.project(np.stack([s, left, zeros], axis=-1)),
                camera.project(np.stack([s, right, zeros], axis=-1))[::-1],
            ]
        )
        limit = np.interp(s - camera.s, self.samples, self.crest)
        outline[:, 1] = np.minimum(outline[:, 1], 1e5)
        outline[:, 1] = np.where(
            np.concatenate([s, s[::-1]]) - camera.s > 1.0,
            np.minimum(outline[:, 1], np.concatenate([limit, limit[::-1]])),
            outline[:, 1],
        )
        return outline
