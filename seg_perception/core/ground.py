"""From pixels to the ground: where the camera is over it, and which point of it each pixel shows.

The ground is the plane z = 0 of the ground frame (REP 103: x ahead, y left, z up). A pixel has the point where its ray
meets that plane, or none: rays at and above the horizon, and rays that the lens does not have.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seg_perception.core.errors import InputError
from seg_perception.core.optics import CameraModel
from seg_perception.core.types import Size

_BODY_OF_OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
"""x ahead, y left, z up of a camera body, from x right, y down, z ahead of its optical frame."""


@dataclass(frozen=True, slots=True)
class CameraPose:
    """Where the optical frame is in the ground frame.

    Attributes:
        rotation: 3x3 by rows; turns directions of the optical frame into the ground frame's.
        position: of the lens in the ground frame, meters.

    Raises:
        InputError: the lens is not above the ground.
    """

    rotation: tuple[float, ...]
    position: tuple[float, float, float]

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (*self.rotation, *self.position))):
            raise InputError("the camera's pose holds values that are not finite")
        if not self.position[2] > 0.0:
            raise InputError(
                f"the camera is {self.position[2]:g} m above the ground, it must be above 0: "
                "the ground is the plane z = 0 of the ground frame"
            )

    @classmethod
    def mounted(
        cls, height: float, pitch: float = 0.0, roll: float = 0.0, x: float = 0.0, y: float = 0.0, yaw: float = 0.0
    ) -> CameraPose:
        """A camera fixed to the car.

        Args:
            height: of the lens over the ground, meters.
            pitch: degrees; positive looks down.
            roll: degrees about the viewing direction; positive lowers the right side.
            x, y: meters ahead of and left of the ground frame's origin.
            yaw: degrees; positive looks to the left.
        """
        rotation = _turn(2, yaw) @ _turn(1, pitch) @ _turn(0, roll) @ _BODY_OF_OPTICAL
        return cls(tuple(float(v) for v in rotation.reshape(-1)), (x, y, height))

    @classmethod
    def from_transform(
        cls, translation: tuple[float, float, float], quaternion: tuple[float, float, float, float]
    ) -> CameraPose:
        """From a transform that takes points of the optical frame to the ground frame.

        Args:
            translation: meters.
            quaternion: x, y, z, w.

        Raises:
            InputError: not a rotation, or the lens is not above the ground.
        """
        matrix = rotation_matrix(quaternion)
        return cls(tuple(float(v) for v in matrix.reshape(-1)), translation)

    @property
    def matrix(self) -> NDArray[np.float64]:
        """`rotation` as [3, 3]."""
        return np.array(self.rotation).reshape(3, 3)

    @property
    def pitch(self) -> float:
        """Degrees that the optical axis looks down."""
        return math.degrees(math.asin(max(-1.0, min(1.0, -self.rotation[8]))))

    def near(self, other: CameraPose, angle: float, distance: float) -> bool:
        """Whether another pose differs by no more than an angle (degrees) and a distance (meters)."""
        moved = math.dist(self.position, other.position)
        cosine = (sum(a * b for a, b in zip(self.rotation, other.rotation, strict=True)) - 1.0) / 2.0
        # acos loses small angles; the matrices' difference does not
        turned = math.dist(self.rotation, other.rotation) / math.sqrt(2.0) if cosine > 0.9 else math.pi
        return moved <= distance and turned <= math.radians(angle)


def rotation_matrix(quaternion: tuple[float, float, float, float]) -> NDArray[np.float64]:
    """The 3x3 rotation of a quaternion x, y, z, w; its length is made 1.

    Raises:
        InputError: its length is far from 1, as of a quaternion that nobody has filled in.
    """
    x, y, z, w = quaternion
    length = math.sqrt(x * x + y * y + z * z + w * w)
    if not abs(length - 1.0) < 0.05:
        raise InputError(f"quaternion {quaternion} is not a rotation: its length is {length:g}")
    x, y, z, w = x / length, y / length, z / length, w / length
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def _turn(axis: int, degrees: float) -> NDArray[np.float64]:
    """Rotation about one axis of the body, by the right hand."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    a, b = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[a, a], matrix[a, b], matrix[b, a], matrix[b, b] = c, -s, s, c
    return matrix


@dataclass(frozen=True, slots=True)
class SampledPixels:
    """The pixels of an image that stand for a smaller image of it, nearest neighbor.

    Attributes:
        columns, rows: the image's pixel for each column and row of the smaller one.
        flat: the same as indices into the image, [h, w].
    """

    columns: NDArray[np.intp]
    rows: NDArray[np.intp]
    flat: NDArray[np.intp]

    @classmethod
    def of(cls, image: Size, smaller: Size) -> SampledPixels:
        columns = ((np.arange(smaller.width) + 0.5) * image.width / smaller.width).astype(np.intp)
        rows = ((np.arange(smaller.height) + 0.5) * image.height / smaller.height).astype(np.intp)
        return cls(columns, rows, rows[:, None] * image.width + columns)

    def take(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The smaller image, uint8 [h, w], of an image uint8 [H, W]."""
        return image.reshape(-1).take(self.flat, mode="wrap")  # all are in range, and "wrap" is fastest

    def centers(self) -> NDArray[np.float64]:
        """The pixels' places (column, row) [h * w, 2]."""
        columns, rows = np.meshgrid(self.columns, self.rows)
        return np.stack([columns.reshape(-1), rows.reshape(-1)], axis=1).astype(np.float64)


class PixelRays:
    """The rays of an image's pixels, or of a smaller image's; made once for a camera, used for every pose."""

    def __init__(self, camera: CameraModel, smaller: Size | None = None) -> None:
        self.size = smaller or camera.size
        self.sampled = SampledPixels.of(camera.size, self.size)
        self._rays = np.ascontiguousarray(camera.rays(self.sampled.centers()).T)  # [3, h * w]

    def ground_points(self, pose: CameraPose) -> NDArray[np.float32]:
        """The point of the ground that each pixel shows.

        Returns:
            float32 [h, w, 3], meters in the ground frame; NaN where the pixel shows no ground.
        """
        turned, (right, down, ahead) = pose.matrix.astype(np.float32), self._rays
        x, y, z = (row[0] * right + row[1] * down + row[2] * ahead for row in turned)
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = np.where(z < 0.0, np.float32(-pose.position[2]) / z, np.float32(np.nan))
        points = np.empty((len(scale), 3), np.float32)
        points[:, 0] = x * scale + np.float32(pose.position[0])
        points[:, 1] = y * scale + np.float32(pose.position[1])
        points[:, 2] = scale * np.float32(0.0)  # NaN stays NaN
        return points.reshape(self.size.height, self.size.width, 3)
