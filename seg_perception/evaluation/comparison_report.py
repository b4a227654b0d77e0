"""The page of A against B, from `evaluation.comparison`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from seg_perception.core.errors import InputError
from seg_perception.core.files import write_atomically
from seg_perception.core.label_set import LabelSet
from seg_perception.evaluation.comparison import Comparison, ShownFrame, SideRecord, mean_of
from seg_perception.evaluation.figures import Plot, bold, confusion_of, data_uri, reliability_figure, render, swatch
from seg_perception.evaluation.intervals import LEAST_FRAMES, RESAMPLES, Interval


def write_comparison(path: Path, comparisons: Sequence[Comparison]) -> None:
    """Write the page, whole or not at all.

    Raises:
        InputError: no comparison.
        OSError: it cannot be written.
    """
    if not comparisons:
        raise InputError("a report needs at least one comparison")
    first = comparisons[0]
    page = render(
        "comparison.html.j2",
        title=f"A against B: {', '.join(c.title for c in comparisons)}",
        sides=[
            (bold("A"), first.a.description, _median_ms([c.a for c in comparisons])),
            (bold("B"), first.b.description, _median_ms([c.b for c in comparisons])),
        ],
        resamples=RESAMPLES,
        least_frames=LEAST_FRAMES,
        overview=[_overview(number, c) for number, c in enumerate(comparisons, 1)] if first.has_truth else [],
        parts=[_part(comparison) for comparison in comparisons],
    )
    write_atomically(path, page.encode("utf-8", "backslashreplace"))


def _median_ms(sides: Sequence[SideRecord]) -> str:
    return f"{np.median([ms for side in sides for ms in side.milliseconds]):.1f}"


def _overview(number: int, c: Comparison) -> tuple[Any, ...]:
    link = Markup('<a href="#part-{}">{}</a>').format(number, c.title)
    agreement = f"{100 * float(np.mean(c.agreement)):.2f}"
    means = [_percent(float(mean_of(side.iou()))) for side in (c.a, c.b)]
    mean, mask = c.mean_difference(), c.mask_difference()
    return link, str(len(c.names)), agreement, *means, _signed(mean), _range(mean), _signed(mask), _range(mask)


def _part(comparison: Comparison) -> dict[str, Any]:
    c = comparison
    shown = [c.b] if not c.has_truth else [c.a, c.b]
    labels = ["A and B"] if not c.has_truth else ["A", "B"]
    calibrations = {"A": c.a.calibration, "B": c.b.calibration}
    return {
        "title": f"{c.title}: {len(c.names)} frames",
        "truth": c.has_truth,
        "verdict": _verdict(c),
        "classes": _scored(c) if c.has_truth else _agreed(c),
        "track": _track(c) if c.timeline else "",
        "curves": [name for name, _, _, _ in _curves(c)],
        "timeline": [_figure(frame) for frame in c.timeline],
        "gallery": [_figure(frame) for frame in c.gallery],
        "reliability": Plot.of(reliability_figure(calibrations), f"reliability on {c.title}") if c.has_truth else None,
        "confusions": [
            (label, _confusion(side, c.label_set, f"confusion of {label} on {c.title}"))
            for label, side in zip(labels, shown, strict=True)
        ],
    }


@dataclass(frozen=True, slots=True)
class _Figure:
    index: int
    name: str
    caption: str
    uri: str
    panels: tuple[str, ...]


def _figure(shown: ShownFrame) -> _Figure:
    return _Figure(shown.index, shown.name, shown.caption, data_uri(shown.picture, "image/jpeg"), shown.panels)


def _confusion(side: SideRecord, label_set: LabelSet, alt: str) -> Plot:
    return Plot.of(confusion_of(np.sum(side.confusion, axis=0), label_set), alt)


def _verdict(c: Comparison) -> str | Markup:
    same = f"A and B give the same label to {100 * float(np.mean(c.agreement)):.2f} % of the pixels."
    if not c.has_truth:
        return same
    mean, mask = c.mean_difference(), c.mask_difference()
    better = "no sure difference in mean IoU"
    if mean.is_sure:
        better = "B is better in mean IoU" if mean.value > 0 else "B is worse in mean IoU"
    return Markup("{}: {} ({}). Drivable mask, IoU: {} ({}). {}").format(
        bold(better), _signed(mean), _range(mean), _signed(mask), _range(mask), same
    )


def _scored(c: Comparison) -> list[tuple[Any, ...]]:
    differences, a, b = c.class_differences(), c.a.iou(), c.b.iou()
    truth = np.sum(c.a.confusion, axis=0).sum(axis=1)
    rows: list[tuple[Any, ...]] = []
    for one in c.label_set.classes:
        difference = differences[one.name]
        share = f"{100 * truth[one.id] / max(1, truth.sum()):.3f}" if truth[one.id] else "not in the truth"
        cells = (_percent(a[one.id]), _percent(b[one.id]), _signed(difference), _range(difference))
        rows.append((swatch(one.color, one.name), share, *cells))
    mean, mask = c.mean_difference(), c.mask_difference()
    means = [_percent(float(mean_of(side.iou()))) for side in (c.a, c.b)]
    masks = [_percent(side.mask_iou()) for side in (c.a, c.b)]
    rows.append((bold("mean"), "", *means, _signed(mean), _range(mean)))
    rows.append((bold("drivable mask"), "", *masks, _signed(mask), _range(mask)))
    return rows


def _agreed(c: Comparison) -> list[tuple[Any, ...]]:
    of_a = np.sum(c.b.confusion, axis=0).sum(axis=1)
    rows: list[tuple[Any, ...]] = []
    for one in c.label_set.classes:
        agreed = c.class_agreement()[one.name]
        share = f"{100 * of_a[one.id] / max(1, of_a.sum()):.3f}" if of_a[one.id] else "not in A"
        rows.append((swatch(one.color, one.name), share, _percent(agreed.value), _range(agreed, "")))
    rows.append((bold("drivable mask"), "", _percent(c.b.mask_iou()), ""))
    return rows


def _curves(c: Comparison) -> list[tuple[str, list[float], list[float], str]]:
    return [
        ("share of the image that is drivable", c.a.drivable_share, c.b.drivable_share, "%"),
        ("mean confidence", c.a.mean_confidence, c.b.mean_confidence, "%"),
        ("free ahead", c.a.free_ahead, c.b.free_ahead, "%"),
        ("milliseconds a frame", c.a.milliseconds, c.b.milliseconds, "ms"),
    ]


def _track(c: Comparison) -> str:
    """What timeline.js draws, as JSON."""
    curves = []
    for _, a, b, unit in _curves(c):
        scale = 100.0 if unit == "%" else 1.0
        top = 100.0 if unit == "%" else max(1e-9, float(np.percentile([*a, *b], 99)) * 1.1)
        curves.append(
            {"a": [round(scale * v, 2) for v in a], "b": [round(scale * v, 2) for v in b], "top": top, "unit": unit}
        )
    return json.dumps({"frames": len(c.names), "seconds": c.seconds, "curves": curves}, allow_nan=False)


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.2f}"


def _signed(interval: Interval) -> str | Markup:
    if math.isnan(interval.value):
        return "-"
    text = _hundredths(interval.value, "+")
    if not interval.is_sure:
        return text
    return Markup('<span class="sure {}">{}</span>').format("up" if interval.value > 0 else "down", text)


def _range(interval: Interval, sign: str = "+") -> str:
    if math.isnan(interval.value):
        return "-"
    if math.isnan(interval.low):
        return f"fewer than {LEAST_FRAMES} frames"
    return f"{_hundredths(interval.low, sign)} to {_hundredths(interval.high, sign)}"


def _hundredths(value: float, sign: str) -> str:
    """Of a percent; zero has no sign."""
    rounded = round(100 * value, 2)
    return f"{rounded:{sign}.2f}" if rounded else "0.00"
