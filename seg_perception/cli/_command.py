"""What commands are made of: how one is declared, the options that several share, and the signals that end it."""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from seg_perception.core.files import DEFAULT_MODEL, model_file, shipped_models
from seg_perception.core.stopping import StopEvent, ending_signals
from seg_perception.engines.opening import AUTO

if TYPE_CHECKING:
    from seg_perception.datasets.base import Dataset
    from seg_perception.datasets.convert.exporting import ShapeSettings
    from seg_perception.datasets.registry import DatasetSettings


MODEL_HELP = f"ONNX file, or a shipped model by name: {', '.join(shipped_models())} (default: the first)"


@dataclass(frozen=True, slots=True)
class Command:
    """A subcommand of `seg-perception`: a module of this folder has one or more as COMMANDS.

    Attributes:
        name: as it is typed.
        help: one line, for the list of commands.
        examples: what may follow the name on the command line.
        add_arguments: tells the parser what it takes.
        run: does it and returns the exit status; its docstring is what --help says. Heavy packages are imported
            inside it, so that `seg-perception --help` is instant.
    """

    name: str
    help: str
    examples: tuple[str, ...]
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


class LazyChoices:
    """Names for argparse, looked for only when they are asked about: --help of other commands stays instant.

    Needs a `metavar` beside it, or argparse asks at once.

    Args:
        names: MODULE:NAME of a function that gives them, or of an enum or table that holds them.
        judged_later: let any name pass; what takes it names those that are known, with other faults.
    """

    def __init__(self, names: str, judged_later: bool = False) -> None:
        self._names, self._judged_later = names, judged_later

    def __iter__(self) -> Iterator[str]:
        module, _, name = self._names.partition(":")
        try:
            found = getattr(importlib.import_module(f"seg_perception.{module}"), name)
        except ModuleNotFoundError as error:  # the command itself says what to install
            return iter((f"known once the package {error.name} is installed",))
        names = found if isinstance(found, Iterable) else found()
        return (name.value if isinstance(name, Enum) else name for name in names)

    def __contains__(self, name: object) -> bool:
        return self._judged_later or name in list(self)


def add_export_arguments(parser: argparse.ArgumentParser, option: str, help_: str, required: bool) -> None:
    """A format for annotators under `option`, and what becomes a shape: for `export_settings`."""
    parser.add_argument(
        option,
        required=required,
        metavar="FORMAT",
        choices=LazyChoices("datasets.convert.exporting:EXPORTS", judged_later=True),
        help=help_,
    )
    help_ = "polygons to drag, or masks of every pixel: %(choices)s (default: %(default)s)"
    parser.add_argument(
        "--shape",
        default="polygon",
        metavar="KIND",
        choices=LazyChoices("datasets.convert.exporting:ShapeKind"),
        help=help_,
    )
    help_ = "pixels that a polygon may be off by (default: %(default)s)"
    parser.add_argument("--tolerance", type=float, default=1.0, metavar="PX", help=help_)
    help_ = "leave out smaller regions (default: %(default)s pixels)"
    parser.add_argument("--least-pixels", type=int, default=20, metavar="N", help=help_)


def export_settings(arguments: argparse.Namespace) -> ShapeSettings:
    """What the options of `add_export_arguments` say of shapes.

    Raises:
        SettingsError: a wrong value.
    """
    from seg_perception.datasets.convert.exporting import ShapeSettings

    return ShapeSettings(arguments.shape, arguments.tolerance, arguments.least_pixels)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --model, --engine, --input-size and --threads, for `load_options`."""
    parser.add_argument("--model", type=model_file, default=DEFAULT_MODEL, metavar="FILE", help=MODEL_HELP)
    add_engine_argument(parser)
    parser.add_argument(
        "--input-size",
        metavar="WxH",
        help="what the network sees (default: the camera's shape, the model's pixel count)",
    )
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of the engine (default: all cores)")


def add_precision_argument(parser: argparse.ArgumentParser, default: str | None, help_: str) -> None:
    """Add --precision, of `core.types.Precision`."""
    parser.add_argument(
        "--precision",
        metavar="NAME",
        default=default,
        choices=LazyChoices("core.types:Precision"),
        help=f"%(choices)s ({help_})",
    )


def add_camera_encoding_argument(parser: argparse.ArgumentParser, help_: str) -> None:
    """Add --camera-encoding, of `core.types.CameraEncoding`."""
    parser.add_argument(
        "--camera-encoding",
        metavar="NAME",
        default="rgb",
        choices=LazyChoices("core.types:CameraEncoding"),
        help=f"of the camera's bytes, which {help_} decodes: %(choices)s (with --camera-size; default: %(default)s)",
    )


def add_engine_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--engine",
        choices=LazyChoices("engines.opening:engine_choices"),
        metavar="NAME",
        default=AUTO,
        help="what runs the model (default: auto): %(choices)s; what auto takes: docs/deploy.md",
    )


def load_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the options of `add_model_arguments` say to `seg_perception.load`."""
    return {
        "model": arguments.model,
        "engine": arguments.engine,
        "size": arguments.input_size,
        "threads": arguments.threads,
    }


def add_params_file_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--params-file",
        type=Path,
        metavar="FILE",
        help="take drivable.* and overlay.* of the node's parameter file, such as config/segmentation.yaml",
    )


def add_dataset_arguments(parser: argparse.ArgumentParser, several: bool = False) -> None:
    """One dataset by options; with `several`, any number by --config as well."""
    parser.add_argument(
        "--dataset",
        "--kind",
        metavar="KIND",
        dest="dataset",
        choices=LazyChoices("datasets.registry:dataset_kinds", judged_later=True),
        help="%(choices)s; folder: your own images and masks",
    )
    parser.add_argument("--root", type=Path, default=Path(), metavar="DIR", help="the dataset's folder")
    parser.add_argument("--split", default="val", help="as the dataset names it (default: %(default)s)")
    parser.add_argument(
        "--images", metavar="PATTERN", help="kind folder: where its images are, for example 'images/**/*'"
    )
    parser.add_argument("--labels", metavar="PATTERN", help="... and their label files, for example 'labels/**/*_ids'")
    parser.add_argument("--mapping", help="label mapping: a shipped name or a YAML file (default: the dataset's own)")
    parser.add_argument("--size", metavar="WxH", help="resize images and truth to this when reading")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take one image of N (default: all)")
    parser.add_argument("--count", type=int, default=500, metavar="N", help="how many scenes (default: %(default)s)")
    if several:
        help_ = "several datasets, instead of --dataset: a YAML file, or the name of a shipped one (held_out)"
        parser.add_argument("--config", metavar="FILE", help=help_)
        parser.add_argument("--data-root", type=Path, help="folder of the datasets in --config (overrides the file's)")


def dataset_settings(arguments: argparse.Namespace) -> DatasetSettings:
    """The dataset that the options of `add_dataset_arguments` name.

    Raises:
        SettingsError, InputError: a wrong value.
    """
    from seg_perception.core.types import Size
    from seg_perception.datasets.registry import DatasetSettings

    return DatasetSettings(
        kind=arguments.dataset,
        root=arguments.root,
        split=arguments.split,
        mapping=arguments.mapping,
        size=Size.parse(arguments.size) if arguments.size else None,
        every=arguments.every,
        count=arguments.count,
        images=arguments.images,
        labels=arguments.labels,
    )


_OF_ONE_DATASET: Final = {
    "root": Path(), "split": "val", "images": None, "labels": None, "mapping": None, "size": None, "every": 1,
    "count": 500,
}  # fmt: skip
"""Options that say something of --dataset, with their defaults."""


def refuse_without_dataset(arguments: argparse.Namespace) -> None:
    """Without --dataset its other options would count for nothing.

    Raises:
        SettingsError: names those that were given.
    """
    if arguments.dataset is None:
        refuse_without(arguments, "--dataset", _OF_ONE_DATASET)


def refuse_without(arguments: argparse.Namespace, option: str, defaults: Mapping[str, object]) -> None:
    """Options that would count for nothing without another one.

    Raises:
        SettingsError: names those that were given.
    """
    from seg_perception.core.errors import SettingsError

    given = [f"--{name}" for name, default in defaults.items() if getattr(arguments, name) != default]
    if given:
        raise SettingsError(f"{', '.join(given)}: of no use without {option}, so nothing would come of it")


def wanted_datasets(arguments: argparse.Namespace) -> list[Dataset]:
    """Open what the options of `add_dataset_arguments(..., several=True)` name.

    Raises:
        SettingsError, InputError: a wrong value.
        DatasetError: folders or files are missing.
    """
    from seg_perception.commands.judging import open_datasets
    from seg_perception.core.errors import SettingsError

    if (arguments.config is None) == (arguments.dataset is None):
        raise SettingsError("name one dataset with --dataset (and --root), or several with --config; not both")
    refuse_without_dataset(arguments)
    if arguments.config is None and arguments.data_root is not None:
        raise SettingsError("--data-root: of no use without --config; the folder of --dataset is --root")
    if arguments.config is None:
        return open_datasets(dataset_settings(arguments))
    return open_datasets(arguments.config, arguments.data_root)


@contextmanager
def stop_on_signals(in_callbacks: bool = False) -> Iterator[threading.Event]:
    """An event that the first SIGINT, SIGTERM or SIGHUP sets; the second interrupts as usual.

    Not a SIGHUP, which shell and kernel send one each.

    Args:
        in_callbacks: the work calls back from a library in which a KeyboardInterrupt must not be raised, such as
            TensorRT's builder: the first signal says that a step must end first, the second ends the process at once.
    """
    stop = StopEvent()

    def request(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            stop.ask()  # and not a word: nobody can read it any more
            return
        if stop.is_set() and in_callbacks:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        elif stop.is_set():
            raise KeyboardInterrupt
        stop.ask()
        if in_callbacks:
            print("\nstopping after the step at hand; press Ctrl-C again to end at once", file=sys.stderr)

    before = {number: signal.signal(number, request) for number in ending_signals()}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
