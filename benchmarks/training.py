"""Images per second of our training loop, beside a plain PyTorch loop in the same run.

Both train the same network on the same rendered pictures with the same crop and batch size. The
plain loop is what one writes in an afternoon: a DataLoader over decoded images, a random crop and
mirror, cross-entropy, AdamW; no zoom, color or noise, no averaged weights, no logs, no checkpoints.
The two take turns, so that other load on the machine meets both; the ratio is what counts.

    python benchmarks/training.py [--steps 20] [--turns 3] [--network efficientnet_ladder] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate
from torch.utils.data import DataLoader, Dataset

from seg_perception.core.types import Size
from seg_perception.datasets.base import Sample
from seg_perception.datasets.registry import DatasetSettings
from seg_perception.networks import build_network
from seg_perception.scenes import random_scene
from seg_perception.training.settings import AugmentationSettings, NetworkSettings, TrainSettings
from seg_perception.training.train import run_training

CROP = Size(448, 256)
PICTURES = 24


class PlainCrops(Dataset[tuple[Tensor, Tensor]]):
    """A random crop, mirrored half of the time."""

    def __init__(self, samples: list[Sample], length: int) -> None:
        self.samples, self.length = samples, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        sample = self.samples[index % len(self.samples)]
        top = np.random.randint(sample.image.shape[0] - CROP.height + 1)  # noqa: NPY002 - as plain loops do
        left = np.random.randint(sample.image.shape[1] - CROP.width + 1)  # noqa: NPY002
        window = slice(top, top + CROP.height), slice(left, left + CROP.width)
        step = 1 if np.random.random() < 0.5 else -1  # noqa: NPY002
        image, labels = sample.image[window][:, ::step], sample.labels[window][:, ::step]
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float().sub(127).div(128)
        return pixels, torch.from_numpy(np.ascontiguousarray(labels)).long()


def plain(samples: list[Sample], settings: TrainSettings, device: torch.device) -> float:
    """Seconds of `settings.steps` steps of the plain loop."""
    network = build_network(settings.network.name, 10, **settings.network.options).to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    loader = DataLoader(
        PlainCrops(samples, settings.steps * settings.batch_size), settings.batch_size, num_workers=settings.workers
    )
    started = time.perf_counter()
    for images, labels in loader:
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            scores = network(images.to(device))
        scores = interpolate(scores.float(), size=(CROP.height, CROP.width), mode="bilinear")
        loss = cross_entropy(scores, labels.to(device), ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    float(loss.detach())  # waits for a GPU
    return time.perf_counter() - started


def ours(settings: TrainSettings) -> float:
    """Seconds of the same number of steps of `run_training`, with everything that it does."""
    shutil.rmtree(settings.run_folder, ignore_errors=True)
    started = time.perf_counter()
    run_training(settings)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--network", default="efficientnet_ladder")
    parser.add_argument("--json", type=Path, default=Path("out/benchmark_training.json"))
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        samples = []
        for index in range(PICTURES):
            frame = random_scene(index, Size(480, 352))
            samples.append(Sample(str(index), frame.image, frame.labels))
            for kind, pixels in (("images", frame.image[..., ::-1]), ("labels", frame.labels)):
                path = Path(folder) / kind / f"{index:03d}.png"
                path.parent.mkdir(exist_ok=True)
                cv2.imwrite(str(path), np.ascontiguousarray(pixels))
        settings = TrainSettings(
            name="benchmark",
            output=Path(folder),
            data_root=Path(folder),
            train=(DatasetSettings("folder", mapping="identity"),),
            network=NetworkSettings(arguments.network),
            augmentation=AugmentationSettings(crop=CROP),
            steps=arguments.steps,
            batch_size=arguments.batch,
            workers=arguments.workers,
            precision=arguments.precision,
        )
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        plain(samples, settings, device)  # warm up
        seconds: dict[str, list[float]] = {"plain PyTorch loop": [], "seg-perception train": []}
        for _ in range(arguments.turns):
            seconds["plain PyTorch loop"].append(plain(samples, settings, device))
            seconds["seg-perception train"].append(ours(settings))

    crops = arguments.steps * arguments.batch
    rates = {name: crops / statistics.median(values) for name, values in seconds.items()}
    ratio = rates["seg-perception train"] / rates["plain PyTorch loop"]
    print(
        f"{arguments.network}, crops of {CROP}, {arguments.steps} steps of {arguments.batch}, {arguments.precision}, "
        f"{device.type}, median of {arguments.turns}"
    )
    for name, rate in rates.items():
        print(f"  {name:<22} {rate:7.2f} images/s")
    print(f"  ratio                  {ratio:7.2f}")
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    document = {"images_per_second": rates, "ratio": ratio, "seconds": seconds, "device": device.type}
    arguments.json.write_text(json.dumps(document | {k: str(v) for k, v in vars(arguments).items()}, indent=2))


if __name__ == "__main__":
    main()
