"""What every network costs beside public ones, and what it scores: which would a car want?

    python benchmarks/networks.py [--networks NAME ...] [--engine onnxruntime] [--out out/networks]
    python benchmarks/networks.py --scores runs/driving reference-0.25=scores.json

Each network of the registry and each peer (benchmarks/peers, rebuilt from its paper) gets random weights,
goes through our export, and runs one 480x352 image at a time on two threads. All take turns, so that a
busy machine slows all alike; the ratio compares with the default network in the same turn. CPU time on
one thread is given as well: on a very busy machine it is the figure to trust.

`--scores` takes run folders (the network is read from the settings; its best step counts) and
NAME=FILE.json of `seg-perception evaluate --json`. Then a network is on the front if none is both as
quick and as good, counting the mean over the sets that all of them were scored on. Writes networks.json,
networks.md and networks.png.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from peers import PEERS
from peers.table import SIZE, THREADS, Row, Score, common_sets, judged_points, pareto_front, picture, table
from torch import nn
from tqdm import tqdm

from seg_perception.core.errors import exit_with
from seg_perception.core.files import DEFAULT_MODEL, write_atomically
from seg_perception.core.label_set import load_label_set
from seg_perception.core.model_card import ModelCard
from seg_perception.core.types import Size
from seg_perception.engines.base import Engine
from seg_perception.engines.graph.model_file import read_card
from seg_perception.engines.opening import open_engine
from seg_perception.evaluation.files import is_run_folder, read_evaluations, read_run
from seg_perception.export.to_onnx import export_onnx
from seg_perception.networks import NetworkReport, build_network, inspect_network, network_names
from seg_perception.networks.base import SegmentationNetwork

Images = NDArray[np.uint8]
CPU_TURNS = 5  # CPU time hardly varies
SETTLE_S = 0.03  # a runtime's threads spin on after a run and would slow the next network's
SQUEEZE = 1.2  # most that another aspect ratio may differ, where a network takes other multiples
VARIANTS: Mapping[str, tuple[Mapping[str, Any], ...]] = {"reference": ({"width": 1.0}, {"width": 0.25})}
"""Options worth a row of their own; a network that is not named has one row, with its defaults."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One row to be: how its network is built for so many classes, and its paper if it is a peer."""

    name: str
    build: Callable[[int], SegmentationNetwork]
    source: str | None = None


def own(name: str, options: Mapping[str, Any]) -> Candidate:
    """Its name is the network's and the values of its options, in the order of their names: reference-0.25."""
    values = (str(options[key]) for key in sorted(options))
    label = "-".join([name, *("".join(c for c in value if c.isalnum() or c == ".") for value in values)])
    return Candidate(label, lambda classes: build_network(name, classes, **options))


def all_candidates() -> dict[str, Candidate]:
    found = [own(name, options) for name in network_names() for options in VARIANTS.get(name, ({},))]
    found += [Candidate(peer.name, peer.build, peer.source) for peer in PEERS]
    return {candidate.name: candidate for candidate in found}


def fitting_size(size: Size, multiple: int) -> Size:
    """The size itself, or the one of nearest area and similar shape whose sides are multiples."""
    if size.width % multiple == 0 and size.height % multiple == 0:
        return size
    sides = range(multiple, 2 * max(size.width, size.height), multiple)
    shape, area = size.width / size.height, size.width * size.height
    alike = [Size(w, h) for w, h in product(sides, sides) if 1 / SQUEEZE <= w / h / shape <= SQUEEZE]
    return min(alike, key=lambda one: abs(one.width * one.height - area))


def spread_weights(network: nn.Module) -> None:
    """Draw convolutions so that signals keep their strength: faint ones are slow (denormal) numbers."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")


def measure(candidates: Sequence[Candidate], base: str, runtime: str, turns: int) -> tuple[list[Row], str]:
    """Rows without scores, and what ran them."""
    label_set = load_label_set("driving")
    random = np.random.default_rng(1)
    reports: dict[str, NetworkReport] = {}
    models: dict[str, tuple[Path, Images]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for candidate in tqdm(candidates, "export", unit="network", disable=None):
            network = candidate.build(len(label_set))
            spread_weights(network)
            size, multiple = fitting_size(SIZE, network.size_multiple), network.size_multiple
            card = ModelCard(candidate.name, "0", candidate.name, label_set, size, multiple, "fp32", "0" * 64)
            path = Path(folder, f"{len(reports)}.onnx")
            export_onnx(network, card, path, batch=1, size=size)
            reports[candidate.name] = inspect_network(network, size)
            models[candidate.name] = (path, random.integers(0, 256, (1, size.height, size.width, 3), np.uint8))
        cpu, _ = take_turns(models, runtime, 1, min(turns, CPU_TURNS), time.process_time)
        wall, info = take_turns(models, runtime, THREADS, turns, time.perf_counter)
    rows = [
        Row(
            c.name,
            str(reports[c.name].size),
            reports[c.name].parameters,
            reports[c.name].flop,
            float(np.median(wall[c.name])),
            float(np.min(wall[c.name])),
            float(np.median(wall[c.name] / wall[base])),
            float(np.median(cpu[c.name])),
            float(np.median(cpu[c.name] / cpu[base])),
            c.source,
        )
        for c in candidates
    ]
    return rows, info


def take_turns(
    models: Mapping[str, tuple[Path, Images]], runtime: str, threads: int, turns: int, clock: Callable[[], float]
) -> tuple[dict[str, NDArray[np.float64]], str]:
    """Milliseconds of each network in each turn, and what ran them.

    The run before the timed one brings code and weights into the caches.
    """
    times: dict[str, list[float]] = {name: [] for name in models}
    with ExitStack() as opened:
        engines: dict[str, Engine] = {}
        for name, (path, _) in models.items():
            engines[name] = open_engine(path, runtime, threads=threads)
            opened.callback(engines[name].close)
        for _ in tqdm(range(turns), f"{threads} thread{'s' * (threads > 1)}", unit="turn", disable=None):
            for name, (_, image) in models.items():
                time.sleep(SETTLE_S)
                engines[name].infer(image)
                began = clock()
                engines[name].infer(image)
                times[name].append((clock() - began) * 1e3)
        info = str(next(iter(engines.values())).info)
    return {name: np.array(values) for name, values in times.items()}, info


def read_scores(arguments: Sequence[str], candidates: dict[str, Candidate]) -> dict[str, dict[str, Score]]:
    """Network -> dataset -> score. A run with options that have no row yet adds one.

    Raises:
        SegPerceptionError, OSError: a file that cannot be read.
        SystemExit: a network that is not known, or two scores for the same set.
    """
    scores: dict[str, dict[str, Score]] = {}
    for argument in arguments:
        name, separator, place = argument.rpartition("=")
        path = Path(place)
        if is_run_folder(path):
            network = _network_of(path)
            name = name or network.name
            candidates.setdefault(network.name, network)
            found = _run_scores(path)
        elif separator:
            found = _file_scores(path)
        else:
            raise SystemExit(f"--scores {argument}: not a run folder; an evaluation is given as NETWORK={argument}")
        if name not in candidates:
            raise SystemExit(f"--scores {argument}: no network {name!r}; known: {', '.join(candidates)}")
        if twice := set(found) & set(scores.get(name, {})):
            raise SystemExit(f"--scores {argument}: {name} has two scores on {', '.join(sorted(twice))}; give one")
        scores.setdefault(name, {}).update(found)
    return scores


def _network_of(run: Path) -> Candidate:
    try:
        settings = yaml.safe_load(read_run(run).settings)["network"]
        return own(settings["name"], settings["options"] or VARIANTS.get(settings["name"], ({},))[0])
    except (TypeError, KeyError, yaml.YAMLError) as error:
        raise SystemExit(f"--scores {run}: its settings do not say which network it trained") from error


def _run_scores(run: Path) -> dict[str, Score]:
    training = read_run(run)
    best = training.best_step()
    if best is None:
        raise SystemExit(f"--scores {run}: this run has not been validated yet")
    at_best = {name: next(p for p in points if p.step == best) for name, points in training.validation.items()}
    return {name: _score(100 * p.mean_iou, {k: 100 * v for k, v in p.iou.items()}) for name, p in at_best.items()}


def _file_scores(path: Path) -> dict[str, Score]:
    percent = {e.dataset: e.percentages() for e in read_evaluations(path).evaluations}
    iou = {d: {k.removeprefix("iou/"): v for k, v in p.items() if k.startswith("iou/")} for d, p in percent.items()}
    return {dataset: _score(percent[dataset]["mean_iou"], iou[dataset]) for dataset in percent}


def _score(mean_iou: float, iou: Mapping[str, float]) -> Score:
    road = next((value for name, value in iou.items() if name.casefold() == "road"), None)
    return Score(mean_iou, None if road is None or math.isnan(road) else road)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", metavar="NAME", help="only these, and the one to compare with")
    parser.add_argument("--base", metavar="NAME", help="compare with it (default: the shipped model's network)")
    parser.add_argument("--scores", nargs="+", default=[], metavar="[NAME=]PATH", help="run folders, NAME=FILE.json")
    parser.add_argument("--engine", default="onnxruntime", help="runtime (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=15, help="timed images of each network (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/networks"))
    arguments = parser.parse_args()
    candidates = all_candidates()
    scores = read_scores(arguments.scores, candidates)
    base = arguments.base or read_card(DEFAULT_MODEL).network
    wanted = [base, *(arguments.networks or candidates)]
    if unknown := [name for name in wanted if name not in candidates]:
        raise SystemExit(f"no network {', '.join(unknown)}; known: {', '.join(candidates)}")
    load = os.getloadavg()[0]
    rows, engine = measure(
        [candidates[name] for name in dict.fromkeys(wanted)], base, arguments.engine, arguments.turns
    )
    rows = [replace(row, scores=scores.get(row.name, {})) for row in rows]
    markdown = table(rows, base)
    print(f"{engine}, {THREADS} threads, load average {load:.1f} before, {os.getloadavg()[0]:.1f} after\n{markdown}")
    document = {
        "engine": engine, "threads": THREADS, "turns": arguments.turns, "load_average_before": load, "base": base,
        "rows": [asdict(row) for row in rows],
        "front": pareto_front(judged_points(rows)), "judged_on": common_sets(rows),
    }  # fmt: skip
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_atomically(arguments.out / "networks.json", json.dumps(document, indent=1).encode())
    write_atomically(arguments.out / "networks.md", (markdown + "\n").encode())
    write_atomically(arguments.out / "networks.png", picture(rows, engine))
    print(f"written: {arguments.out}/networks.json, networks.md and networks.png")
    return 0


if __name__ == "__main__":
    exit_with(main)
