"""Sizes and image arrays."""

from __future__ import annotations

import numpy as np
import pytest

from seg_perception.core.errors import InputError
from seg_perception.core.types import Segmentation, Size, check_rgb


def test_a_size_prints_as_it_parses() -> None:
    assert Size.parse("480x360") == Size(480, 360)
    assert Size.parse(" 480 X 360 ".lower()) == Size(480, 360)
    assert str(Size(480, 360)) == "480x360"


@pytest.mark.parametrize("text", ["", "480", "480x", "x360", "480x360x3", "-480x360", "4.5x3", "480*360", "axb"])
def test_what_is_not_a_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InputError, match="write WIDTHxHEIGHT, for example 480x360"):
        Size.parse(text)


@pytest.mark.parametrize("size", [(0, 1), (1, 0), (-3, 4)])
def test_a_size_without_pixels_cannot_be_built(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="must be at least 1"):
        Size(*size)


def test_the_size_of_an_array_is_width_by_height() -> None:
    assert Size.of(np.zeros((3, 5, 3), np.uint8)) == Size(width=5, height=3)
    assert Size.of(np.zeros((3, 5), np.uint8)) == Size(width=5, height=3)


def test_a_segmentation_holds_two_byte_images_of_one_size() -> None:
    labels = np.zeros((2, 3), np.uint8)
    Segmentation(labels, labels)
    with pytest.raises(InputError, match=r"labels \[2, 3\] and confidence \[3, 2\] differ in size"):
        Segmentation(labels, labels.T)
    with pytest.raises(InputError, match=r"confidence must be uint8 \[H, W\], got float32 \[2, 3\]"):
        Segmentation(labels, labels.astype(np.float32))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"labels must be uint8 \[H, W\], got uint8 \[1, 2, 3\]"):
        Segmentation(labels[None], labels)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((2, 3), np.uint8),
        np.zeros((2, 3, 4), np.uint8),
        np.zeros((2, 3, 3), np.float32),
        np.zeros((0, 3, 3), np.uint8),
        np.zeros((1, 2, 3, 3), np.uint8),
    ],
)
def test_what_is_not_an_rgb_image_is_refused(image: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"an RGB image must be uint8 \[H, W, 3\], got"):
        check_rgb(image)


def test_an_rgb_image_passes_through_untouched() -> None:
    image = np.zeros((2, 3, 3), np.uint8)
    assert check_rgb(image) is image
