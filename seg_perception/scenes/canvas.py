"""The canvas: colour and label in one four-channel picture, so that they cannot drift apart.

Everything is painted far to near with hard edges at twice the final size; the colours are then averaged down and the
labels picked by position, so that no label is ever a mixture.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from seg_perception.core.types import LabelImage, RgbImage
from seg_perception.scenes.camera import Floats

_SHIFT = 4  # sub-pixel bits of polygon corners


class Canvas:
    """A picture being painted: uint8 [H, W, 4], RGB and class id."""

    def __init__(self, width: int, height: int) -> None:
        self.pixels: NDArray[np.uint8] = np.zeros((height, width, 4), np.uint8)
        self.width = width
        self.height = height
        self.floor = height  # rows from here down are hidden behind a crest

    def polygon(self, outline: Floats, color: tuple[float, float, float] | Floats, label: int) -> None:
        """Fill a polygon (image columns and rows [N, 2]) with one colour (RGB, 0 to 255) and one label."""
        corners = np.round(np.clip(outline - 0.5, -3e4, 3e4) * (1 << _SHIFT)).astype(np.int32)
        fill = (float(color[0]), float(color[1]), float(color[2]), float(label))
        cv2.fillPoly(self.pixels[: self.floor], [corners], fill, cv2.LINE_8, _SHIFT)

    def sprite(self, texture: NDArray[np.uint8], box: tuple[float, float, float, float], label: int) -> None:
        """Paint an RGBA sprite [h, w, 4] into the box (left, top, right, bottom) where its alpha is at least 128."""
        left, top, right, bottom = box
        x0, y0 = max(0, int(np.floor(left))), max(0, int(np.floor(top)))
        x1, y1 = min(self.width, int(np.ceil(right))), min(self.floor, int(np.ceil(bottom)))
        if x1 <= x0 or y1 <= y0 or right - left < 0.5 or bottom - top < 0.5:
            return
        rows, columns = texture.shape[:2]
        zoom_x, zoom_y = (right - left) / columns, (bottom - top) / rows
        if zoom_x < 0.5 and zoom_y < 0.5:  # shrink first, or thin parts flicker
            factor = min(0.5 / zoom_x, 0.5 / zoom_y, 16.0)
            small = (max(1, round(columns / factor / 1.0)), max(1, round(rows / factor / 1.0)))
            texture = cv2.resize(texture, small, interpolation=cv2.INTER_AREA)
            rows, columns = texture.shape[:2]
            zoom_x, zoom_y = (right - left) / columns, (bottom - top) / rows
        move = np.array(
            [[zoom_x, 0, left - x0 + 0.5 * zoom_x - 0.5], [0, zoom_y, top - y0 + 0.5 * zoom_y - 0.5]], np.float64
        )
        drawn = cv2.warpAffine(texture, move, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR)
        self._stamp(drawn, drawn[..., 3] >= 128, x0, y0, label)

    def textured(self, texture: NDArray[np.uint8], quad: Floats, label: int) -> None:
        """Paint an RGB or RGBA texture onto a quad: corners top left, top right, bottom right, bottom left [4, 2]."""
        x0, y0 = np.maximum(0, np.floor(quad.min(axis=0))).astype(int)
        x1 = min(self.width, int(np.ceil(quad[:, 0].max())))
        y1 = min(self.floor, int(np.ceil(quad[:, 1].max())))
        if x1 - x0 < 1 or y1 - y0 < 1:
            return
        shown = quad.max(axis=0) - quad.min(axis=0)
        while texture.shape[1] > 2.2 * shown[0] and texture.shape[1] > 8:
            texture = cv2.resize(texture, (texture.shape[1] // 2, texture.shape[0]), interpolation=cv2.INTER_AREA)
        while texture.shape[0] > 2.2 * shown[1] and texture.shape[0] > 8:
            texture = cv2.resize(texture, (texture.shape[1], texture.shape[0] // 2), interpolation=cv2.INTER_AREA)
        rows, columns = texture.shape[:2]
        source = np.array([[0, 0], [columns, 0], [columns, rows], [0, rows]], np.float32) - 0.5
        target = (quad - (x0, y0) - 0.5).astype(np.float32)
        area = abs(cv2.contourArea(target))
        if area < 1.0:
            return
        warp = cv2.getPerspectiveTransform(source, target)
        size = (int(x1 - x0), int(y1 - y0))
        drawn = cv2.warpPerspective(texture, warp, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        mask = np.zeros((size[1], size[0]), np.uint8)
        corners = np.round(np.clip(target, -3e4, 3e4) * (1 << _SHIFT)).astype(np.int32)
        cv2.fillPoly(mask, [corners], 255, cv2.LINE_8, _SHIFT)
        inside = mask > 0
        if texture.shape[2] == 4:
            inside &= drawn[..., 3] >= 128
        self._stamp(drawn, inside, int(x0), int(y0), label)

    def _stamp(self, drawn: NDArray[np.uint8], inside: NDArray[np.bool_], x0: int, y0: int, label: int) -> None:
        if drawn.shape[2] == 3:
            drawn = cv2.cvtColor(drawn, cv2.COLOR_RGB2RGBA)
        drawn[..., 3] = label
        region = self.pixels[y0 : y0 + drawn.shape[0], x0 : x0 + drawn.shape[1]]
        cv2.copyTo(drawn, inside.view(np.uint8), region)

    def finish(self, factor: int) -> tuple[RgbImage, LabelImage]:
        """Average the colours down by a whole factor and pick the labels at one fixed place of every cell."""
        color = np.ascontiguousarray(self.pixels[..., :3])
        pick = factor // 2
        labels = np.ascontiguousarray(self.pixels[pick::factor, pick::factor, 3])
        if factor > 1:
            size = (self.width // factor, self.height // factor)
            color = cv2.resize(color, size, interpolation=cv2.INTER_AREA)
        return color, labels
