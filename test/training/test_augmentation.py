"""Augmentation: repeatable, and image and labels stay on each other."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seg_perception.core.types import Size
from seg_perception.datasets.base import Sample
from seg_perception.training.augmentation import augment, unknown_texture
from seg_perception.training.settings import AugmentationSettings

GEOMETRY = AugmentationSettings(
    crop=Size(64, 48),
    brightness=0,
    contrast=0,
    saturation=0,
    gamma=1,
    color_cast=0,
    blur=0,
    noise=0,
    jpeg=0,
)
NOTHING = dataclasses.replace(GEOMETRY, scale=(1.0, 1.0), aspect=1.0, flip=0.0)


def blocks(width: int = 96, height: int = 64, seed: int = 0) -> Sample:
    """A sample whose image says its labels: every pixel's gray is 20 times its label, in blocks of 16 pixels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, (-(-height // 16), -(-width // 16)), np.uint8)
    labels = labels.repeat(16, axis=0).repeat(16, axis=1)[:height, :width]
    return Sample("blocks", np.repeat(labels[..., None] * 20, 3, axis=2).astype(np.uint8), np.ascontiguousarray(labels))


def inside(labels: np.ndarray) -> np.ndarray:
    """Pixels whose 3x3 neighbors have the same label: there, resizing does not mix two labels' grays."""
    same = np.ones(labels.shape, bool)
    for dy in (-2, -1, 0, 1, 2):
        for dx in (-2, -1, 0, 1, 2):
            shifted = np.roll(labels, (dy, dx), (0, 1))
            same &= shifted == labels
    same[:2] = same[-2:] = False
    same[:, :2] = same[:, -2:] = False
    return same


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000))
def test_an_image_that_says_its_labels_still_says_them_afterwards(seed: int) -> None:
    image, labels, _ = augment(blocks(seed=seed), GEOMETRY, Size(96, 64), np.random.default_rng(seed))
    sure = inside(labels) & (labels != 255)
    assert sure.any()
    assert np.array_equal(image[..., 0][sure], labels[sure] * 20)


def test_one_pixel_of_displacement_would_show() -> None:
    # the same check fails when image and labels are one resize rule apart: shift the labels by three pixels
    image, labels, _ = augment(blocks(), NOTHING, Size(96, 64), np.random.default_rng(1))
    shifted = np.roll(labels, 3, axis=1)
    sure = inside(shifted)
    assert not np.array_equal(image[..., 0][sure], shifted[sure] * 20)


@pytest.mark.parametrize("width, height", [(96, 64), (20, 200), (3, 3), (400, 60)])
@pytest.mark.parametrize("crop", [Size(64, 48), Size(32, 32), Size(200, 100)])
def test_a_crop_has_its_size_whatever_the_sample(width: int, height: int, crop: Size) -> None:
    for seed in range(3):
        image, labels, _ = augment(
            blocks(width, height), AugmentationSettings(crop=crop), Size(96, 64), np.random.default_rng(seed)
        )
        assert (image.shape, labels.shape) == ((crop.height, crop.width, 3), (crop.height, crop.width))
        assert image.dtype == labels.dtype == np.uint8
        assert image.flags.c_contiguous
        assert labels.flags.c_contiguous


def test_a_crop_around_a_rare_class_holds_it_and_each_class_comes_as_often() -> None:
    labels = np.zeros((200, 300), np.uint8)
    labels[60, 150] = 3  # one pixel
    labels[150:180, 20:60] = 4
    sample = Sample("rare", np.zeros((200, 300, 3), np.uint8), labels)
    around = dataclasses.replace(NOTHING, crop=Size(64, 48), rare=1.0, rare_classes=("a", "b", "c"))
    crops = [augment(sample, around, Size(300, 200), np.random.default_rng([9, i]), (3, 4, 7))[1] for i in range(300)]
    with_three, with_four = ([bool(np.any(crop == value)) for crop in crops] for value in (3, 4))
    assert all(three or four for three, four in zip(with_three, with_four, strict=True))
    assert np.mean(with_three) == pytest.approx(0.5, abs=0.12)  # four standard deviations of a share of 300
    places = {tuple(np.argwhere(crop == 3)[0]) for crop in crops if np.any(crop == 3)}
    assert len({column for _, column in places}) > 40, "anywhere in the crop, not in its middle"
    without = dataclasses.replace(around, rare=0.0)
    assert np.array_equal(
        augment(sample, without, Size(300, 200), np.random.default_rng(5), (3, 4))[1],
        augment(sample, without, Size(300, 200), np.random.default_rng(5))[1],
    )
    nothing_rare = Sample("plain", sample.image, np.zeros_like(labels))
    assert augment(nothing_rare, around, Size(300, 200), np.random.default_rng(1), (3,))[1].shape == (48, 64)


def test_beyond_the_sample_is_gray_and_unlabeled() -> None:
    sample = Sample("white", np.full((64, 96, 3), 255, np.uint8), np.zeros((64, 96), np.uint8))
    wide = dataclasses.replace(NOTHING, crop=Size(128, 80))
    image, labels, _ = augment(sample, wide, Size(96, 64), np.random.default_rng(1))
    assert np.all(labels[:64, :96] == 0)
    assert np.all(image[:64, :96] == 255)
    assert np.all(labels[64:] == 255)
    assert np.all(labels[:, 96:] == 255)
    assert np.all(image[64:] == 127)
    assert np.all(image[:, 96:] == 127)


def test_with_every_change_off_a_crop_is_cut_from_the_sample_as_it_is() -> None:
    every_level = np.arange(96 * 64 * 3, dtype=np.uint64).reshape(64, 96, 3).astype(np.uint8)
    sample = Sample("levels", every_level, np.zeros((64, 96), np.uint8))
    whole = dataclasses.replace(NOTHING, crop=Size(96, 64))
    image, _, _ = augment(sample, whole, Size(96, 64), np.random.default_rng(1))
    assert np.array_equal(image, every_level)


def test_the_same_generator_state_gives_the_same_crop() -> None:
    everything = AugmentationSettings(crop=Size(64, 48), blur=1, noise=1, jpeg=1)
    one = augment(blocks(), everything, Size(96, 64), np.random.default_rng(5))
    two = augment(blocks(), everything, Size(96, 64), np.random.default_rng(5))
    other = augment(blocks(), everything, Size(96, 64), np.random.default_rng(6))
    assert np.array_equal(one[0], two[0])
    assert np.array_equal(one[1], two[1])
    assert not np.array_equal(one[0], other[0])


def test_the_sample_itself_is_never_changed() -> None:
    sample = blocks()  # it stays in the cache
    image, labels = sample.image.copy(), sample.labels.copy()
    for seed in range(10):
        augment(sample, AugmentationSettings(blur=1, noise=1, jpeg=1), Size(96, 64), np.random.default_rng(seed))
    assert np.array_equal(sample.image, image)
    assert np.array_equal(sample.labels, labels)


@pytest.mark.parametrize("chance", [0.0, 0.3, 1.0])
def test_mirror_images_come_as_often_as_asked(chance: float) -> None:
    ramp = np.zeros((64, 96), np.uint8)
    ramp[:, 48:] = 9
    sample = Sample("ramp", np.repeat(ramp[..., None], 3, axis=2), ramp)
    mirrored = dataclasses.replace(NOTHING, flip=chance, crop=Size(96, 64))
    crops = (augment(sample, mirrored, Size(96, 64), np.random.default_rng([7, i]))[1] for i in range(400))
    share = np.mean([crop[0, 0] == 9 for crop in crops])
    # the standard deviation of a share of 400 at 0.3 is 0.023: four of them
    assert share == pytest.approx(chance, abs=0.092)
    if chance in (0.0, 1.0):
        assert share == chance


def test_the_zoom_is_relative_to_the_deployed_size_and_keeps_its_range() -> None:
    # a sample of twice the deployed size, zoomed by exactly 1, is halved: the blocks of 16 pixels become 8
    sample = blocks(192, 128)
    image, labels, _ = augment(
        sample, dataclasses.replace(NOTHING, crop=Size(96, 64)), Size(96, 64), np.random.default_rng(1)
    )
    assert np.array_equal(labels, sample.labels[1::2, 1::2])
    assert np.array_equal(image[..., 0], labels * 20)
    # zooms of 0.5 to 2 give a white square of 32 pixels sides of 16 to 64, evenly on a logarithmic scale
    square = np.zeros((64, 96), np.uint8)
    square[16:48, 32:64] = 1
    sample = Sample("square", np.zeros((64, 96, 3), np.uint8), square)
    wide = dataclasses.replace(NOTHING, scale=(0.5, 2.0), crop=Size(192, 128))
    crops = (augment(sample, wide, Size(96, 64), np.random.default_rng([3, i]))[1] for i in range(200))
    sides = np.sqrt([np.sum(crop == 1) for crop in crops])
    assert 15.5 <= sides.min() < 18
    assert 57 < sides.max() <= 64.5
    assert np.median(sides) == pytest.approx(32, rel=0.15)


@pytest.mark.parametrize(
    "name", ["brightness", "contrast", "saturation", "gamma", "color_cast", "blur", "noise", "jpeg"]
)
def test_each_photometric_change_changes_the_image_alone(name: str) -> None:
    rng = np.random.default_rng(2)
    sample = Sample("noise", rng.integers(0, 256, (64, 96, 3), np.uint8), rng.integers(0, 10, (64, 96), np.uint8))
    changed = dataclasses.replace(NOTHING, crop=Size(96, 64), **{name: 1.5 if name == "gamma" else 1.0})
    image, labels, _ = augment(sample, changed, Size(96, 64), np.random.default_rng(4))
    assert not np.array_equal(image, sample.image)
    assert np.array_equal(labels, sample.labels)
    assert abs(float(image.mean()) - 127) < 100, "still a picture"


def test_saturation_leaves_gray_pixels_gray_and_color_cast_does_not() -> None:
    sample = Sample("gray", np.full((64, 96, 3), 100, np.uint8), np.zeros((64, 96), np.uint8))
    saturated, _, _ = augment(
        sample, dataclasses.replace(NOTHING, saturation=1), Size(96, 64), np.random.default_rng(4)
    )
    assert np.abs(saturated.astype(int) - 100).max() <= 1
    cast, _, _ = augment(sample, dataclasses.replace(NOTHING, color_cast=0.5), Size(96, 64), np.random.default_rng(4))
    assert len(set(cast[0, 0].tolist())) == 3


def test_covered_crops_are_unknown_under_the_cover_and_as_ever_beside_it() -> None:
    covered = dataclasses.replace(NOTHING, unknown=1.0)
    whole = 0
    for seed in range(60):
        image, labels, _ = augment(blocks(), covered, Size(96, 64), np.random.default_rng(seed))
        plain_image, plain_labels, _ = augment(blocks(), NOTHING, Size(96, 64), np.random.default_rng(seed))
        cover = labels == 254
        assert np.array_equal(image[~cover], plain_image[~cover])
        assert np.array_equal(labels[~cover], plain_labels[~cover])
        rows, columns = np.flatnonzero(cover.any(axis=1)), np.flatnonzero(cover.any(axis=0))
        height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
        assert cover.sum() == height * width, "a rectangle"
        assert image[cover].std() > 5, "not plain"
        if height == 48 and width == 64:
            whole += 1
        else:
            assert 9 <= height <= 35
            assert 12 <= width <= 46
    assert 15 <= whole <= 45, "half of them are covered whole"


@pytest.mark.parametrize("chance", [0.0, 0.3])
def test_crops_are_covered_as_often_as_asked(chance: float) -> None:
    some = dataclasses.replace(NOTHING, unknown=chance)
    crops = (augment(blocks(), some, Size(96, 64), np.random.default_rng([9, i]))[1] for i in range(400))
    # the standard deviation of a share of 400 at 0.3 is 0.023: four of them
    assert np.mean([np.any(labels == 254) for labels in crops]) == pytest.approx(chance, abs=0.092 if chance else 0)


@pytest.mark.parametrize("size", [Size(1, 1), Size(7, 3), Size(448, 256)])
def test_textures_have_their_size_and_repeat(size: Size) -> None:
    for seed in range(8):
        image = unknown_texture(np.random.default_rng(seed), size)
        assert image.dtype == np.uint8
        assert image.shape == (size.height, size.width, 3)
        assert np.array_equal(image, unknown_texture(np.random.default_rng(seed), size))
