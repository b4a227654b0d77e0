"""Make one HTML page of training runs and evaluations, or of A against B.

Each RUN_OR_EVALUATION is a run's folder (with an evaluation in RUN/evaluation, if there is one), a folder that
`evaluate --report` wrote, or a file that `evaluate --json` wrote.

With --a and --b two models, two engines or two settings are run on the same images: labeled ones (--dataset or
--config), or a bag, video or folder without truth (--source). What --b does not say is as in --a. The page has
the differences of each class with confidence intervals, the worst frames, confusion and calibration, and for a
film its course.

--fail-if METRIC < NUMBER gives exit status 1 where it holds, for every dataset: a gate for regressions. A name that
there is not is refused before the work. Metrics are percents: mean_iou, road_iou, traffic_light_iou, ...,
pixel_accuracy, calibration_error, drivable_iou (with --a and --b) or drivable_f1, ..., agreement, and latency_ms; of A
with a_ before it; B minus A with diff_ before it.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seg_perception.cli._options import add_dataset_arguments, refuse_without, refuse_without_dataset, wanted_datasets

if TYPE_CHECKING:
    from seg_perception.evaluation.gate import Condition

HELP = "write an HTML report of runs and evaluations, or of A against B; a gate for CI"
EXAMPLES = (
    "scores --out report.html",
    "runs/first runs/second",
    "scores --fail-if 'road_iou < 96'",
    "--a model=old.onnx --b model=new.onnx --dataset kitti --root kitti --fail-if 'diff_mean_iou < -0.5'",
    "--a engine=onnxruntime --b engine=openvino_bf16 --source drive.mcap --fail-if 'agreement < 99.5'",
    "--a min_confidence=0.5 --b min_confidence=0.8 --source drive.mp4",
)

_KEYS = ("model", "engine", "size", "threads", "params_file", "min_confidence")


def add_arguments(parser: argparse.ArgumentParser) -> None:
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


def run(arguments: argparse.Namespace) -> int:
    from seg_perception.core.errors import InputError
    from seg_perception.evaluation.gate import Condition, failures

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
    metrics = (_compare if comparing else _report)(arguments, conditions)
    print(f"report: {arguments.out} ({arguments.out.stat().st_size / 1e6:.1f} MB)")
    failed = failures(conditions, metrics)
    for sentence in failed:
        print(f"failed: {sentence}", file=sys.stderr)
    return 1 if failed else 0


def _report(arguments: argparse.Namespace, conditions: Sequence[Condition]) -> Mapping[str, Mapping[str, float]]:
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
