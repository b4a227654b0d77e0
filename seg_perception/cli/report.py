"""Make one HTML page of a training run or an evaluation, or compare several.

Each argument is a run's folder (with an evaluation in RUN/evaluation, if there is one), a folder that
`evaluate --report` wrote, or a file that `evaluate --json` wrote.
"""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "write an HTML report of runs and evaluations, or compare several"
EXAMPLES = ("scores --out report.html", "runs/first runs/second")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", nargs="+", type=Path, metavar="RUN_OR_EVALUATION")
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="the page (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    from seg_perception.core.files import make_room_for
    from seg_perception.evaluation.report import read_source, write_report

    make_room_for(arguments.out)
    sources = [read_source(path) for path in arguments.sources]
    write_report(arguments.out, sources)
    print(f"report: {arguments.out} ({arguments.out.stat().st_size / 1e6:.1f} MB)")
    return 0
