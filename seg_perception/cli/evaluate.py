"""How good and how fast a model is: `evaluate`, `report`, `benchmark`."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seg_perception.cli._command import (
    Command,
    add_dataset_arguments,
    add_model_arguments,
    dataset_settings,
    load_options,
    refuse_without,
    refuse_without_dataset,
    wanted_datasets,
)

if TYPE_CHECKING:
    from seg_perception.evaluation.gate import Condition


def _add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    add_dataset_arguments(parser, several=True)
    add_model_arguments(parser)
    parser.add_argument("--network-size", dest="input_size", metavar="WxH", help="another name of --input-size")
    parser.add_argument(
        "--min-confidence",
        type=float,
        default=0.5,
        help="threshold of the drivable mask, 0 to 1 (default: the node's, %(default)s)",
    )
    parser.add_argument("--band", type=int, default=3, help="pixels around class borders (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write scores and counts")
    parser.add_argument("--report", type=Path, metavar="DIR", help="write evaluation.json, pictures and report.html")


def _evaluate(arguments: argparse.Namespace) -> int:
    """Score a model on labeled images, run by the very engine that will run it on the car.

    One dataset by options, or several by --config: a file with `data_root` and `datasets`, or the settings of
    a training run, whose validation sets are taken.
    """
    from seg_perception.commands.judging import EVALUATION_REPORT, evaluate
    from seg_perception.evaluation import EvaluationOptions

    evaluate(
        wanted_datasets(arguments),
        **load_options(arguments),
        options=EvaluationOptions(arguments.min_confidence, arguments.band),
        json=arguments.json,
        report=arguments.report,
        progress=True,
        on_remark=lambda remark: print(remark, flush=True),
        on_start=lambda model: print(model.description),
        on_evaluation=lambda evaluation: print(evaluation.table(), flush=True),
    )
    if arguments.report:
        print(f"report: {arguments.report / EVALUATION_REPORT}")
    return 0


_KEYS = ("model", "engine", "size", "threads", "params_file", "min_confidence")


def _add_report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", nargs="*", type=Path, metavar="RUN_OR_EVALUATION")
    keys = f"any of {', '.join(_KEYS)}"
    parser.add_argument("--a", nargs="+", metavar="KEY=VALUE", help=f"one side of a comparison: {keys}")
    parser.add_argument("--b", nargs="+", metavar="KEY=VALUE", help="the other side; the rest is as in --a")
    parser.add_argument("--source", metavar="PATH", help="with --a and --b: a bag, video or folder without truth")
    parser.add_argument("--topic", help="image topic of a bag (default: /image or the only one)")
    parser.add_argument("--limit", type=int, metavar="N", help="with --a and --b: at most so many frames")
    parser.add_argument(
        "--fail-if", action="append", default=[], metavar="CONDITION", help="exit status 1 where it holds"
    )
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="the page (default: %(default)s)")
    add_dataset_arguments(parser, several=True)


def _report(arguments: argparse.Namespace) -> int:
    """Make one HTML page of training runs and evaluations, or of A against B.

    Each RUN_OR_EVALUATION is a run's folder (with an evaluation in RUN/evaluation, if there is one), a folder that
    `evaluate --report` wrote, or a file that `evaluate --json` wrote.

    With --a and --b two models, two engines or two settings are run on the same images: labeled ones (--dataset or
    --config), or a bag, video or folder without truth (--source). What --b does not say is as in --a. The page has
    the differences of each class with confidence intervals, the worst frames, confusion and calibration, and for a
    film its course.

    --fail-if METRIC < NUMBER gives exit status 1 where it holds, for every dataset: a gate for regressions. A name
    that there is not is refused before the work. Metrics are percents: mean_iou, road_iou, traffic_light_iou, ...,
    pixel_accuracy, calibration_error, drivable_iou (with --a and --b) or drivable_f1, ..., agreement, and latency_ms;
    of A with a_ before it; B minus A with diff_ before it.
    """
    from seg_perception.core.errors import InputError
    from seg_perception.evaluation.gate import Condition, judgments

    conditions = [Condition.parse(text) for text in arguments.fail_if]
    comparing = arguments.a is not None or arguments.b is not None
    if comparing == bool(arguments.sources):
        raise InputError("name runs and evaluations to report on, or two sides to compare with --a and --b")
    if comparing and (arguments.a is None or arguments.b is None):
        raise InputError("a comparison has two sides: give both --a and --b")
    if not comparing:
        refuse_without(
            arguments, "--a and --b", {"source": None, "topic": None, "limit": None, "dataset": None, "config": None}
        )
        refuse_without_dataset(arguments)
    metrics = (_compare if comparing else _report_on_runs)(arguments, conditions)
    print(f"report: {arguments.out} ({arguments.out.stat().st_size / 1e6:.1f} MB)")
    failed, passed = judgments(conditions, metrics)
    for sentence in passed:
        print(f"passed, does not hold: {sentence}")
    for sentence in failed:
        print(f"failed: {sentence}", file=sys.stderr)
    return 1 if failed else 0


def _report_on_runs(
    arguments: argparse.Namespace, conditions: Sequence[Condition]
) -> Mapping[str, Mapping[str, float]]:
    """Write the page of runs and evaluations; the metrics of each evaluation."""
    from seg_perception.commands.judging import report
    from seg_perception.core.errors import InputError

    def check(found: Mapping[str, Mapping[str, float]]) -> None:
        if conditions and not found:
            raise InputError(f"--fail-if {conditions[0]}: there are no scores in this report to judge by")
        for metrics in found.values():
            _demand_known(conditions, metrics)

    return report(arguments.sources, arguments.out, on_read=check)


def _demand_known(conditions: Sequence[Condition], metrics: Iterable[str]) -> None:
    for condition in conditions:
        condition.demand_known(metrics)


def _compare(arguments: argparse.Namespace, conditions: Sequence[Condition]) -> Mapping[str, Mapping[str, float]]:
    """Run both sides and write the page; the metrics of each dataset."""
    from tqdm import tqdm

    from seg_perception.commands.judging import compare
    from seg_perception.core.errors import InputError

    labeled = arguments.dataset is not None or arguments.config is not None
    if labeled == (arguments.source is not None):
        raise InputError("compare on labeled images (--dataset or --config), or without truth (--source): name one")
    a = _side(arguments.a)
    b = _side([*arguments.a, *arguments.b])
    with tqdm(unit="frame", disable=None) as bar:

        def start(title: str, frames: int) -> None:
            bar.set_description(title[-40:])
            bar.reset(frames or None)

        found = compare(
            a,
            b,
            datasets=wanted_datasets(arguments) if labeled else None,
            source=arguments.source,
            topic=arguments.topic,
            limit=arguments.limit,
            out=arguments.out,
            on_open=lambda metrics: _demand_known(conditions, metrics),
            on_start=start,
            on_frame=lambda done: bar.update(done - bar.n),
        )
    for comparison in found:
        metrics = {name: value for name, value in comparison.metrics().items() if not math.isnan(value)}
        names = ("agreement", "a_mean_iou", "mean_iou", "diff_mean_iou", "a_drivable_iou", "drivable_iou")
        shown = ", ".join(f"{name} {metrics[name]:.2f}" for name in names if name in metrics)
        print(f"{comparison.title}: {len(comparison.names)} frames; {shown}")
    return {comparison.title: comparison.metrics() for comparison in found}


def _side(texts: Iterable[str]) -> dict[str, Any]:
    """What `seg_perception.load` takes, from KEY=VALUE; later ones win."""
    import difflib
    from dataclasses import replace

    from seg_perception.core.errors import InputError
    from seg_perception.node_parameters import picture_settings

    values: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, n=1)
            hint = f"; did you mean {near[0]}?" if near and equals else ""
            raise InputError(f"{text!r} is not accepted: write KEY=VALUE with one of {', '.join(_KEYS)}{hint}")
        values[key] = value
    params = values.pop("params_file", None)
    drivable = picture_settings(Path(params) if params else None).drivable
    try:
        if "min_confidence" in values:
            drivable = replace(drivable, min_confidence=float(values.pop("min_confidence")))
        threads = int(values.pop("threads", 0))
    except ValueError as error:
        raise InputError(f"threads and min_confidence are numbers: {error}") from error
    return {**values, "threads": threads, "drivable": drivable}


def _add_benchmark_arguments(parser: argparse.ArgumentParser) -> None:

    parser.add_argument("model", nargs="*", type=Path, metavar="MODEL", help="ONNX files (default: the shipped model)")
    parser.add_argument("--engines", nargs="+", default=[], metavar="NAME", help="only these (default: all that run)")
    parser.add_argument(
        "--network-sizes", nargs="+", default=[], metavar="WxH", help="network sizes (default: the model card's)"
    )
    parser.add_argument("--threads", nargs="+", type=int, default=[], metavar="N", help="CPU threads (default: all)")
    parser.add_argument("--batches", nargs="+", type=int, default=[1], metavar="N", help="on a GPU (default: 1)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of running, for each (default: %(default)s)")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="images to run on (default: rendered scenes)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write benchmark.json and benchmark.png")
    parser.add_argument(
        "--store", action="store_true", help="let 'engine: auto' take the best one for this model on this machine"
    )
    add_dataset_arguments(parser)


def _benchmark(arguments: argparse.Namespace) -> int:
    """Measure every engine that runs on this machine, and say which one to give the node.

    For each engine, precision, size and number of threads (batch on a GPU): milliseconds and CPU milliseconds of an
    image, memory, labels equal to the first model's in ONNX Runtime, and mean IoU where a dataset is named. Further
    models are the same network in other precisions, such as an int8 export.
    """
    import json

    from tqdm import tqdm

    from seg_perception.commands.judging import benchmark
    from seg_perception.core.files import make_room_for, write_atomically
    from seg_perception.engines.tuned import store_answer, tuned_file
    from seg_perception.evaluation.engine_table import draw

    refuse_without_dataset(arguments)
    if arguments.out is not None:  # what cannot be written is better known before the work, and a missing Matplotlib
        import matplotlib.figure  # noqa: F401

        for name in ("benchmark.json", "benchmark.png"):
            make_room_for(arguments.out / name)
    if arguments.store:
        make_room_for(tuned_file())
    with tqdm(disable=None, leave=False, bar_format="{desc}") as bar:
        result = benchmark(
            arguments.model or None,
            arguments.pictures,
            arguments.engines,
            arguments.network_sizes,
            arguments.threads,
            arguments.batches,
            arguments.seconds,
            dataset_settings(arguments) if arguments.dataset else None,
            on_step=bar.set_description_str,
        )
    print(result.table())
    print(f"\nfor the node's parameters:\n{result.parameters()}")
    if arguments.out is not None:
        write_atomically(arguments.out / "benchmark.json", json.dumps(result.document(), indent=1).encode())
        print(f"wrote {arguments.out / 'benchmark.json'}")
    if arguments.out is not None and result.measured:
        write_atomically(arguments.out / "benchmark.png", draw(result))
        print(f"wrote {arguments.out / 'benchmark.png'}")
    answer = result.answer()
    if arguments.store and answer is not None:
        print(f"stored in {store_answer(answer)}: engine auto takes {answer}")
    elif arguments.store:
        print(f"nothing stored: {result.why_no_answer()}")
    elif answer is not None and answer.engine != "onnxruntime":
        print("with --store, 'engine: auto' takes it for this model on this machine")
    return 0 if result.measured else 1


COMMANDS = (
    Command(
        "evaluate",
        "score a model on a labeled dataset, with any engine",
        (
            "--dataset folder --root my_data --mapping driving --report scores",
            "--config config/evaluation/held_out.yaml --data-root ../data --engine openvino --json scores.json",
        ),
        _add_evaluate_arguments,
        _evaluate,
    ),
    Command(
        "report",
        "write an HTML report of runs and evaluations, or of A against B; a gate for CI",
        (
            "scores --out report.html",
            "runs/first runs/second",
            "scores --fail-if 'road_iou < 96'",
            "--a model=old.onnx --b model=new.onnx --dataset kitti --root kitti --fail-if 'diff_mean_iou < -0.5'",
            "--a engine=onnxruntime --b engine=openvino_bf16 --source drive.mcap --fail-if 'agreement < 99.5'",
            "--a min_confidence=0.5 --b min_confidence=0.8 --source drive.mp4",
        ),
        _add_report_arguments,
        _report,
    ),
    Command(
        "benchmark",
        "measure every engine of this machine, and say which to take",
        (
            "--threads 1 2 4",
            "driving.onnx driving_int8.onnx --pictures photos --out out/benchmark --store",
            "--dataset camvid --root ../data/camvid11 --every 5",
        ),
        _add_benchmark_arguments,
        _benchmark,
    ),
)
