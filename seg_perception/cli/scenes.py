"""Draw procedural driving scenes with exact labels into a folder that `train` and `evaluate` read as folder pairs.

Writes images/NNNNNN.jpg (or .png), labels/NNNNNN.png (8-bit class ids 0 to 9) and contact_sheet.png.
"""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "draw procedural driving scenes with exact labels into a folder"
EXAMPLES = ("--out scenes --frames 200 --random",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write; must not hold scenes")
    parser.add_argument("--frames", type=int, default=100, metavar="N", help="how many pictures (default: 100)")
    parser.add_argument("--size", default="480x360", metavar="WxH", help="of the pictures (default: 480x360)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="chooses the drive (default: 0)")
    parser.add_argument("--fps", type=float, default=15.0, help="pictures a second of the drive (default: 15)")
    parser.add_argument("--random", action="store_true", help="every picture from another drive, for training")
    parser.add_argument("--png", action="store_true", help="images without compression losses")


def run(arguments: argparse.Namespace) -> int:
    import cv2
    import numpy as np
    from tqdm import tqdm

    from seg_perception.core.errors import InputError
    from seg_perception.core.files import write_atomically
    from seg_perception.core.label_set import load_label_set
    from seg_perception.core.types import LabelImage, RgbImage, Size
    from seg_perception.core.visual import colorize, contact_sheet
    from seg_perception.scenes import Drive, random_scene

    if arguments.frames < 1:
        raise InputError(f"--frames {arguments.frames} is not accepted: draw at least 1")
    size = Size.parse(arguments.size)
    drive = Drive(arguments.seed, size, arguments.fps)  # also checks the size when --random does not need it
    images, labels = arguments.out / "images", arguments.out / "labels"
    for folder in (images, labels):
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise InputError(f"{folder} is not empty: name a new folder, or remove this one first")
    suffix = ".png" if arguments.png else ".jpg"
    label_set = load_label_set()
    counts = np.zeros(len(label_set), np.int64)
    shown = {round(k) for k in np.linspace(0, arguments.frames - 1, min(8, arguments.frames))}
    rows: list[list[RgbImage]] = []

    def encoded(ending: str, pixels: RgbImage | LabelImage) -> bytes:
        _, packed = cv2.imencode(ending, pixels, [cv2.IMWRITE_JPEG_QUALITY, 95] if ending == ".jpg" else [])
        return bytes(packed)

    for index in tqdm(range(arguments.frames), unit="frame", desc="scenes"):
        frame = random_scene(arguments.seed + index, size) if arguments.random else drive.frame(index)
        picture = encoded(suffix, np.ascontiguousarray(frame.image[..., ::-1]))
        (images / f"{index:06d}{suffix}").write_bytes(picture)
        (labels / f"{index:06d}.png").write_bytes(encoded(".png", frame.labels))
        counts += np.bincount(frame.labels.reshape(-1), minlength=len(label_set))
        if index in shown:
            rows.append([frame.image, colorize(frame.labels, label_set)])
    sheet = contact_sheet(rows, tile_width=min(480, size.width))
    write_atomically(arguments.out / "contact_sheet.png", encoded(".png", np.ascontiguousarray(sheet[..., ::-1])))
    for name, count in zip(label_set.names, counts, strict=True):
        print(f"{name:14} {100 * count / counts.sum():6.2f} %")
    print(f"{arguments.frames} pictures of {size} in {arguments.out}; labels are ids of the label set 'driving'")
    return 0
