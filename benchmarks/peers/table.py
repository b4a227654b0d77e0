"""The table and the picture of networks: cost beside score, and which of them are on the Pareto front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from seg_perception.core.types import Size

SIZE = Size(480, 352)  # 480x360 cameras, and the multiples of 32 that networks take
THREADS = 2


@dataclass(frozen=True, slots=True)
class Score:
    """Percent; None: the set has no class of that name."""

    mean_iou: float
    road: float | None


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured.

    Attributes:
        size: of the image: 480x352, or the nearest that fits the network.
        parameters, flop: of the deployed part; a multiplication and an addition are two.
        ms: median of one image, bytes to labels.
        fastest_ms: least of one image: what a machine without other work would come near.
        ratio: median of its time over the default network's in the same turn.
        cpu_ms, cpu_ratio: the same in CPU time with one thread, which other work on the machine hardly changes.
        source: a peer's paper; None: one of ours.
        scores: by dataset.
    """

    name: str
    size: str
    parameters: int
    flop: int
    ms: float
    fastest_ms: float
    ratio: float
    cpu_ms: float
    cpu_ratio: float
    source: str | None = None
    scores: Mapping[str, Score] = field(default_factory=dict)


def common_sets(rows: Sequence[Row]) -> list[str]:
    """Datasets that every scored network has."""
    scored = [row.scores for row in rows if row.scores]
    return [name for name in scored[0] if all(name in scores for scores in scored)] if scored else []


def judged_points(rows: Sequence[Row]) -> dict[str, tuple[float, float]]:
    """Network -> (milliseconds, mean IoU over the common sets), of those with scores."""
    sets = common_sets(rows)
    scored = [row for row in rows if row.scores] if sets else []
    return {row.name: (row.ms, float(np.mean([row.scores[name].mean_iou for name in sets]))) for row in scored}


def pareto_front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """The names of (cost, gain) that no other beats in one and equals in the other, cheapest first."""
    front = [
        name
        for name, (cost, gain) in points.items()
        if not any(c <= cost and g >= gain and (c, g) != (cost, gain) for c, g in points.values())
    ]
    return sorted(front, key=lambda name: points[name])


def table(rows: Sequence[Row], base: str) -> str:
    """Markdown, quickest first."""
    sets = list(dict.fromkeys(name for row in rows for name in row.scores))
    front = set(pareto_front(judged_points(rows)))
    mean = len(common_sets(rows)) > 1
    head = [
        "network",
        "parameters, M",
        "GFLOP",
        "ms",
        f"ms / {base}",
        "CPU ms, one thread",
        "ratio",
        *(f"{name}: mean IoU, road" for name in sets),
    ]
    head += ["mean of common sets"] * mean + ["front"] * bool(front)
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in sorted(rows, key=lambda r: r.ms):
        name = f"[{row.name}]({row.source})" if row.source else f"`{row.name}`"
        name += "" if row.size == str(SIZE) else f" at {row.size}"
        cells = [name, f"{row.parameters / 1e6:.2f}", f"{row.flop / 1e9:.1f}"]
        cells += [f"{row.ms:.1f}", f"{row.ratio:.2f}", f"{row.cpu_ms:.1f}", f"{row.cpu_ratio:.2f}"]
        cells += [_score_cell(row.scores.get(dataset)) for dataset in sets]
        cells += [f"{judged_points(rows)[row.name][1]:.2f}" if row.scores else "-"] * mean
        cells += ["yes" if row.name in front else ""] * bool(front)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _score_cell(score: Score | None) -> str:
    if score is None:
        return "-"
    return f"{score.mean_iou:.2f}, " + ("-" if score.road is None else f"{score.road:.2f}")


def picture(rows: Sequence[Row], engine: str) -> bytes:
    """Mean IoU over time, the front as a line, networks without scores below; GFLOP over time without any."""
    from matplotlib.figure import Figure

    from seg_perception.evaluation.figures import SERIES, png

    points = judged_points(rows)
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    axis = figure.subplots()
    axis.set(xscale="log", xlabel=f"ms for one {SIZE} image, {THREADS} threads, {engine}")
    if points:
        front = [points[name] for name in pareto_front(points)]
        axis.plot(*zip(*front, strict=True), color=SERIES[0], linewidth=1, alpha=0.5)
        floor = min(iou for _, iou in points.values())
        span = max(max(iou for _, iou in points.values()) - floor, 1.0)
        axis.set(ylabel="mean IoU, %")
        axis.set_title(", ".join(common_sets(rows)), fontsize=9, loc="left")
    else:
        axis.set(yscale="log", ylabel="GFLOP")
    unscored = 0
    for row in sorted(rows, key=lambda r: r.ms):
        color = SERIES[1] if row.source else SERIES[0]
        if not points or row.name in points:
            y = points[row.name][1] if points else row.flop / 1e9
            axis.plot(row.ms, y, "o", color=color)
        else:  # in steps, so that names do not lie on each other
            y = floor - span * (0.2 + 0.09 * (unscored % 4))
            unscored += 1
            axis.plot(row.ms, y, "|", color=color, markersize=12)
        axis.annotate(row.name, (row.ms, y), (5, 4), textcoords="offset points", fontsize=8, color=color)
    low, high = (limit(row.ms for row in rows) for limit in (min, max))
    axis.set_xlim(0.8 * low, 1.6 * high)  # room for the last name
    ticks = [t for t in (5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if 0.8 * low <= t <= 1.6 * high]
    axis.set_xticks(ticks, [str(t) for t in ticks])
    if points and unscored:  # below the line, height means nothing
        axis.axhline(floor - 0.08 * span, color="#999999", linestyle="--", linewidth=1)
        axis.text(0.99, floor - 0.1 * span, "time only: no score", va="top", ha="right", fontsize=8, color="#666666",
                  transform=axis.get_yaxis_transform())  # fmt: skip
        axis.set_yticks([tick for tick in axis.get_yticks() if floor - 0.08 * span <= tick <= 100.0])
    if not points:
        axis.set_yticks((2, 5, 10, 20, 50, 100, 200), ("2", "5", "10", "20", "50", "100", "200"))
    axis.minorticks_off()
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(color="#dddddd")
    return png(figure)
