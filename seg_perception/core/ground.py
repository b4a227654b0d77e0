"""Where cameras are over the ground, at a moment of a tree of moving frames, and which point of it each pixel shows.

The ground is the plane z = 0 of the ground frame (REP 103: x ahead, y left, z up). A pixel has the point where its ray
meets that plane, or none: rays at and above the horizon, and rays that the lens does not have. For the node and for
bags alike, without ROS (docs/adr/0017-meters.md says why not tf2).
"""

from __future__ import annotations

import bisect
import math
import threading
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from seg_perception.core.errors import InputError, first_of
from seg_perception.core.optics import CameraModel
from seg_perception.core.types import Size

_BODY_OF_OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
"""x ahead, y left, z up of a camera body, from x right, y down, z ahead of its optical frame."""


LOWEST_LENS = 0.05
"""Meters above the ground: no car has a camera lower; what lies a hair over the plane z = 0 was meant to lie in it."""


@dataclass(frozen=True, slots=True)
class CameraPose:
    """Where the optical frame is in the ground frame.

    Attributes:
        rotation: 3x3 by rows; turns directions of the optical frame into the ground frame's.
        position: of the lens in the ground frame, meters.

    Raises:
        InputError: the lens is lower than `LOWEST_LENS`.
    """

    rotation: tuple[float, ...]
    position: tuple[float, float, float]

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (*self.rotation, *self.position))):
            raise InputError("the camera's pose holds values that are not finite")
        if self.position[2] < LOWEST_LENS:
            raise InputError(
                f"the camera is {self.position[2]:g} m above the ground, it must be {LOWEST_LENS:g} or more: "
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
        image, smaller: the sizes of both.
        columns, rows: the image's pixel for each column and row of the smaller one.
        flat: the same as indices into the image, [h, w].
    """

    image: Size
    smaller: Size
    columns: NDArray[np.intp]
    rows: NDArray[np.intp]
    flat: NDArray[np.intp]

    @classmethod
    def of(cls, image: Size, smaller: Size) -> SampledPixels:
        columns = ((np.arange(smaller.width) + 0.5) * image.width / smaller.width).astype(np.intp)
        rows = ((np.arange(smaller.height) + 0.5) * image.height / smaller.height).astype(np.intp)
        return cls(image, smaller, columns, rows, rows[:, None] * image.width + columns)

    def take(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The smaller image, uint8 [h, w], of an image uint8 [H, W]."""
        return image.reshape(-1).take(self.flat, mode="wrap")  # all are in range, and "wrap" is fastest

    def place(self, pixels: NDArray[np.intp]) -> NDArray[np.intp]:
        """The smaller image's pixels, flat, in which pixels of the image lie, flat [N]."""
        row, column = np.divmod(pixels, self.image.width)
        row = (2 * row + 1) * self.smaller.height // (2 * self.image.height)
        column = (2 * column + 1) * self.smaller.width // (2 * self.image.width)
        return np.asarray(row * self.smaller.width + column)

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


Vector: TypeAlias = tuple[float, float, float]
Quaternion: TypeAlias = tuple[float, float, float, float]

KEPT_NS = 10_000_000_000
"""How long moving transforms are kept, as in tf2."""

_MAX_DEPTH = 100
_MOST_FRAMES = 1_000  # before those that nobody moves any more are forgotten: trackers name one for each object
_MOST_VALUES = 20_000  # of one frame: 2 kHz for ten seconds


class TransformNotYetError(InputError):
    """A transform is known, but not yet up to the moment asked for."""


@dataclass(slots=True)
class _Edge:
    """A frame's place in its parent over time; one entry without times if it is static."""

    parent: str
    static: bool
    stamps: list[int] = field(default_factory=list)
    values: list[tuple[Vector, Quaternion]] = field(default_factory=list)


class TransformBuffer:
    """A tree of moving coordinate frames, as /tf and /tf_static tell it: where was one frame in another at a moment?

    Thread-safe; lookups interpolate between the two transforms about a moment.

    Args:
        kept_ns: how long moving transforms are kept; None: for good, as for a bag.
    """

    def __init__(self, kept_ns: int | None = KEPT_NS) -> None:
        self._kept_ns = kept_ns
        self._edges: dict[str, _Edge] = {}
        self._lock = threading.Lock()

    def clear(self) -> None:
        """Forget moving transforms: time ran backwards."""
        with self._lock:
            self._edges = {child: edge for child, edge in self._edges.items() if edge.static}

    def add(
        self, parent: str, child: str, stamp_ns: int, translation: Vector, quaternion: Quaternion, static: bool = False
    ) -> None:
        """Take in one geometry_msgs/TransformStamped.

        Raises:
            InputError: not a rotation, or a frame that would be its own parent.
        """
        parent, child = parent.lstrip("/"), child.lstrip("/")
        rotation_matrix(quaternion)  # it must be one
        if parent == child or not parent or not child:
            raise InputError(f"a transform from {parent!r} to {child!r} cannot be")
        with self._lock:
            edge = self._edges.get(child)
            if edge is None or edge.parent != parent or edge.static != static:
                if self._kept_ns is not None and len(self._edges) >= _MOST_FRAMES:
                    self._forget_before(stamp_ns - self._kept_ns)
                edge = self._edges[child] = _Edge(parent, static)
            if static:
                edge.values = [(translation, quaternion)]
                return
            if edge.stamps and self._kept_ns is not None and stamp_ns < edge.stamps[-1] - self._kept_ns:
                return  # too late to be of use; where time itself ran backwards, `clear` comes first
            at = bisect.bisect_left(edge.stamps, stamp_ns)
            if at < len(edge.stamps) and edge.stamps[at] == stamp_ns:
                edge.values[at] = (translation, quaternion)
                return
            edge.stamps.insert(at, stamp_ns)
            edge.values.insert(at, (translation, quaternion))
            if self._kept_ns is not None:
                old = bisect.bisect_left(edge.stamps, edge.stamps[-1] - self._kept_ns)
                old = max(old, len(edge.stamps) - _MOST_VALUES)
                del edge.stamps[:old], edge.values[:old]

    def _forget_before(self, stamp_ns: int) -> None:
        """Frames that moved last before a moment."""
        self._edges = {child: e for child, e in self._edges.items() if e.static or e.stamps[-1] >= stamp_ns}

    def add_message(self, message: Any, static: bool) -> list[str]:
        """Take in a tf2_msgs/TFMessage, whichever library read it; answers what was refused, and why."""
        refused = []
        for stamped in message.transforms:
            stamp, t, q = stamped.header.stamp, stamped.transform.translation, stamped.transform.rotation
            try:
                self.add(
                    stamped.header.frame_id,
                    stamped.child_frame_id,
                    int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec),
                    (float(t.x), float(t.y), float(t.z)),
                    (float(q.x), float(q.y), float(q.z), float(q.w)),
                    static,
                )
            except InputError as error:
                refused.append(f"from {stamped.header.frame_id!r} to {stamped.child_frame_id!r}: {error}")
        return refused

    def pose(self, ground: str, camera: str, stamp_ns: int) -> CameraPose:
        """Where a camera's optical frame was in the ground frame.

        Raises:
            TransformNotYetError: the newest transform on the way is older than the moment.
            InputError: no such frames, not connected, the moment is before all that is kept, or below the ground.
        """
        ground, camera = ground.lstrip("/"), camera.lstrip("/")
        with self._lock:
            from_camera = self._up(camera)
            from_ground = self._up(ground)
            if camera not in self._edges and all(edge.parent != camera for edge in self._edges.values()):
                raise InputError(self._unknown(camera))
            common = next((frame for frame in from_camera if frame in from_ground), None)
            if common is None:
                raise InputError(
                    f"no transform connects {camera!r} with {ground!r}: the one is below {from_camera[-1]!r}, "
                    f"the other below {from_ground[-1]!r}"
                )
            up = self._chain(from_camera[: from_camera.index(common)], stamp_ns)
            down = self._chain(from_ground[: from_ground.index(common)], stamp_ns)
        matrix = np.linalg.inv(down) @ up
        rotation = tuple(float(v) for v in matrix[:3, :3].reshape(-1))
        return CameraPose(rotation, (float(matrix[0, 3]), float(matrix[1, 3]), float(matrix[2, 3])))

    def _unknown(self, frame: str) -> str:
        known = sorted({*self._edges, *(edge.parent for edge in self._edges.values())})
        return f"no transform names the frame {frame!r}; known: {first_of(known, 12) or 'none'}"

    def _up(self, frame: str) -> list[str]:
        """A frame and all above it."""
        frames = [frame]
        while (edge := self._edges.get(frames[-1])) is not None:
            if edge.parent in frames or len(frames) > _MAX_DEPTH:
                raise InputError(f"the transforms above {frame!r} run in a circle")
            frames.append(edge.parent)
        return frames

    def _chain(self, frames: list[str], stamp_ns: int) -> NDArray[np.float64]:
        """From the first of the frames to the parent of the last, 4x4."""
        matrix = np.eye(4)
        for frame in frames:
            matrix = self._at(frame, self._edges[frame], stamp_ns) @ matrix
        return matrix

    def _at(self, child: str, edge: _Edge, stamp_ns: int) -> NDArray[np.float64]:
        if edge.static:
            return _matrix(*edge.values[0])
        after = bisect.bisect_left(edge.stamps, stamp_ns)
        if after < len(edge.stamps) and edge.stamps[after] == stamp_ns:
            return _matrix(*edge.values[after])
        if after == len(edge.stamps):
            late = (stamp_ns - edge.stamps[-1]) * 1e-9
            raise TransformNotYetError(
                f"the transform from {edge.parent!r} to {child!r} is known up to {late:.3f} s before the image only"
            )
        if after == 0:
            early = (edge.stamps[0] - stamp_ns) * 1e-9
            raise InputError(
                f"the transform from {edge.parent!r} to {child!r} is known from {early:.3f} s after the image on only"
            )
        before, later = edge.stamps[after - 1], edge.stamps[after]
        share = (stamp_ns - before) / (later - before)
        (t0, q0), (t1, q1) = edge.values[after - 1], edge.values[after]
        moved = tuple(a + share * (b - a) for a, b in zip(t0, t1, strict=True))
        return _matrix((moved[0], moved[1], moved[2]), _between(q0, q1, share))


def _between(first: Quaternion, second: Quaternion, share: float) -> Quaternion:
    """Spherical interpolation, the short way round."""
    a, b = np.array(first), np.array(second)
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    cosine = float(a @ b)
    if cosine < 0.0:
        b, cosine = -b, -cosine
    if cosine > 0.9999:
        q = a + share * (b - a)
    else:
        angle = np.arccos(cosine)
        q = (np.sin((1 - share) * angle) * a + np.sin(share * angle) * b) / np.sin(angle)
    q = q / np.linalg.norm(q)
    return float(q[0]), float(q[1]), float(q[2]), float(q[3])


def _matrix(translation: Vector, quaternion: Quaternion) -> NDArray[np.float64]:
    matrix = np.eye(4)
    matrix[:3, :3] = rotation_matrix(quaternion)
    matrix[:3, 3] = translation
    return matrix
