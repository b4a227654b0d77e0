"""Every `seg-perception` command line in the documentation, through the real parser: parsed, not run.

docs/training.md's are run, too, in test_train.py.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from seg_perception.cli.main import build_parser

COMMAND = re.compile(r"^(?:\$ )?(?:\S*/)?(?:seg-perception|torchrun .*-m seg_perception\.cli\.main) (.*)")


def pages(repository: Path) -> list[Path]:
    return [repository / "README.md", repository / "CONTRIBUTING.md", *sorted((repository / "docs").rglob("*.md"))]


def command_lines(page: Path) -> Iterator[list[str]]:
    """The arguments of whole command lines: those in code blocks."""
    text = re.sub(r"\\\n\s*", "", page.read_text(encoding="utf-8"))
    fenced = False
    for line in text.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif (fenced or line.startswith("    ")) and (found := COMMAND.match(line.strip())):
            yield shlex.split(found[1], comments=True)


def fault_of(parser: argparse.ArgumentParser, arguments: list[str]) -> str | None:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            parser.parse_args(arguments)
    except SystemExit as end:
        return said.getvalue().splitlines()[-1] if end.code else None
    return None


def test_every_command_line_is_accepted(repository: Path) -> None:
    parser = build_parser()
    lines = [(page, arguments) for page in pages(repository) for arguments in command_lines(page)]
    assert len(lines) > 40
    faults = [
        f"{page.relative_to(repository)}: seg-perception {shlex.join(arguments)}\n  {fault}"
        for page, arguments in lines
        if "COMMAND" not in arguments and (fault := fault_of(parser, arguments))
    ]
    assert not faults, "\n".join(faults)


def test_commands_and_options_named_in_sentences_exist(repository: Path) -> None:
    parser = build_parser()
    known = {names: below.options() for names, below in parser.commands()} | {(): parser.options()}
    groups = {names[:1] for names in known}
    mentions = [
        (page, mention.split())
        for page in pages(repository)
        for mention in re.findall(r"`seg-perception\s+([^`]+)`", page.read_text(encoding="utf-8"))
    ]
    assert len(mentions) > 10
    faults = []
    for page, words in mentions:
        if words[0] == "COMMAND":
            continue
        command = tuple(words[:2]) if tuple(words[:2]) in known else tuple(words[:1])
        unknown = {word for word in words if word.startswith("--")} - known.get(command, {"--help"})
        if (command not in known and command not in groups and not words[0].startswith("--")) or unknown:
            faults.append(f"{page.relative_to(repository)}: seg-perception {' '.join(words)}")
    assert not faults


@pytest.mark.parametrize(
    "arguments, fault",
    [
        (["predict", "a.png"], "required: --out"),
        (["bag", "play", "a.mcap", "--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_a_wrong_line_would_be_found(arguments: list[str], fault: str) -> None:
    assert fault in str(fault_of(build_parser(), arguments))
