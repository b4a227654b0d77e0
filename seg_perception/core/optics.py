"""A calibrated camera: from pixels to rays and back, as `sensor_msgs/CameraInfo` describes it.

Pixels are counted as OpenCV and ROS do: the center of the top left pixel is (0, 0). Rays and points are in the
optical frame of REP 103: x to the right, y down, z ahead. OpenCV does the optics; what it cannot tell, a ray where the
lens's polynomial folds back, is none instead of a wrong one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from seg_perception.core.errors import InputError, SettingsError
from seg_perception.core.settings import read_yaml
from seg_perception.core.types import Size

Floats: TypeAlias = "NDArray[np.floating[Any]]"  # a text: NumPy 1.21, of Ubuntu 22.04, cannot subscript it

WIDEST_FISHEYE = math.radians(89.0)
"""Angle to the optical axis beyond which an equidistant ray is none: OpenCV gives its tangent."""


_LEAST_FOCAL = 0.02
"""Of the image's width: a fisheye's that shows half a turn in all of it has 0.3."""


class Distortion(Enum):
    """Models of `CameraInfo.distortion_model`; the values are the names that ROS uses."""

    NONE = "none"
    PLUMB_BOB = "plumb_bob"
    RATIONAL_POLYNOMIAL = "rational_polynomial"
    EQUIDISTANT = "equidistant"


_MODELS = {
    "plumb_bob": Distortion.PLUMB_BOB,
    "rational_polynomial": Distortion.RATIONAL_POLYNOMIAL,
    "equidistant": Distortion.EQUIDISTANT,
    "fisheye": Distortion.EQUIDISTANT,
}
_COEFFICIENTS = {
    Distortion.PLUMB_BOB: (4, 5),
    Distortion.RATIONAL_POLYNOMIAL: (8, 12, 14),
    Distortion.EQUIDISTANT: (4,),
}


class RegionLike(Protocol):
    """The fields of sensor_msgs/RegionOfInterest."""

    @property
    def x_offset(self) -> int: ...
    @property
    def y_offset(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...


class CameraInfoLike(Protocol):
    """The fields of sensor_msgs/CameraInfo that matter here, whichever library read it."""

    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def distortion_model(self) -> str: ...
    @property
    def d(self) -> Any: ...
    @property
    def k(self) -> Any: ...
    @property
    def p(self) -> Any: ...
    @property
    def binning_x(self) -> int: ...
    @property
    def binning_y(self) -> int: ...
    @property
    def roi(self) -> RegionLike: ...


@dataclass(frozen=True, slots=True)
class CameraModel:
    """A pinhole camera with a lens.

    Attributes:
        size: of the image as it is delivered, after binning and region of interest.
        fx, fy, cx, cy: focal lengths and principal point in pixels of that image.
        distortion: the lens's model.
        coefficients: of the model, in OpenCV's order; empty without distortion.

    Raises:
        InputError: a focal length that is not positive, values that are not finite, a wrong number of coefficients.
    """

    size: Size
    fx: float
    fy: float
    cx: float
    cy: float
    distortion: Distortion = Distortion.NONE
    coefficients: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.fx, self.fy, self.cx, self.cy, *self.coefficients))):
            raise InputError("the calibration holds values that are not finite")
        if not (self.fx > 0.0 and self.fy > 0.0):
            raise InputError(
                f"the camera is not calibrated: focal lengths {self.fx:g} and {self.fy:g} pixels, they must be above 0"
            )
        accepted = _COEFFICIENTS.get(self.distortion, (0,))
        if len(self.coefficients) not in accepted:
            raise InputError(
                f"distortion model {self.distortion.value} with {len(self.coefficients)} coefficients is not accepted: "
                f"it takes {' or '.join(map(str, accepted))}"
            )

    @property
    def matrix(self) -> NDArray[np.float64]:
        """The 3x3 camera matrix K."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    def project(self, points: Floats) -> tuple[Floats, NDArray[np.bool_]]:
        """Where points [N, 3] of the optical frame (meters) appear.

        Returns:
            pixels float32 [N, 2] (column, row), and which of them are seen: in front of the camera, on the part of the
            lens that its model describes, inside the image. Pixels of the others mean nothing.
        """
        x, y, z = points[:, 0], points[:, 1], points[:, 2]
        ahead = z > 1e-6
        with np.errstate(divide="ignore", invalid="ignore"):
            plane = np.stack([x / z, y / z], axis=1)
        plane[~ahead] = 0.0
        seen = ahead & (plane[:, 0] ** 2 + plane[:, 1] ** 2 <= widest_tangent(self) ** 2)
        pixels = self._distort(np.where(seen[:, None], plane, 0.0)).astype(np.float32, copy=False)
        width, height = self.size.width, self.size.height
        seen &= (pixels[:, 0] >= -0.5) & (pixels[:, 0] < width - 0.5)
        seen &= (pixels[:, 1] >= -0.5) & (pixels[:, 1] < height - 0.5)
        return pixels, seen

    def rays(self, pixels: Floats) -> NDArray[np.float32]:
        """The direction of each pixel [N, 2] (column, row): float32 [N, 3] with z = 1; NaN where there is none."""
        plane = self._undistort(np.ascontiguousarray(pixels, np.float64))
        wrong = ~np.isfinite(plane).all(axis=1)
        wrong |= (plane**2).sum(axis=1) > widest_tangent(self) ** 2
        if self.coefficients:  # the iteration may have ended elsewhere
            again = self._distort(np.where(wrong[:, None], 0.0, plane))
            wrong |= np.abs(again - pixels).max(axis=1) > 0.25
        rays = np.ones((len(plane), 3), np.float32)
        rays[:, :2] = plane
        rays[wrong] = np.nan
        return rays

    def _distort(self, plane: Floats) -> Floats:
        """Normalized image coordinates [N, 2] to pixels [N, 2]."""
        if not self.coefficients:
            return plane * np.array([self.fx, self.fy], plane.dtype) + np.array([self.cx, self.cy], plane.dtype)
        if not len(plane):
            return np.zeros((0, 2))
        if self.distortion is Distortion.EQUIDISTANT:
            points = np.ascontiguousarray(plane, np.float64)[:, None]
            return np.asarray(cv2.fisheye.distortPoints(points, self.matrix, np.array(self.coefficients))[:, 0])
        points = np.ones((len(plane), 3))
        points[:, :2] = plane
        still = np.zeros(3)
        return np.asarray(cv2.projectPoints(points, still, still, self.matrix, np.array(self.coefficients))[0][:, 0])

    def _undistort(self, pixels: NDArray[np.float64]) -> Floats:
        if not self.coefficients or not len(pixels):
            return (pixels - (self.cx, self.cy)) / (self.fx, self.fy)
        points, coefficients = pixels[:, None], np.array(self.coefficients)
        if self.distortion is Distortion.EQUIDISTANT:
            return np.asarray(cv2.fisheye.undistortPoints(points, self.matrix, coefficients)[:, 0])
        stop = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 50, 1e-4)
        return np.asarray(cv2.undistortPointsIter(points, self.matrix, coefficients, None, None, stop)[:, 0])


@lru_cache(maxsize=64)
def widest_tangent(model: CameraModel) -> float:
    """The largest distance from the axis, at depth 1, up to which the model grows with the angle."""
    if model.distortion is Distortion.NONE:
        return math.inf
    c = (*model.coefficients, 0.0, 0.0, 0.0, 0.0)
    if model.distortion is Distortion.EQUIDISTANT:
        angle = np.linspace(0.0, WIDEST_FISHEYE, 4096)
        grown = angle * (1 + c[0] * angle**2 + c[1] * angle**4 + c[2] * angle**6 + c[3] * angle**8)
        return math.tan(angle[_end_of_growth(grown)])
    r = np.linspace(0.0, 20.0, 65536)
    below = np.ones_like(r)
    if model.distortion is Distortion.RATIONAL_POLYNOMIAL:
        below = 1 + c[5] * r**2 + c[6] * r**4 + c[7] * r**6
    with np.errstate(divide="ignore"):
        grown = r * (1 + c[0] * r**2 + c[1] * r**4 + c[4] * r**6) / below
    poles = np.flatnonzero(below <= 0.0)
    last = _end_of_growth(grown[: poles[0]] if poles.size else grown)
    return math.inf if last == len(r) - 1 else float(r[last])


def _end_of_growth(values: Floats) -> int:
    falling = np.flatnonzero(np.diff(values) <= 0.0)
    return int(falling[0]) if falling.size else len(values) - 1


def camera_model(info: CameraInfoLike, image: Size, rectified: bool = False) -> CameraModel:
    """The camera of an image, from its camera_info; binning and region of interest count as REP 104 says.

    Args:
        info: a CameraInfo.
        image: the size of the image that it came with.
        rectified: the image is rectified: P holds, without distortion.

    Raises:
        InputError: not calibrated, an unknown distortion model, coefficients that do not fit it, another size.
    """
    k = _numbers(info.p if rectified else info.k, 12 if rectified else 9, "P" if rectified else "K")
    fx, fy = k[0], k[5 if rectified else 4]
    cx, cy = k[2], k[6 if rectified else 5]
    if not any(k):
        matrix = "P" if rectified else "K"
        raise InputError(f"the camera is not calibrated: {matrix} of its camera_info is all zero; calibrate it")
    _demand_pinhole(k, rectified, info.width)
    x_bin, y_bin = max(1, int(info.binning_x)), max(1, int(info.binning_y))
    roi = info.roi
    width, height = int(roi.width) or int(info.width), int(roi.height) or int(info.height)
    told = (width // x_bin, height // y_bin)
    if told != (image.width, image.height):
        raise InputError(
            f"camera_info is of {told[0]}x{told[1]} images and the image is {image}: "
            "calibrate at the image's size, or let the driver publish the camera_info of what it publishes"
        )
    distortion, coefficients = (Distortion.NONE, ()) if rectified else _distortion(info)
    return CameraModel(
        image,
        fx / x_bin,
        fy / y_bin,
        (cx - int(roi.x_offset)) / x_bin,
        (cy - int(roi.y_offset)) / y_bin,
        distortion,
        coefficients,
    )


def _demand_pinhole(k: list[float], rectified: bool, width: int) -> None:
    """What is said of a lens must be what is computed with: pixels, without skew, row after row."""
    name, others, wanted = ("P", (1, 4, 8, 9), "fx 0 cx Tx, 0 fy cy Ty, 0 0 1 0") if rectified else (
        "K", (1, 3, 6, 7), "fx 0 cx, 0 fy cy, 0 0 1")  # fmt: skip
    if any(k[i] for i in others):
        raise InputError(
            f"{name} of the camera_info is {' '.join(f'{v:g}' for v in k)}, and {wanted} is accepted: row after row, "
            "without skew"
        )
    if 0.0 < k[0] < _LEAST_FOCAL * width:
        raise InputError(
            f"{name} of the camera_info has a focal length of {k[0]:g} pixels in an image {width} wide: it must be in "
            "pixels, neither in shares of the image nor in millimeters"
        )


def _numbers(values: Any, count: int, name: str) -> list[float]:
    numbers = [float(v) for v in values]
    if len(numbers) != count:
        raise InputError(f"{name} of a camera_info must have {count} numbers, got {len(numbers)}")
    return numbers


def _distortion(info: CameraInfoLike) -> tuple[Distortion, tuple[float, ...]]:
    coefficients = tuple(float(v) for v in info.d)
    name = str(info.distortion_model)
    if not any(coefficients) and name in ("", "none", "plumb_bob", "rational_polynomial"):
        return Distortion.NONE, ()
    if name not in _MODELS:
        raise InputError(f"distortion model {name!r} is not known; accepted: {', '.join(_MODELS)}")
    model = _MODELS[name]
    if model is Distortion.EQUIDISTANT and not coefficients:
        coefficients = (0.0,) * 4
    most = max(_COEFFICIENTS[model])
    if len(coefficients) > most and not any(coefficients[most:]):
        coefficients = coefficients[:most]  # drivers send five of every model
    if model is Distortion.PLUMB_BOB and len(coefficients) in _COEFFICIENTS[Distortion.RATIONAL_POLYNOMIAL]:
        model = Distortion.RATIONAL_POLYNOMIAL  # several drivers name every polynomial so; the count tells
    return model, coefficients


@dataclass(frozen=True, slots=True)
class _Region:
    x_offset: int = 0
    y_offset: int = 0
    height: int = 0
    width: int = 0


@dataclass(frozen=True, slots=True)
class Calibration:
    """A calibration file: what a CameraInfo says, without a message."""

    width: int
    height: int
    distortion_model: str
    d: tuple[float, ...]
    k: tuple[float, ...]
    p: tuple[float, ...]
    binning_x: int = 0
    binning_y: int = 0
    roi: _Region = _Region()


def read_calibration(path: Path) -> Calibration:
    """Read the YAML that ROS's camera_calibration and camera_info_manager write.

    Raises:
        OSError: it cannot be read.
        SettingsError: not such a file; every fault, one a line.
    """
    try:
        document = read_yaml(path)
    except SettingsError as error:
        if any(mark in path.read_text("utf-8", "replace") for mark in ("%YAML:", "!!opencv-matrix")):
            raise SettingsError(
                f"{path}: a calibration as OpenCV's FileStorage writes it; bring it into the form of ROS's "
                "camera_calibration: without the %YAML line and !!opencv-matrix, with image_width, image_height and "
                "distortion_model (plumb_bob of calibrateCamera, equidistant of fisheye)"
            ) from error
        raise
    if not isinstance(document, dict):
        raise SettingsError(f"{path}: a calibration is a YAML table with image_width, camera_matrix, ...")
    faults: list[str] = []
    width, height = (_integer(document, name, faults) for name in ("image_width", "image_height"))
    k = _data(document, "camera_matrix", (9,), faults)
    p = _data(document, "projection_matrix", (12,), faults) if "projection_matrix" in document else (0.0,) * 12
    d = _data(document, "distortion_coefficients", (), faults)
    model = document.get("distortion_model")
    if model is None and any(d):
        faults.append(f"distortion_model: is missing; one of {', '.join(_MODELS)} is expected")
    if faults:
        raise SettingsError(f"{path}: not a calibration of ROS's camera_calibration:\n  " + "\n  ".join(faults))
    return Calibration(width, height, str(model or ""), d, k, p)


def _integer(document: dict[Any, Any], name: str, faults: list[str]) -> int:
    value = document.get(name)
    if type(value) is int and value > 0:
        return value
    faults.append(f"{name}: {value!r} is not accepted; a number of pixels is expected")
    return 1


def _data(document: dict[Any, Any], name: str, counts: Sequence[int], faults: list[str]) -> tuple[float, ...]:
    table = document.get(name)
    values = table.get("data") if isinstance(table, dict) else None
    numbers = isinstance(values, list) and all(isinstance(v, (int, float)) and type(v) is not bool for v in values)
    if not numbers or (counts and len(values) not in counts):  # type: ignore[arg-type]  # numbers: it is a list
        wanted = f"{' or '.join(map(str, counts))} numbers" if counts else "numbers"
        faults.append(f"{name}: {values!r} is not accepted; data with {wanted} is expected")
        return ()
    return tuple(float(v) for v in values)  # type: ignore[union-attr]
