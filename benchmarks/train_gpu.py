"""Train on a GPU that one has for ten minutes: pack the data here, train there, bring weights and curves back.

    python benchmarks/train_gpu.py pack --data ../shared/data --out out/parts
    python benchmarks/train_gpu.py run --parts out/parts --minutes 6 --out out/gpu [--config driving]

`pack` writes tar files of at most 60 MiB. `run` unpacks them, probes the rate, trains what fits, and writes
weights (copied twice a minute while it trains), curves, scores and a report. It installs nothing: the package's own
folder on PYTHONPATH and PyTorch, OpenCV, safetensors and PyYAML are enough.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seg_perception.training.settings import TrainSettings

PART_BYTES = 60 << 20
GPU_BATCH = 32  # at least: recipes are written for a CPU's 8, which leaves a GPU idle
COPIED = ("*.safetensors", "*.csv", "settings.yaml")


def pack(data: Path, out: Path) -> int:
    """Data files into tar parts, in the order of their names."""
    files = sorted(path for path in data.rglob("*") if path.is_file() and path.suffix in (".jpg", ".png", ".yaml"))
    if not files:
        print(f"{data}: no pictures in it", file=sys.stderr)
        return 2
    out.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(_parts(files), start=1):
        with tarfile.open(out / f"part_{number:02d}.tar", "w") as archive:
            for path in part:
                archive.add(path, path.relative_to(data))
        print(f"part_{number:02d}.tar: {len(part)} files, {sum(p.stat().st_size for p in part) / 1e6:.0f} MB")
    return 0


def _parts(files: Iterable[Path]) -> Iterable[list[Path]]:
    part: list[Path] = []
    size = 0
    for path in files:
        taken = path.stat().st_size + 1024  # a tar header and padding
        if part and size + taken > PART_BYTES:
            yield part
            part, size = [], 0
        part.append(path)
        size += taken
    if part:
        yield part


def run(parts: Path, minutes: float, out: Path, config: str, device: str, most_steps: int | None = None) -> int:
    """Unpack, train for so many minutes, write everything to `out`."""
    import torch

    from seg_perception.commands.training import train
    from seg_perception.core.files import shipped_file
    from seg_perception.core.settings import load_settings
    from seg_perception.training.settings import TrainSettings

    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        for part in sorted(parts.glob("part_*.tar")):
            with tarfile.open(part) as archive:
                archive.extractall(data, filter="data")
        settings = load_settings(TrainSettings, shipped_file("config/train", config, "settings"))
        on_gpu = torch.cuda.is_available() and device != "cpu"
        changes = for_gpu(settings, torch.cuda.is_bf16_supported()) if on_gpu else {}
        for name, value in changes.items():
            print(f"on this GPU {name} {value}, where the recipe has {getattr(settings, name)}")
        runs = Path(folder) / "runs"
        stop = threading.Event()
        copier = threading.Thread(target=_copy_now_and_then, args=(runs / settings.name, out, stop))
        copier.start()
        left = minutes - (time.monotonic() - began) / 60
        try:
            weights = train(
                settings, minutes=left, most_steps=most_steps, data_root=str(data), output=str(runs), device=device,
                **changes,
            )  # fmt: skip
        finally:
            stop.set()
            copier.join()
        print(f"{weights.name} and what else the run wrote: {out}, {(time.monotonic() - began) / 60:.1f} minutes")
        try:
            from seg_perception.evaluation.report import read_source, write_report
        except ImportError as error:
            print(f"no report here ({error}): seg-perception report {out}")
        else:
            write_report(out / "report.html", [read_source(runs / settings.name)])
    return 0


def for_gpu(settings: TrainSettings, bf16: bool) -> dict[str, Any]:
    """What a GPU does otherwise than the recipe says; empty for a recipe that is written for one.

    Args:
        settings: the recipe's.
        bf16: whether this GPU computes in it.
    """
    changes: dict[str, Any] = {}
    if settings.batch_size < GPU_BATCH:
        changes["batch_size"] = GPU_BATCH
    if settings.precision == "fp32" and bf16:
        changes["precision"] = "bf16"
    return changes


def _copy_now_and_then(run_folder: Path, out: Path, stop: threading.Event) -> None:
    last = False
    while not last:
        last = stop.wait(20.0)
        out.mkdir(parents=True, exist_ok=True)
        for pattern in COPIED:
            for path in run_folder.glob(pattern):
                target = out / path.name
                if not target.exists() or target.stat().st_mtime < path.stat().st_mtime:
                    shutil.copy2(path, target.with_suffix(".part"))
                    target.with_suffix(".part").replace(target)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="datasets into parts")
    packing.add_argument("--data", type=Path, required=True)
    packing.add_argument("--out", type=Path, default=Path("out/parts"))
    running = commands.add_parser("run", help="train")
    running.add_argument("--parts", type=Path, default=Path("out/parts"))
    running.add_argument("--minutes", type=float, default=6.0)
    running.add_argument("--out", type=Path, default=Path("out/gpu"))
    running.add_argument("--config", default="driving")
    running.add_argument("--device", default="auto")
    running.add_argument("--most-steps", type=int, help="no more, even if more would fit: for a rehearsal")
    arguments = parser.parse_args()
    if arguments.command == "pack":
        return pack(arguments.data, arguments.out)
    return run(
        arguments.parts, arguments.minutes, arguments.out, arguments.config, arguments.device, arguments.most_steps
    )


if __name__ == "__main__":
    sys.exit(main())
