"""How good models are, and how fast: evaluations, comparisons, their pages, and engines against the clock."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seg_perception.core.errors import InputError, SettingsError
from seg_perception.core.files import make_room_for, model_file
from seg_perception.core.types import Size
from seg_perception.model import Model, load

if TYPE_CHECKING:
    from seg_perception.core.label_set import LabelSet
    from seg_perception.core.types import RgbImage
    from seg_perception.datasets.base import Dataset
    from seg_perception.datasets.registry import DatasetSettings
    from seg_perception.evaluation import Evaluation, EvaluationOptions
    from seg_perception.evaluation.comparison import ComparedFrame, Comparison
    from seg_perception.evaluation.engine_table import EngineBenchmark
    from seg_perception.evaluation.files import EvaluationFile

    AnyDatasets = str | Path | Dataset | DatasetSettings | Iterable[Dataset | DatasetSettings]


EVALUATION_REPORT = "report.html"
"""The page in the folder that `evaluate` writes."""


def evaluate(
    datasets: AnyDatasets,
    model: str | Path | Model | None = None,
    engine: str = "auto",
    size: str | Size | tuple[int, int] | None = None,
    threads: int = 0,
    data_root: str | Path | None = None,
    options: EvaluationOptions | None = None,
    json: str | Path | None = None,
    report: str | Path | None = None,
    progress: bool = False,
    on_remark: Callable[[str], object] = lambda _: None,
    on_start: Callable[[Model], object] = lambda _: None,
    on_evaluation: Callable[[Evaluation], object] = lambda _: None,
) -> EvaluationFile:
    """Score a model on labeled images, run by the very engine that will run it on the car.

    Args:
        datasets: opened datasets or their settings (`DatasetSettings`), one or several; or a YAML file with
            `data_root` and `datasets`, or of a training, whose validation sets are taken.
        model: a model file, or a loaded `Model` (then its engine and size count); None: the shipped one.
        engine: as `load`.
        size: as `load`.
        threads: as `load`.
        data_root: folder that the datasets' roots are relative to; None: the file's, or the working folder.
        options: what is measured beside the labels.
        json: write scores and counts to this file.
        report: write evaluation.json, pictures and report.html to this folder.
        progress: show a bar.
        on_remark: is told of files that are left out, and of labels that are hardly meant so.
        on_start: is called with the opened model.
        on_evaluation: is called after each dataset.

    Returns:
        Scores and counts of each dataset.

    Raises:
        FileNotFoundError, ModelError, EngineError, InputError: see `load`.
        SettingsError, DatasetError: a dataset cannot be opened or read, or has other classes than the model.
        OSError: a result cannot be written.
    """
    from seg_perception.datasets.check import look_at
    from seg_perception.evaluation import demand_same_classes
    from seg_perception.evaluation import evaluate as evaluate_one
    from seg_perception.evaluation.files import FILE_NAME, EvaluationFile, write_evaluations, write_examples

    folder = Path(report) if report is not None else None
    if json is not None:
        make_room_for(Path(json))
    if folder is not None:
        demand_report_packages()
        make_room_for(folder / EVALUATION_REPORT)
    opened_datasets = open_datasets(datasets, data_root)
    for dataset in opened_datasets:
        for remark in look_at(dataset, progress):
            on_remark(remark)
    evaluations, examples = [], []
    with opened_model(model, engine, size, threads) as opened:
        for dataset in opened_datasets:
            demand_same_classes(dataset, opened.card.label_set)
        on_start(opened)
        for dataset in opened_datasets:
            evaluation = evaluate_one(dataset, opened.segmenter, progress, options)
            on_evaluation(evaluation)
            evaluations.append(evaluation)
            if folder is not None:
                examples += write_examples(folder, dataset, opened.segmenter, evaluation)
        temperature = opened.card.run.get("temperature")
        content = EvaluationFile(opened.card.id, opened.identity, tuple(evaluations), tuple(examples), temperature)
    if json is not None:
        write_evaluations(Path(json), replace(content, examples=()))  # their pictures lie beside the report's file
    if folder is not None:
        from seg_perception.evaluation.report import read_source, write_report

        write_evaluations(folder / FILE_NAME, content)
        write_report(folder / EVALUATION_REPORT, [read_source(folder)])
    return content


def compare(
    a: Model | Mapping[str, Any],
    b: Model | Mapping[str, Any],
    datasets: AnyDatasets | None = None,
    source: str | Path | int | None = None,
    topic: str | None = None,
    data_root: str | Path | None = None,
    limit: int | None = None,
    out: str | Path | None = None,
    on_open: Callable[[list[str]], object] = lambda _metrics: None,
    on_start: Callable[[str, int], object] = lambda _title, _frames: None,
    on_frame: Callable[[int], object] = lambda _: None,
) -> list[Comparison]:
    """Compare two models, two engines or two settings on the same images, with or without truth.

    Args:
        a: a loaded `Model`, or what `load` takes: {"model": "old.onnx", "engine": "openvino"}.
        b: the same; what is asked about: differences are B minus A.
        datasets: labeled images, as `evaluate` takes them; None where there is a `source`.
        source: a bag, video or folder without truth, as `Model.stream` takes it; None where there are `datasets`.
        topic: the image topic of a bag.
        data_root: as `evaluate`.
        limit: at most so many frames of each dataset, or of the source.
        out: write a page of it all to this HTML file.
        on_open: is told before the first frame what the comparisons' `metrics()` will have.
        on_start: is called for each dataset, or the source, with its name and number of frames (0: unknown).
        on_frame: is called after each frame with the number done.

    Returns:
        One comparison for each dataset, or one of the source.

    Raises:
        FileNotFoundError, ModelError, EngineError: see `load`.
        InputError: neither or both of datasets and source, a limit below 1, no frames, or different classes.
        SettingsError, DatasetError: a dataset cannot be opened or read, or has other classes than the models.
        OSError: the page cannot be written.
    """
    from itertools import islice

    from seg_perception.evaluation.comparison import Contestant, metric_names
    from seg_perception.evaluation.comparison import compare as compare_frames

    if (datasets is None) == (source is None):
        raise InputError("compare on labeled datasets, or on a bag, video or folder without truth: name one of the two")
    if limit is not None and limit < 1:
        raise InputError(f"limit {limit} is not accepted: at least 1 frame is")
    if out is not None:
        demand_report_packages()
        make_room_for(Path(out))
    with ExitStack() as stack:
        sides = [one if isinstance(one, Model) else stack.enter_context(load(**one)) for one in (a, b)]
        contestants = [
            Contestant(f"{side.identity}; mask: {side.drivable.describe()}", side.segmenter, side.drivable)
            for side in sides
        ]
        classes = sides[0].card.label_set
        compared = list(_compared(datasets, source, topic, data_root, classes))
        on_open(metric_names(classes, has_truth=source is None))
        found = []
        for title, total, frames in compared:
            expected = min(total, limit or total)
            on_start(title, expected)
            some = frames if limit is None else islice(frames, limit)
            found.append(
                compare_frames(title, some, contestants[0], contestants[1], announced=expected, on_frame=on_frame)
            )
    if out is not None:
        from seg_perception.evaluation.comparison_report import write_comparison

        write_comparison(Path(out), found)
    return found


def _compared(
    datasets: AnyDatasets | None,
    source: str | Path | int | None,
    topic: str | None,
    data_root: str | Path | None,
    classes: LabelSet,
) -> Iterator[tuple[str, int, Iterator[ComparedFrame]]]:
    """Name, number of frames (0: unknown) and frames of each dataset, or of the source."""
    from seg_perception.evaluation import demand_same_classes
    from seg_perception.evaluation.comparison import ComparedFrame
    from seg_perception.sources import SourceKind, count_frames, find_source, frames

    if source is not None:
        place = find_source(source)
        if place.kind in (SourceKind.CAMERA, SourceKind.URL):
            raise InputError(f"{place}: a live source cannot be compared on; record it first")
        found = (ComparedFrame(f.name, f.image, None, f.stamp_ns, f.source) for f in frames(place, topic))
        yield place.name, count_frames(place, topic), found
        return
    assert datasets is not None
    for dataset in open_datasets(datasets, data_root):
        demand_same_classes(dataset, classes)
        samples = map(dataset.load, range(len(dataset)))
        yield dataset.name, len(dataset), (ComparedFrame(s.name, s.image, s.labels) for s in samples)


def report(
    sources: Sequence[str | Path],
    out: str | Path = "report.html",
    on_read: Callable[[Mapping[str, Mapping[str, float]]], object] = lambda _metrics: None,
) -> Mapping[str, Mapping[str, float]]:
    """Make one HTML page of training runs and evaluations; `compare` makes one of A against B.

    Args:
        sources: runs' folders, folders that `evaluate` wrote as `report`, or files that it wrote as `json`.
        out: the page.
        on_read: is told what will be returned, before the page is made.

    Returns:
        The metrics of each evaluation, percents: mean_iou, road_iou, ...

    Raises:
        OSError: a source is missing, or the page cannot be written.
        InputError: a source is neither of these.
    """
    from seg_perception.evaluation.gate import gate_metrics
    from seg_perception.evaluation.report import read_source, with_unique_labels, write_report

    demand_report_packages()
    make_room_for(Path(out), *map(Path, sources))
    read = with_unique_labels([read_source(Path(path)) for path in sources])
    metrics = {
        f"{source.label}, {evaluation.dataset}": gate_metrics(evaluation)
        for source in read
        for evaluation in (source.evaluated.evaluations if source.evaluated else ())
    }
    on_read(metrics)
    write_report(Path(out), read)
    return metrics


def benchmark(
    models: str | Path | Sequence[str | Path] | None = None,
    pictures: str | Path | Sequence[RgbImage] | None = None,
    engines: Sequence[str] = (),
    sizes: Sequence[str | Size | tuple[int, int]] = (),
    threads: Sequence[int] = (),
    batches: Sequence[int] = (1,),
    seconds: float = 2.0,
    datasets: AnyDatasets | None = None,
    data_root: str | Path | None = None,
    on_step: Callable[[str], object] = lambda _: None,
) -> EngineBenchmark:
    """Measure every engine that runs on this machine; the answer has a table, a picture and the node's parameters.

    Args:
        models: ONNX files of one network in several precisions, the first is the reference; None: the shipped one.
        pictures: a folder of images, or images, uint8 [H, W, 3] RGB; None: rendered scenes.
        engines: names; none: all that run here.
        sizes: of the network's input, "480x352"; none: the model card's.
        threads: of engines on the CPU; none: all cores this process may use.
        batches: of engines on a GPU.
        seconds: of running, for each variant.
        datasets: labeled images for the mean IoU, of which the first is taken, as `evaluate`; None leaves it out.
        data_root: as `evaluate`.
        on_step: is told what is measured next.

    Raises:
        FileNotFoundError, ModelError, EngineError: a model or engine cannot be opened.
        InputError: no image, or one cannot be read.
        SettingsError, DatasetError: a number out of range, or the dataset cannot be opened.
    """
    from seg_perception.evaluation.engine_benchmark import run_benchmark

    if any(count < 1 for count in (*threads, *batches)) or not 0 < seconds <= 3600:
        raise SettingsError("threads and batches must be at least 1, seconds above 0 and up to 3600")
    several = [models] if models is None or isinstance(models, (str, Path)) else models
    dataset = open_datasets(datasets, data_root)[0] if datasets is not None else None
    images = _benchmark_images(pictures) if pictures is None or isinstance(pictures, (str, Path)) else pictures
    of_network = [Size.parse(size) for size in sizes]
    paths = [model_file(model) for model in several]
    return run_benchmark(paths, images, engines, of_network, threads, batches, seconds, dataset, on_step)


def _benchmark_images(folder: str | Path | None) -> list[RgbImage]:
    """About eight of a folder, spread over it; or rendered ones."""
    if folder is None:
        from seg_perception.scenes import random_scene

        return [random_scene(seed, Size(640, 480)).image for seed in (1, 2, 3, 4)]
    from seg_perception.core.image_file import IMAGE_SUFFIXES, image_files, read_rgb

    paths, _ = image_files(Path(folder).iterdir())
    if not paths:
        raise InputError(f"{folder} holds no image ({', '.join(IMAGE_SUFFIXES)})")
    return [read_rgb(path) for path in paths[:: max(1, len(paths) // 8)]]


@contextmanager
def opened_model(
    model: str | Path | Model | None, engine: str, size: str | Size | tuple[int, int] | None, threads: int
) -> Iterator[Model]:
    """The model as it was given, or opened and closed again."""
    if isinstance(model, Model):
        yield model
        return
    with load(model, engine, size, threads) as opened:
        yield opened


def demand_report_packages() -> None:
    """A package that the page needs is better missed before the work than after it."""
    for name in ("jinja2", "matplotlib.figure"):
        importlib.import_module(name)


def open_datasets(datasets: AnyDatasets, data_root: str | Path | None = None) -> list[Dataset]:
    """Datasets, from whatever names them.

    Args:
        datasets: opened datasets or their settings, one or several; or a YAML file with `data_root` and
            `datasets`, or of a training, whose validation sets are taken; or the name of a shipped one.
        data_root: folder that the datasets' roots are relative to; None takes the file's, or the working folder.

    Raises:
        FileNotFoundError: no such file.
        SettingsError: a wrong value.
        DatasetError: folders or files are missing.
    """
    from seg_perception.datasets import registry
    from seg_perception.evaluation import load_evaluation_settings

    if isinstance(datasets, (str, Path)):
        settings = load_evaluation_settings(datasets)
        root = Path(data_root) if data_root is not None else settings.data_root
        return registry.open_datasets(settings.datasets, root)
    single = isinstance(datasets, registry.DatasetSettings) or hasattr(datasets, "load")
    several: list[Any] = [datasets] if single else list(datasets)  # type: ignore[arg-type]
    if not several:
        raise SettingsError("no dataset: at least one is needed")
    named = [one for one in several if isinstance(one, registry.DatasetSettings)]
    opened = iter(registry.open_datasets(named, Path(data_root or "")))
    found = [next(opened) if isinstance(one, registry.DatasetSettings) else one for one in several]
    if repeated := [name for name, count in Counter(one.name for one in found).items() if count > 1]:
        raise SettingsError(f"two datasets are called {repeated[0]!r}: give each a name of its own (dataset.name)")
    return found
