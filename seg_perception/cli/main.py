"""The command `seg-perception`: one module of this folder for each subcommand.

A subcommand module has HELP (one line), add_arguments(parser) and run(arguments) -> exit status.
It imports heavy packages inside run, so that `seg-perception --help` is instant.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import sys
from collections.abc import Sequence

import seg_perception.cli
from seg_perception.cli._missing import what_to_install
from seg_perception.core.errors import SegPerceptionError


def build_parser() -> argparse.ArgumentParser:
    """The parser with every subcommand found in this folder."""
    parser = argparse.ArgumentParser(prog="seg-perception", description="Semantic segmentation for driving.")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for found in pkgutil.iter_modules(seg_perception.cli.__path__):
        if found.name == "main" or found.name.startswith("_"):
            continue
        module = importlib.import_module(f"{seg_perception.cli.__name__}.{found.name}")
        subparser = subparsers.add_parser(found.name.replace("_", "-"), help=module.HELP, description=module.__doc__)
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; our own errors and missing packages become one line on stderr and exit status 2."""
    arguments = build_parser().parse_args(argv)
    if not sys.stderr.isatty():  # in a log, a progress bar adds a line now and then (tqdm reads this when imported)
        os.environ.setdefault("TQDM_MININTERVAL", "10")
    try:
        return int(arguments.run(arguments) or 0)
    except (SegPerceptionError, OSError) as error:
        print(f"seg-perception {arguments.command}: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        advice = what_to_install(error)
        if advice is None:
            raise
        print(f"seg-perception {arguments.command}: {advice}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"seg-perception {arguments.command}: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
