"""Names: one spelling, the American one (color, normalize, optimizer, quantize); tests use public ones."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
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


def private_names_of_ours(path: Path) -> Iterator[str]:
    """Imported or replaced by a test; reading a private member is ruff's SLF001."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("seg_perception"):
            yield from (alias.name for alias in node.names if alias.name.startswith("_"))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "setattr":
            name = node.args[1] if len(node.args) == 3 else None
            if isinstance(name, ast.Constant) and re.match("_[^_]", name.value):
                yield name.value


def test_tests_speak_to_public_names(repository: Path, tmp_path: Path) -> None:
    files = sorted((repository / "test").rglob("*.py"))
    assert len(files) > 100
    found = {f"{path.name}: {name}" for path in files for name in private_names_of_ours(path)}
    assert found - {"test_family.py: _start_network"} == set()  # how a training begins, without the training
    (tmp_path / "a.py").write_text("from seg_perception.model import _a\nmonkeypatch.setattr(model, '_b', 1)\n")
    assert list(private_names_of_ours(tmp_path / "a.py")) == ["_a", "_b"]
