"""Reports about evaluations and training runs: an HTML file that asks the network for nothing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from seg_perception.core.errors import InputError
from seg_perception.core.files import real_path, write_atomically
from seg_perception.datasets.registry import unique_names
from seg_perception.evaluation import Evaluation
from seg_perception.evaluation.files import (
    FILE_NAME,
    PANELS,
    EvaluationFile,
    TrainingRun,
    is_run_folder,
    read_evaluations,
    read_run,
)

if TYPE_CHECKING:
    from markupsafe import Markup


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
        InputError: neither of the three, damaged, or without the pictures that it names.
    """
    if path.is_file():
        return Source(path.stem, path.parent, None, _with_pictures(path))
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such run, evaluation or folder")
    run = read_run(path) if is_run_folder(path) else None
    places = [folder for folder in (path, path / EVALUATION_IN_RUN) if (folder / FILE_NAME).is_file()]
    if run is None and not places:
        raise InputError(
            f"{path}: neither a training run (steps.csv) nor an evaluation ({FILE_NAME}, as 'evaluate --report' writes)"
        )
    evaluated = _with_pictures(places[0] / FILE_NAME) if places else None
    return Source(real_path(path).name, places[0] if places else path, run, evaluated)


def _with_pictures(path: Path) -> EvaluationFile:
    found = read_evaluations(path)
    if missing := [one.file for one in found.examples if not (path.parent / one.file).is_file()]:
        raise InputError(
            f"{path}: {len(missing)} of {len(found.examples)} pictures that it names are not beside it ({missing[0]}): "
            "name the folder that 'evaluate --report' wrote, or a file of 'evaluate --json', which names none"
        )
    return found


def write_report(path: Path, sources: Sequence[Source]) -> None:
    """Write the page, whole or not at all.

    Raises:
        InputError: no sources, or the same dataset was scored with different classes.
        OSError: it cannot be written, or an example's picture is gone.
    """
    if not sources:
        raise InputError("a report needs at least one run or evaluation")
    page = _page({source.label: source for source in with_unique_labels(sources)})
    write_atomically(path, page.encode("utf-8", "backslashreplace"))


def with_unique_labels(sources: Sequence[Source]) -> list[Source]:
    """The sources, with as much of the folder in the labels that repeat as tells them apart: else one would stand for
    all of them, on the page and before a gate.
    """
    labels = unique_names([source.label for source in sources], [real_path(source.folder) for source in sources])
    return [replace(source, label=label) for source, label in zip(sources, labels, strict=True)]


def _page(sources: Mapping[str, Source]) -> str:
    from seg_perception.evaluation.figures import render

    runs = {label: s.run for label, s in sources.items() if s.run is not None}
    kind = "Evaluation" if len(sources) == 1 else "Comparison"
    datasets = _by_dataset(sources)
    return render(
        "report.html.j2",
        title=f"{kind}: {', '.join(sources)}",
        sources=[
            (label, s.evaluated.engine if s.evaluated else "a training run without an evaluation")
            for label, s in sources.items()
        ],
        summary=_summary(datasets),
        training=_training(runs),
        datasets=[_dataset(name, found, sources) for name, found in datasets.items()],
        panel_names=PANELS,
    )


def _by_dataset(sources: Mapping[str, Source]) -> dict[str, dict[str, Evaluation]]:
    """Dataset -> source's label -> evaluation.

    Of one name, but on other images or truth, or with other options: apart, and named after what differs. Else the
    better of two would be the one that was asked less.
    """
    alike: dict[tuple[Any, ...], dict[str, Evaluation]] = {}
    first: dict[str, tuple[str, Evaluation]] = {}
    for label, source in sources.items():
        for evaluation in source.evaluated.evaluations if source.evaluated else ():
            other_label, other = first.setdefault(evaluation.dataset, (label, evaluation))
            if other.label_set.names != evaluation.label_set.names:
                raise InputError(
                    f"{evaluation.dataset}: {other_label} and {label} were scored with different classes "
                    "and cannot be compared"
                )
            truth = tuple(evaluation.counts.confusion.sum(axis=1).tolist())
            key = (evaluation.dataset, len(evaluation.images), truth, evaluation.options)
            alike.setdefault(key, {})[label] = evaluation
    several = Counter(dataset for dataset, *_ in alike)
    found: dict[str, dict[str, Evaluation]] = {}
    for (dataset, images, truth, options), evaluations in alike.items():
        name, number = dataset, 2
        if several[dataset] > 1:
            asked = f"min_confidence {options.min_confidence:g}, band {options.band}"
            name = f"{dataset} ({images} images, {sum(truth)} pixels, {asked})"
        plain = name
        while name in found:
            name, number = f"{plain} ({number})", number + 1
        found[name] = evaluations
    return found


def _summary(datasets: Mapping[str, Mapping[str, Evaluation]]) -> dict[str, Any] | None:
    from seg_perception.evaluation.figures import bold, lines

    rows: list[tuple[Any, ...]] = []
    for dataset, found in datasets.items():
        percentages = {label: e.percentages() for label, e in found.items()}
        best = {key: _best([p[key] for p in percentages.values() if key in p], more) for key, _, more in _METRICS}
        for label, evaluation in found.items():
            name = lines(bold(dataset), label) if len(found) > 1 else bold(dataset)
            values = [percentages[label].get(key) for key, _, _ in _METRICS]
            cells = [
                bold(_number(value)) if len(found) > 1 and value is not None and value == best[key] else _number(value)
                for value, (key, _, _) in zip(values, _METRICS, strict=True)
            ]
            rows.append((name, str(len(evaluation.images)), *cells))
    return {"header": ("dataset", "images", *(title for _, title, _ in _METRICS)), "rows": rows} if rows else None


def _best(values: Sequence[float], more_is_better: bool) -> float | None:
    """The value to mark; None where all are equal."""
    return (max if more_is_better else min)(values) if len(set(values)) > 1 else None


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.2f}"


def _training(runs: Mapping[str, TrainingRun]) -> dict[str, Any] | None:
    if not runs:
        return None
    from seg_perception.evaluation.figures import Plot, training_curves

    flat = {label: dict(_flattened(yaml.safe_load(run.settings) or {})) for label, run in runs.items()}
    keys = list(dict.fromkeys(key for settings in flat.values() for key in settings))
    rows = [(key, *(settings.get(key, "-") for settings in flat.values())) for key in keys]
    return {
        "curves": Plot.of(training_curves(runs), "loss and validation mean IoU by step"),
        "best": _best_validation(runs),
        "several": len(runs) > 1,
        "header": ("setting", *flat),
        "different": [row for row in rows if len(set(row[1:])) > 1],
        "settings": [(label, run.settings) for label, run in runs.items() if run.settings],
    }


def _best_validation(runs: Mapping[str, TrainingRun]) -> dict[str, Any] | None:
    """One column for each run and dataset, one row for each score; None without validation."""
    from seg_perception.evaluation.figures import lines

    header: list[Any] = [""]
    columns = []
    for label, run in runs.items():
        best = run.best_step()
        for dataset, points in run.validation.items():
            for point in (p for p in points if p.step == best):
                header.append(lines(label, dataset, f"step {best}"))
                columns.append({"mean IoU": point.mean_iou, "pixel accuracy": point.pixel_accuracy, **point.iou})
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [(name, *(_number(100 * column.get(name, math.nan)) for column in columns)) for name in names]
    return {"header": header, "rows": rows} if columns else None


def _flattened(values: Any, where: str = "") -> Iterable[tuple[str, str]]:
    if isinstance(values, dict) and values:
        for key, value in values.items():
            yield from _flattened(value, f"{where}.{key}" if where else str(key))
    else:
        yield where, str(values)


def _dataset(name: str, found: Mapping[str, Evaluation], sources: Mapping[str, Source]) -> dict[str, Any]:
    from seg_perception.evaluation.figures import Plot, class_bars, confusion_figure, reliability_figure

    header, rows = _class_table(found)
    return {
        "name": name,
        "bars": Plot.of(class_bars(found), f"IoU of each class on {name}"),
        "header": header,
        "classes": rows,
        "reliability": Plot.of(
            reliability_figure({k: e.calibration for k, e in found.items()}), f"reliability on {name}"
        ),
        "confusions": [
            (label, Plot.of(confusion_figure(e), f"confusion matrix of {label} on {name}"))
            for label, e in found.items()
        ],
        "examples": [
            (label, examples) for label, e in found.items() if (examples := _examples(e.dataset, sources[label]))
        ],
    }


def _class_table(found: Mapping[str, Evaluation]) -> tuple[list[Any], list[tuple[Any, ...]]]:
    """IoU and border IoU of each class; compared with the first source where there are several."""
    from seg_perception.evaluation.figures import lines, swatch

    first = next(iter(found.values()))
    pixels = first.counts.confusion.sum(axis=1)
    header: list[Any] = ["class", "share of the truth, %"]
    for label in found:
        several = len(found) > 1
        header += [lines("IoU", label), lines("border IoU", label)] if several else ["IoU", "border IoU"]
    rows = []
    for index, c in enumerate(first.label_set.classes):
        share = 100 * pixels[index] / max(int(pixels.sum()), 1)
        cells: list[Any] = [swatch(c.color, c.name), f"{share:.3f}" if pixels[index] else "not in the truth"]
        for evaluation in found.values():
            for scores in (evaluation.scores, evaluation.boundary):
                reference = (first.scores if scores is evaluation.scores else first.boundary).iou[index]
                cells.append(_with_difference(scores.iou[index], reference, compare=evaluation is not first))
        rows.append(tuple(cells))
    return header, rows


def _with_difference(value: float, reference: float, compare: bool) -> str | Markup:
    from seg_perception.evaluation.figures import signed

    text = _number(100 * value)
    difference = 100 * (value - reference)
    if not compare or math.isnan(difference) or abs(difference) < 0.005:
        return text
    return signed(text, difference)


def _examples(dataset: str, source: Source) -> list[dict[str, str]]:
    from seg_perception.evaluation.figures import data_uri

    assert source.evaluated is not None
    return [
        {
            "name": e.name,
            "place": e.place,
            "caption": e.caption,
            "uri": data_uri(_inside(source.folder, e.file).read_bytes(), "image/jpeg"),
        }
        for e in source.evaluated.examples
        if e.dataset == dataset
    ]


def _inside(folder: Path, relative: str) -> Path:
    """A file below the folder: an evaluation from elsewhere must not make a report carry other files away."""
    path = real_path(folder / relative)
    if not path.is_relative_to(real_path(folder)):
        raise InputError(f"{relative}: an example's picture must lie below {folder}")
    return path
