"""Procedural scenes as a folder of pictures and labels, for training."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from seg_perception.core.errors import InputError
from seg_perception.core.files import write_atomically
from seg_perception.core.label_set import load_label_set
from seg_perception.core.types import LabelImage, RgbImage, Size
from seg_perception.core.visual import colorize, contact_sheet
from seg_perception.scenes.drive import Drive, random_scene

_SHOWN = 8


def draw_scenes(
    out: str | Path,
    frames: int = 100,
    size: str | Size | tuple[int, int] = "480x360",
    seed: int = 0,
    fps: float = 15.0,
    random: bool = False,
    png: bool = False,
    progress: bool = False,
) -> dict[str, float]:
    """Draw procedural driving scenes with exact labels into a folder that trainings and evaluations read.

    Args:
        out: folder for images/NNNNNN.jpg, labels/NNNNNN.png (uint8 class ids of the label set "driving") and
            contact_sheet.png; must not hold scenes.
        frames: how many pictures.
        size: of the pictures.
        seed: chooses the drive.
        fps: pictures a second of the drive.
        random: every picture from another drive, for training.
        png: images without compression losses.
        progress: show a bar.

    Returns:
        The share of each class in all pixels, 0 to 1.

    Raises:
        InputError: a wrong size or number, or the folder holds something.
    """
    if frames < 1:
        raise InputError(f"{frames} frames are not accepted: draw at least 1")
    out, size = Path(out), Size.parse(size)
    drive = Drive(seed, size, fps)  # also checks the size when `random` does not need it
    images, labels = out / "images", out / "labels"
    for folder in (images, labels):
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise InputError(f"{folder} is not empty: name a new folder, or remove this one first")
    suffix = ".png" if png else ".jpg"
    label_set = load_label_set()
    counts = np.zeros(len(label_set), np.int64)
    shown = {round(k) for k in np.linspace(0, frames - 1, min(_SHOWN, frames))}
    rows: list[list[RgbImage]] = []
    for index in tqdm(range(frames), unit="frame", desc="scenes", disable=not progress):
        frame = random_scene(seed + index, size) if random else drive.frame(index)
        (images / f"{index:06d}{suffix}").write_bytes(_encoded(suffix, frame.image[..., ::-1]))
        (labels / f"{index:06d}.png").write_bytes(_encoded(".png", frame.labels))
        counts += np.bincount(frame.labels.reshape(-1), minlength=len(label_set))
        if index in shown:
            rows.append([frame.image, colorize(frame.labels, label_set)])
    sheet = contact_sheet(rows, tile_width=min(480, size.width))
    write_atomically(out / "contact_sheet.png", _encoded(".png", sheet[..., ::-1]))
    return {name: float(count / counts.sum()) for name, count in zip(label_set.names, counts, strict=True)}


def _encoded(ending: str, pixels: RgbImage | LabelImage) -> bytes:
    quality = [cv2.IMWRITE_JPEG_QUALITY, 95] if ending == ".jpg" else []
    return bytes(cv2.imencode(ending, np.ascontiguousarray(pixels), quality)[1])
