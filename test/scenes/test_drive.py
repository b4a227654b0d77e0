"""Drives: determinism, exact labels of all classes, coherent motion."""

from __future__ import annotations

import pickle

import cv2
import numpy as np
import pytest

from seg_perception.core.errors import InputError
from seg_perception.core.label_set import load_label_set
from seg_perception.core.types import LabelImage, RgbImage, Size
from seg_perception.scenes import Drive, SceneFrame, Weather, random_scene
from seg_perception.scenes.car_mesh import SHAPES
from seg_perception.scenes.layout import CELL, SceneClass, Traffic, make_cell
from seg_perception.scenes.objects import paintwork

SMALL = Size(240, 180)


@pytest.fixture(scope="module")
def frames() -> list[SceneFrame]:
    """Every third second of two minutes of one drive."""
    drive = Drive(11, SMALL)
    return [drive.frame(index) for index in range(0, 1800, 45)]


def test_the_classes_are_those_of_the_shipped_label_set() -> None:
    names = [c.name.lower().replace("_", " ") for c in SceneClass]
    assert names == list(load_label_set("driving").names)


def test_a_frame_is_the_same_whenever_and_wherever_it_is_drawn() -> None:
    ahead, again = Drive(5, SMALL), Drive(5, SMALL)
    for index in (0, 7, 300):
        again.frame(index)
    first, second = ahead.frame(300), again.frame(300)
    unpickled = pickle.loads(pickle.dumps(ahead)).frame(300)  # as a worker process gets it
    for other in (second, unpickled):
        np.testing.assert_array_equal(first.image, other.image)
        np.testing.assert_array_equal(first.labels, other.labels)
    assert first.stamp_ns == second.stamp_ns == 20_000_000_000  # 300 frames at 15 a second


def test_seeds_and_frames_differ() -> None:
    drive = Drive(5, SMALL)
    assert not np.array_equal(drive.frame(0).image, drive.frame(8).image)
    assert not np.array_equal(drive.frame(0).image, Drive(6, SMALL).frame(0).image)


def test_drawing_leaves_numpy_and_opencv_as_they_were() -> None:
    np.random.seed(3)  # noqa: NPY002  the global generator is what must stay untouched
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    random_scene(4, SMALL)
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize("text", ["96x64", "97x65", "480x360", "640x200", "1280x720"])
def test_pictures_have_the_size_asked_for(text: str) -> None:
    size = Size.parse(text)
    frame = Drive(1, size).frame(3)
    assert frame.image.shape == (size.height, size.width, 3)
    assert frame.labels.shape == (size.height, size.width)
    assert frame.image.dtype == frame.labels.dtype == np.uint8
    assert frame.image.flags.c_contiguous
    assert frame.labels.flags.c_contiguous
    assert frame.labels.max() <= 9


@pytest.mark.parametrize(
    "size, fps, message",
    [(Size(95, 200), 15.0, "95x200 is too small"), (Size(200, 63), 15.0, "96x64"), (SMALL, 0.0, "fps 0.0")],
)
def test_impossible_drives_are_refused(size: Size, fps: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Drive(1, size, fps)


def test_a_negative_frame_is_refused() -> None:
    with pytest.raises(InputError, match="frame index -1"):
        Drive(1, SMALL).frame(-1)


def test_every_class_is_seen_in_a_drive(frames: list[SceneFrame]) -> None:
    counts = np.bincount(np.concatenate([f.labels.reshape(-1) for f in frames]), minlength=256)
    assert counts[10:].sum() == 0
    shares = counts[:10] / counts.sum()
    least = dict.fromkeys(SceneClass, 0.002) | {SceneClass.TRAFFIC_LIGHT: 1e-4, SceneClass.TRAFFIC_SIGN: 5e-4}
    least |= {SceneClass.ROAD: 0.15, SceneClass.SKY: 0.05, SceneClass.CAR: 0.005}
    for kind, share in least.items():
        assert shares[kind] >= share, f"{kind.name}: {shares[kind]:.4%} of the drive"


def test_random_scenes_show_all_classes_and_all_kinds_of_light() -> None:
    counts = np.zeros(10, np.int64)
    brightness = []
    for seed in range(12):
        frame = random_scene(seed, SMALL)
        counts += np.bincount(frame.labels.reshape(-1), minlength=10)
        brightness.append(float(frame.image.mean()))
    assert (counts > 0).all()
    assert max(brightness) > 1.3 * min(brightness)


@pytest.mark.parametrize("seed", range(6))
def test_straight_ahead_is_road_and_high_up_is_none(seed: int) -> None:
    drive = Drive(seed, SMALL)
    for index in (0, 400):
        labels = drive.frame(index).labels
        camera = drive.camera(index)
        # 5 m ahead in the own lane; cars ahead keep at least 6 m
        column, row = np.rint(camera.project(np.array([camera.s + 5.0, drive.plan.own_lane, 0.0]))).astype(int)
        assert labels[min(row, SMALL.height - 1), column] == SceneClass.ROAD
        above = int(camera.horizon - camera.focal * (camera.climb + 0.12))
        if above > 0:
            assert not np.isin(labels[:above], (SceneClass.ROAD, SceneClass.SIDEWALK, SceneClass.TERRAIN)).any()


@pytest.mark.parametrize("seed", [2, 9, 14])
def test_kerbs_lie_where_the_plan_puts_them(seed: int) -> None:
    """Just inside the kerb is road or something that stands on it, just outside is anything but road."""
    drive = Drive(seed, Size(480, 360))
    frame, camera, plan = drive.frame(50), drive.camera(50), drive.plan
    seen = 0
    for ahead in np.arange(5.0, 24.0, 0.5):
        s = camera.s + ahead
        if any(plan.is_junction(int((s + off) // CELL)) for off in (-1.0, 1.0)):
            continue
        for side in (-1, 1):
            for offset, allowed in ((-0.25, True), (0.35, False)):
                column, row = camera.project(np.array([s, side * (plan.edge + offset), 0.0]))
                if 0 <= column < 480 and 0 <= row < 360:
                    label = frame.labels[int(row), int(column)]
                    if label in (SceneClass.ROAD, SceneClass.SIDEWALK, SceneClass.TERRAIN):
                        assert (label == SceneClass.ROAD) == allowed, (ahead, side, offset)
                        seen += 1
    assert seen >= 20


def test_standing_things_move_outwards_and_down_as_the_camera_drives_on() -> None:
    """A pole that is seen in its own column stays under its projection from frame to frame, and moves outwards."""
    drive = Drive(3, Size(480, 360), weather=Weather.OVERCAST)
    followed = 0
    for cell in range(int(drive.camera(0).s // CELL), int(drive.camera(0).s // CELL) + 8):
        for post in make_cell(drive.plan, cell).posts:
            hits, offsets = 0, []
            for index in range(0, 120, 10):
                camera = drive.camera(index)
                if not 8 < post.s - camera.s < 30:
                    continue
                column, row = camera.project(np.array([post.s, post.d, 1.2]))
                if not 3 <= column < 477:
                    continue
                axis = camera.center_x - camera.focal * (camera.heading - camera.course.x_slope(camera.s))
                offsets.append(abs(column - axis))
                near = drive.frame(index).labels[int(row), int(column) - 1 : int(column) + 2]
                hits += bool((near == SceneClass.POLE).any())
            if len(offsets) >= 3 and hits >= 3:
                followed += 1
                assert offsets[-1] > offsets[0]
    assert followed >= 2


def test_optical_flow_follows_the_ground() -> None:
    """The road's texture at 8 m moves by as many rows as the projection says."""
    drive = Drive(8, Size(480, 360), fps=60.0, weather=Weather.OVERCAST)
    first, second = drive.frame(100), drive.frame(101)
    camera, later = drive.camera(100), drive.camera(101)
    point = np.array([camera.s + 8.0, drive.plan.own_lane, 0.0])
    expected = later.project(point) - camera.project(point)
    column, row = camera.project(point).astype(int)
    assert (first.labels[row - 20 : row + 20, column - 60 : column + 60] == SceneClass.ROAD).all()
    patches = [cv2.GaussianBlur(f.image[..., 1], (0, 0), 1.0) for f in (first, second)]
    template = patches[0][row - 14 : row + 14, column - 50 : column + 50]
    window = patches[1][row - 26 : row + 34, column - 62 : column + 62]
    found = cv2.minMaxLoc(cv2.matchTemplate(window, template, cv2.TM_CCOEFF_NORMED))[3]
    moved = np.array(found) - (12, 12)
    assert moved == pytest.approx(expected, abs=2.5)


def _edges(image: RgbImage) -> np.ndarray:
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return np.hypot(cv2.Sobel(gray, cv2.CV_32F, 1, 0), cv2.Sobel(gray, cv2.CV_32F, 0, 1))


def _borders(labels: LabelImage) -> np.ndarray:
    border = np.zeros(labels.shape, bool)
    border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    border[1:] |= labels[1:] != labels[:-1]
    return border


def test_label_borders_lie_on_image_edges(frames: list[SceneFrame]) -> None:
    """Shifting the labels by three pixels in any direction makes them fit the image worse."""
    fits = {}
    for shift in ((0, 0), (3, 0), (-3, 0), (0, 3), (0, -3)):
        total = 0.0
        for frame in frames[:16]:
            moved = np.roll(frame.labels, shift, axis=(0, 1))
            strength = _edges(frame.image)[5:-5, 5:-5]
            total += float(strength[_borders(moved)[5:-5, 5:-5]].mean() / strength.mean())
        fits[shift] = total
    best = fits.pop((0, 0))
    assert all(best > 1.25 * other for other in fits.values()), (best, fits)


def test_a_car_stands_on_its_wheels() -> None:
    """Its labels reach down to where its wheels meet the ground, not only to the ground below its middle."""
    drive = Drive(1000, Size(1280, 720))
    index = 40
    camera = drive.camera(index)
    ahead = min(Traffic(drive.plan).cars(camera.s, index / drive.fps), key=lambda car: abs(car.s - camera.s - 15))
    shape = SHAPES[paintwork(ahead.variant)[0]]
    wheel = 0.78 - shape.wheel * 0.85  # the rear of the rear wheels, from the bumper
    place = np.array([ahead.s - shape.length / 2 + wheel, ahead.d - shape.width / 2 + 0.15, 0.0])
    column, row = camera.project(place)
    labels = drive.frame(index).labels
    assert labels[int(row) - 1, int(column)] == SceneClass.CAR
    assert labels[int(row) + 2, int(column)] == SceneClass.ROAD
