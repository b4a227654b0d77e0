"""Every image encoding, converted a second time: with float arithmetic, from the definitions.

Slow and obvious, and independent of the package's decoder: the tests and benchmarks/image_codec.py compare with it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from seg_perception.core.types import RgbImage, Size

SIZE = Size(34, 22)
Bytes = NDArray[np.uint8]
Values = NDArray[np.float64]


def bt601(y: Values, u: Values, v: Values) -> RgbImage:
    """ITU-R BT.601 studio range to RGB, from the definition: Kr = 0.299, Kb = 0.114."""
    luma = (np.maximum(y, 16) - 16) / 219
    pb, pr = (u - 128) / 224, (v - 128) / 224  # -0.5 to 0.5
    red = luma + 2 * (1 - 0.299) * pr
    blue = luma + 2 * (1 - 0.114) * pb
    green = (luma - 0.299 * red - 0.114 * blue) / 0.587
    return np.rint(np.clip(np.stack([red, green, blue], -1) * 255, 0, 255)).astype(np.uint8)


def packed_422(order: str) -> Callable[[Bytes], RgbImage]:
    def reference(rows: Bytes) -> RgbImage:
        groups = rows.reshape(SIZE.height, SIZE.width // 2, 4).astype(np.float64)
        luma = np.stack([groups[..., i] for i, c in enumerate(order) if c == "Y"], -1)
        u = groups[..., order.index("U")].repeat(2, axis=1)
        v = groups[..., order.index("V")].repeat(2, axis=1)
        return bt601(luma.reshape(u.shape), u, v)

    return reference


def nv_420(u_first: bool) -> Callable[[Bytes], RgbImage]:
    def reference(rows: Bytes) -> RgbImage:
        y = rows[: SIZE.height].astype(np.float64)
        chroma = rows[SIZE.height :].reshape(SIZE.height // 2, SIZE.width // 2, 2).astype(np.float64)
        u, v = (chroma[..., index].repeat(2, axis=0).repeat(2, axis=1) for index in ((0, 1) if u_first else (1, 0)))
        return bt601(y, u, v)

    return reference


def nv24(rows: Bytes) -> RgbImage:
    flat = rows.reshape(-1).astype(np.float64)
    pixels = SIZE.width * SIZE.height
    y = flat[:pixels].reshape(SIZE.height, SIZE.width)
    chroma = flat[pixels:].reshape(SIZE.height, SIZE.width, 2)
    return bt601(y, chroma[..., 0], chroma[..., 1])


# the pixel itself; those beside it; those at its corners
NEIGHBORS = (((0, 0),), ((0, 1), (0, -1), (1, 0), (-1, 0)), ((1, 1), (1, -1), (-1, 1), (-1, -1)))


def bayer(pattern: str) -> Callable[[Bytes], RgbImage]:
    """Bilinear demosaicing by its definition: the mean of the nearest pixels that have the color."""

    def reference(raw: Bytes) -> RgbImage:
        rgb = np.zeros((SIZE.height, SIZE.width, 3), np.float64)
        for y in range(1, SIZE.height - 1):
            for x in range(1, SIZE.width - 1):
                for channel, color in enumerate("rgb"):
                    for offsets in NEIGHBORS:
                        here = [(y + dy, x + dx) for dy, dx in offsets]
                        values = [float(raw[p]) for p in here if pattern[(p[0] % 2) * 2 + p[1] % 2] == color]
                        if values:
                            rgb[y, x, channel] = sum(values) / len(values)
                            break
        # the outermost pixels have too few neighbors; they repeat the next ones
        rgb[:, 0], rgb[:, -1] = rgb[:, 1], rgb[:, -2]
        rgb[0], rgb[-1] = rgb[1], rgb[-2]
        return np.rint(rgb).astype(np.uint8)

    return reference


def channels(count: int, order: tuple[int, int, int]) -> Callable[[Bytes], RgbImage]:
    return lambda rows: rows.reshape(SIZE.height, SIZE.width, count)[:, :, list(order)]


def upper_of_16(of_8_bits: Callable[[Bytes], RgbImage]) -> Callable[[Bytes], RgbImage]:
    """16-bit numbers, low byte first, divided by 256 and rounded down; then as 8 bits."""

    def reference(rows: Bytes) -> RgbImage:
        low, high = (rows[:, index::2].astype(np.int64) for index in (0, 1))
        return of_8_bits(((low + 256 * high) // 256).astype(np.uint8))

    return reference


# encoding -> (independent conversion, largest error allowed: 0 for moved bytes, 1 for rounded sums)
REFERENCES: dict[str, tuple[Callable[[Bytes], RgbImage], int]] = {
    "rgb8": (channels(3, (0, 1, 2)), 0),
    "bgr8": (channels(3, (2, 1, 0)), 0),
    "rgba8": (channels(4, (0, 1, 2)), 0),
    "bgra8": (channels(4, (2, 1, 0)), 0),
    "mono8": (channels(1, (0, 0, 0)), 0),
    "mono16": (upper_of_16(channels(1, (0, 0, 0))), 0),
    "rgb16": (upper_of_16(channels(3, (0, 1, 2))), 0),
    "bgr16": (upper_of_16(channels(3, (2, 1, 0))), 0),
    "rgba16": (upper_of_16(channels(4, (0, 1, 2))), 0),
    "bgra16": (upper_of_16(channels(4, (2, 1, 0))), 0),
    "bayer_rggb8": (bayer("rggb"), 1),
    "bayer_bggr8": (bayer("bggr"), 1),
    "bayer_gbrg8": (bayer("gbrg"), 1),
    "bayer_grbg8": (bayer("grbg"), 1),
    "bayer_rggb16": (upper_of_16(bayer("rggb")), 1),
    "bayer_bggr16": (upper_of_16(bayer("bggr")), 1),
    "bayer_gbrg16": (upper_of_16(bayer("gbrg")), 1),
    "bayer_grbg16": (upper_of_16(bayer("grbg")), 1),
    "yuv422": (packed_422("UYVY"), 1),
    "uyvy": (packed_422("UYVY"), 1),
    "yuv422_yuy2": (packed_422("YUYV"), 1),
    "yuyv": (packed_422("YUYV"), 1),
    "nv12": (nv_420(u_first=True), 1),
    "nv21": (nv_420(u_first=False), 1),
    "nv24": (nv24, 1),
}
# bytes of pixels in a row and rows of that many bytes, for SIZE; written out, not computed by the code under test
ROW_BYTES = {name: 34 * {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4}.get(name, 1) for name in REFERENCES}
ROW_BYTES |= dict.fromkeys(("mono16", "yuv422", "uyvy", "yuv422_yuy2", "yuyv"), 68)
ROW_BYTES |= {"rgb16": 204, "bgr16": 204, "rgba16": 272, "bgra16": 272}
ROW_BYTES |= dict.fromkeys(("bayer_rggb16", "bayer_bggr16", "bayer_gbrg16", "bayer_grbg16"), 68)
ROWS = dict.fromkeys(REFERENCES, 22) | {"nv12": 33, "nv21": 33, "nv24": 66}


def noise(encoding: str) -> Bytes:
    """Random bytes [rows, row bytes]: every value at every place."""
    rng = np.random.default_rng(7)
    return rng.integers(0, 256, (ROWS[encoding], ROW_BYTES[encoding]), np.uint8)
