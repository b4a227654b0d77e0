"""Is the shipped model what it claims to be? Scores on held-out sets, and the time of one image.

    python benchmarks/shipped_model.py [--config config/evaluation/held_out.yaml] [--out out/shipped_model.json]

Every score is compared with its floor and with the model card; the time of one 480x360 image (resize,
network, labels back at the image's size) with its ceiling. The exit status is 1 if any fails.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from seg_perception.core.files import DEFAULT_MODEL, share_path, write_atomically
from seg_perception.datasets.registry import open_dataset
from seg_perception.engines.opening import open_engine
from seg_perception.evaluation import evaluate, load_evaluation_settings
from seg_perception.segmenter import Segmenter

FLOORS = {  # percent: (dataset, metric) -> least; test/test_shipped_model.py holds the card to them, too
    ("camvid/val", "mean_iou"): 82.0,
    ("camvid/val", "iou/road"): 97.0,
    ("cityscapes256/val", "mean_iou"): 76.0,
    ("cityscapes256/val", "iou/road"): 96.0,
    ("kitti/val", "mean_iou"): 68.0,
    ("kitti/val", "iou/road"): 92.0,
}
CEILING_MS = 60.0  # median, one 480x360 image
CARD_TOLERANCE = 0.05  # percent: the card holds two digits, and CPUs differ in the last bit
WARM_UP, TIMED = 5, 60


@dataclass(frozen=True)
class Check:
    name: str
    value: float
    demand: str
    passed: bool


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=share_path("config/evaluation/held_out.yaml"))
    parser.add_argument(
        "--data-root", type=Path, default=os.environ.get("SEG_PERCEPTION_DATA"), help="overrides the config's"
    )
    parser.add_argument("--out", type=Path, default=Path("out/shipped_model.json"))
    arguments = parser.parse_args()
    settings = load_evaluation_settings(arguments.config)
    engine = open_engine(DEFAULT_MODEL, "onnxruntime")
    segmenter = Segmenter(engine)
    print(f"{engine.card.id} with {engine.info}")
    checks: list[Check] = []
    for chosen in settings.datasets:
        dataset = open_dataset(chosen, arguments.data_root or settings.data_root)
        percent = evaluate(dataset, segmenter, progress=True).percentages()
        for metric in ("mean_iou", "iou/road"):
            value = percent[metric]
            if (floor := FLOORS.get((dataset.name, metric))) is not None:
                checks.append(Check(f"{dataset.name} {metric}", value, f"at least {floor:g} %", value >= floor))
            claimed = engine.card.scores[dataset.name][metric]
            agrees = abs(value - claimed) <= CARD_TOLERANCE
            checks.append(Check(f"{dataset.name} {metric}", value, f"{claimed:g} % on the model card", agrees))
    checks += time_one_image(segmenter)
    engine.close()
    for check in checks:
        print(f"{'ok  ' if check.passed else 'FAIL'}  {check.name:<34}{check.value:8.2f}   {check.demand}")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    document = {"model": engine.card.id, "engine": str(engine.info), "checks": [asdict(c) for c in checks]}
    write_atomically(arguments.out, json.dumps(document, indent=1).encode())
    return 0 if all(check.passed for check in checks) else 1


def time_one_image(segmenter: Segmenter) -> list[Check]:
    image = np.random.default_rng(1).integers(0, 256, (360, 480, 3), np.uint8)
    times = []
    for turn in range(WARM_UP + TIMED):
        began = time.perf_counter()
        segmenter.segment(image)
        if turn >= WARM_UP:
            times.append((time.perf_counter() - began) * 1e3)
    median, p95 = (float(v) for v in np.percentile(times, [50, 95]))
    return [
        Check("ms of one 480x360 image, median", median, f"at most {CEILING_MS:g} ms", median <= CEILING_MS),
        Check("ms of one 480x360 image, p95", p95, "for the record", passed=True),
    ]


if __name__ == "__main__":
    sys.exit(main())
