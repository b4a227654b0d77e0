"""Folders of small images of our own, laid out as datasets are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

Pairs = Callable[..., Path]


@pytest.fixture
def pairs(tmp_path: Path) -> Pairs:
    """Writes FOLDER/images/NAME.png and FOLDER/labels/NAME.png; image i is flat gray i, its labels all `value`."""

    def write(
        folder: str, names: list[str], value: int = 0, size: tuple[int, int] = (6, 4), suffix: str = "png"
    ) -> Path:
        root = tmp_path / folder
        for index, name in enumerate(names):
            write_image(root / "images" / f"{name}.{suffix}", np.full((size[1], size[0], 3), index % 256, np.uint8))
            write_image(root / "labels" / f"{name}.png", np.full((size[1], size[0]), value, np.uint8))
        return root

    return write


def write_image(path: Path, pixels: NDArray[np.uint8]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)
    return path
