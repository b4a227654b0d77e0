"""Random changes to training samples: crop by crop in NumPy and OpenCV, and the same as batched tensor operations.

Why not a library: docs/adr/0006. Every change is drawn from the generator that the caller seeds, so a sample repeats
exactly. The batched ones run on whatever device the batch lives and never ask it for a value: which crops are changed,
and how, is drawn on the host (`resident.py`) and handed over with the batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from seg_perception.core.resizing import network_size, resize_image, resize_labels
from seg_perception.core.types import UNKNOWN, UNLABELED, LabelImage, RgbImage, Size
from seg_perception.datasets.base import Sample
from seg_perception.training.settings import AugmentationSettings


def unknown_texture(rng: np.random.Generator, size: Size) -> RgbImage:
    """A texture of no driving scene, over which a network learns to be unsure: uint8 [h, w, 3] RGB.

    Blotches, or flat shapes that cover one another. None is plain: a road, a wall or the sky can be plain.
    """
    draw = _blotches if rng.random() < 0.5 else _dead_leaves
    return draw(rng, size)


def _blotches(rng: np.random.Generator, size: Size) -> RgbImage:
    """Colored noise of one to three widths, from single pixels to a third of the picture.

    Gray would be too like asphalt.
    """
    total = np.zeros((size.height, size.width, 3), np.float32)
    for _ in range(rng.integers(1, 4)):
        width = np.exp(rng.uniform(0, np.log(max(size.width / 3, 2))))
        small = (max(round(size.height / width), 2), max(round(size.width / width), 2), 3)
        layer = cv2.resize(rng.random(small, np.float32), (size.width, size.height), interpolation=cv2.INTER_CUBIC)
        total += layer * rng.uniform(0.3, 1)
    low, high = total.min(), total.max()
    dark, bright = rng.uniform(0, 80), rng.uniform(150, 255)
    image = dark + (total - low) / max(high - low, 1e-6) * (bright - dark)
    return np.asarray(np.rint(image), np.uint8)


def _dead_leaves(rng: np.random.Generator, size: Size) -> RgbImage:
    """Shapes of one color each and of sizes that follow a power law, as in the dead leaves model of natural
    images (Lee, Mumford and Huang, International Journal of Computer Vision 41, 2001); a little blurred and noisy.
    """
    image = np.empty((size.height, size.width, 3), np.uint8)
    image[:] = rng.integers(0, 256, 3)
    longest = 0.6 * max(size.width, size.height)
    for _ in range(rng.integers(20, 120)):
        center = (float(rng.uniform(0, size.width)), float(rng.uniform(0, size.height)))
        # the areas' reciprocals are uniform: many small shapes, few large ones
        length = longest / np.sqrt(rng.uniform(1, 60))
        sides = (float(length * rng.uniform(0.3, 1)), float(length * rng.uniform(0.3, 1)))
        box = (center, sides, float(rng.uniform(0, 180)))
        color = tuple(int(c) for c in rng.integers(0, 256, 3))
        corners = (0, 4, 3)[rng.integers(3)]
        if corners == 0:
            cv2.ellipse(image, box, color, -1, cv2.LINE_AA)
        else:
            outline = np.rint(cv2.boxPoints(box)[:corners]).astype(np.int32)
            cv2.fillConvexPoly(image, outline, color, cv2.LINE_AA)
    image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.3, 1.5)))
    noise = rng.normal(0, rng.uniform(0, 6), image.shape)
    return np.asarray(np.clip(np.rint(image + noise), 0, 255), np.uint8)


_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
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
    matrix = np.eye(3, dtype=np.float32) * saturation + (1 - saturation) * np.array([_LUMA], np.float32)
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


_BLUR_REACH = 5  # pixels to each side: three standard deviations of the strongest blur
_BLOCK = 8

# Annex K of ITU-T T.81, scaled by quality as the Independent JPEG Group's code does
_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55), (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62), (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip
_CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99), (18, 21, 26, 66, 99, 99, 99, 99), (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99), *((99,) * 8 for _ in range(4)),
)  # fmt: skip


def rounded(x: Tensor) -> Tensor:
    """To whole levels of 0 to 255, still float: as bytes between two changes would be."""
    return x.round().clamp(0, 255)


def tone(x: Tensor, gamma: Tensor, contrast: Tensor, brightness: Tensor, gains: Tensor) -> Tensor:
    """Gamma, contrast, brightness and the gain of each channel.

    Args:
        x: float [N, 3, H, W], 0 to 255.
        gamma, contrast, brightness: float [N].
        gains: float [N, 3].
    """
    curve = ((x / 255) ** _each(gamma) - 0.5) * _each(contrast) + 0.5
    return rounded(curve * (brightness[:, None] * gains)[:, :, None, None] * 255)


def saturate(x: Tensor, saturation: Tensor) -> Tensor:
    """The gray of each pixel, and what it differs by times the saturation, for float [N, 3, H, W] and [N]."""
    red, green, blue = x.unbind(1)
    gray = (red * _LUMA[0] + green * _LUMA[1] + blue * _LUMA[2])[:, None]
    return rounded(gray + (x - gray) * _each(saturation))


def blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of float [N, 3, H, W] by standard deviations [N], in pixels."""
    reach = min(_BLUR_REACH, x.shape[2] - 1, x.shape[3] - 1)
    offsets = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(3, dim=0)  # [3N, taps]
    flat = F.pad(x.reshape(1, -1, *x.shape[2:]), (reach,) * 4, mode="reflect")
    flat = F.conv2d(flat, kernel[:, None, None, :], groups=len(kernel))
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=len(kernel))
    return rounded(flat.reshape(x.shape))


def add_noise(x: Tensor, sigma: Tensor, seeds: list[int]) -> Tensor:
    """Independent normal noise on float [N, 3, H, W], of standard deviations [N]; each image has its own seed."""
    generator = torch.Generator(x.device)
    noise = torch.stack([torch.randn(x.shape[1:], generator=generator.manual_seed(s), device=x.device) for s in seeds])
    return rounded(x + noise * _each(sigma))


def cover(images: Tensor, labels: Tensor, textures: Tensor, boxes: Tensor, unknown: int) -> tuple[Tensor, Tensor]:
    """Textures over a rectangle of each image, and a label for what is under it.

    Args:
        images: uint8 [N, H, W, 3].
        labels: uint8 [N, H, W].
        textures: uint8 [N, H, W, 3].
        boxes: int64 [N, 4]: top, bottom, left, right; the second and fourth are the first outside.
        unknown: the label.
    """
    top, bottom, left, right = (boxes[:, i, None] for i in range(4))
    rows = torch.arange(images.shape[1], device=images.device)
    columns = torch.arange(images.shape[2], device=images.device)
    tall, wide = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    under = tall[:, :, None] & wide[:, None, :]  # [N, H, W]
    return torch.where(under[..., None], textures, images), labels.masked_fill(under, unknown)


class JpegLike:
    """What JPEG loses: chroma at half the size, and coefficients of 8x8 blocks rounded by a quality's tables.

    Planes between two steps are rounded to whole levels, as its code keeps them: smooth skies get their steps by it.
    """

    def __init__(self, device: torch.device) -> None:
        self._luminance = torch.tensor(_LUMINANCE, dtype=torch.float32, device=device)
        self._chrominance = torch.tensor(_CHROMINANCE, dtype=torch.float32, device=device)
        rows = [
            [
                (math.sqrt(0.125) if k == 0 else 0.5) * math.cos((2 * i + 1) * k * math.pi / 16)
                for i in range(_BLOCK)
            ]
            for k in range(_BLOCK)
        ]  # fmt: skip
        self._cosines = torch.tensor(rows, device=device)  # orthonormal [8, 8]

    def __call__(self, x: Tensor, quality: Tensor) -> Tensor:
        """Encode and decode float [N, 3, H, W] of 0 to 255, RGB, at qualities [N] of 1 to 100."""
        height, width = x.shape[2:]
        x = F.pad(x, (0, -width % 16, 0, -height % 16), mode="replicate")
        red, green, blue = x.unbind(1)
        luma = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue
        chroma = torch.stack([(blue - luma) / 1.772, (red - luma) / 1.402], dim=1)
        luma, chroma = luma.round(), F.avg_pool2d(chroma.round(), 2).round()
        scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality)[:, None, None]
        luma = rounded(self._through((luma - 128)[:, None], self._luminance, scale)[:, 0] + 128)
        chroma = rounded(self._through(chroma, self._chrominance, scale) + 128) - 128
        chroma = F.interpolate(chroma, scale_factor=2.0, mode="bilinear", align_corners=False).round()
        of_blue, of_red = chroma.unbind(1)
        red, blue = luma + 1.402 * of_red, luma + 1.772 * of_blue
        green = (luma - _LUMA[0] * red - _LUMA[2] * blue) / _LUMA[1]
        return rounded(torch.stack([red, green, blue], dim=1)[:, :, :height, :width])

    def _through(self, planes: Tensor, table: Tensor, scale: Tensor) -> Tensor:
        """Planes [N, C, h, w] through the rounding of their blocks' cosine coefficients."""
        steps = ((table * scale + 50) / 100).floor().clamp(1, 255)[:, None, None, :, None, :]  # [N, 1, 1, 8, 1, 8]
        count, depth, height, width = planes.shape
        blocks = planes.reshape(count, depth, height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK)
        turned = torch.einsum("ki,ncriqj,lj->ncrkql", self._cosines, blocks, self._cosines)
        kept = (turned / steps).round() * steps
        return torch.einsum("ki,ncrkql,lj->ncriqj", self._cosines, kept, self._cosines).reshape(planes.shape)


def _each(values: Tensor) -> Tensor:
    """[N] to [N, 1, 1, 1]."""
    return values[:, None, None, None]
