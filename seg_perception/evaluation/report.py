"""One HTML file about evaluations and training runs, alone or side by side. It asks the network for nothing."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from seg_perception.core.errors import InputError
from seg_perception.core.files import write_atomically
from seg_perception.evaluation.evaluator import Evaluation
from seg_perception.evaluation.files import FILE_NAME, EvaluationFile, read_evaluations
from seg_perception.evaluation.pictures import PANELS
from seg_perception.evaluation.report_style import STYLE
from seg_perception.evaluation.run_folder import TrainingRun, is_run_folder, read_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EVALUATION_IN_RUN = "evaluation"
"""Where a report looks for an evaluation inside a run's folder."""

_METRICS = (
    # key of Evaluation.percentages(), title, whether more is better
    ("mean_iou", "mean IoU", True),
    ("frequency_weighted_iou", "weighted IoU", True),
    ("pixel_accuracy", "pixel accuracy", True),
    ("boundary_mean_iou", "border IoU", True),
    ("drivable_f1", "drivable F1", True),
    ("drivable_max_f", "drivable MaxF", True),
    ("false_drivable", "false drivable", False),
    ("confident_wrong_drivable", "confident and wrong", False),
    ("calibration_error", "ECE", False),
)


_PANEL_NAMES = '<div class="panels">' + "".join(f"<span>{name}</span>" for name in PANELS) + "</div>"


@dataclass(frozen=True, slots=True)
class Source:
    """One thing a report is about: a training run, an evaluation, or both.

    Attributes:
        label: its short name in tables and legends.
        folder: that the examples' files are relative to.
    """

    label: str
    folder: Path
    run: TrainingRun | None
    evaluated: EvaluationFile | None


def read_source(path: Path) -> Source:
    """Read a run's folder, a folder that `evaluate --report` wrote, or a file that `evaluate --json` wrote.

    Raises:
        FileNotFoundError: nothing there.
        InputError: neither of the three, or damaged.
    """
    if path.is_file():
        return Source(path.stem, path.parent, None, read_evaluations(path))
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such run, evaluation or folder")
    run = read_run(path) if is_run_folder(path) else None
    places = [folder for folder in (path, path / EVALUATION_IN_RUN) if (folder / FILE_NAME).is_file()]
    if run is None and not places:
        raise InputError(
            f"{path}: neither a training run (steps.csv) nor an evaluation ({FILE_NAME}, as 'evaluate --report' writes)"
        )
    evaluated = read_evaluations(places[0] / FILE_NAME) if places else None
    return Source(path.resolve().name, places[0] if places else path, run, evaluated)


def write_report(path: Path, sources: Sequence[Source]) -> None:
    """Write the page, whole or not at all.

    Raises:
        InputError: no sources, or the same dataset was scored with different classes.
        OSError: it cannot be written, or an example's picture is gone.
    """
    if not sources:
        raise InputError("a report needs at least one run or evaluation")
    named = _with_unique_labels(sources)
    write_atomically(path, _page(named).encode())


def _with_unique_labels(sources: Sequence[Source]) -> dict[str, Source]:
    named: dict[str, Source] = {}
    for source in sources:
        label, number = source.label, 2
        while label in named:
            label, number = f"{source.label} ({number})", number + 1
        named[label] = source
    return named


def _page(sources: Mapping[str, Source]) -> str:
    runs = {label: s.run for label, s in sources.items() if s.run is not None}
    title = "Evaluation" if len(sources) == 1 else "Comparison"
    title += f": {', '.join(sources)}"
    parts = [_sources_table(sources)]
    datasets = _by_dataset(sources)
    if datasets:
        parts.append(_summary(datasets))
    if runs:
        parts.append(_training_section(runs))
    parts += [_dataset_section(name, found, sources) for name, found in datasets.items()]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><h1>{escape(title)}</h1>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _by_dataset(sources: Mapping[str, Source]) -> dict[str, dict[str, Evaluation]]:
    """Dataset -> source's label -> evaluation."""
    found: dict[str, dict[str, Evaluation]] = {}
    for label, source in sources.items():
        for evaluation in source.evaluated.evaluations if source.evaluated else ():
            others = found.setdefault(evaluation.dataset, {})
            for other_label, other in others.items():
                if other.label_set.names != evaluation.label_set.names:
                    raise InputError(
                        f"{evaluation.dataset}: {other_label} and {label} were scored with different classes "
                        "and cannot be compared"
                    )
            others[label] = evaluation
    return found


def _sources_table(sources: Mapping[str, Source]) -> str:
    rows = []
    for label, source in sources.items():
        about = source.evaluated.engine if source.evaluated else "a training run without an evaluation"
        rows.append((label, about))
    return _table(("", "model and what ran it"), rows)


def _summary(datasets: Mapping[str, Mapping[str, Evaluation]]) -> str:
    note = (
        'Percent. "Border IoU": mean IoU within a few pixels of class borders. "False drivable": of what is not '
        'drivable, the share the mask calls drivable; "confident and wrong": the part of it with a confidence of '
        "90 % or more."
    )
    parts = ["<h2>Scores</h2>", f'<p class="note">{note}</p>']
    header = ("dataset", "images", *(title for _, title, _ in _METRICS))
    rows: list[tuple[str, ...]] = []
    for dataset, found in datasets.items():
        percentages = {label: e.percentages() for label, e in found.items()}
        best = {key: _best([p[key] for p in percentages.values() if key in p], more) for key, _, more in _METRICS}
        for label, evaluation in found.items():
            name = f"<b>{escape(dataset)}</b>" + (f"<br>{escape(label)}" if len(found) > 1 else "")
            cells = [_number(percentages[label].get(key), best[key], len(found) > 1) for key, _, _ in _METRICS]
            rows.append((name, str(len(evaluation.images)), *cells))
    return "\n".join(parts) + _table(header, rows, escaped=True, numbers=True)


def _best(values: Sequence[float], more_is_better: bool) -> float | None:
    """The value to mark; None where all are equal."""
    return (max if more_is_better else min)(values) if len(set(values)) > 1 else None


def _number(value: float | None, best: float | None, mark: bool) -> str:
    if value is None or math.isnan(value):
        return "-"
    return f"<b>{value:.2f}</b>" if mark and value == best else f"{value:.2f}"


def _training_section(runs: Mapping[str, TrainingRun]) -> str:
    from seg_perception.evaluation.figures import training_curves

    parts = ["<h2>Training</h2>", _picture(training_curves(runs), "loss and validation mean IoU by step")]
    best = _best_validation(runs)
    if best:
        parts += ["<h3>Validation at the best step, percent</h3>", best]
    if len(runs) > 1:
        parts += ["<h3>Settings that differ</h3>", _settings_difference(runs)]
    for label, run in runs.items():
        if run.settings:
            summary = f"<summary>Settings of {escape(label)}</summary>"
            parts.append(f"<details>{summary}<pre>{escape(run.settings)}</pre></details>")
    return "\n".join(parts)


def _best_validation(runs: Mapping[str, TrainingRun]) -> str:
    """One column for each run and dataset, one row for each score; empty without validation."""
    header, columns = [""], []
    for label, run in runs.items():
        best = run.best_step()
        for dataset, points in run.validation.items():
            for point in (p for p in points if p.step == best):
                header.append(f"{escape(label)}<br>{escape(dataset)}<br>step {best}")
                columns.append({"mean IoU": point.mean_iou, "pixel accuracy": point.pixel_accuracy, **point.iou})
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [
        (escape(name), *(_number(100 * column.get(name, math.nan), None, mark=False) for column in columns))
        for name in names
    ]
    return _table(header, rows, escaped=True, numbers=True) if columns else ""


def _settings_difference(runs: Mapping[str, TrainingRun]) -> str:
    flat = {label: dict(_flattened(yaml.safe_load(run.settings) or {})) for label, run in runs.items()}
    keys = list(dict.fromkeys(key for settings in flat.values() for key in settings))
    rows = [(key, *(settings.get(key, "-") for settings in flat.values())) for key in keys]
    different = [row for row in rows if len(set(row[1:])) > 1]
    return _table(("setting", *flat), different) if different else "<p>None.</p>"


def _flattened(values: Any, where: str = "") -> Iterable[tuple[str, str]]:
    if isinstance(values, dict) and values:
        for key, value in values.items():
            yield from _flattened(value, f"{where}.{key}" if where else str(key))
    else:
        yield where, str(values)


def _dataset_section(name: str, found: Mapping[str, Evaluation], sources: Mapping[str, Source]) -> str:
    from seg_perception.evaluation.figures import class_bars, confusion_figure, reliability_figure

    parts = [
        f"<h2>{escape(name)}</h2>",
        _picture(class_bars(found), f"IoU of each class on {name}"),
        _class_table(found),
        "<h3>Is the confidence to be trusted?</h3>",
        _picture(reliability_figure({k: e.calibration for k, e in found.items()}), f"reliability on {name}"),
        "<h3>What is taken for what</h3>",
        '<p class="note">Each row: where the pixels of a true class went, in percent.</p>',
    ]
    for label, evaluation in found.items():
        if len(found) > 1:
            parts.append(f"<h4>{escape(label)}</h4>")
        parts.append(_picture(confusion_figure(evaluation), f"confusion matrix of {label} on {name}"))
    for label in found:
        parts += _examples(name, label, sources[label])
    return "<section>" + "\n".join(parts) + "</section>"


def _class_table(found: Mapping[str, Evaluation]) -> str:
    """IoU and border IoU of each class; compared with the first source where there are several."""
    first = next(iter(found.values()))
    pixels = first.counts.confusion.sum(axis=1)
    header = ["class", "share of the truth, %"]
    for label in found:
        mark = f"<br>{escape(label)}" if len(found) > 1 else ""
        header += [f"IoU{mark}", f"border IoU{mark}"]
    rows = []
    for index, c in enumerate(first.label_set.classes):
        share = 100 * pixels[index] / max(int(pixels.sum()), 1)
        swatch = f'<span class="swatch" style="background:rgb{c.color}"></span>{escape(c.name)}'
        cells = [swatch, f"{share:.3f}" if pixels[index] else "not in the truth"]
        for evaluation in found.values():
            for scores in (evaluation.scores, evaluation.boundary):
                reference = (first.scores if scores is evaluation.scores else first.boundary).iou[index]
                cells.append(_with_difference(scores.iou[index], reference, compare=evaluation is not first))
        rows.append(tuple(cells))
    return _table(header, rows, escaped=True, numbers=True)


def _with_difference(value: float, reference: float, compare: bool) -> str:
    text = _number(100 * value, None, mark=False)
    difference = 100 * (value - reference)
    if not compare or math.isnan(difference) or abs(difference) < 0.005:
        return text
    kind = "up" if difference > 0 else "down"
    return f'{text} <span class="{kind}">{difference:+.2f}</span>'


def _examples(dataset: str, label: str, source: Source) -> list[str]:
    assert source.evaluated is not None
    examples = [e for e in source.evaluated.examples if e.dataset == dataset]
    if not examples:
        return []
    parts = [f"<h3>Best and worst images of {escape(label)}</h3>", _PANEL_NAMES]
    for example in examples:
        picture = _image(_inside(source.folder, example.file).read_bytes(), "image/jpeg", example.name)
        caption = f"<b>{escape(example.place)}</b>: {escape(example.name)}, {escape(example.caption)}"
        parts.append(f"<figure>{picture}<figcaption>{caption}</figcaption></figure>")
    return parts


def _inside(folder: Path, relative: str) -> Path:
    """A file below the folder: an evaluation from elsewhere must not make a report carry other files away."""
    path = (folder / relative).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise InputError(f"{relative}: an example's picture must lie below {folder}")
    return path


def _picture(figure: Figure, alt: str) -> str:
    from seg_perception.evaluation.figures import png

    return f'<p class="plot">{_image(png(figure), "image/png", alt)}</p>'


def _image(content: bytes, kind: str, alt: str) -> str:
    return f'<img alt="{escape(alt)}" src="data:{kind};base64,{base64.b64encode(content).decode()}">'


def _table(header: Iterable[str], rows: Iterable[Sequence[str]], escaped: bool = False, numbers: bool = False) -> str:
    """A table; `escaped` says that the cells are HTML already, `numbers` sets them to the right."""
    keep = str if escaped else escape
    head = "".join(f"<th>{keep(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{keep(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    kind = ' class="numbers"' if numbers else ""
    return f'<div class="scroll"><table{kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
