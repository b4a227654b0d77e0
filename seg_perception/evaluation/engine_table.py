"""What a benchmark of engines measured: table, picture, which is best, and what of it `engine: auto` may take."""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from seg_perception.core.errors import InputError
from seg_perception.core.files import real_path
from seg_perception.core.types import Precision, Size
from seg_perception.engines.base import Device
from seg_perception.engines.graph.model_file import read_card
from seg_perception.engines.opening import engines
from seg_perception.engines.processor import usable_cores
from seg_perception.engines.tuned import REFERENCE, Machine, TunedAnswer, package_version

_LEAST_EQUAL = 0.99  # share of labels that a recommended engine must give as the reference does
_LARGEST_LOSS = 0.5  # points of mean IoU, where data is given
_LEAST_SHARE = 0.5  # of the cores' time that an engine computes on a quiet machine


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
    memory_mib: float = float("nan")  # of a process that opens and runs it alone; on a GPU, of the GPU
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
        best: the recommended row of the first size and batch 1; None where nothing was good enough.
        reference: the first model's fastest row in ONNX Runtime of the best one's size; None where there is none.
        size_asked: whether sizes were named, and so belong to what is recommended.
        model_sha256: of the first model's file, before anything was measured.
    """

    machine: str
    rows: tuple[Row, ...]
    skipped: dict[str, str]
    best: Row | None
    reference: Row | None = None
    size_asked: bool = False
    model_sha256: str = ""

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
            memory = "-" if np.isnan(row.memory_mib) else f"{row.memory_mib:.0f}"
            lines.append(
                f"{start}{row.milliseconds:>8.1f}{row.slow_milliseconds:>8.1f}{row.cpu_milliseconds:>8.1f}"
                f"{memory:>7}{row.equal_labels:>10.3%}{iou:>10}{'  <- best' if row is self.best else ''}"
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
        cores = usable_cores()
        shares = [
            r.cpu_milliseconds / r.milliseconds / min(r.variant.threads, cores) for r in self.rows if r.variant.threads
        ]
        return bool(shares) and float(np.nanmedian(shares)) < _LEAST_SHARE

    @property
    def measured(self) -> bool:
        """Whether anything was."""
        return any(not row.fault for row in self.rows)

    def parameters(self) -> str:
        """The lines for the node's parameter file; says so where nothing is good enough."""
        if self.best is None:
            return "nothing measured is to be recommended"
        v = self.best.variant
        path = str(real_path(v.model))
        lines = [f"model: {path if re.fullmatch(r'[/A-Za-z0-9_.+@-]+', path) else json.dumps(path)}"]
        lines.append(f"engine: {v.engine}")
        lines += [f"threads: {v.threads}"] if v.threads else []
        lines += [f"precision: {v.precision}"] if v.precision is not None else []
        lines += [f"network_size: {v.size}"] if self.size_asked else []
        return "\n".join(f"    {line}" for line in lines)

    def why_no_answer(self) -> str:
        """Why `engine: auto` may take nothing of this; "" where it may."""
        if self.best is None or self.reference is None:
            return "nothing measured is to be recommended, or ONNX Runtime is not among it"
        if self.busy:
            return "the machine was busy"
        if self.best.variant.model != self.reference.variant.model:
            return "the best is another file than the first model: name it in the parameters"
        if engines()[self.best.variant.engine].device is not Device.CPU:
            return "the best is a GPU's, which auto takes anyhow"
        names = (self.best.variant.engine, REFERENCE)
        unknown = [name for name in names if not package_version(name)]
        return f"the installed version of {unknown[0]} is not known" if unknown else ""

    def answer(self) -> TunedAnswer | None:
        """What `engine: auto` may take on this machine; None: see `why_no_answer`."""
        if self.why_no_answer() or self.best is None or self.reference is None:
            return None
        v = self.best.variant
        return TunedAnswer(
            model_sha256=self.model_sha256,
            size=str(v.size),
            machine=Machine.here(),
            engine=v.engine,
            version=package_version(v.engine),
            onnxruntime_version=package_version(REFERENCE),
            threads=v.threads,
            milliseconds=self.best.milliseconds,
            onnxruntime_milliseconds=self.reference.milliseconds,
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


def best_row(rows: Sequence[Row], model: Path, sizes: Sequence[Size]) -> tuple[Row | None, Row | None]:
    """The fastest at the first size and batch 1 whose answers are as good as the reference's; and the reference.

    The reference is ONNX Runtime with the first model, with the number of threads that it is fastest with.
    """
    size = sizes[0] if sizes else read_card(model).input_size
    there = [r for r in rows if r.variant.size == size and r.variant.batch == 1 and not r.fault]
    of_reference = [r for r in there if r.variant.engine == REFERENCE and r.variant.model == model]
    reference = min(of_reference, key=lambda r: r.milliseconds, default=None)

    def is_good(row: Row) -> bool:
        if row.mean_iou is not None and reference is not None and reference.mean_iou is not None:
            return row.mean_iou >= reference.mean_iou - _LARGEST_LOSS
        return row.equal_labels >= _LEAST_EQUAL

    return min((r for r in there if is_good(r)), key=lambda r: r.milliseconds, default=None), reference


def draw(benchmark: EngineBenchmark) -> bytes:
    """A PNG: milliseconds of every variant that was measured, its labels beside it.

    Raises:
        InputError: nothing was measured.
        ModuleNotFoundError: Matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    rows = [r for r in benchmark.rows if not r.fault]
    if not rows:
        raise InputError("nothing was measured, so there is nothing to draw")
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
