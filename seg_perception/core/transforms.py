"""A tree of moving coordinate frames, as /tf and /tf_static tell it: where was one frame in another at a moment?

For the node and for bags alike, without ROS (docs/adr/0017-meters.md says why not tf2).
"""

from __future__ import annotations

import bisect
import threading
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from seg_perception.core.errors import InputError, first_of
from seg_perception.core.ground import CameraPose, rotation_matrix

Vector: TypeAlias = tuple[float, float, float]
Quaternion: TypeAlias = tuple[float, float, float, float]

KEPT_NS = 10_000_000_000
"""How long moving transforms are kept, as in tf2."""

_MAX_DEPTH = 100


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
    """Thread-safe; lookups interpolate between the two transforms about a moment.

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
                del edge.stamps[:old], edge.values[:old]

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
