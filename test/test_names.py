"""One spelling, the American one, in every name: color, normalize, optimizer, quantize."""

from __future__ import annotations

import io
import re
import tokenize
from pathlib import Path

BRITISH = re.compile(
    r"colour|normalis|optimis|quantis|initialis|serialis|synchronis|recognis|organis|visualis|summaris"
    r"|licence|metre|centre|grey|labelled|labelling|behaviour|neighbour|favour",
    re.IGNORECASE,
)
FOLDERS = ("seg_perception", "launch", "examples", "benchmarks", "test")


def names_in(path: Path) -> set[str]:
    reader = io.StringIO(path.read_text(encoding="utf-8")).readline
    return {token.string for token in tokenize.generate_tokens(reader) if token.type == tokenize.NAME} | {path.stem}


def test_names_are_spelled_one_way(repository: Path) -> None:
    files = [path for folder in FOLDERS for path in sorted((repository / folder).rglob("*.py"))]
    assert len(files) > 200
    wrong = {
        f"{path.relative_to(repository)}: {name}"
        for path in files
        if path.name != "test_names.py"
        for name in names_in(path)
        if BRITISH.search(name)
    }
    assert wrong == set()


def test_the_rule_finds_what_it_forbids(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text("colour = optimiser = 1  # centre\n")
    assert {name for name in names_in(path) if BRITISH.search(name)} == {"colour", "optimiser"}
