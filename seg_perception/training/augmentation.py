"""Random changes to a training sample, in numpy and OpenCV (why not a library: docs/adr/0006).

Every change is drawn from the generator that the caller seeds, so a sample repeats exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from seg_perception.core.resizing import network_size, resize_image, resize_labels
from seg_perception.core.types import UNKNOWN, UNLABELED, LabelImage, RgbImage, Size
from seg_perception.datasets.base import Sample
from seg_perception.training.settings import AugmentationSettings
from seg_perception.training.unknown import unknown_texture

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
PADDING_GRAY = 127
COVER_WHOLE = 0.5  # of the covered crops; the others are covered in part
COVER_SIDE = (0.2, 0.7)  # of the crop's sides, where it is covered in part


@dataclass(frozen=True, slots=True)
class Cut:
    """Where a crop comes from: which window of the sample in which size, and whether it is mirrored."""

    zoomed: Size
    left: int
    top: int
    flip: bool


def augment(
    sample: Sample,
    settings: AugmentationSettings,
    deployed: Size,
    rng: np.random.Generator,
    rare_ids: Sequence[int] = (),
) -> tuple[RgbImage, LabelImage]:
    """The crop of `augment_and_tell`, without where it comes from."""
    return augment_and_tell(sample, settings, deployed, rng, rare_ids)[:2]


def augment_and_tell(
    sample: Sample,
    settings: AugmentationSettings,
    deployed: Size,
    rng: np.random.Generator,
    rare_ids: Sequence[int] = (),
) -> tuple[RgbImage, LabelImage, Cut]:
    """One random crop of a sample.

    Args:
        sample: image and labels of any size.
        settings: what may change, and by how much.
        deployed: the network's pixel budget; the zoom is relative to the size it gives this sample.
        rng: drawn from, and nothing else.
        rare_ids: of the classes that `settings.rare` is about.

    Returns:
        uint8 [h, w, 3] RGB and uint8 [h, w] labels of the crop's size, contiguous; pixels outside
        the sample are gray and unlabeled, covered ones `UNKNOWN`. And where the crop comes from.
    """
    image, labels = _zoom(sample, settings, deployed, rng)
    zoomed = Size.of(image)
    rare_ids = rare_ids if settings.rare and rng.random() < settings.rare else ()
    image, labels, left, top = _crop(image, labels, settings.crop, rng, rare_ids)
    flip = rng.random() < settings.flip
    if flip:
        image, labels = image[:, ::-1], labels[:, ::-1]
    image, labels = _photometric(np.ascontiguousarray(image), settings, rng), np.ascontiguousarray(labels)
    if settings.unknown and rng.random() < settings.unknown:
        image, labels = _cover(image, labels, rng)
    return image, labels, Cut(zoomed, left, top, flip)


def _zoom(
    sample: Sample, settings: AugmentationSettings, deployed: Size, rng: np.random.Generator
) -> tuple[RgbImage, LabelImage]:
    target = network_size(Size.of(sample.image), deployed, 1)
    low, high = np.log(settings.scale)
    zoom = np.exp(rng.uniform(low, high))
    stretch = np.exp(rng.uniform(-1, 1) * np.log(settings.aspect) / 2)
    size = Size(max(1, round(target.width * zoom * stretch)), max(1, round(target.height * zoom / stretch)))
    return resize_image(sample.image, size), resize_labels(sample.labels, size)


def _crop(
    image: RgbImage, labels: LabelImage, crop: Size, rng: np.random.Generator, rare_ids: Sequence[int]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], int, int]:
    below, right = max(0, crop.height - image.shape[0]), max(0, crop.width - image.shape[1])
    if below or right:
        gray = (PADDING_GRAY,) * 3
        image = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_CONSTANT, value=gray)
        labels = cv2.copyMakeBorder(labels, 0, below, 0, right, cv2.BORDER_CONSTANT, value=(UNLABELED,))
    last_top, last_left = image.shape[0] - crop.height, image.shape[1] - crop.width
    present = [index for index in rare_ids if np.any(labels == index)]
    if present:  # any crop that holds one pixel of one of those classes, the class first
        pixel = int(rng.choice(np.flatnonzero(labels == rng.choice(present))))
        row, column = divmod(pixel, labels.shape[1])
        top = min(max(row - int(rng.integers(crop.height)), 0), last_top)
        left = min(max(column - int(rng.integers(crop.width)), 0), last_left)
    else:
        top, left = int(rng.integers(0, last_top + 1)), int(rng.integers(0, last_left + 1))
    window = slice(top, top + crop.height), slice(left, left + crop.width)
    return image[window], labels[window], left, top


def _photometric(image: RgbImage, settings: AugmentationSettings, rng: np.random.Generator) -> RgbImage:
    def around_one(amount: float) -> float:
        return float(1 + rng.uniform(-amount, amount))

    levels = np.arange(256, dtype=np.float32) / 255
    gamma = np.exp(rng.uniform(-1, 1) * np.log(settings.gamma))
    contrast, brightness = around_one(settings.contrast), around_one(settings.brightness)
    curve = ((levels**gamma - 0.5) * contrast + 0.5) * brightness
    gains = np.array([around_one(settings.color_cast) for _ in range(3)], np.float32)
    table = np.clip(np.rint(curve[:, None] * gains * 255), 0, 255).astype(np.uint8)  # [256, 3]
    image = cv2.LUT(image, table[None])
    saturation = around_one(settings.saturation)
    # out = gray + (image - gray) * saturation, as one 3x3 color matrix
    matrix = np.eye(3, dtype=np.float32) * saturation + (1 - saturation) * _LUMA[None]
    image = cv2.transform(image, matrix)
    if rng.random() < settings.blur:
        image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.5)))
    if rng.random() < settings.noise:
        noise = rng.normal(0, rng.uniform(2, 12), image.shape).astype(np.float32)
        image = np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)
    if rng.random() < settings.jpeg:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 90))]
        _, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)
        image = cv2.cvtColor(cv2.imdecode(encoded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    return image


def _cover(image: RgbImage, labels: LabelImage, rng: np.random.Generator) -> tuple[RgbImage, LabelImage]:
    """A texture of no driving scene over a rectangle of the crop, or over all of it."""
    whole = Size.of(image)
    width, height, left, top = whole.width, whole.height, 0, 0
    if rng.random() >= COVER_WHOLE:
        width, height = (round(side * rng.uniform(*COVER_SIDE)) for side in (width, height))
        left, top = int(rng.integers(whole.width - width + 1)), int(rng.integers(whole.height - height + 1))
    place = slice(top, top + height), slice(left, left + width)
    image, labels = image.copy(), labels.copy()
    image[place] = unknown_texture(rng, Size(width, height))
    labels[place] = UNKNOWN
    return image, labels
