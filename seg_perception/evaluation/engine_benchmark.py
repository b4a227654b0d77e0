"""Every engine of this machine on one model, measured side by side: time, CPU, memory, and what it answers.

Runs are interleaved in short blocks, because a shared or throttled machine changes its speed for seconds
at a time: trust the ratios of one run.
"""

from __future__ import annotations

import gc
import hashlib
import io
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seg_perception.core.errors import EngineError, InputError, ModelError
from seg_perception.core.files import real_path
from seg_perception.core.metrics import ConfusionMatrix
from seg_perception.core.resizing import check_multiple
from seg_perception.core.types import Precision, RgbImage, Size
from seg_perception.datasets.base import Dataset
from seg_perception.engines.base import Device, Engine, EngineOptions
from seg_perception.engines.graph.model_file import read_card
from seg_perception.engines.opening import TunedAnswer, engines, open_engine, package_version
from seg_perception.engines.processor import processor_name, usable_cores
from seg_perception.evaluation import demand_same_classes
from seg_perception.segmenter import Segmenter

_REFERENCE = "onnxruntime"
_LEAST_EQUAL = 0.99  # share of labels that a recommended engine must give as the reference does
_LARGEST_LOSS = 0.5  # points of mean IoU, where data is given
_LEAST_SHARE = 0.5  # of the cores' time that an engine computes on a quiet machine
_PAUSE_S = 0.03  # between blocks: threads of some runtimes spin on after a run


@dataclass(frozen=True, slots=True)
class Variant:
    """One thing to measure."""

    model: Path
    engine: str
    size: Size
    threads: int  # of a CPU engine
    batch: int  # of a GPU engine; 1 on the CPU
    precision: Precision | None  # asked of a GPU engine


@dataclass(slots=True)
class Row:
    """What was measured of a variant; times are of one image, medians over all runs."""

    variant: Variant
    precision: str = ""  # what it computes in
    milliseconds: float = float("nan")
    slow_milliseconds: float = float("nan")  # the 95th percentile
    cpu_milliseconds: float = float("nan")
    memory_mib: float = float("nan")  # of the process, by opening and running it; about
    equal_labels: float = float("nan")  # with the first model in ONNX Runtime at the same size, 0 to 1
    mean_iou: float | None = None  # percent, where data was given
    fault: str = ""  # why it was not measured
    times: list[float] = field(default_factory=list, repr=False)
    cpu: list[float] = field(default_factory=list, repr=False)


@dataclass(frozen=True, slots=True)
class EngineBenchmark:
    """A finished benchmark.

    Attributes:
        machine: processor and cores.
        rows: by size, then fastest first; those that did not run last.
        skipped: engine -> why it cannot run here.
        best: the recommended row of the model's own size and batch 1; None where nothing was good enough.
    """

    machine: str
    rows: tuple[Row, ...]
    skipped: dict[str, str]
    best: Row | None

    def table(self) -> str:
        wide = max((len(row.precision) for row in self.rows), default=0) + 2
        head = f"{'engine':<18}{'model':<24}{'in':<{wide}}{'size':<10}{'threads':>7}{'batch':>6}{'ms':>8}{'p95':>8}"
        lines = [self.machine, f"{head}{'CPU ms':>8}{'MiB':>7}{'labels':>10}{'mean IoU':>10}"]
        for row in self.rows:
            v = row.variant
            start = f"{v.engine:<18}{v.model.name[:23]:<24}{row.precision:<{wide}}{v.size!s:<10}"
            start += f"{v.threads or '-':>7}{v.batch:>6}"
            if row.fault:
                lines.append(f"{start}  not measured: {row.fault}")
                continue
            iou = "" if row.mean_iou is None else f"{row.mean_iou:.2f}"
            lines.append(
                f"{start}{row.milliseconds:>8.1f}{row.slow_milliseconds:>8.1f}{row.cpu_milliseconds:>8.1f}"
                f"{row.memory_mib:>7.0f}{row.equal_labels:>10.3%}{iou:>10}{'  <- best' if row is self.best else ''}"
            )
        reasons = dict.fromkeys(self.skipped.values())
        lines += [
            f"not here: {', '.join(e for e, r in self.skipped.items() if r == reason)}: {reason}" for reason in reasons
        ]
        if self.busy:
            lines.append("other work kept the processor busy: trust the order, not the milliseconds, and measure again")
        return "\n".join(lines)

    @property
    def busy(self) -> bool:
        """Whether the CPU's runs waited as long as they computed, so that something else had the cores."""
        shares = [r.cpu_milliseconds / r.milliseconds / r.variant.threads for r in self.rows if r.variant.threads]
        return bool(shares) and float(np.nanmedian(shares)) < _LEAST_SHARE

    def parameters(self) -> str:
        """The lines for the node's parameter file; says so where nothing is better than the reference."""
        if self.best is None:
            return "nothing measured is to be recommended"
        v = self.best.variant
        threads = f"\n    threads: {v.threads}" if v.threads else ""
        return f"    model: {real_path(v.model)}\n    engine: {v.engine}{threads}"

    def answer(self) -> TunedAnswer | None:
        """What `engine: auto` may take on this machine.

        None where the best is not the first model on the CPU, or the machine was too busy to say.
        """
        reference = _reference_of(self.rows, self.best)
        if self.busy or self.best is None or reference is None or self.best.variant.model != reference.variant.model:
            return None
        v = self.best.variant
        if engines()[v.engine].device is not Device.CPU:
            return None  # a GPU is taken anyhow
        return TunedAnswer(
            model_sha256=hashlib.sha256(v.model.read_bytes()).hexdigest(),
            processor=processor_name(),
            cores=usable_cores(),
            engine=v.engine,
            version=package_version(v.engine),
            threads=v.threads,
            milliseconds=self.best.milliseconds,
            onnxruntime_milliseconds=reference.milliseconds,
            equal_labels=self.best.equal_labels,
            date=time.strftime("%Y-%m-%dT%H:%M:%S"),
        )

    def document(self) -> dict[str, Any]:
        """For JSON."""
        rows = [
            {
                "model": str(r.variant.model), "engine": r.variant.engine, "precision": r.precision,
                "size": str(r.variant.size), "threads": r.variant.threads, "batch": r.variant.batch,
                "ms": r.milliseconds, "p95_ms": r.slow_milliseconds, "cpu_ms": r.cpu_milliseconds,
                "memory_mib": r.memory_mib, "equal_labels": r.equal_labels, "mean_iou": r.mean_iou, "fault": r.fault,
                "best": r is self.best,
            }
            for r in self.rows
        ]  # fmt: skip
        for row in rows:
            row.update({k: None for k, v in row.items() if isinstance(v, float) and not np.isfinite(v)})
        return {"machine": self.machine, "skipped": self.skipped, "rows": rows}


def variants(
    models: Sequence[Path], names: Sequence[str], sizes: Sequence[Size], threads: Sequence[int], batches: Sequence[int]
) -> tuple[list[Variant], dict[str, str]]:
    """All that can be measured here, and why other engines cannot.

    Raises:
        EngineError: an unknown engine.
        FileNotFoundError, ModelError: see `load_model`.
    """
    unknown = [name for name in names if name not in engines()]
    if unknown:
        raise EngineError(f"engine {unknown[0]!r} is not known; accepted: {', '.join(engines())}")
    reasons = {spec.name: spec.why_not() for spec in engines().values() if not names or spec.name in names}
    found: list[Variant] = []
    for model in models:
        card = read_card(model)
        for size in sizes or (card.input_size,):
            for name in (name for name, reason in reasons.items() if reason is None):
                if engines()[name].device is Device.CPU:
                    found += [Variant(model, name, size, count, 1, None) for count in threads]
                    continue
                wishes = (Precision.FP16, Precision.FP32) if card.precision is Precision.FP32 else (card.precision,)
                found += [Variant(model, name, size, 0, batch, wish) for wish in wishes for batch in batches]
    return found, {name: reason for name, reason in reasons.items() if reason is not None}


def run_benchmark(
    models: Sequence[Path],
    images: Sequence[RgbImage],
    names: Sequence[str] = (),
    sizes: Sequence[Size] = (),
    threads: Sequence[int] = (),
    batches: Sequence[int] = (1,),
    seconds: float = 2.0,
    dataset: Dataset | None = None,
    progress: Callable[[str], object] = lambda _: None,
) -> EngineBenchmark:
    """Measure.

    Args:
        models: ONNX files of one network, in several precisions; the first is the reference, fp32 best.
        images: uint8 [H, W, 3] RGB of typical scenes, for the times and the labels.
        names: engines; none: every one that runs here.
        sizes: network sizes; none: each model card's.
        threads: of CPU engines; none: all cores this process may use.
        batches: of GPU engines.
        seconds: of running, for each variant.
        dataset: labeled data for the mean IoU; None leaves it out.
        progress: is told what is measured next.

    Raises:
        InputError: no image, models of different classes, or a size that does not fit one of them.
        DatasetError: the dataset has other classes than the models.
        EngineError, FileNotFoundError, ModelError: see `variants`.
    """
    if not images or not models:
        raise InputError("a benchmark needs a model and at least one image")
    cards = [read_card(model) for model in models]
    for card in cards:
        if card.label_set.names != cards[0].label_set.names:
            raise InputError(f"{card.id} has other classes than {cards[0].id}: they are not one network")
        for size in sizes:
            check_multiple(size, card.size_multiple, card.id)
    if dataset is not None:
        demand_same_classes(dataset, cards[0].label_set)
    todo, skipped = variants(models, names, sizes, threads or (usable_cores(),), batches)
    rows = [Row(variant) for variant in todo]
    for size in dict.fromkeys(variant.size for variant in todo):
        here = [row for row in rows if row.variant.size == size]
        progress(f"{size}: the reference")
        pictures, expected = _reference_answers(models[0], size, images)
        for row in here:
            if not row.fault:
                _answer(row, pictures, expected, dataset, progress)
        _time([row for row in here if not row.fault], pictures, seconds, progress)
    for row in rows:
        if row.times:
            row.milliseconds, row.slow_milliseconds = (float(v) for v in np.percentile(row.times, (50, 95)))
            row.cpu_milliseconds = float(np.median(row.cpu))
    ordered = sorted(rows, key=lambda r: (r.variant.size, bool(r.fault), r.milliseconds))
    machine = f"{processor_name()}, {usable_cores()} cores"
    return EngineBenchmark(machine, tuple(ordered), skipped, best_row(ordered, models[0], sizes))


def _open(variant: Variant) -> Engine:
    options = EngineOptions(
        threads=variant.threads, precision=variant.precision, batch=variant.batch, size=variant.size
    )
    return open_engine(variant.model, variant.engine, options=options)


def _reference_answers(
    model: Path, size: Size, images: Sequence[RgbImage]
) -> tuple[list[RgbImage], list[NDArray[np.uint8]]]:
    """The images at the network's size, and their labels.

    Raises:
        InputError: the size does not fit the model.
    """
    with open_engine(model, _REFERENCE) as engine:
        segmenter = Segmenter(engine, size)
        pictures = [segmenter.prepare(image).pixels for image in images]
        return pictures, [engine.infer(picture[np.newaxis])[0][0] for picture in pictures]


def _answer(
    row: Row,
    pictures: Sequence[RgbImage],
    expected: Sequence[NDArray[np.uint8]],
    dataset: Dataset | None,
    progress: Callable[[str], object],
) -> None:
    """What it says, and the memory that it takes; a variant that does not open keeps its reason."""
    progress(f"{row.variant.engine}, {row.variant.model.name}: answers")
    gc.collect()
    before = _resident_mib()
    try:
        with _open(row.variant) as engine:
            answers = [engine.infer(picture[np.newaxis])[0][0] for picture in pictures]
            row.memory_mib = max(0.0, _resident_mib() - before)
            row.precision = engine.info.precision
            row.equal_labels = float(np.mean([np.mean(a == b) for a, b in zip(answers, expected, strict=True)]))
            row.mean_iou = None if dataset is None else mean_iou_of(engine, row.variant.size, dataset)
    except (EngineError, ModelError, InputError) as error:
        row.fault = " ".join(str(error).split())


def mean_iou_of(engine: Engine, size: Size, dataset: Dataset) -> float:
    segmenter = Segmenter(engine, size)
    confusion = ConfusionMatrix(len(dataset.label_set))
    for index in range(len(dataset)):
        sample = dataset.load(index)
        confusion.add(sample.labels, segmenter.segment(sample.image).labels)
    return confusion.scores().mean_iou * 100


def _time(rows: Sequence[Row], pictures: Sequence[RgbImage], seconds: float, progress: Callable[[str], object]) -> None:
    """Blocks of a tenth of the time, one engine after the other, ten times."""
    with ExitStack() as stack:
        opened = [(row, stack.enter_context(_open(row.variant))) for row in rows]
        batches = {
            row.variant.batch: np.stack([pictures[i % len(pictures)] for i in range(row.variant.batch)]) for row in rows
        }
        for turn in range(10):
            for row, engine in opened:
                progress(f"{row.variant.size}: {row.variant.engine}, turn {turn + 1} of 10")
                time.sleep(_PAUSE_S)
                images = batches[row.variant.batch]
                engine.infer(images)  # wakes its threads, fills the caches
                runs, began, cpu = 0, time.perf_counter(), time.process_time()
                while runs == 0 or time.perf_counter() - began < seconds / 10:
                    started = time.perf_counter()
                    engine.infer(images)
                    row.times.append((time.perf_counter() - started) * 1e3 / row.variant.batch)
                    runs += 1
                row.cpu.append((time.process_time() - cpu) * 1e3 / runs / row.variant.batch)


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096 / (1 << 20)


def _reference_of(rows: Sequence[Row], best: Row | None) -> Row | None:
    """The reference's fastest row of the best one's size."""
    if best is None:
        return None
    same = [r for r in rows if r.variant.engine == _REFERENCE and r.variant.size == best.variant.size and not r.fault]
    return min(same, key=lambda r: (rows[0].variant.model != r.variant.model, r.milliseconds), default=None)


def best_row(rows: Sequence[Row], model: Path, sizes: Sequence[Size]) -> Row | None:
    """The fastest at the first size and batch 1 whose answers are as good as the reference's."""
    size = sizes[0] if sizes else read_card(model).input_size
    there = [r for r in rows if r.variant.size == size and r.variant.batch == 1 and not r.fault]
    reference = next((r for r in there if r.variant.engine == _REFERENCE and r.variant.model == model), None)

    def is_good(row: Row) -> bool:
        if row.mean_iou is not None and reference is not None and reference.mean_iou is not None:
            return row.mean_iou >= reference.mean_iou - _LARGEST_LOSS
        return row.equal_labels >= _LEAST_EQUAL

    return min((r for r in there if is_good(r)), key=lambda r: r.milliseconds, default=None)


def draw(benchmark: EngineBenchmark) -> bytes:
    """A PNG: milliseconds of every variant at the best one's size, its labels beside it.

    Raises:
        ModuleNotFoundError: Matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    rows = [r for r in benchmark.rows if not r.fault]
    figure = Figure(figsize=(9, 1.4 + 0.42 * len(rows)), layout="constrained")
    axis = figure.add_subplot()
    names = [
        f"{r.variant.engine}, {r.precision}, {r.variant.size}"
        + (f", {r.variant.threads} thr." if r.variant.threads else f", batch {r.variant.batch}")
        + (f"\n{r.variant.model.name}" if len({x.variant.model for x in rows}) > 1 else "")
        for r in rows
    ]
    colors = ["#2563a8" if r is benchmark.best else "#9db4cf" for r in rows]
    places = range(len(rows))
    axis.barh(places, [r.milliseconds for r in rows], color=colors, height=0.7)
    longest = max(r.milliseconds for r in rows)
    for place, row in zip(places, rows, strict=True):
        iou = "" if row.mean_iou is None else f", mean IoU {row.mean_iou:.1f}"
        text = f"{row.milliseconds:.1f} ms, CPU {row.cpu_milliseconds:.1f}, {row.equal_labels:.2%} equal{iou}"
        axis.text(row.milliseconds + longest * 0.01, place, text, va="center", fontsize=8, color="#333333")
    axis.set_yticks(places, names, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(0, longest * 1.6)
    axis.set_xlabel("milliseconds an image (median)")
    axis.set_title(benchmark.machine, fontsize=9, loc="left")
    axis.spines[["top", "right"]].set_visible(False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=130)
    return picture.getvalue()
