"""Settings, YAML and JSON: read as meant or refused at once, all faults together, and back to plain values."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import hypothesis
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from seg_perception.core.errors import InputError, SettingsError
from seg_perception.core.settings import (
    FORMERLY,
    MAX_BYTES,
    check_seconds,
    from_mapping,
    load_settings,
    parse_json,
    parse_yaml,
    read_yaml,
    to_mapping,
)
from seg_perception.core.types import Size


def bomb(first: str, line: str) -> str:
    """Nine levels, each naming the one before nine times: 9^10 values in some hundred bytes."""
    names = "abcdefghij"
    lines = [f"a: &a {first}"]
    for before, name in itertools.pairwise(names):
        lines.append(f"{name}: &{name} " + line.format(nine=", ".join([f"*{before}"] * 9)))
    return "\n".join(lines)


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0, 0.0, 1e300])
def test_a_time_to_wait_has_an_end(seconds: float) -> None:
    with pytest.raises(SettingsError, match=r"^a wait of .* s is not accepted: more than 0, below 1e9$"):
        check_seconds(seconds, "a wait of")
    check_seconds(0.0, "a wait of", or_none=True)


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
        ("[" * 100_000, "(nested deeper than 50 levels|exceeded maximum nesting depth)"),  # ours, or PyYAML 6.0.4's
        ("\n".join(" " * i + "a:" for i in range(60)), "nested deeper than 50 levels"),
        ("a: &a [*a]", r"\*a lies inside what it names"),
        ("a: *nowhere", "not valid YAML: found undefined alias"),
        ("values: {1: road, 2: car, 1: sky}", "not valid YAML: the key '1' is given twice"),
        ("a: " + "9" * 5000, "not valid YAML: .*digits"),
        ("a: !!python/object/apply:os.getpid []", "not valid YAML: could not determine a constructor"),
        ("date: 2026-13-01", "not valid YAML"),
        ("rate:\n\tpeak: 1", "not valid YAML: .*indent with spaces: YAML takes no tabs there"),
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


class Mode(Enum):
    FAST = "fast"
    EXACT = "exact"


@dataclass(frozen=True, slots=True)
class Inner:
    rate: float = 0.5
    name: str = "x"

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise SettingsError(f"rate: {self.rate} is below 0")


@dataclass(frozen=True, slots=True)
class Outer:
    count: int
    flag: bool = False
    ratio: float = 1.0
    text: str = ""
    file: Path | None = None
    size: Size = Size(4, 3)
    mode: Mode = Mode.FAST
    choice: Literal["a", "b", 3] = "a"
    names: tuple[str, ...] = ()
    pair: tuple[int, float] = (1, 2.0)
    table: Mapping[str, float] = field(default_factory=dict)
    anything: Any = None
    either: int | str | None = None
    inner: Inner = Inner()
    inners: tuple[Inner, ...] = ()

    def __post_init__(self) -> None:
        faults = [f"{n}: {getattr(self, n)} is below 0" for n in ("count", "ratio") if getattr(self, n) < 0]
        if self.pair[0] > self.pair[1]:
            faults.append(f"pair: {self.pair} does not rise")
        if faults:
            raise SettingsError("\n".join(faults))


FULL = Outer(
    count=3,
    flag=True,
    ratio=2.0,
    text="hello",
    file=Path("a/b"),
    size=Size(640, 480),
    mode=Mode.EXACT,
    choice=3,
    names=("p", "q"),
    pair=(4, 5.5),
    table={"road": 1.5},
    anything=[1, {"deep": None}],
    either="word",
    inner=Inner(0.25, "y"),
    inners=(Inner(), Inner(1.0)),
)


def test_a_missing_key_takes_its_default() -> None:
    assert from_mapping(Outer, {"count": 1}, "here") == Outer(1)


def test_plain_values_give_the_same_settings_again_also_through_yaml() -> None:
    plain = to_mapping(FULL)
    assert from_mapping(Outer, plain, "here") == FULL
    assert from_mapping(Outer, yaml.safe_load(yaml.safe_dump(plain)), "here") == FULL
    assert plain["size"] == "640x480"
    assert plain["mode"] == "exact"
    assert plain["file"] == "a/b"
    assert plain["inners"] == [{"rate": 0.5, "name": "x"}, {"rate": 1.0, "name": "x"}]


@hypothesis.settings(deadline=None)
@given(
    st.builds(
        Outer,
        count=st.integers(0),
        flag=st.booleans(),
        ratio=st.floats(0, allow_nan=False, allow_infinity=False),
        text=st.text(),
        size=st.builds(Size, st.integers(1, 9999), st.integers(1, 9999)),
        mode=st.sampled_from(Mode),
        choice=st.sampled_from(["a", "b", 3]),
        names=st.lists(st.text()).map(tuple),
        table=st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False)),
        either=st.one_of(st.none(), st.integers(), st.text()),
    )
)
def test_any_settings_survive_the_trip(settings: Outer) -> None:
    assert from_mapping(Outer, to_mapping(settings), "here") == settings


@pytest.mark.parametrize(
    "values, expected",
    [
        ({"ratio": 2}, 2.0),  # an integer is a fine float
        ({"size": "640x480"}, Size(640, 480)),
        ({"size": Size(1, 2)}, Size(1, 2)),
        ({"mode": "exact"}, Mode.EXACT),
        ({"mode": Mode.EXACT}, Mode.EXACT),
        ({"file": "a/b"}, Path("a/b")),
        ({"file": "~/b"}, Path.home() / "b"),
        ({"file": None}, None),
        ({"names": []}, ()),
        ({"pair": [1, 2]}, (1, 2.0)),
        ({"either": None}, None),
        ({"either": 4}, 4),
        ({"either": "four"}, "four"),
        ({"choice": 3}, 3),
        ({"inner": {"rate": 0}}, Inner(0.0)),
    ],
)
def test_each_type_takes_what_a_person_would_write(values: dict[str, Any], expected: Any) -> None:
    built = from_mapping(Outer, {"count": 1, **values}, "here")
    value = getattr(built, next(iter(values)))
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    "values, fault",
    [
        ({"count": 1.5}, "count: 1.5 is not accepted; a value of type int is expected"),
        ({"count": True}, "count: True is not accepted; a value of type int is expected"),
        ({"count": "1"}, "count: '1' is not accepted; a value of type int is expected"),
        ({"count": None}, "count: None is not accepted"),
        ({"flag": 1}, "flag: 1 is not accepted; a value of type bool is expected"),
        ({"flag": "yes"}, "flag: 'yes' is not accepted"),
        ({"ratio": True}, "ratio: True is not accepted; a value of type float is expected"),
        ({"ratio": float("nan")}, "ratio: nan is not accepted"),
        ({"ratio": float("inf")}, "ratio: inf is not accepted"),
        ({"ratio": "1e-3"}, "type float is expected; YAML reads 1e-3 as text, write 1.0e-3"),
        ({"ratio": "2.5E4"}, "YAML reads 2.5E4 as text, write 2.5e+4"),
        ({"ratio": "one"}, "ratio: 'one' is not accepted; a value of type float is expected"),
        ({"text": 5}, "text: 5 is not accepted; a value of type text is expected"),
        ({"file": 5}, "file: 5 is not accepted; a value of type path is expected"),
        ({"size": "big"}, "size: image size 'big' is not accepted: write WIDTHxHEIGHT"),
        ({"size": 5}, "size: 5 is not accepted; a value of type WIDTHxHEIGHT is expected"),
        ({"mode": "slow"}, "mode: 'slow' is not accepted; accepted: 'fast', 'exact'"),
        ({"choice": "c"}, "choice: 'c' is not accepted; accepted: 'a', 'b', 3"),
        ({"choice": ["a"]}, "choice: ['a'] is not accepted; accepted: 'a', 'b', 3"),
        ({"names": "p"}, "names: a list is expected, got 'p'"),
        ({"names": ["p", 4]}, "names[1]: 4 is not accepted; a value of type text is expected"),
        ({"pair": [1]}, "pair: 2 values are expected, got 1: [1]"),
        ({"pair": [1, "x"]}, "pair[1]: 'x' is not accepted"),
        ({"table": [1]}, "table: a table is expected, got [1]"),
        ({"table": {"road": "wide"}}, "table.road: 'wide' is not accepted"),
        ({"either": 1.5}, "either: 1.5 is not accepted; accepted: int or text"),
        ({"inner": 3}, "inner: a table is expected, got 3"),
        ({"inner": {"rote": 3}}, "inner.rote: unknown; known here: rate, name"),
        ({"inner": {"rate": -1.0}}, "inner.rate: -1.0 is below 0"),
        ({"inners": [{}, {"rate": -1.0}]}, "inners[1].rate: -1.0 is below 0"),
        ({"pair": [3, 2.0]}, "pair: (3, 2.0) does not rise"),
        ({"cuont": 3}, "cuont: unknown; known here: count, flag, ratio"),
    ],
)
def test_each_fault_is_named_with_what_is_accepted(values: dict[str, Any], fault: str) -> None:
    with pytest.raises(SettingsError) as error:
        from_mapping(Outer, {"count": 1, **values}, "own.yaml")
    assert str(error.value).startswith("own.yaml: 1 fault in the settings:\n  ")
    assert fault in str(error.value)


def test_all_faults_come_at_once() -> None:
    values = {
        "surprise": 1,  # unknown
        "flag": "yes",  # wrong type
        "ratio": -2.0,  # the dataclass's own check, although others are wrong
        "names": [1, 2],  # two wrong items
        "inner": {"rate": -1.0, "extra": 0},  # the inner's own check, and an unknown name
        # and count is missing
    }
    with pytest.raises(SettingsError) as error:
        from_mapping(Outer, values, "own.yaml")
    lines = str(error.value).splitlines()
    assert lines[0] == "own.yaml: 8 faults in the settings:"
    named = sorted(line.split(":")[0].strip() for line in lines[1:])
    assert named == ["count", "flag", "inner.extra", "inner.rate", "names[0]", "names[1]", "ratio", "surprise"]
    with pytest.raises(SettingsError) as error:
        from_mapping(Outer, {**values, "count": -1}, "own.yaml")
    named = sorted(line.split(":")[0].strip() for line in str(error.value).splitlines()[1:])
    assert named == ["count", "flag", "inner.extra", "inner.rate", "names[0]", "names[1]", "ratio", "surprise"]


def test_a_wrong_value_brings_no_second_fault_from_the_default_in_its_place() -> None:
    @dataclass(frozen=True)
    class Rising:
        low: int = 5
        high: int = 10

        def __post_init__(self) -> None:
            if self.low > self.high:
                raise SettingsError(f"high: {self.high} is below low")

    with pytest.raises(SettingsError, match=r"^here: 1 fault in the settings:\n  high: 'x' is not accepted"):
        from_mapping(Rising, {"low": 20, "high": "x"}, "here")


def test_settings_that_are_no_table_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"settings: a table is expected, got \[1\]"):
        from_mapping(Outer, [1], "here")  # type: ignore[arg-type]


def test_a_file_is_read_and_named_in_its_faults(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("count: 3\nsize: 640x480\n")
    assert load_settings(Outer, file) == Outer(3, size=Size(640, 480))
    file.write_text("count: 3\nsize: {width: 640, height: 480}\n")
    assert load_settings(Outer, file) == Outer(3, size=Size(640, 480))
    file.write_text("count: [")
    with pytest.raises(SettingsError, match=r"own\.yaml: not valid YAML"):
        load_settings(Outer, file)
    for content in (b"name: caf\xe9", b"day: 2026-13-01", b"[" * 5000, b"count:\t3\n\tsize: 4x3"):
        file.write_bytes(content)
        with pytest.raises(SettingsError, match=r"own\.yaml: not valid YAML"):
            load_settings(Outer, file)
    file.write_text("")
    with pytest.raises(SettingsError, match=r"own\.yaml: settings must be a table of names and values, got NoneType"):
        load_settings(Outer, file)
    with pytest.raises(FileNotFoundError):
        load_settings(Outer, tmp_path / "nowhere.yaml")


def test_a_fault_of_the_code_is_not_taken_for_a_fault_of_the_settings() -> None:
    @dataclass(frozen=True)
    class Broken:
        value: int = 0

        def __post_init__(self) -> None:
            raise TypeError("a mistake in the program")

    with pytest.raises(TypeError, match="a mistake in the program"):
        from_mapping(Broken, {}, "here")


@pytest.mark.parametrize("key", ["ratio", "count", "pair"])
def test_numbers_of_400_digits_are_values_or_faults_and_never_a_crash(tmp_path: Path, key: str) -> None:
    file = tmp_path / "own.yaml"
    value = f"[1, {'9' * 400}]" if key == "pair" else "9" * 400
    file.write_text(f"count: 3\n{key}: {value}" if key != "count" else f"ratio: 1.0\ncount: {value}")
    if key == "count":
        assert load_settings(Outer, file).count == int("9" * 400)
        return
    with pytest.raises(
        SettingsError, match=rf"{key}.*9\.\.\. \(400 characters\) is not accepted; a value of type float"
    ):
        load_settings(Outer, file)


def test_the_key_of_older_files_is_read_unless_the_new_one_is_there() -> None:
    @dataclass(frozen=True, slots=True)
    class Renamed:
        color: str = field(default="", metadata={FORMERLY: "hue"})

    assert from_mapping(Renamed, {"hue": "red"}, "here") == Renamed("red")
    with pytest.raises(SettingsError, match="hue: unknown; known here: color"):
        from_mapping(Renamed, {"hue": "red", "color": "green"}, "here")
