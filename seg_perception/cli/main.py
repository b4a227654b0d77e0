"""The command `seg-perception`: every module of this folder with COMMANDS adds subcommands."""

from __future__ import annotations

import argparse
import difflib
import importlib
import itertools
import os
import pkgutil
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from inspect import cleandoc
from pathlib import Path
from typing import Any, NoReturn

import seg_perception.cli
from seg_perception import __version__
from seg_perception.cli._command import Command
from seg_perception.core.errors import SegPerceptionError, extras_named, printable

PROGRAM = "seg-perception"

_Subparsers = argparse._SubParsersAction  # noqa: SLF001 - argparse has no public name for it

_EPILOG = """first steps:
  seg-perception predict photo.jpg --out out      one picture
  seg-perception demo                             the node, driven over DDS
  seg-perception COMMAND --help                   what a command takes, with examples"""


class Parser(argparse.ArgumentParser):
    """A parser that knows --version everywhere, lists its commands when none is given, and guesses what was meant."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*arguments, **options)
        self.register("type", Path, _path)
        self.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's; remembers the words, to guess what a wrong one should have been."""
        self._words = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's; an option that nobody knows is reported by the command it was given to."""
        parsed, left = self.parse_known_args(args, namespace)
        if left:
            getattr(parsed, "parser", self).error(f"unrecognized arguments: {' '.join(left)}")
        return parsed

    def error(self, message: str) -> NoReturn:
        """One line on stderr with the nearest names that exist, and exit status 2."""
        super().error("; ".join([message, *self._guesses(message)]))

    def options(self) -> set[str]:
        """Of this parser alone: --help, ..."""
        return set(self._option_string_actions)

    def groups(self) -> list[argparse._SubParsersAction[Parser]]:
        """What commands below it are added to; at most one."""
        return [action for action in self._actions if isinstance(action, _Subparsers)]

    def commands(self) -> Iterator[tuple[tuple[str, ...], Parser]]:
        """Every command below it that does something, such as ("bag", "play"), with its parser."""
        for group in self.groups():
            for name, parser in group.choices.items():
                yield from (((name, *inner), found) for inner, found in parser.commands())
                if not parser.groups():
                    yield (name,), parser

    def _guesses(self, message: str) -> Iterator[str]:
        if found := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message):
            near = _near(found[1], re.findall(r"[^\s',]+", found[2]))
            yield from [f"did you mean {near}?"] if near else []
            return
        known = self._option_string_actions
        for word in (word.partition("=")[0] for word in self._words):
            if not word.startswith("-") or word == "--" or any(option.startswith(word) for option in known):
                continue
            if near := _near(word, known):
                yield f"{word}: did you mean {near}?"
            elif Path(word).exists():
                yield f"{word}: for the file of this name write ./{word}"


def _path(text: str) -> Path:
    """A path of the command line. Of --out "$UNSET" Path makes the working folder."""
    if not text:
        raise argparse.ArgumentTypeError("an empty text is no path; for the working folder write .")
    return Path(text)


def _near(word: str, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)), None)


def commands() -> list[Command]:
    """Every subcommand, by name: a new one is a file of this folder, or stands in one beside its like."""
    package = seg_perception.cli
    modules = (found.name for found in pkgutil.iter_modules(package.__path__) if found.name not in ("main", "_command"))
    found = (importlib.import_module(f"{package.__name__}.{name}").COMMANDS for name in modules)
    return sorted(itertools.chain.from_iterable(found), key=lambda command: command.name)


def build_parser() -> Parser:
    """The parser with every subcommand."""
    parser = Parser(prog=PROGRAM, description="Semantic segmentation for driving.", epilog=_EPILOG)
    parser.set_defaults(run=_list_commands(parser))
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    for command in commands():
        examples = "\n".join(f"  {PROGRAM} {command.name} {line}".rstrip() for line in command.examples)
        subparser = subparsers.add_parser(
            command.name, help=command.help, description=cleandoc(command.run.__doc__ or ""),
            epilog=f"examples:\n{examples}",
        )  # fmt: skip
        command.add_arguments(subparser)
        _finish(subparser, command.run)
    return parser


def _finish(parser: Parser, run: Callable[[argparse.Namespace], int]) -> None:
    """A group of actions lists them when none is given; every other parser runs, and reports unknown options itself."""
    parser.set_defaults(parser=parser, run=_list_commands(parser) if parser.groups() else run)
    for group in parser.groups():
        group.required = False
        for below in group.choices.values():
            _finish(below, run)


def _list_commands(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    def show(_arguments: argparse.Namespace) -> int:
        parser.print_help()
        return 0

    return show


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; our own errors and missing packages become one line on stderr and exit status 2."""
    try:
        return _main(argv)
    except KeyboardInterrupt:  # while commands are imported or arguments read
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return 130


def _main(argv: Sequence[str] | None) -> int:
    # closed by whoever started us (>&-): what is printed goes nowhere, and no file that is opened gets their numbers
    sys.stdout, sys.stderr = (stream or Path(os.devnull).open("w") for stream in (sys.stdout, sys.stderr))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a file's name may hold bytes that are no text
            stream.reconfigure(errors="backslashreplace")
    arguments = build_parser().parse_args(argv)
    if not sys.stderr.isatty():  # in a log, a progress bar adds a line now and then (tqdm reads this when imported)
        os.environ.setdefault("TQDM_MININTERVAL", "10")
    try:
        with extras_named():
            status = int(arguments.run(arguments) or 0)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # `| head` has read enough; nothing is left for Python's own end to write
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (SegPerceptionError, OSError) as error:
        print(f"{arguments.parser.prog}: {printable(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(f"{arguments.parser.prog}: {': '.join(['interrupted', *map(str, error.args)])}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
