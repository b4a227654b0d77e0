"""Pixels to rays and back: hand-computed pinholes, OpenCV as the judge of lenses, REP 104's binning and regions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from seg_perception.core.errors import InputError, SettingsError
from seg_perception.core.optics import Calibration, CameraModel, Distortion, camera_model, read_calibration
from seg_perception.core.types import Size

VGA = Size(640, 480)
LENSES = {
    Distortion.PLUMB_BOB: (-0.28, 0.07, 0.0008, -0.0005, -0.008),
    Distortion.RATIONAL_POLYNOMIAL: (0.35, 0.04, 0.0006, -0.0004, 0.001, 0.62, 0.15, 0.008),
    Distortion.EQUIDISTANT: (0.02, -0.008, 0.002, -0.0006),
}


def info(**changes: object) -> Calibration:
    plain = Calibration(
        width=640,
        height=480,
        distortion_model="plumb_bob",
        d=(0.0,) * 5,
        k=(500.0, 0.0, 320.0, 0.0, 510.0, 240.0, 0.0, 0.0, 1.0),
        p=(400.0, 0.0, 300.0, 0.0, 0.0, 410.0, 200.0, 0.0, 0.0, 0.0, 1.0, 0.0),
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def test_a_pinhole_by_hand() -> None:
    camera = camera_model(info(), VGA)
    rays = camera.rays(np.array([[320.0, 240.0], [420.0, 240.0], [320.0, 291.0]]))
    np.testing.assert_allclose(rays, [[0, 0, 1], [0.2, 0, 1], [0, 0.1, 1]], atol=1e-6)  # 100/500, 51/510
    pixels, seen = camera.project(np.array([[0.4, 0.0, 2.0], [0.0, 0.0, -1.0], [9.0, 0.0, 2.0]]))
    np.testing.assert_allclose(pixels[0], [420, 240])
    assert seen.tolist() == [True, False, False]  # behind the camera; beside the image


@pytest.mark.parametrize("distortion", list(LENSES))
def test_rays_invert_opencvs_lens(distortion: Distortion) -> None:
    coefficients = LENSES[distortion]
    camera = CameraModel(VGA, 330.0, 335.0, 319.0, 242.0, distortion, coefficients)
    points = np.stack([*np.meshgrid(np.linspace(-0.7, 0.7, 15), np.linspace(-0.5, 0.5, 11)), np.ones((11, 15))], -1)
    points = points.reshape(-1, 3)
    project = cv2.fisheye.projectPoints if distortion is Distortion.EQUIDISTANT else cv2.projectPoints
    drawn = project(points[:, None], np.zeros(3), np.zeros(3), camera.matrix, np.array(coefficients))[0].reshape(-1, 2)
    np.testing.assert_allclose(camera.project(points)[0], drawn, atol=1e-3)
    np.testing.assert_allclose(camera.rays(drawn), points, atol=1e-4)


def test_where_the_lens_folds_back_there_is_no_ray() -> None:
    # r (1 - 0.3 r^2) grows up to r = 1.054 only, where it is 0.7027: pixel 320 + 0.7027 x 300 = 530.8
    camera = CameraModel(VGA, 300.0, 300.0, 320.0, 240.0, Distortion.PLUMB_BOB, (-0.3, 0.0, 0.0, 0.0, 0.0))
    rays = camera.rays(np.array([[525.0, 240.0], [535.0, 240.0], [639.0, 240.0]]))
    assert np.isfinite(rays[0]).all()
    assert np.isnan(rays[1:]).all()
    _, seen = camera.project(np.array([[1.0, 0.0, 1.0], [1.2, 0.0, 1.0]]))
    assert seen.tolist() == [True, False]


def test_binning_and_region_count_as_rep_104_says() -> None:
    roi = replace(info().roi, x_offset=100, y_offset=40, width=400, height=200)
    camera = camera_model(info(binning_x=2, binning_y=4, roi=roi), Size(200, 50))
    assert (camera.fx, camera.fy) == (250.0, 127.5)
    assert (camera.cx, camera.cy) == (110.0, 50.0)  # (320 - 100) / 2, (240 - 40) / 4


def test_a_rectified_image_has_p_and_no_distortion() -> None:
    camera = camera_model(info(d=(-0.3, 0.1, 0.0, 0.0, 0.0)), VGA, rectified=True)
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == (400.0, 410.0, 300.0, 200.0)
    assert camera.distortion is Distortion.NONE


@pytest.mark.parametrize(
    "changes, image, words",
    [
        ({"k": (0.0,) * 9}, VGA, "not calibrated: K of its camera_info is all zero"),
        ({}, Size(320, 240), "camera_info is of 640x480 images and the image is 320x240"),
        ({"binning_x": 2, "binning_y": 2}, VGA, "camera_info is of 320x240 images and the image is 640x480"),
        ({"distortion_model": "thin_lens", "d": (0.1,)}, VGA, "distortion model 'thin_lens' is not known; accepted"),
        ({"distortion_model": "thin_lens"}, VGA, "distortion model 'thin_lens' is not known"),
        ({"d": (0.1, 0.2, 0.3)}, VGA, "plumb_bob with 3 coefficients is not accepted: it takes 4 or 5"),
        ({"k": (float("nan"), *info().k[1:])}, VGA, "not finite"),
        ({"k": (-500.0, *info().k[1:])}, VGA, "focal lengths -500"),
        ({"k": (500, 9, 320, 0, 510, 240, 0, 0, 1)}, VGA, "without skew"),
        ({"k": (500, 0, 0, 0, 510, 0, 320, 240, 1)}, VGA, "row after row"),
        ({"k": (0.78, 0, 0.5, 0, 1.0, 0.5, 0, 0, 1)}, VGA, "a focal length of 0.78 pixels in an image 640 wide"),
    ],
)
def test_a_camera_info_that_cannot_be_used_says_why(changes: dict[str, object], image: Size, words: str) -> None:
    with pytest.raises(InputError, match=words):
        camera_model(info(**changes), image)


@pytest.mark.parametrize(
    "name, d, expected",
    [
        ("", (), Distortion.NONE),
        ("plumb_bob", (), Distortion.NONE),
        ("plumb_bob", (0.1, 0.0, 0.0, 0.0), Distortion.PLUMB_BOB),
        ("plumb_bob", (0.1,) * 8, Distortion.RATIONAL_POLYNOMIAL),
        ("rational_polynomial", (0.1,) * 8, Distortion.RATIONAL_POLYNOMIAL),
        ("equidistant", (0.0,) * 4, Distortion.EQUIDISTANT),  # an equidistant lens bends even with zeros
        ("fisheye", (0.1, 0.0, 0.0, 0.0), Distortion.EQUIDISTANT),
        ("equidistant", (0.1, 0.0, 0.0, 0.0, 0.0), Distortion.EQUIDISTANT),  # a RealSense sends five of every model
    ],
)
def test_models_by_their_names(name: str, d: tuple[float, ...], expected: Distortion) -> None:
    assert camera_model(info(distortion_model=name, d=d), VGA).distortion is expected


CALIBRATION = """\
image_width: 640
image_height: 480
camera_name: front
camera_matrix:
  rows: 3
  cols: 3
  data: [500, 0, 320, 0, 510, 240, 0, 0, 1]
distortion_model: plumb_bob
distortion_coefficients:
  rows: 1
  cols: 5
  data: [-0.3, 0.1, 0.001, 0, 0]
rectification_matrix: {rows: 3, cols: 3, data: [1, 0, 0, 0, 1, 0, 0, 0, 1]}
projection_matrix: {rows: 3, cols: 4, data: [400, 0, 300, 0, 0, 410, 200, 0, 0, 0, 1, 0]}
"""


def test_a_calibration_file_of_camera_calibration(tmp_path: Path) -> None:
    path = tmp_path / "front.yaml"
    path.write_text(CALIBRATION, encoding="utf-8")
    camera = camera_model(read_calibration(path), VGA)
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == (500.0, 510.0, 320.0, 240.0)
    assert camera.coefficients == (-0.3, 0.1, 0.001, 0.0, 0.0)


def test_a_calibration_file_with_faults_names_all_of_them(tmp_path: Path) -> None:
    path = tmp_path / "front.yaml"
    path.write_text("image_width: wide\ncamera_matrix: {data: [1, 2]}\n", encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        read_calibration(path)
    for words in ("front.yaml", "image_width: 'wide'", "image_height: None", "9 numbers", "distortion_coefficients"):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("image_width", "%YAML:1.0\n---\nimage_width", "as OpenCV's FileStorage writes it"),
        ("camera_matrix:", "camera_matrix: !!opencv-matrix", "without the %YAML line and !!opencv-matrix"),
        ("distortion_model: plumb_bob\n", "", "distortion_model: is missing; one of plumb_bob"),
    ],
)
def test_a_calibration_of_others_is_named(tmp_path: Path, old: str, new: str, words: str) -> None:
    path = tmp_path / "front.yaml"
    path.write_text(CALIBRATION.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(SettingsError, match=words):
        read_calibration(path)
