"""YAML and JSON from anywhere: read as meant, or refused at once."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from seg_perception.core.documents import MAX_BYTES, parse_json, parse_yaml, read_yaml
from seg_perception.core.errors import InputError, SettingsError


def bomb(first: str, line: str) -> str:
    """Nine levels, each naming the one before nine times: 9^10 values in some hundred bytes."""
    names = "abcdefghij"
    lines = [f"a: &a {first}"]
    for before, name in itertools.pairwise(names):
        lines.append(f"{name}: &{name} " + line.format(nine=", ".join([f"*{before}"] * 9)))
    return "\n".join(lines)


def test_aliases_and_merges_of_honest_files_work() -> None:
    text = "base: &base {road: 1, car: 2}\nmine: {<<: *base, car: 3}\nlist: [*base, *base]"
    both = {"road": 1, "car": 2}
    assert parse_yaml(text, "x") == {"base": both, "mine": {"road": 1, "car": 3}, "list": [both, both]}
    assert parse_yaml(b"\xef\xbb\xbfname: gr\xc3\xbcn", "x") == {"name": "grün"}  # with a byte order mark


@pytest.mark.parametrize(
    "text, message",
    [
        (bomb("[x, x, x]", "[{nine}]"), "more than 50000 values"),
        (bomb("{x: 1}", "{{<<: [{nine}]}}"), "more than 50000 values"),
        ("[" * 100_000, "nested deeper than 50 levels"),
        ("\n".join(" " * i + "a:" for i in range(60)), "nested deeper than 50 levels"),
        ("a: &a [*a]", r"\*a lies inside what it names"),
        ("a: *nowhere", "not valid YAML: found undefined alias"),
        ("values: {1: road, 2: car, 1: sky}", "not valid YAML: the key '1' is given twice"),
        ("a: " + "9" * 5000, "not valid YAML: .*digits"),
        ("a: !!python/object/apply:os.getpid []", "not valid YAML: could not determine a constructor"),
        ("date: 2026-13-01", "not valid YAML"),
    ],
)
def test_what_grows_repeats_or_is_no_yaml_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=f"(?s)mine.yaml: .*{message}"):
        parse_yaml(text, "mine.yaml")


def test_no_yaml_file_can_hold_the_reader(tmp_path: Path) -> None:
    pipe, large, latin = tmp_path / "pipe.yaml", tmp_path / "large.yaml", tmp_path / "latin.yaml"
    os.mkfifo(pipe)
    large.write_bytes(b"#" * (MAX_BYTES + 1))
    latin.write_bytes("name: grün".encode("latin-1"))
    for path, message in ((pipe, "FIFO"), (large, "are not accepted; at most"), (latin, "not valid YAML: 'utf-8'")):
        with pytest.raises(SettingsError, match=f"{path.name}: .*{message}"):
            read_yaml(path)
    with pytest.raises(FileNotFoundError):
        read_yaml(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    "text, message",
    [("[" * 100_000, "nested too deep"), ("1" * 10_000, "not valid JSON"), ("{", "not valid JSON"), (b"\xff", "JSON")],
)
def test_json_that_cannot_be_is_refused_by_name(text: str | bytes, message: str) -> None:
    assert parse_json('{"a": [1, 2.5, null]}', "x") == {"a": [1, 2.5, None]}
    with pytest.raises(InputError, match=f"x.json: .*{message}"):
        parse_json(text, "x.json")
