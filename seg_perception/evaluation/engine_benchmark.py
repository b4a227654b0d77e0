"""Every engine of this machine on one model, measured side by side: time, CPU, memory, and what it answers.

Runs are interleaved in short blocks, because a shared or throttled machine changes its speed for seconds
at a time: trust the ratios of one run.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seg_perception.core.errors import EngineError, InputError, ModelError
from seg_perception.core.metrics import ConfusionMatrix
from seg_perception.core.resizing import check_multiple
from seg_perception.core.types import Precision, RgbImage, Size
from seg_perception.datasets.base import Dataset
from seg_perception.engines.base import MOST_THREADS, Device, Engine, EngineOptions
from seg_perception.engines.graph.model_file import read_card
from seg_perception.engines.opening import engines, open_engine
from seg_perception.engines.processor import processor_name, usable_cores
from seg_perception.engines.tuned import REFERENCE
from seg_perception.evaluation import demand_same_classes
from seg_perception.evaluation.engine_table import EngineBenchmark, Row, Variant, best_row
from seg_perception.segmenter import Segmenter

_PAUSE_S = 0.03  # between blocks: threads of some runtimes spin on after a run


def variants(
    models: Sequence[Path], names: Sequence[str], sizes: Sequence[Size], threads: Sequence[int], batches: Sequence[int]
) -> tuple[list[Variant], dict[str, str]]:
    """All that can be measured here, and why other engines cannot.

    Raises:
        EngineError: an unknown engine, or none that runs here.
        FileNotFoundError, ModelError: see `load_model`.
    """
    unknown = [name for name in names if name not in engines()]
    if unknown:
        raise EngineError(f"engine {unknown[0]!r} is not known; accepted: {', '.join(engines())}")
    reasons = {spec.name: spec.why_not() for spec in engines().values() if not names or spec.name in names}
    missing = {name: reason for name, reason in reasons.items() if reason is not None}
    if len(missing) == len(reasons):
        lines = "; ".join(f"{name}: {reason}" for name, reason in missing.items())
        raise EngineError(f"none of these engines runs here, so nothing can be measured: {lines}")
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
    return list(dict.fromkeys(found)), missing


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
        InputError: no image, models of different classes, too many threads, or a size that does not fit a model.
        DatasetError: the dataset has other classes than the models.
        EngineError, FileNotFoundError, ModelError: see `variants`.
    """
    if not images or not models:
        raise InputError("a benchmark needs a model and at least one image")
    if max(threads, default=0) > MOST_THREADS:
        raise InputError(f"{max(threads)} threads are not accepted: at most {MOST_THREADS} are")
    cards = [read_card(model) for model in models]
    for card in cards:
        if card.label_set.names != cards[0].label_set.names:
            raise InputError(f"{card.id} has other classes than {cards[0].id}: they are not one network")
        for size in sizes:
            check_multiple(size, card.size_multiple, card.id)
    if dataset is not None:
        demand_same_classes(dataset, cards[0].label_set)
    digest = hashlib.sha256(models[0].read_bytes()).hexdigest()
    todo, skipped = variants(models, names, sizes, threads or (usable_cores(),), batches)
    rows = [Row(variant) for variant in todo]
    for size in dict.fromkeys(variant.size for variant in todo):
        here = [row for row in rows if row.variant.size == size]
        progress(f"{size}: the reference")
        pictures, expected = _reference_answers(models[0], size, images)
        for row in here:
            _answer(row, pictures, expected, dataset, progress)
        _weigh([row for row in here if not row.fault], progress)
        _time([row for row in here if not row.fault], pictures, seconds, progress)
    for row in rows:
        if row.times:
            row.milliseconds, row.slow_milliseconds = (float(v) for v in np.percentile(row.times, (50, 95)))
            row.cpu_milliseconds = float(np.median(row.cpu))
    ordered = sorted(rows, key=lambda r: (r.variant.size, bool(r.fault), r.milliseconds))
    machine = f"{processor_name()}, {usable_cores()} cores"
    best, reference = best_row(ordered, models[0], sizes)
    return EngineBenchmark(machine, tuple(ordered), skipped, best, reference, bool(sizes), digest)


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
    with open_engine(model, REFERENCE) as engine:
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
    """What it says, and the memory of a GPU that it takes; a variant that does not open keeps its reason."""
    what = f"{row.variant.engine}, {row.variant.model.name}"
    progress(f"{what}: answers")
    try:
        with _open(row.variant) as engine:
            answers = [engine.infer(picture[np.newaxis])[0][0] for picture in pictures]
            if engines()[row.variant.engine].device is Device.GPU:
                row.memory_mib = float(getattr(engine, "device_memory", lambda: float("nan"))()) / (1 << 20)
            row.precision = engine.info.precision
            row.equal_labels = float(np.mean([np.mean(a == b) for a, b in zip(answers, expected, strict=True)]))
            row.mean_iou = None if dataset is None else mean_iou_of(engine, row.variant.size, dataset, what, progress)
    except (EngineError, ModelError, InputError) as error:
        row.fault = " ".join(str(error).split())


def mean_iou_of(
    engine: Engine, size: Size, dataset: Dataset, what: str = "", progress: Callable[[str], object] = lambda _: None
) -> float:
    """Percent, as `evaluate` has it."""
    segmenter = Segmenter(engine, size)
    confusion = ConfusionMatrix(len(dataset.label_set))
    for index in range(len(dataset)):
        progress(f"{what}: {dataset.name}, image {index + 1} of {len(dataset)}")
        sample = dataset.load(index)
        confusion.add(sample.labels, segmenter.segment(sample.image).labels)
    return confusion.scores().mean_iou * 100


def _weigh(rows: Sequence[Row], progress: Callable[[str], object]) -> None:
    """The memory of each CPU engine with each model: what a fresh process grows by.

    In this one, what an engine before has given back would be taken again, and what it has loaded is there already.
    """
    known: dict[tuple[Path, str], float] = {}
    for row in (row for row in rows if engines()[row.variant.engine].device is Device.CPU):
        key = (row.variant.model, row.variant.engine)
        if key not in known:
            progress(f"{row.variant.engine}, {row.variant.model.name}: memory")
            known[key] = _memory_of(row.variant)
        row.memory_mib = known[key]


def _memory_of(variant: Variant) -> float:
    """MiB; not a number where the process could not say."""
    code = f"from {__name__} import print_memory; import sys; print_memory(*sys.argv[1:])"
    v = (variant.model, variant.engine, variant.threads, variant.size)
    places = os.pathsep.join(os.path.realpath(place) for place in sys.path)
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, v)], env=os.environ | {"PYTHONPATH": places}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    found = re.fullmatch(r"(?s)(?:.*\n)?resident (\d+)\n", done.stdout)
    return float("nan") if found is None else int(found[1]) / (1 << 20)


def print_memory(model: str, engine: str, threads: str, size: str) -> None:
    """In a process of its own: the bytes that it grows by when it opens and runs an engine."""
    wanted = Size.parse(size)
    before = _resident_bytes()
    with open_engine(model, engine, int(threads)) as opened:
        image = np.zeros((1, *opened.card.camera_encoding.array_shape(wanted)), np.uint8)
        for _ in range(2):
            opened.infer(image)
        print(f"resident {_resident_bytes() - before}")


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


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
