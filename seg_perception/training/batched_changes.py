"""The changes of `augmentation.py` as batched tensor operations, on whatever device the batch lives.

Nothing here asks the device for a value: which crops of a batch are changed, and how, is drawn on the host
(`resident.py`) and handed over with the batch.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
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
    """What JPEG loses: chroma at half the size, and coefficients of 8x8 blocks rounded by a quality's tables."""

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
        chroma = F.avg_pool2d(torch.stack([(blue - luma) / 1.772, (red - luma) / 1.402], dim=1), 2)
        scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality)[:, None, None]
        luma = self._through((luma - 128)[:, None], self._luminance, scale)[:, 0] + 128
        chroma = self._through(chroma, self._chrominance, scale)
        chroma = F.interpolate(chroma, scale_factor=2.0, mode="bilinear", align_corners=False)
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
