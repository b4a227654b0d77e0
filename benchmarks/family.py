"""The family of models in one table: what each costs, what it scores, and whether NVIDIA's compiler takes it.

    python benchmarks/family.py [--every 3] [--models driving driving_n=runs/driving_n/best.safetensors ...]

Members are the recipes `driving_n`, `driving` and `driving_m`, and `reference` at full width. A member is scored where
its model ships or weights are given as NAME=FILE (safetensors or ONNX); else it has random weights and only its
costs are shown. Milliseconds of one 480x352 image on two threads, in turns with the others, medians. Scores are those
of the model card; with `--every N` they are measured anew, by ONNX Runtime on one image of N of each set of
config/evaluation/held_out.yaml. Writes family.json and family.md.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from seg_perception.core.errors import EngineError, exit_with
from seg_perception.core.files import DEFAULT_MODEL, share_path, shipped_file, write_atomically
from seg_perception.core.label_set import load_label_set
from seg_perception.core.model_card import ModelCard
from seg_perception.core.settings import load_settings
from seg_perception.core.types import Precision, Size
from seg_perception.datasets.registry import open_dataset
from seg_perception.engines.graph.half import to_half
from seg_perception.engines.graph.model_file import load_model, parse_model, read_card
from seg_perception.engines.opening import open_engine
from seg_perception.evaluation import evaluate, load_evaluation_settings
from seg_perception.export.to_onnx import build_onnx
from seg_perception.networks import build_network, inspect_network
from seg_perception.networks.base import SegmentationNetwork
from seg_perception.segmenter import Segmenter
from seg_perception.training.checkpoint import load_network, weights_sha256
from seg_perception.training.settings import TrainSettings

SIZE, THREADS = Size(480, 352), 2
MEMBERS = ("driving_n", "driving", "driving_m", "reference")
ENGINES = ("onnxruntime", "openvino")


@dataclass(frozen=True, slots=True)
class Member:
    """One row.

    Attributes:
        parameters, flop: of the deployed part.
        megabytes: of the shipped file, or of an fp32 export.
        ms: by engine.
        nvidia: megabytes of the fp16 engine that NVIDIA's compiler made, or why there is none.
        scores: dataset -> metric -> percent; empty without trained weights.
    """

    name: str
    network: str
    parameters: int
    flop: int
    megabytes: float
    ms: Mapping[str, float]
    nvidia: str
    scores: Mapping[str, Mapping[str, float]]


def network_of(name: str) -> tuple[str, SegmentationNetwork]:
    """A member's network with random weights, and what it is called."""
    if name == "reference":
        return "reference", build_network("reference", 10, width=1.0)
    settings = load_settings(TrainSettings, shipped_file("config/train", name, "settings")).network
    return settings.name, build_network(settings.name, 10, **settings.options)


def model_of(name: str, given: Path | None, folder: Path) -> tuple[Path, bool]:
    """The member's ONNX file, and whether its weights are trained."""
    shipped = DEFAULT_MODEL.parent / f"{name}.onnx"
    if given is not None and given.suffix == ".onnx":
        return given, True
    if given is None and shipped.is_file():
        return shipped, True
    path = folder / f"{name}.onnx"
    if given is not None:
        network, info = load_network(given)
        card = info.model_card(network, "0", weights_sha256(given))
    else:
        kind, network = network_of(name)
        card = ModelCard(
            name, "0", kind, load_label_set("driving"), SIZE, network.size_multiple, Precision.FP32, "0" * 64
        )
    path.write_bytes(build_onnx(network, card).SerializeToString())
    return path, given is not None


def nvidia_engine(path: Path, name: str) -> str:
    from seg_perception.engines.tensorrt.build import build_engine
    from seg_perception.engines.tensorrt.plan import BuildSettings, make_plan
    from seg_perception.engines.tensorrt.versions import load_library

    try:
        model = load_model(path)
        graph = model.graph if model.card.precision is Precision.FP16 else to_half(model.graph)
        settings = BuildSettings(Precision.FP16, 1)
        built = build_engine(make_plan(parse_model(graph.SerializeToString(), name), settings, load_library(), None))
    except EngineError as error:
        return f"not built: {error}"
    return f"{len(built.content) / 1e6:.1f} MB"


def time_all(models: Mapping[str, Path], turns: int) -> dict[str, dict[str, float]]:
    """Member -> engine -> median milliseconds of an image; engines that are not installed are left out, and said."""
    found: dict[str, dict[str, list[float]]] = {name: {} for name in models}
    image = np.random.default_rng(1).integers(0, 256, (1, SIZE.height, SIZE.width, 3), np.uint8)
    for runtime in ENGINES:
        with ExitStack() as opened:
            try:
                engines = {n: opened.enter_context(open_engine(p, runtime, threads=THREADS)) for n, p in models.items()}
            except EngineError as error:
                print(f"{runtime}: left out: {error}")
                continue
            for _ in range(turns):
                for name, engine in engines.items():
                    engine.infer(image)  # brings code and weights into the caches
                    began = time.perf_counter()
                    engine.infer(image)
                    label = f"{runtime} ({engine.info.precision})" if runtime != ENGINES[0] else runtime
                    found[name].setdefault(label, []).append((time.perf_counter() - began) * 1e3)
    return {name: {e: float(np.median(v)) for e, v in times.items()} for name, times in found.items()}


def scores_of(path: Path, every: int, data_root: Path | None) -> Mapping[str, Mapping[str, float]]:
    if not every:
        return read_card(path).scores
    settings = load_evaluation_settings(share_path("config/evaluation/held_out.yaml"))
    with open_engine(path, "onnxruntime") as engine:
        datasets = [
            open_dataset(replace(one, every=every), data_root or settings.data_root) for one in settings.datasets
        ]
        return {d.name: evaluate(d, Segmenter(engine), progress=True).percentages() for d in datasets}


def tables(members: Sequence[Member]) -> str:
    """Markdown: costs, scores, and the IoU of each class on each set."""
    engines = list(dict.fromkeys(engine for member in members for engine in member.ms))
    sets = list(dict.fromkeys(name.partition(" (")[0] for member in members for name in member.scores))
    heads = ["model", "network", "parameters, M", "GFLOP", "file, MB", *(f"ms, {e}" for e in engines), "NVIDIA fp16"]
    rows = [
        [f"`{m.name}`", f"`{m.network}`", f"{m.parameters / 1e6:.2f}", f"{m.flop / 1e9:.1f}", f"{m.megabytes:.1f}",
         *(f"{m.ms[e]:.1f}" if e in m.ms else "-" for e in engines), m.nvidia]
        for m in members
    ]  # fmt: skip
    parts = [_markdown(heads, rows)]
    scored = [m for m in members if m.scores]
    for name in sets:
        metrics = ["mean_iou", "calibration_error", *(f"iou/{c}" for c in load_label_set("driving").names)]
        rows = [
            [f"`{m.name}`{part and ' (' + part}", *(_percent(scores.get(key)) for key in metrics)]
            for m in scored
            for place, scores in m.scores.items()
            for same, _, part in [place.partition(" (")]
            if same == name
        ]
        heads = ["model", "mean IoU", "ECE", *(key.removeprefix("iou/") for key in metrics[2:])]
        parts.append(f"{name}\n\n{_markdown(heads, rows)}")
    return "\n\n".join(parts)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MEMBERS), metavar="NAME[=FILE]", help="%(default)s")
    parser.add_argument("--every", type=int, default=0, help="score one image of so many; 0: the model card's scores")
    parser.add_argument("--turns", type=int, default=9, help="timed images of each; 0: no times")
    parser.add_argument("--data-root", type=Path, default=os.environ.get("SEG_PERCEPTION_DATA"))
    parser.add_argument("--out", type=Path, default=Path("out/family"))
    arguments = parser.parse_args()
    given = {name: Path(file) if file else None for name, _, file in (m.partition("=") for m in arguments.models)}
    if unknown := [name for name in given if name not in MEMBERS]:
        raise SystemExit(f"no member {', '.join(unknown)}; known: {', '.join(MEMBERS)}")
    load = os.getloadavg()[0]
    members: list[Member] = []
    with tempfile.TemporaryDirectory() as folder:
        models = {name: model_of(name, file, Path(folder)) for name, file in given.items()}
        ms = time_all({name: path for name, (path, _) in models.items()}, arguments.turns) if arguments.turns else {}
        for name, (path, trained) in models.items():
            kind, network = network_of(name)
            report = inspect_network(network, SIZE)
            scores = scores_of(path, arguments.every, arguments.data_root) if trained else {}
            size = path.stat().st_size / 1e6
            built = nvidia_engine(path, name)
            members.append(Member(name, kind, report.parameters, report.flop, size, ms.get(name, {}), built, scores))
    text = tables(members)
    print(f"480x352, {THREADS} threads, load average {load:.1f} before, {os.getloadavg()[0]:.1f} after\n\n{text}")
    document: dict[str, Any] = {"load_average_before": load, "every": arguments.every, "turns": arguments.turns}
    document["members"] = [asdict(member) for member in members]
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_atomically(arguments.out / "family.json", json.dumps(document, indent=1).encode())
    write_atomically(arguments.out / "family.md", (text + "\n").encode())
    return 0


if __name__ == "__main__":
    exit_with(main)
