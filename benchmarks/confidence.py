"""Does the confidence image mean something? Two questions, one table, one picture.

1. On held-out driving images: is a pixel of higher confidence right more often (reliability)?
2. Do frames far from driving (noise, black, indoor-like rooms) score lower than driving frames?

    python benchmarks/confidence.py [--config config/train/driving.yaml] [--out out/confidence]

The config names labeled datasets (`datasets`, or a training's `validation`); without one, procedural
scenes stand for the driving images. Writes confidence.json and
confidence.png. The exit status is 1 if accuracy falls with confidence anywhere above one half, or if a
kind of far frame has a median confidence that is not below nine tenths of the driving frames. White
frames are shown but not judged: an overexposed image reads as sky, and sky is no place to drive.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from seg_perception.core.files import DEFAULT_MODEL, share_path, write_atomically
from seg_perception.core.types import RgbImage, Size
from seg_perception.datasets.base import Dataset
from seg_perception.datasets.registry import open_dataset
from seg_perception.engines.opening import open_engine
from seg_perception.evaluation import evaluate, load_evaluation_settings
from seg_perception.evaluation.counts import Calibration, PixelCounts
from seg_perception.segmenter import Segmenter

RELIABLE_FROM = 0.5  # below it there are few pixels, and ties between classes
LEAST_SHARE = 1e-3  # of the pixels, for a bin to be judged
FAR_QUANTILE = 0.1  # of the driving frames' mean confidence
NOT_JUDGED = frozenset({"white"})

FarFrame = Callable[[np.random.Generator, Size], RgbImage]


def noise(random: np.random.Generator, size: Size) -> RgbImage:
    return random.integers(0, 256, (size.height, size.width, 3), np.uint8)


def coarse_noise(random: np.random.Generator, size: Size) -> RgbImage:
    """Blotches some 24 pixels wide."""
    small = random.integers(0, 256, (max(size.height // 24, 1), max(size.width // 24, 1), 3), np.uint8)
    return np.asarray(cv2.resize(small, (size.width, size.height), interpolation=cv2.INTER_CUBIC), np.uint8)


def black(random: np.random.Generator, size: Size) -> RgbImage:
    """A covered lens: black with a little sensor noise."""
    return random.integers(0, 4, (size.height, size.width, 3), np.uint8)


def white(random: np.random.Generator, size: Size) -> RgbImage:
    """Overexposed."""
    return random.integers(250, 256, (size.height, size.width, 3), np.uint8)


def room(random: np.random.Generator, size: Size) -> RgbImage:
    """Warm walls in perspective, a wooden floor, a ceiling lamp, furniture, pictures."""
    w, h = size.width, size.height
    wall = np.array([random.integers(170, 235), random.integers(150, 205), random.integers(110, 165)], np.float64)
    image = np.empty((h, w, 3), np.uint8)
    image[:] = wall
    left, right = round(w * random.uniform(0.15, 0.35)), round(w * random.uniform(0.65, 0.85))
    top, bottom = round(h * random.uniform(0.1, 0.25)), round(h * random.uniform(0.6, 0.75))
    wood = (int(random.integers(90, 150)), int(random.integers(55, 95)), int(random.integers(25, 60)))
    cv2.fillPoly(image, [np.array([[0, h], [left, bottom], [right, bottom], [w, h]])], wood)
    for x in np.linspace(0, w, 12):  # boards run to the back wall
        end = (round(left + (right - left) * x / w), bottom)
        cv2.line(image, (round(x), h), end, tuple(round(c * 0.8) for c in wood), 1, cv2.LINE_AA)
    cv2.fillPoly(image, [np.array([[0, 0], [left, top], [right, top], [w, 0]])], (245, 240, 228))
    for shade, outer, inner in ((0.85, 0, left), (0.7, w, right)):
        side = np.array([[outer, 0], [inner, top], [inner, bottom], [outer, h]])
        cv2.fillPoly(image, [side], tuple(round(c * shade) for c in wall))
    for _ in range(random.integers(3, 7)):  # furniture stands on the floor, pictures hang on the wall
        color = tuple(int(c) for c in random.integers(40, 220, 3))
        width, height = round(w * random.uniform(0.06, 0.25)), round(h * random.uniform(0.1, 0.35))
        x = int(random.integers(0, max(w - width, 1)))
        foot = round(h * random.uniform(0.7, 0.97)) if random.random() < 0.7 else round(h * random.uniform(0.3, 0.5))
        cv2.rectangle(image, (x, foot - height), (x + width, foot), color, -1)
        cv2.rectangle(image, (x, foot - height), (x + width, foot), tuple(c // 2 for c in color), 1)
    cv2.circle(image, (w // 2, top // 2), max(h // 25, 2), (255, 252, 235), -1, cv2.LINE_AA)
    light = cv2.GaussianBlur(image, (0, 0), 1.2).astype(np.float64)
    falloff = np.linspace(1.05, 0.75, h)[:, None, None]
    return np.asarray(np.clip(light * falloff + random.normal(0, 3, image.shape), 0, 255), np.uint8)


def text(random: np.random.Generator, size: Size) -> RgbImage:
    """A page of print."""
    image = np.full((size.height, size.width, 3), 246, np.uint8)
    for y in range(20, size.height, 16):
        letters = random.integers(97, 123, 120)
        letters[random.random(120) < 0.18] = ord(" ")
        words = "".join(map(chr, letters))
        cv2.putText(image, words, (10, y), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (20, 20, 20), 1, cv2.LINE_AA)
    return image


FAR: dict[str, FarFrame] = {
    "noise": noise, "coarse noise": coarse_noise, "black": black, "white": white, "room": room, "page of text": text
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class FrameConfidence:
    """Frames of one kind: the mean confidence of each (0 to 1), the drivable share, one frame to look at."""

    kind: str
    far: bool
    means: tuple[float, ...]
    drivable: float
    example: RgbImage


def frame_confidence(
    kind: str, far: bool, frames: Iterator[RgbImage], count: int, segmenter: Segmenter
) -> FrameConfidence:
    means, drivable, example = [], [], None
    ids = segmenter.card.label_set.drivable_ids
    for image in tqdm(frames, kind, count, unit="frame", leave=False):
        answer = segmenter.segment(image)
        means.append(float(answer.confidence.mean()) / 255)
        drivable.append(float(np.isin(answer.labels, ids).mean()))
        example = image if example is None else example
    assert example is not None
    return FrameConfidence(kind, far, tuple(means), float(np.mean(drivable)), example)


def shuffled(dataset: Dataset, count: int, random: np.random.Generator) -> Iterator[RgbImage]:
    """Driving frames cut into 32-pixel tiles in random order: right colors, no scene."""
    for index in np.linspace(0, len(dataset) - 1, count).astype(int):
        image = dataset.load(int(index)).image
        tile = 32
        rows, columns = image.shape[0] // tile, image.shape[1] // tile
        tiles = image[: rows * tile, : columns * tile].reshape(rows, tile, columns, tile, 3).swapaxes(1, 2)
        order = random.permutation(rows * columns)
        mixed = tiles.reshape(-1, tile, tile, 3)[order].reshape(rows, columns, tile, tile, 3)
        yield np.ascontiguousarray(mixed.swapaxes(1, 2).reshape(rows * tile, columns * tile, 3))


def auroc(driving: list[float], far: tuple[float, ...]) -> float:
    """How often a driving frame scores higher than a far one (ties count half)."""
    pairs = [(d > f) + 0.5 * (d == f) for d in driving for f in far]
    return float(np.mean(pairs))


def falls(calibration: Calibration) -> list[str]:
    """Where accuracy falls from one bin of confidence to the next."""
    total = sum(b.pixels for b in calibration.bins)
    judged = [b for b in calibration.bins if b.low >= RELIABLE_FROM and b.pixels >= LEAST_SHARE * total]
    return [
        f"{100 * before.accuracy:.1f} % right at confidence {before.confidence:.2f}, "
        f"but {100 * after.accuracy:.1f} % at {after.confidence:.2f}"
        for before, after in pairwise(judged)
        if after.accuracy < before.accuracy
    ]


def picture(calibrations: dict[str, Calibration], kinds: list[FrameConfidence], limit: float) -> bytes:
    from matplotlib.figure import Figure

    from seg_perception.evaluation.figures import SERIES, png

    figure = Figure(figsize=(12, 9), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[1, 1.15])
    left, right = above.subplots(1, 2)
    strip = below.subplots()
    left.plot([0, 1], [0, 1], "--", color="#999999", linewidth=1)
    for color, (name, calibration) in zip(SERIES, calibrations.items(), strict=False):
        filled = [b for b in calibration.bins if b.pixels]
        label = f"{name}: ECE {100 * calibration.expected_error:.2f} %"
        points = ([b.confidence for b in filled], [b.accuracy for b in filled])
        left.plot(*points, "o-", markersize=4, color=color, label=label)
        total = sum(b.pixels for b in calibration.bins)
        edges = [*(b.low for b in calibration.bins), 1.0]
        right.stairs([100 * b.pixels / total for b in calibration.bins], edges, color=color, label=name)
    left.set(xlabel="confidence", ylabel="share of right answers", xlim=(0, 1), ylim=(0, 1), title="Reliability")
    right.set(xlabel="confidence", ylabel="share of the pixels, %", yscale="log", title="How sure it is")
    left.legend(fontsize=8, frameon=False)
    for place, kind in enumerate(kinds):
        spread = np.random.default_rng(0).uniform(-0.25, 0.25, len(kind.means))
        strip.plot(place + spread, kind.means, ".", color=SERIES[1] if kind.far else SERIES[0], alpha=0.6)
        strip.plot([place - 0.3, place + 0.3], [np.median(kind.means)] * 2, color="black", linewidth=2)
    strip.axhline(limit, color="#999999", linestyle="--", linewidth=1)
    note = "nine of ten driving frames lie above "
    strip.text(len(kinds) - 0.5, limit, note, fontsize=8, color="#666666", va="bottom", ha="right")
    strip.set_xticks(range(len(kinds)), [kind.kind.replace(" (", "\n(") for kind in kinds], fontsize=9)
    strip.set(ylabel="mean confidence of a frame", xlim=(-0.5, len(kinds) - 0.5), ylim=(0, 1))
    for place, kind in enumerate(kinds):
        axis = strip.inset_axes((place - 0.45, -0.52, 0.9, 0.4), transform=strip.transData)
        axis.imshow(kind.example)
        axis.axis("off")
    for axis in (left, right, strip):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(color="#dddddd")
    return png(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config", type=Path, default=share_path("config/train/scenes.yaml"),
        help="YAML of labeled, held-out datasets (default: procedural scenes)",
    )  # fmt: skip
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--model", type=Path, default=DEFAULT_MODEL)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--frames", type=int, default=20, help="far frames of each kind (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/confidence"))
    arguments = parser.parse_args()
    settings = load_evaluation_settings(arguments.config)
    datasets = [open_dataset(one, arguments.data_root or settings.data_root) for one in settings.datasets]
    arguments.out.mkdir(parents=True, exist_ok=True)

    engine = open_engine(arguments.model, arguments.engine)
    segmenter = Segmenter(engine)
    print(f"{engine.card.id} with {engine.info}")
    together = PixelCounts(len(engine.card.label_set))
    calibrations: dict[str, Calibration] = {}
    kinds: list[FrameConfidence] = []
    for dataset in datasets:
        evaluation = evaluate(dataset, segmenter, progress=True)
        together.table += evaluation.counts.table
        calibrations[dataset.name] = evaluation.calibration
        frames = (dataset.load(index).image for index in range(len(dataset)))
        kinds.append(frame_confidence(dataset.name, False, frames, len(dataset), segmenter))
    driving = [mean for kind in kinds for mean in kind.means]
    random = np.random.default_rng(0)
    for name, draw in FAR.items():
        frames = (draw(random, engine.card.input_size) for _ in range(arguments.frames))
        kinds.append(frame_confidence(name, True, frames, arguments.frames, segmenter))
    mixed = shuffled(datasets[0], min(arguments.frames, len(datasets[0])), random)
    kinds.append(frame_confidence("shuffled tiles", True, mixed, arguments.frames, segmenter))
    engine.close()

    overall = Calibration.of(together)
    print(f"\n{'confidence':<14}{'pixels':>12}{'right, %':>10}{'wrong, %':>10}{'mean conf, %':>14}")
    for b in overall.bins:
        if b.pixels:
            right, mean = 100 * b.accuracy, 100 * b.confidence
            print(f"{b.low:.2f} to {b.high:.2f}  {b.pixels:>12}{right:>10.2f}{100 - right:>10.2f}{mean:>14.2f}")
    for name, calibration in {**calibrations, "together": overall}.items():
        print(f"ECE {name}: {100 * calibration.expected_error:.2f} %")

    limit = float(np.quantile(driving, FAR_QUANTILE))
    faults = [f"reliability: {text}" for text in falls(overall)]
    print(f"\n{'frames':<28}{'count':>6}{'median':>9}{'lowest':>9}{'highest':>9}{'drivable':>10}{'below driving':>15}")
    for kind in kinds:
        median = float(np.median(kind.means))
        share = f"{100 * auroc(driving, kind.means):.1f} %" if kind.far else ""
        spread = f"{median:>9.3f}{min(kind.means):>9.3f}{max(kind.means):>9.3f}"
        print(f"{kind.kind:<28}{len(kind.means):>6}{spread}{100 * kind.drivable:>8.1f} %{share:>15}")
        if kind.far and kind.kind not in NOT_JUDGED and median >= limit:
            faults.append(f"{kind.kind}: median confidence {median:.3f}, not below {limit:.3f}")
    document = {
        "model": engine.card.id,
        "engine": str(engine.info),
        "ece": {name: c.expected_error for name, c in {**calibrations, "together": overall}.items()},
        "bins": [[b.low, b.high, b.pixels, b.accuracy if b.pixels else None] for b in overall.bins],
        "frames": {kind.kind: {"far": kind.far, "means": kind.means, "drivable": kind.drivable} for kind in kinds},
        "driving_limit": limit,
        "auroc": {kind.kind: auroc(driving, kind.means) for kind in kinds if kind.far},
        "faults": faults,
    }
    write_atomically(arguments.out / "confidence.json", json.dumps(document, indent=1).encode())
    write_atomically(arguments.out / "confidence.png", picture({**calibrations, "together": overall}, kinds, limit))
    print(f"\nwritten: {arguments.out}/confidence.json and confidence.png")
    print("\n".join(["NOT MET:", *faults]) if faults else "met: surer is righter, and far frames score lower")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
