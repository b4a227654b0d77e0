"""Score a model on labeled images, run by the very engine that will run it on the car.

One dataset by options, or several by --config: a file with `data_root` and `datasets`, or the settings of
a training run, whose validation sets are taken.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from seg_perception.cli._datasets import add_dataset_arguments, wanted_datasets
from seg_perception.cli._opening import add_model_arguments, open_segmenter

HELP = "score a model on a labeled dataset, with any engine"

REPORT_NAME = "report.html"


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
    from seg_perception.core.files import make_room_for
    from seg_perception.evaluation import EvaluationOptions, evaluate
    from seg_perception.evaluation.files import FILE_NAME, EvaluationFile, write_evaluations
    from seg_perception.evaluation.pictures import write_examples

    options = EvaluationOptions(arguments.min_confidence, arguments.band)
    if arguments.json:
        make_room_for(arguments.json)
    if arguments.report:
        make_room_for(arguments.report / REPORT_NAME)
    datasets = wanted_datasets(arguments)
    evaluations, examples = [], []
    with open_segmenter(arguments) as opened:
        print(opened.description)
        for dataset in datasets:
            evaluation = evaluate(dataset, opened.segmenter, progress=True, options=options)
            print(evaluation.table(), flush=True)
            evaluations.append(evaluation)
            if arguments.report:
                examples += write_examples(arguments.report, dataset, opened.segmenter, evaluation)
        model = opened.segmenter.card.id
        content = EvaluationFile(model, opened.identity, tuple(evaluations), tuple(examples))
    if arguments.json:
        write_evaluations(arguments.json, content)
    if arguments.report:
        from seg_perception.evaluation.report import read_source, write_report

        write_evaluations(arguments.report / FILE_NAME, content)
        write_report(arguments.report / REPORT_NAME, [read_source(arguments.report)])
        print(f"report: {arguments.report / REPORT_NAME}")
    return 0
