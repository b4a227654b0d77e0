"""Settings: a nested mapping (YAML, ROS parameters) into frozen dataclasses, all faults at once.

Supported field types: bool, int, float (finite), str, Path, Size ("480x360", or a table of width and height), Enum,
Literal, `X | None`, tuple[X, ...], tuple[X, Y, Z], Mapping[str, X], Any and dataclasses. A value outside a field's
range is the dataclass's own business: its `__post_init__` raises SettingsError.

YAML and JSON come from anywhere, so no input makes reading them hang, fill the memory or overflow the stack. A YAML
file of a few hundred bytes can stand for gigabytes: an alias repeats what its anchor names, a merge key copies it. So
the document is walked as a stream of events first, and what it would grow to is counted before anything is built.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import types
from collections.abc import Hashable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from yaml.constructor import ConstructorError
from yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, NodeEvent

from seg_perception.core.errors import InputError, SettingsError
from seg_perception.core.files import read_regular_file, user_path
from seg_perception.core.types import Size

MAX_BYTES: Final = 2 * 1024 * 1024
"""Of a YAML file."""

_MAX_NODES: Final = 50_000  # values after aliases are written out
_MAX_DEPTH: Final = 50
_ENDLESS_S: Final = 1e9  # what Python can wait for has an end

_FastLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster where PyYAML has libyaml


class StrictLoader(_FastLoader):  # type: ignore[misc]
    """A safe loader without two of YAML 1.1's silent traps.

    A key given twice is refused: YAML would keep the last. 010 (octal: 8) and 1:30 (base 60: 90) are text, as in
    YAML 1.2: where a number is expected, text is refused.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue  # an own key is meant to override a merged one
            value = self.construct_object(key)  # 1 and 0x1 are one key
            if value in seen:
                raise ConstructorError(None, None, f"the key {key.value!r} is given twice", key.start_mark)
            seen.add(value)
        return super().construct_mapping(node, deep)  # type: ignore[no-any-return]


_TRAPS: Final = re.compile(r"[-+]?(0[0-9_]+|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)")
_NUMBERS: Final = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


def _but_for_traps(known: re.Pattern[str]) -> re.Pattern[str]:
    return re.compile(f"(?!(?:{_TRAPS.pattern})$)(?:{known.pattern})", known.flags)


StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, _but_for_traps(known) if tag in _NUMBERS else known) for tag, known in rules]
    for first, rules in _FastLoader.yaml_implicit_resolvers.items()
}


def check_seconds(seconds: float, what: str, *, or_none: bool = False) -> None:
    """Refuse what is no time to wait: not a number, negative, or without an end.

    Args:
        what: it is, in words.
        or_none: zero is accepted, too.

    Raises:
        SettingsError: says what came and what is accepted.
    """
    if not (0 < seconds < _ENDLESS_S or (or_none and seconds == 0)):
        raise SettingsError(
            f"{what} {seconds:g} s is not accepted: {'0 or more' if or_none else 'more than 0'}, below 1e9"
        )


def read_yaml(path: Path, loader: Any = StrictLoader) -> Any:
    """What a YAML file holds, in plain Python values.

    Args:
        loader: `StrictLoader`, or a class made of it that reads scalars in its own way.

    Raises:
        OSError: it cannot be read.
        SettingsError: no regular file, not YAML, not UTF-8, a key twice, or larger than is accepted.
    """
    try:
        content = read_regular_file(path, MAX_BYTES)
    except InputError as error:
        raise SettingsError(str(error)) from error
    return parse_yaml(content, str(path), loader)


def parse_yaml(content: bytes | str, source: str, loader: Any = StrictLoader) -> Any:
    """What YAML text holds, in plain Python values.

    Raises:
        SettingsError: not YAML, not UTF-8, a key twice, nested deeper than 50 levels, or more than
            50,000 values with its aliases written out.
    """
    text = ""
    try:
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
        _demand_bounded(text, source)
        return yaml.load(text, loader)  # noqa: S506  a safe loader
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # 2026-13-01 is a ValueError, and so is not UTF-8
        tabs = "\nindent with spaces: YAML takes no tabs there" if re.search(r"(?m)^ *\t", text) else ""
        raise SettingsError(f"{source}: not valid YAML: {error}{tabs}") from error


def _demand_bounded(text: str, source: str) -> None:
    """Walk the events and count what would be built; an alias counts as all that its anchor names."""
    total = 0
    open_nodes: list[tuple[str | None, int]] = []  # anchor, and the count where it began
    sizes: dict[str, int] = {}
    for event in yaml.parse(text, Loader=_FastLoader):
        if isinstance(event, AliasEvent):
            name = str(event.anchor)
            if name in {anchor for anchor, _ in open_nodes}:
                raise SettingsError(f"{source}: the YAML alias *{name} lies inside what it names")
            total += sizes.get(name, 1)
        elif isinstance(event, CollectionStartEvent):
            open_nodes.append((event.anchor, total))
            total += 1
            if len(open_nodes) > _MAX_DEPTH:
                raise SettingsError(f"{source}: not valid YAML for settings: nested deeper than {_MAX_DEPTH} levels")
        elif isinstance(event, CollectionEndEvent):
            anchor, began = open_nodes.pop()
            if anchor is not None:
                sizes[anchor] = total - began
        elif isinstance(event, NodeEvent):
            total += 1
        if total > _MAX_NODES:
            raise SettingsError(
                f"{source}: more than {_MAX_NODES} values, with its aliases (*name) and merges (<<) written out; "
                "that is no file of settings"
            )


def parse_json(content: bytes | str, source: str) -> Any:
    """What JSON text holds.

    Raises:
        InputError: not JSON, not UTF-8, nested too deep, or a number of thousands of digits.
    """
    try:
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
        return json.loads(text)
    except RecursionError as error:
        raise InputError(f"{source}: the JSON is nested too deep") from error
    except ValueError as error:
        raise InputError(f"{source}: not valid JSON: {error}") from error


T = TypeVar("T")

TRUTH_VALUES: Final = "YAML reads on, off, yes and no as true and false: put them in quotes"

FORMERLY = "formerly"
"""In a field's metadata: the key that older files have for it, which is read, too."""


@dataclasses.dataclass(frozen=True, slots=True)
class Unreadable:
    """A value that whoever prepared the values could not read; `from_mapping` reports it as a fault.

    Attributes:
        value: what came.
        accepted: what is accepted, in words.
    """

    value: Any
    accepted: str


_WRONG = object()  # marks a value that was reported as a fault and must not be used


def from_mapping(cls: type[T], values: Mapping[str, Any], source: str) -> T:
    """Build a settings dataclass.

    Args:
        cls: a dataclass.
        values: keys are field names; missing keys take the field's default.
        source: where the values came from, for the error (a file name, "parameters").

    Raises:
        SettingsError: one line for each fault: unknown key, missing key, wrong type, bad value.
    """
    faults: list[str] = []
    built = _build(cls, values, "", faults)
    if faults:
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise SettingsError(f"{source}: {count} in the settings:\n  " + "\n  ".join(faults))
    return built  # type: ignore[no-any-return]


def load_settings(cls: type[T], path: Path) -> T:
    """Read a YAML file into a settings dataclass.

    Raises:
        FileNotFoundError: no such file.
        SettingsError: not YAML, or any fault in it.
    """
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise SettingsError(f"{path}: settings must be a table of names and values, got {type(values).__name__}")
    return from_mapping(cls, values, str(path))


def to_mapping(settings: Any) -> dict[str, Any]:
    """The resolved settings as plain YAML values: `from_mapping` of it gives the same settings."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, (Size, type)):
            return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        if isinstance(value, Mapping):
            return {str(k): plain(v) for k, v in value.items()}
        if isinstance(value, Enum):
            return value.value
        return str(value) if isinstance(value, (Path, Size)) else value

    return plain(settings)  # type: ignore[no-any-return]


def _build(cls: Any, values: Any, where: str, faults: list[str]) -> Any:
    if not isinstance(values, Mapping):
        faults.append(f"{where or 'settings'}: a table is expected, got {_shown(values)}")
        return _WRONG
    hints = get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    before = len(faults)
    formerly = {f.metadata[FORMERLY]: n for n, f in fields.items() if FORMERLY in f.metadata and n not in values}
    values = {formerly.get(key, key): value for key, value in values.items()}
    faults.extend(
        f"{_join(where, str(key))}: unknown; known here: {', '.join(fields)}" for key in values if key not in fields
    )
    arguments: dict[str, Any] = {}
    for name, field in fields.items():
        if name in values:
            arguments[name] = _convert(hints[name], values[name], _join(where, name), faults)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            faults.append(f"{_join(where, name)}: missing")
    wrong = {name for name, value in arguments.items() if value is _WRONG}
    for name in wrong:
        del arguments[name]  # its default stands in, so that the other fields are checked, too
    required = {n for n, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING}
    lacking = required - set(arguments)
    built: Any = _WRONG
    try:
        built = cls(**arguments, **{name: _stand_in(hints[name]) for name in lacking})
    except (SettingsError, InputError) as error:
        for line in str(error).splitlines():
            about = re.split(r"\W", line, maxsplit=1)[0]
            if about not in wrong | lacking and (not lacking or about in fields):
                faults.append(_placed(where, line, fields))
    except Exception:  # a check that fell over a stand-in; what it stands for is in the faults
        if len(faults) == before:
            raise
    return built if len(faults) == before else _WRONG


def _stand_in(hint: Any) -> Any:
    """A value of a type in place of one that is missing, so that the checks of the other fields run."""
    origin = get_origin(hint)
    if origin is tuple:
        return ()
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {}
    return {str: "", int: 1, float: 1.0, bool: False, Path: Path()}.get(hint)


def _placed(where: str, line: str, fields: Mapping[str, object]) -> str:
    """A dataclass's own fault, which begins with the field's name as in "rate: -1 is below 0", under its full name."""
    if not where:
        return line
    return f"{where}.{line}" if re.split(r"\W", line, maxsplit=1)[0] in fields else f"{where}: {line}"


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _convert(hint: Any, value: Any, where: str, faults: list[str]) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if isinstance(value, Unreadable):
        faults.append(f"{where}: {value.value!r} is not accepted; accepted: {value.accepted}")
        return _WRONG
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(arguments, value, where, faults)
    if origin is Literal:
        return _convert_choice({choice: choice for choice in arguments}, value, where, faults)
    if origin is tuple:
        return _convert_tuple(arguments, value, where, faults)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _convert_table(arguments[1], value, where, faults)
    if dataclasses.is_dataclass(hint) and (hint is not Size or isinstance(value, Mapping)):
        return _build(hint, value, where, faults)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _convert_choice({member.value: member for member in hint}, value, where, faults)
    return _convert_scalar(hint, value, where, faults)


def _convert_union(arguments: tuple[Any, ...], value: Any, where: str, faults: list[str]) -> Any:
    if value is None and type(None) in arguments:
        return None
    options = [a for a in arguments if a is not type(None)]
    if len(options) == 1:
        return _convert(options[0], value, where, faults)
    for option in options:
        attempt: list[str] = []
        converted = _convert(option, value, where, attempt)
        if not attempt:
            return converted
    faults.append(f"{where}: {_shown(value)} is not accepted; accepted: {' or '.join(map(_type_name, options))}")
    return _WRONG


def _convert_choice(choices: Mapping[Any, Any], value: Any, where: str, faults: list[str]) -> Any:
    for accepted, meant in choices.items():
        if type(value) is type(accepted) and value == accepted:  # 1 and True are equal to Python
            return meant
    if isinstance(value, Enum) and value in choices.values():
        return value
    faults.append(f"{where}: {_shown(value)} is not accepted; accepted: {', '.join(map(repr, choices))}")
    return _WRONG


def _convert_tuple(arguments: tuple[Any, ...], value: Any, where: str, faults: list[str]) -> Any:
    if not isinstance(value, (list, tuple)):
        faults.append(f"{where}: a list is expected, got {_shown(value)}")
        return _WRONG
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(value) != len(arguments):
        faults.append(f"{where}: {len(arguments)} values are expected, got {len(value)}: {_shown(value)}")
        return _WRONG
    items = [_convert(a, v, f"{where}[{i}]", faults) for i, (a, v) in enumerate(zip(arguments, value, strict=True))]
    return _WRONG if _WRONG in items else tuple(items)


def _convert_table(hint: Any, value: Any, where: str, faults: list[str]) -> Any:
    if not isinstance(value, Mapping):
        faults.append(f"{where}: a table is expected, got {_shown(value)}")
        return _WRONG
    faults.extend(f"{where}: {k} is no name; {TRUTH_VALUES}" for k in value if isinstance(k, bool))
    items = {str(k): _convert(hint, v, _join(where, str(k)), faults) for k, v in value.items()}
    return _WRONG if _WRONG in items.values() else items


def _convert_scalar(hint: Any, value: Any, where: str, faults: list[str]) -> Any:
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if abs(value) <= sys.float_info.max:  # neither infinite nor NaN nor an int of 400 digits
            return float(value)
    elif hint is Path and isinstance(value, (str, Path)):
        return user_path(value)
    elif hint is Size and isinstance(value, (str, Size)):
        try:
            return Size.parse(value)
        except InputError as error:
            faults.append(f"{where}: {error}")
            return _WRONG
    # bool is an int to Python, but not to a person who writes settings
    elif isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    expected = f"a value of type {_type_name(hint)} is expected{_hint(hint, value)}"
    faults.append(f"{where}: {_shown(value)} is not accepted; {expected}")
    return _WRONG


_LONGEST_SHOWN = 200  # characters of a value in a fault


def _shown(value: Any) -> str:
    """A value as a fault quotes it; a long one is cut, and said to be."""
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}... ({len(text)} characters)"


def _hint(hint: Any, value: Any) -> str:
    """What a person meant whom YAML 1.1 takes at another word.

    It reads off as false, and 1e-3 as text: its numbers have a point, and a sign in the exponent.
    """
    if hint is str and isinstance(value, bool):
        return f"; {TRUTH_VALUES}"
    exponential = isinstance(value, str) and _EXPONENTIAL.fullmatch(value)
    if hint is int and (exponential or isinstance(value, float)) and float(value).is_integer():
        return f"; write {int(float(value))}"
    if hint is float and exponential:
        mantissa, sign, exponent = exponential.groups()
        point = "" if "." in mantissa else ".0"
        return f"; YAML reads {value} as text, write {mantissa}{point}e{sign or '+'}{exponent}"
    return ""


_EXPONENTIAL: Final = re.compile(r"(?=[-+]?\.?[0-9])([-+]?[0-9]*\.?[0-9]*)[eE]([-+]?)([0-9]{1,2})")


def _type_name(hint: Any) -> str:
    return {Size: "WIDTHxHEIGHT", str: "text", Path: "path"}.get(hint, getattr(hint, "__name__", str(hint)))
