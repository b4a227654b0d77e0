"""From a bag to better weights and back: what chosen frames gain over as many frames chosen at random.

    make loop [BAG=drive.mcap]
    python benchmarks/loop.py --count 12 --steps 60 --seeds 1 2 3 --out out/loop

Walks the chain with the commands that a user types: bag select -> label (the bag's truth topic stands in for the
annotator) -> dataset check -> train from the shipped weights -> export -> evaluate on held-back frames -> report of
the better one against the shipped model, worst frames first. Every third frame of the bag is held back; picks and the
random choice come from the others. Without --bag the demo's town is driven through.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import cv2
import yaml

from seg_perception.bags.making import FolderDrive, SceneDrive, write_drive
from seg_perception.bags.messages import labels_of, rgb_of, stamp_ns_of
from seg_perception.bags.reader import BagReader
from seg_perception.core.label_set import load_label_mapping
from seg_perception.core.types import Size
from seg_perception.evaluation.files import read_evaluations

HELD_BACK = 3
COMMAND = [sys.executable, "-m", "seg_perception"]


def command(*words: object) -> None:
    """Run a command of the package; its output is shown, and its failure ends everything."""
    print("$ seg-perception", *words, flush=True)
    subprocess.run([*COMMAND, *map(str, words)], check=True)


def frames_of(bag: Path, folder: Path) -> list[str]:
    """Write the bag's images and truth of equal stamps as folders of PNG files; their names in order."""
    images: dict[int, Any] = {}
    names = []
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    with BagReader(bag) as reader:
        for message in reader.messages(("/image", "/truth")):
            decoded = reader.decode(message)
            stamp, kind = stamp_ns_of(decoded), message.topic.type
            if message.topic.name == "/image":
                images[stamp] = rgb_of(decoded, kind)
            elif (image := images.pop(stamp, None)) is not None:
                name = f"{len(names):06d}.png"
                cv2.imwrite(str(folder / "images" / name), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
                cv2.imwrite(str(folder / "labels" / name), labels_of(decoded, kind))
                names.append(name)
    return names


def copy(names: Sequence[str], source: Path, target: Path) -> None:
    for kind in ("images", "labels"):
        (target / kind).mkdir(parents=True, exist_ok=True)
        for name in names:
            (target / kind / name).write_bytes((source / kind / name).read_bytes())


def trained(name: str, data: Path, seed: int, steps: int, out: Path) -> Path:
    """An exported model that went on from the shipped weights with these frames."""
    settings = {
        "name": name,
        "train": [{"kind": "folder", "root": str(data), "mapping": "identity"}],
        "output": str(out / "runs"),
        "network": {"name": "efficientnet_ladder", "start": "driving", "frozen_stages": 2, "freeze_batch_norm": True},
        "augmentation": {"crop": "320x192", "scale": [0.8, 1.3]},
        "optimizer": {"learning_rate": 5.0e-4, "warmup_steps": 5, "ema_decay": 0.9},
        "steps": steps,
        "batch_size": 4,
        "seed": seed,
        "checkpoint_every": steps,
        "license": "as the shipped weights",
    }
    file = out / f"{name}.yaml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    command("train", "--config", file)
    model = out / f"{name}.onnx"
    command("export", "--checkpoint", out / "runs" / name / "last.safetensors", "--out", model, "--model-name", name)
    return model


def scored(model: Path | None, held: Path, out: Path) -> float:
    """Mean IoU on the held-back frames, percent."""
    words = ["--model", model] if model else []
    command("evaluate", *words, "--dataset", "folder", "--root", held, "--mapping", "identity", "--json", out)
    (evaluation,) = read_evaluations(out).evaluations
    return float(evaluation.percentages()["mean_iou"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bag", type=Path, help="with /image and /truth (default: the demo's town)")
    parser.add_argument("--frames", type=int, default=90, help="of the demo's town (default: %(default)s)")
    parser.add_argument("--count", type=int, default=12, help="frames to label (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=60, help="of each training (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--out", type=Path, default=Path("out/loop"))
    arguments = parser.parse_args()
    out: Path = arguments.out
    if out.exists():
        print(f"{out} exists: move it away, or name another folder with --out", file=sys.stderr)
        return 2
    out.mkdir(parents=True)
    bag = arguments.bag
    if bag is None:
        bag = out / "drive.mcap"
        for _ in write_drive(SceneDrive(7, Size(480, 352), fps=15.0, frames=arguments.frames), bag):
            pass
    names = frames_of(bag, out / "all")
    held, pool = names[::HELD_BACK], [name for i, name in enumerate(names) if i % HELD_BACK]
    copy(held, out / "all", out / "held")
    copy(pool, out / "all", out / "pool")
    mapping = load_label_mapping("identity")
    drive = FolderDrive(out / "pool" / "images", out / "pool" / "labels", mapping, fps=15.0)
    for _ in write_drive(drive, out / "pool.mcap"):
        pass
    command("bag", "select", out / "pool.mcap", "--out", out / "picks", "--count", arguments.count)
    with (out / "picks" / "picks.csv").open(encoding="utf-8") as file:
        picked = [pool[int(row["frame"])] for row in csv.DictReader(file)]
    copy(picked, out / "all", out / "labeled")
    command("dataset", "check", "--dataset", "folder", "--root", out / "labeled", "--mapping", "identity")
    before = scored(None, out / "held", out / "before.json")
    rows = []
    best: tuple[float, Path] | None = None
    for seed in arguments.seeds:
        by_chance = out / f"chance{seed}"
        copy(random.Random(seed).sample(pool, len(picked)), out / "all", by_chance)
        models = {
            "picked": trained(f"picked{seed}", out / "labeled", seed, arguments.steps, out),
            "chance": trained(f"by_chance{seed}", by_chance, seed, arguments.steps, out),
        }
        scores = {kind: scored(model, out / "held", out / f"{kind}{seed}.json") for kind, model in models.items()}
        rows.append(scores)
        if best is None or scores["picked"] > best[0]:
            best = scores["picked"], models["picked"]
    assert best is not None
    data = ("--dataset", "folder", "--root", out / "held", "--mapping", "identity")
    command("report", "--a", "model=driving", "--b", f"model={best[1]}", *data, "--out", out / "report.html")
    print(f"\n{len(names)} frames, {len(held)} held back, {len(picked)} labeled, {arguments.steps} steps; mean IoU, %")
    print(f"{'seed':>6}{'before':>9}{'chosen':>9}{'random':>9}{'gain':>8}")
    for seed, row in zip(arguments.seeds, rows, strict=True):
        gain = row["picked"] - row["chance"]
        print(f"{seed:>6}{before:>9.2f}{row['picked']:>9.2f}{row['chance']:>9.2f}{gain:>+8.2f}")
    gains = [row["picked"] - row["chance"] for row in rows]
    print(f"{'mean':>6}{before:>9.2f}{mean(r['picked'] for r in rows):>9.2f}{mean(r['chance'] for r in rows):>9.2f}"
          f"{mean(gains):>+8.2f}")  # fmt: skip
    print(f"report: {out / 'report.html'}")
    (out / "gain.json").write_text(json.dumps({"before": before, "rows": rows}, indent=2), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
