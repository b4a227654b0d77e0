"""Labeled images: `dataset` looks after them, `scenes` draws some."""

from __future__ import annotations

import argparse
from pathlib import Path

from seg_perception.cli._command import (
    Command,
    LazyChoices,
    add_dataset_arguments,
    add_export_arguments,
    dataset_settings,
    export_settings,
    stop_on_signals,
)


def _add_dataset_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser("check", help="read every file and report faults and class balance")
    add_dataset_arguments(check)
    check.add_argument("--picture", type=Path, metavar="FILE", help="write the class balance as a PNG")
    check.add_argument("--workers", type=int, metavar="N", help="threads (default: one for each core)")
    check.add_argument("--show", type=int, default=10, metavar="N", help="faults shown of each kind (default: 10)")
    _add_convert_arguments(actions.add_parser("convert", help="bring another tool's annotations into a folder of ours"))
    _add_export_arguments(
        actions.add_parser("export", help="write labels as annotations that CVAT, labelme, COCO take")
    )
    actions.add_parser("kinds", help="list the datasets that are known, as a Markdown table")


def _add_convert_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="SOURCE", help="file or folder that the tool exported")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder, made whole or not at all")
    help_ = "%(choices)s (default: what SOURCE looks like)"
    parser.add_argument(
        "--from",
        dest="format",
        metavar="FORMAT",
        choices=LazyChoices("datasets.convert.conversion:formats", judged_later=True),
        help=help_,
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="the pictures (default: beside the annotations)")
    help_ = "driving, or another label set: its classes by their names (default: the source's own classes)"
    parser.add_argument("--to", default="own", metavar="LABELS", help=help_)
    help_ = "what a class of the source becomes: a class of the target, or ignore; may be given again"
    parser.add_argument("--map", action="append", default=[], metavar="NAME=CLASS", help=help_)
    help_ = "what pixels become that no shape covers (default: ignore, not labeled)"
    parser.add_argument("--unlabeled", default="ignore", metavar="CLASS", help=help_)
    help_ = "leave out pictures that cannot be converted (then the exit status is 1)"
    parser.add_argument("--keep-going", action="store_true", help=help_)


def _add_export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="the pictures")
    parser.add_argument("--labels", type=Path, required=True, metavar="DIR", help="label files of the same names")
    parser.add_argument(
        "--mapping", help="what the label files hold (default: the mapping.yaml beside their folder, else identity)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="PATH", help="a file; for labelme a folder")
    add_export_arguments(parser, "--format", "%(choices)s", required=True)


def _dataset(arguments: argparse.Namespace) -> int:
    """Look after datasets: check them, convert annotations of other tools, give labels to other tools.

    `check` reads every file and reports all that is wrong, and the class balance. Its exit status is 0 for a sound
    dataset, 1 when faults were found or something is hardly what was meant, and 2 when it could not be opened.
    """
    if arguments.action == "kinds":
        from seg_perception.datasets.registry import datasets_table

        print(datasets_table())
        return 0
    return {"check": _check, "convert": _convert, "export": _export}[arguments.action](arguments)


def _convert(arguments: argparse.Namespace) -> int:
    from seg_perception.core.errors import SettingsError
    from seg_perception.datasets.convert.conversion import ConvertSettings, convert

    renamed = {}
    for given in arguments.map:
        name, equals, meant = given.rpartition("=")
        if not equals or not name or not meant:
            raise SettingsError(f"--map {given!r} is not accepted: write NAME=CLASS")
        renamed[name] = meant
    settings = ConvertSettings(
        arguments.format, arguments.images, arguments.to, renamed, arguments.unlabeled, arguments.keep_going
    )
    done = convert(arguments.source, arguments.out, settings, progress=True)
    print(done.table())
    check = f"seg-perception dataset check --dataset folder --root {arguments.out}"
    print(f"next: {check} --mapping {arguments.out / 'mapping.yaml'}")
    return 1 if done.left_out else 0


def _export(arguments: argparse.Namespace) -> int:
    from seg_perception.datasets.convert.exporting import export_labels

    settings = export_settings(arguments)
    report, notes = export_labels(
        arguments.images, arguments.labels, arguments.out, arguments.format, arguments.mapping, settings
    )
    if notes:
        print(notes)
    print(f"{arguments.out}: {report.text(settings)}")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from seg_perception.core.errors import SettingsError
    from seg_perception.core.files import make_room_for, write_atomically
    from seg_perception.datasets.check import check_dataset

    if arguments.dataset is None:
        raise SettingsError("name the dataset with --dataset, and its folder with --root")
    if arguments.picture:
        import matplotlib.figure  # noqa: F401  a missing package is said before the work

        make_room_for(arguments.picture)
    with stop_on_signals() as stop:
        result = check_dataset(dataset_settings(arguments), arguments.workers, progress=True, stopped=stop.is_set)
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


def _add_scenes_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write; must not hold scenes")
    parser.add_argument("--frames", type=int, default=100, metavar="N", help="how many pictures (default: 100)")
    parser.add_argument("--size", default="480x360", metavar="WxH", help="of the pictures (default: 480x360)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="chooses the drive (default: 0)")
    parser.add_argument("--fps", type=float, default=15.0, help="pictures a second of the drive (default: 15)")
    parser.add_argument("--random", action="store_true", help="every picture from another drive, for training")
    parser.add_argument("--png", action="store_true", help="images without compression losses")


def _scenes(arguments: argparse.Namespace) -> int:
    """Draw procedural driving scenes with exact labels into a folder that `train` and `evaluate` read as folder pairs.

    Writes images/NNNNNN.jpg (or .png), labels/NNNNNN.png (8-bit class ids 0 to 9) and contact_sheet.png.
    """
    from seg_perception.scenes.drive import draw_scenes

    shares = draw_scenes(
        arguments.out,
        arguments.frames,
        arguments.size,
        arguments.seed,
        arguments.fps,
        arguments.random,
        arguments.png,
        progress=True,
    )
    for name, share in shares.items():
        print(f"{name:14} {100 * share:6.2f} %")
    drawn = f"{arguments.frames} pictures of {arguments.size} in {arguments.out}"
    print(f"{drawn}; labels are ids of the label set 'driving'")
    return 0


COMMANDS = (
    Command(
        "dataset",
        "check a dataset, convert annotations of CVAT, labelme, COCO, ..., or export labels to them",
        (
            "check --dataset folder --root my_data --mapping identity",
            "check --dataset cityscapes --root cityscapes --split val --picture balance.png",
            "convert annotations.xml --images pictures --out my_data --to driving",
            "export --images pictures --labels out/labels --format cvat --out annotations.xml",
        ),
        _add_dataset_arguments,
        _dataset,
    ),
    Command(
        "scenes",
        "draw procedural driving scenes with exact labels into a folder",
        ("--out scenes --frames 200 --random",),
        _add_scenes_arguments,
        _scenes,
    ),
)
