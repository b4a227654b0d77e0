"""Score a model on labeled images, run by the very engine that will run it on the car.

One dataset by options, or several by --config: a file with `data_root` and `datasets`, or the settings of
a training run, whose validation sets are taken.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from seg_perception.cli._options import add_dataset_arguments, add_model_arguments, load_options, wanted_datasets

HELP = "score a model on a labeled dataset, with any engine"
EXAMPLES = (
    "--dataset folder --root my_data --mapping driving --report scores",
    "--config config/evaluation/held_out.yaml --data-root ../data --engine openvino --json scores.json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
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


def run(arguments: argparse.Namespace) -> int:
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
