"""Look after datasets: `check` reads every file and reports all that is wrong, and the class balance.

Its exit status is 0 for a sound dataset, 1 when faults were found or something is hardly what was meant, and 2
when it could not be opened.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from seg_perception.cli._options import add_dataset_arguments, dataset_settings

HELP = "check a dataset: unreadable files, unknown labels, sizes, class balance"
EXAMPLES = (
    "check --dataset folder --root my_data --mapping driving",
    "check --dataset cityscapes --root cityscapes --split val --picture balance.png",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser("check", help="read every file and report faults and class balance")
    add_dataset_arguments(check)
    check.add_argument("--picture", type=Path, metavar="FILE", help="write the class balance as a PNG")
    check.add_argument("--workers", type=int, metavar="N", help="processes (default: one for each core)")
    check.add_argument("--show", type=int, default=10, metavar="N", help="faults shown of each kind (default: 10)")
    actions.add_parser("kinds", help="list the datasets that are known, as a Markdown table")


def run(arguments: argparse.Namespace) -> int:
    if arguments.action == "kinds":
        from seg_perception.datasets.registry import datasets_table

        print(datasets_table())
        return 0
    return _check(arguments)


def _check(arguments: argparse.Namespace) -> int:
    from seg_perception.cli._process import stop_on_signals
    from seg_perception.core.errors import SettingsError
    from seg_perception.core.files import make_room_for, write_atomically
    from seg_perception.datasets.check import check_dataset
    from seg_perception.datasets.pairs import MissingLabelsError
    from seg_perception.datasets.registry import open_dataset

    if arguments.dataset is None:
        raise SettingsError("name the dataset with --dataset, and its folder with --root")
    try:
        dataset = open_dataset(dataset_settings(arguments))
    except MissingLabelsError as error:
        dataset = error.dataset
    if arguments.picture:
        import matplotlib.figure  # noqa: F401  a missing package is said before the work

        make_room_for(arguments.picture)
    with stop_on_signals() as stop:
        result = check_dataset(dataset, arguments.workers, progress=True, stopped=stop.is_set)
    print(result.table())
    if arguments.picture:
        from seg_perception.evaluation.figures import class_balance, png

        write_atomically(arguments.picture, png(class_balance(result)))
        print(f"picture: {arguments.picture}")
    if result.faults:
        print(f"{len(result.faults)} faults\n{result.fault_list(arguments.show)}")
        return 1
    if doubts := result.doubts():
        print("no faults, but is this what you mean?\n" + "\n".join(f"  {doubt}" for doubt in doubts))
        return 1
    print("no faults")
    return 0
