"""How reports look: Matplotlib's figures, drawn without a window, and Jinja2's pages, which load nothing."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from seg_perception.core.label_set import LabelSet
from seg_perception.datasets.check import DatasetCheck
from seg_perception.evaluation import Evaluation
from seg_perception.evaluation.counts import Calibration
from seg_perception.evaluation.files import TrainingRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


SERIES = ("#2563a8", "#d1672b", "#3b8f5a", "#9a4fa3", "#b8423f", "#6b6b6b")
"""Colors of compared models and runs, in order."""

_INK, _FAINT = "#333333", "#dddddd"
_DARK = 0.55  # text on a cell above this is white
_ENOUGH_PIXELS = 100  # a bin with fewer says nothing
_LONGEST_NAME = 24
_FEW_CLASSES = 30  # of more, a figure with a number in each cell is too large to draw and to read; the tables have them


def _figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")  # no pyplot: no global state, no window
    axes = [figure.add_subplot(1, columns, i + 1) for i in range(columns)]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(colors=_INK, labelsize=9)
        axis.set_axisbelow(True)
    return figure, axes


def png(figure: Figure, dpi: int = 110) -> bytes:
    """A figure as PNG."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi, facecolor="white")
    return content.getvalue()


def _plain(text: str) -> str:
    """Text as it is: Matplotlib takes dollars for formulas, hides labels that begin with _, and knows no lone bytes."""
    readable = text.encode("utf-8", "backslashreplace").decode().replace("$", r"\$")
    return f" {readable}" if readable.startswith("_") else readable


def _names(label_set: LabelSet) -> list[str]:
    """Of the classes, so short that they leave room for the figure; the tables have them whole."""
    return [_plain(name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…") for name in label_set.names]


def _colors(label_set: LabelSet) -> list[tuple[float, ...]]:
    return [tuple(channel / 255 for channel in c.color) for c in label_set.classes]


def confusion_figure(evaluation: Evaluation) -> Figure:
    """Where each class's pixels went, each row as shares of the true class."""
    return confusion_of(evaluation.counts.confusion, evaluation.label_set)


def confusion_of(counts: NDArray[np.int64], label_set: LabelSet) -> Figure:
    """The same of counts [truth, answer]."""
    names = _names(label_set)
    truth = counts.sum(axis=1)
    shares = counts / np.maximum(truth, 1)[:, None]
    few = len(names) <= _FEW_CLASSES
    side = 2.2 + (0.46 if few else 0.16) * len(names)
    figure, (axis,) = _figure(side + 1.8, side)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axis.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axis.set_yticks(range(len(names)), [f"{n} ({_count(t)})" for n, t in zip(names, truth, strict=True)])
    axis.set_xlabel("answer")
    axis.set_ylabel("truth (pixels)")
    axis.spines[:].set_visible(False)
    axis.tick_params(labelsize=9 if few else 6)
    for row, column in np.ndindex(*shares.shape):
        share = shares[row, column]
        if truth[row] and share >= 0.0005 and few:
            color = "white" if share > _DARK else _INK
            axis.text(column, row, f"{100 * share:.1f}", ha="center", va="center", fontsize=7.5, color=color)
        elif not truth[row] and column == 0:
            axis.text(-0.4, row, "not in the truth", va="center", fontsize=7.5, color="#888888")
    return figure


def _count(pixels: int) -> str:
    for limit, letter in ((1_000_000_000, "G"), (1_000_000, "M"), (1000, "k")):
        if pixels >= limit:
            return f"{pixels / limit:.3g} {letter}"
    return str(pixels)


def class_bars(evaluations: Mapping[str, Evaluation]) -> Figure:
    """Per-class IoU of one or several models on one dataset; the key names each."""
    first = next(iter(evaluations.values()))
    names = _names(first.label_set)
    few = len(names) <= _FEW_CLASSES
    figure, (axis,) = _figure(8.6 if few else 0.16 * len(names) + 1, 3.4)
    width = 0.8 / len(evaluations)
    for place, (label, evaluation) in enumerate(evaluations.items()):
        heights = [100 * v for v in evaluation.scores.iou]
        left = np.arange(len(names)) - 0.4 + width * (place + 0.5)
        color = _colors(first.label_set) if len(evaluations) == 1 else SERIES[place % len(SERIES)]
        edge = "#555555" if len(evaluations) == 1 else "none"
        bars = axis.bar(left, heights, width * 0.94, color=color, label=_plain(label), edgecolor=edge, linewidth=0.5)
        if len(evaluations) <= 3 and few:
            texts = ["" if math.isnan(height) else f"{height:.1f}" for height in heights]
            for text in axis.bar_label(bars, texts, fontsize=7.5, padding=2):
                text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.6})
        if len(evaluations) == 1:
            mean = 100 * evaluation.scores.mean_iou
            axis.axhline(mean, color="#888888", linewidth=1, linestyle="--", zorder=0.6)
            axis.text(len(names) - 0.35, mean, f"mean {mean:.1f}", va="center", fontsize=8.5, color=_INK)
    axis.set_xticks(range(len(names)), names, rotation=30 if few else 90, ha="right" if few else "center")
    axis.tick_params(axis="x", labelsize=9 if few else 6)
    axis.set_xlim(-0.6, len(names) - 0.4)
    axis.set_ylim(0, 108)
    axis.set_yticks(range(0, 101, 20))
    axis.set_ylabel("IoU, %")
    axis.grid(axis="y", color=_FAINT)
    if len(evaluations) > 1:
        axis.legend(fontsize=8, frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
    return figure


def reliability_figure(calibrations: Mapping[str, Calibration]) -> Figure:
    """Share of right answers against confidence, of bins with 100 pixels or more, and how many each bin holds."""
    figure, (left, right) = _figure(8.6, 3.6, columns=2)
    left.plot([0, 1], [0, 1], color="#999999", linestyle="--", linewidth=1)
    for place, (label, calibration) in enumerate(calibrations.items()):
        filled = [b for b in calibration.bins if b.pixels >= _ENOUGH_PIXELS]
        color = SERIES[place % len(SERIES)]
        left.plot(
            [b.confidence for b in filled],
            [b.accuracy for b in filled],
            color=color,
            marker="o",
            markersize=4,
            label=_plain(f"{label}: {_ece(calibration)}"),
        )
        total = max(sum(b.pixels for b in calibration.bins), 1)
        edges = [b.low for b in calibration.bins] + [calibration.bins[-1].high]
        right.stairs([100 * b.pixels / total for b in calibration.bins], edges, color=color, linewidth=1.5)
    left.text(0.03, 0.9, "answers better than it claims", fontsize=8, color="#888888")
    left.text(0.97, 0.04, "claims more than it knows", fontsize=8, color="#888888", ha="right")
    left.set(xlabel="confidence", ylabel="share of right answers", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    left.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(-0.02, 1.15))
    right.set(xlabel="confidence", ylabel="share of the pixels, %", xlim=(0, 1))
    right.set_yscale("log")
    for axis in (left, right):
        axis.grid(color=_FAINT)
    return figure


def _ece(calibration: Calibration) -> str:
    error = calibration.expected_error
    return "no confidence" if math.isnan(error) else f"ECE {100 * error:.2f} %"


def training_curves(runs: Mapping[str, TrainingRun]) -> Figure:
    """Loss by step, and validation mean IoU by step for each dataset."""
    figure, (left, right) = _figure(8.6, 3.4, columns=2)
    for place, (label, run) in enumerate(runs.items()):
        color = SERIES[place % len(SERIES)]
        left.plot(run.steps, run.loss, color=color, linewidth=0.5, alpha=0.25)
        left.plot(run.steps, _smoothed(run.loss), color=color, linewidth=1.5, label=_plain(label))
        for style, (dataset, points) in zip(_styles(), run.validation.items(), strict=False):
            marker = "o" if len(points) < 30 else None
            right.plot(
                [p.step for p in points],
                [100 * p.mean_iou for p in points],
                style,
                color=color if len(runs) > 1 else None,
                marker=marker,
                markersize=3.5,
                label=_plain(dataset if len(runs) == 1 else f"{label}: {dataset}"),
            )
    left.set(xlabel="step", ylabel="training loss")
    right.set(xlabel="step", ylabel="validation mean IoU, %")
    for axis in (left, right):
        axis.grid(color=_FAINT)
        if axis.get_legend_handles_labels()[1]:
            axis.legend(fontsize=7.5, frameon=False)
    return figure


def _styles() -> Sequence[str]:
    return ("-", "--", ":", "-.") * 4


def _smoothed(values: Sequence[float]) -> list[float]:
    """A running mean over 3 % of the steps, so that noise does not hide the course."""
    window = max(1, round(len(values) * 0.03))
    sums = np.cumsum([0.0, *values])
    return [float((sums[i + 1] - sums[max(0, i + 1 - window)]) / min(window, i + 1)) for i in range(len(values))]


def class_balance(check: DatasetCheck) -> Figure:
    """Each class's share of the labeled pixels (log scale), and of the images that hold it."""
    names = _names(check.label_set)
    colors = _colors(check.label_set)
    places = np.arange(len(names))
    figure, (left, right) = _figure(8.6, 1.2 + 0.3 * len(names), columns=2)
    shares = [100 * float(s) for s in check.shares()]
    occurs = [100 * int(check.images[c.id]) / max(check.samples, 1) for c in check.label_set.classes]
    halves = ((left, shares, "share of labeled pixels, %"), (right, occurs, "in how many images, %"))
    for axis, values, title in halves:
        bars = axis.barh(places, values, color=colors, edgecolor="#555555", linewidth=0.5)
        axis.bar_label(bars, [f"{v:.3g}" for v in values], fontsize=8, padding=3)
        axis.set_yticks(places, names)
        axis.invert_yaxis()
        axis.set_xlabel(title)
        axis.grid(axis="x", color=_FAINT)
    left.set_xscale("log")
    left.set_xlim(0.005, 300)
    right.set_xlim(0, 115)
    right.set_yticks(places, [""] * len(names))
    figure.suptitle(_plain(f"{check.name}: {check.samples} images"), fontsize=11, color=_INK)
    return figure


TEMPLATES = Path(__file__).parent / "templates"


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, **content: Any) -> str:
    """One page from a file in templates/."""
    return _environment().get_template(template).render(**content)


def data_uri(content: bytes, kind: str) -> str:
    """Bytes as a URI that carries them, such as "data:image/png;base64,..."."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@dataclass(frozen=True, slots=True)
class Plot:
    """A figure in a page."""

    alt: str
    uri: str

    @classmethod
    def of(cls, figure: Figure, alt: str) -> Plot:
        return cls(alt, data_uri(png(figure), "image/png"))


def bold(text: str) -> Markup:
    return Markup("<b>{}</b>").format(text)


def lines(*texts: str | Markup) -> Markup:
    """Texts one under the other in a cell."""
    return Markup("<br>").join(texts)


def swatch(color: tuple[int, int, int], text: str) -> Markup:
    """A class's color, RGB, before its name."""
    red, green, blue = color
    return Markup('<span class="swatch" style="background:rgb({},{},{})"></span>{}').format(red, green, blue, text)


def signed(text: str, difference: float) -> Markup:
    """A value and how far it is from another, green above and red below."""
    kind = "up" if difference > 0 else "down"
    return Markup('{} <span class="{}">{:+.2f}</span>').format(text, kind, difference)
