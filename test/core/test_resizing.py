"""From camera size to network size, and pixels with it."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seg_perception.core.errors import InputError, ModelError
from seg_perception.core.resizing import check_multiple, network_size, resize_image, resize_labels
from seg_perception.core.types import Size
from seg_perception.scenes import Drive

sizes = st.builds(Size, st.integers(200, 4000), st.integers(200, 4000)).filter(
    lambda size: 1 / 4 <= size.width / size.height <= 4
)
budgets = st.builds(Size, st.integers(256, 1024), st.integers(256, 1024))


@pytest.mark.parametrize(
    "camera, expected",
    [
        # 480x352 = 168960 pixels; the scale is sqrt(168960 / camera pixels)
        (Size(480, 352), Size(480, 352)),  # scale 1
        (Size(960, 704), Size(480, 352)),  # scale 0.5
        (Size(480, 360), Size(480, 352)),  # 0.9888: 474.6 x 356.0 -> 14.8 x 11.1 multiples of 32 -> 15 x 11
        (Size(1920, 1080), Size(544, 320)),  # 0.28545: 548.1 x 308.3 -> 17.1 x 9.6 -> 17 x 10
        (Size(1242, 375), Size(736, 224)),  # 0.60231: 748.1 x 225.9 -> 23.4 x 7.06 -> 23 x 7
    ],
)
def test_known_cameras(camera: Size, expected: Size) -> None:
    assert network_size(camera, Size(480, 352), 32) == expected


@given(sizes, budgets, st.sampled_from([1, 8, 16, 32]))
def test_sides_are_multiples_and_close_to_the_camera_shape_and_the_budget(
    camera: Size, budget: Size, multiple: int
) -> None:
    size = network_size(camera, budget, multiple)
    assert size.width % multiple == 0
    assert size.height % multiple == 0
    # each side is the exact one rounded to the nearest multiple: off by half a multiple at most
    scale = math.sqrt(budget.width * budget.height / (camera.width * camera.height))
    exact_width, exact_height = camera.width * scale, camera.height * scale
    assert abs(size.width - exact_width) <= multiple / 2 + 1e-6
    assert abs(size.height - exact_height) <= multiple / 2 + 1e-6
    # so the number of pixels is the budget's within the two roundings' product
    tolerance = (1 + multiple / 2 / exact_width) * (1 + multiple / 2 / exact_height)
    ratio = size.width * size.height / (budget.width * budget.height)
    assert 2 - tolerance <= ratio <= tolerance + 1e-9


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([8, 16, 32]))
def test_a_camera_at_the_budgets_own_size_keeps_it(columns: int, rows: int, multiple: int) -> None:
    budget = Size(columns * multiple, rows * multiple)
    assert network_size(budget, budget, multiple) == budget


@pytest.mark.parametrize(
    "camera, expected",
    [
        # 480x352 = 168960 pixels, multiples of 32. 1:64: short side sqrt(168960 / 64) = 51.4 -> 64, long 3288.3 -> 3296
        (Size(100, 6400), Size(64, 3296)),
        (Size(6400, 100), Size(3296, 64)),
    ],
)
def test_the_thinnest_cameras_spend_the_budget(camera: Size, expected: Size) -> None:
    assert network_size(camera, Size(480, 352), 32) == expected


def test_a_side_of_less_than_one_multiple_gets_one_and_the_other_what_is_left() -> None:
    # 4096 pixels: 20x640 -> 11.3 x 362; 11.3 is less than half of 32, so 32, and 4096 / 32 = 128
    assert network_size(Size(20, 640), Size(64, 64), 32) == Size(32, 128)
    assert network_size(Size(640, 20), Size(64, 64), 32) == Size(128, 32)
    assert network_size(Size(640, 20), Size(8, 8), 32) == Size(32, 32)  # a budget of less than one multiple


@given(st.integers(1, 4_000_000), st.integers(1, 4_000_000), st.sampled_from([1, 8, 16, 32]))
def test_no_camera_gets_a_network_beyond_the_budget_or_it_is_refused(width: int, height: int, multiple: int) -> None:
    budget = Size(480, 352)
    if max(width, height) > 64 * min(width, height):
        with pytest.raises(InputError, match=f"an image of {width}x{height} is not accepted: one side is more than 64"):
            network_size(Size(width, height), budget, multiple)
        return
    size = network_size(Size(width, height), budget, multiple)
    assert size.width * size.height <= 1.5 * 480 * 352  # at 1:64 the short side is 51.4, rounded to 64


def test_sizes_that_do_not_fit_say_which_would() -> None:
    check_multiple(Size(480, 352), 32, "my-model")
    for size in (Size(480, 360), (480, 360)):
        with pytest.raises(InputError) as caught:
            check_multiple(size, 32, "my-model")
        assert str(caught.value) == (
            "network size 480x360 does not fit my-model: width and height must be multiples of 32; "
            "resize or pad to 480x384"
        )
    with pytest.raises(ModelError, match=r"^crop 33x32 does not fit .* pad to 64x32$"):
        check_multiple(Size(33, 32), 32, "my-model", "crop", ModelError)
    check_multiple(Size(4096, 4096), 32, "my-model")
    with pytest.raises(ModelError, match="crop 4096x4128 is not accepted: it has more than 16777216 pixels"):
        check_multiple(Size(4096, 4128), 32, "my-model", "crop", ModelError)


def test_shrinking_takes_the_mean_of_what_a_pixel_covers() -> None:
    # 4x4 -> 2x2: means of (0, 10, 20, 30) = 15 and so on
    pixels = np.array([[0, 10, 100, 100], [20, 30, 100, 100], [4, 4, 0, 255], [4, 4, 255, 0]], np.uint8)
    assert resize_image(pixels, Size(2, 2)).tolist() == [[15, 100], [4, 128]]  # 127.5 rounds up
    # a black and white picket fence at a third of its width is gray: bilinear would keep black or white
    fence = np.tile(np.array([0, 0, 255, 255, 0, 0, 255, 255, 0, 0, 255, 255], np.uint8), (12, 1))
    assert set(resize_image(fence, Size(3, 3)).reshape(-1).tolist()) == {128}


@pytest.mark.parametrize(
    "camera, size, difference",
    [
        (Size(640, 480), Size(320, 240), 0.0),  # whole blocks: the same
        (Size(1242, 375), Size(736, 224), 0.0),  # no block divides it, and 1.7 is much: the same
        (Size(640, 480), Size(480, 352), 1.0),  # 1.36: bilinear
        (Size(1280, 720), Size(544, 320), 2.0),  # blocks of 2, then 1.18
        (Size(1920, 1080), Size(544, 320), 2.0),  # blocks of 3, then 1.18
    ],
)
def test_shrinking_is_close_to_the_mean_of_the_covered_area(camera: Size, size: Size, difference: float) -> None:
    image = Drive(seed=3, size=camera).frame(0).image
    area = cv2.resize(image, (size.width, size.height), interpolation=cv2.INTER_AREA)
    resized = resize_image(image, size)
    assert Size.of(resized) == size
    assert np.abs(resized.astype(np.int16) - area).mean() <= difference


def test_shrinking_does_not_alias() -> None:
    """Lines one pixel wide at 1280x720: sampling two pixels of five would leave black and white."""
    stripes = np.zeros((720, 1280), np.uint8)
    stripes[:, ::2] = 200
    resized = resize_image(stripes, Size(544, 320))
    assert resized.min() == resized.max() == 100


def test_growing_is_bilinear_between_pixel_centers() -> None:
    # 2 -> 4 pixels: centers at -0.25 (held at 0), 0.25, 0.75, 1.25 (held at 1) of 0 and 100
    pixels = np.array([[0, 100]], np.uint8)
    assert resize_image(pixels, Size(4, 1)).tolist() == [[0, 25, 75, 100]]
    # one side shrinks, the other grows: bilinear, for training as for the car
    assert resize_image(np.array([[0, 0, 80, 80]], np.uint8), Size(2, 2)).tolist() == [[0, 80], [0, 80]]


def test_labels_are_never_mixed() -> None:
    labels = np.random.default_rng(0).choice(np.array([0, 7, 255], np.uint8), (37, 53))
    for size in (Size(20, 11), Size(100, 99), Size(53, 37)):
        resized = resize_labels(labels, size)
        assert Size.of(resized) == size
        assert set(np.unique(resized)) <= {0, 7, 255}
    # 6 -> 2 pixels: centers at 1.5 and 4.5, in the middle of the second and fifth; 2 -> 6: three of each
    assert resize_labels(np.array([[1, 2, 3, 4, 5, 6]], np.uint8), Size(2, 1)).tolist() == [[2, 5]]
    assert resize_labels(np.array([[1, 2]], np.uint8), Size(6, 1)).tolist() == [[1, 1, 1, 2, 2, 2]]


@pytest.mark.parametrize(
    "old, new", [((320, 544), (720, 1280)), ((7, 9), (11, 4)), ((149, 244), (1057, 996)), ((1, 1), (3, 3))]
)
def test_labels_grow_as_opencv_grows_them(old: tuple[int, int], new: tuple[int, int]) -> None:
    labels = np.random.default_rng(0).integers(0, 256, old, np.uint8)
    expected = cv2.resize(labels, new[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    np.testing.assert_array_equal(resize_labels(labels, Size(new[1], new[0])), expected)


def test_the_same_size_is_passed_through() -> None:
    image = np.zeros((4, 5, 3), np.uint8)
    assert resize_image(image, Size(5, 4)) is image
    assert resize_labels(image[..., 0], Size(5, 4)).base is image
