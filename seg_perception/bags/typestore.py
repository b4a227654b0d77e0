"""Message types: the standard ones, and those a bag brings along."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Final

from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from seg_perception.bags.types import TypeDefinition
from seg_perception.core.errors import InputError

_IDL_SEPARATOR = "=" * 80 + "\n"


@cache
def standard_types() -> Typestore:
    """The message types that come with ROS 2 Jazzy."""
    return get_typestore(Stores.ROS2_JAZZY)


def standard_definition(type_name: str) -> TypeDefinition:
    """The definition of a type that comes with ROS 2 Jazzy.

    Raises:
        InputError: it does not.
    """
    store = standard_types()
    if type_name not in store.fielddefs:
        raise InputError(f"message type {type_name!r} is not one of ROS 2 Jazzy's standard types; give its definition")
    text, _ = store.generate_msgdef(type_name, ros_version=2)
    return TypeDefinition(type_name, text, idl=False, digest=store.hash_rihs01(type_name))


@lru_cache(maxsize=256)
def types_of(definition: TypeDefinition) -> Typestore:
    """A store that can read and write messages of this type.

    A definition without text is looked up among the standard types.

    Raises:
        InputError: no text and no standard type; text that cannot be parsed, or that defines more than any
            message needs; or a text that does not agree with the type's hash.
    """
    if definition.foreign:
        raise InputError(f"{definition.name!r} is defined in {definition.foreign!r}, not in ROS 2's notation")
    if not definition.text:
        store = standard_types()
        if definition.name not in store.fielddefs:
            raise InputError(
                f"the bag has no definition of {definition.name!r}, and it is not a standard type of ROS 2 Jazzy; "
                "record the bag as MCAP, which carries the definitions"
            )
    else:
        store = get_typestore(Stores.EMPTY)
        if len(definition.text) > _LONGEST_TEXT:
            raise InputError(
                f"the bag's definition of {definition.name!r} has {len(definition.text)} characters; "
                f"at most {_LONGEST_TEXT} are accepted"
            )
        try:
            types = _parse(definition)
            _check_types(definition.name, types)
            store.register(types)
        except InputError:
            raise
        except Exception as error:  # the parser raises anything, and its messages are long
            reason = " ".join(str(error).split())[:120] or type(error).__name__
            raise InputError(f"the bag's definition of {definition.name!r} cannot be parsed: {reason}") from error
    if definition.digest and (found := _hash(store, definition.name)) not in (None, definition.digest):
        raise InputError(
            f"message type {definition.name!r} was recorded with the hash {definition.digest}, but its definition "
            f"has {found}: the bag was made with another version of the message"
        )
    return store


_LONGEST_TEXT: Final = 2**17  # characters; the largest definition of ROS's own packages has 30,000
_MOST_FIELDS: Final = 100_000  # of one message with all its parts


def _check_types(name: str, types: Mapping[str, Any]) -> None:
    """A few lines can define a type without end, or one of billions of fields: count before generating code.

    Raises:
        InputError: a type that is defined nowhere, that contains itself, or that has too many fields.
    """
    sizes: dict[str, int] = {}
    open_types: list[str] = []

    def size_of(inner: str) -> int:
        if inner in sizes:
            return sizes[inner]
        if inner not in types:
            raise InputError(f"the bag's definition of {name!r} needs {inner!r}, which it does not define")
        if inner in open_types:
            raise InputError(f"the bag's definition of {name!r} is no message: {inner!r} contains itself")
        open_types.append(inner)
        if len(open_types) > 64:
            raise InputError(f"the bag's definition of {name!r} is nested deeper than 64 types")
        total = len(types[inner][1]) + sum(size_of(part) for part in _parts_of(types[inner]))
        if total > _MOST_FIELDS:
            raise InputError(f"the bag's definition of {name!r} has more than {_MOST_FIELDS} fields")
        open_types.pop()
        sizes[inner] = total
        return total

    for inner in list(types):
        size_of(inner)
    size_of(name)


def _hash(store: Typestore, name: str) -> str | None:
    """ROS's type hash; None for a type that rosbags cannot hash (wide strings)."""
    try:
        return str(store.hash_rihs01(name))
    except Exception:  # noqa: BLE001  whatever it makes of an unusual type
        return None


def _parse(definition: TypeDefinition) -> Any:
    if not definition.idl:
        return get_types_from_msg(definition.text, definition.name)
    if not definition.text.startswith(f"{_IDL_SEPARATOR}IDL: "):
        return get_types_from_idl(definition.text)
    types: dict[str, Any] = {}
    for part in definition.text.split(_IDL_SEPARATOR)[1:]:
        _, text = part.split("\n", 1)
        types.update(get_types_from_idl(text))
    return types


def with_digest(definition: TypeDefinition) -> TypeDefinition:
    """The same definition, with ROS's type hash where the text yields one."""
    if not definition.text or definition.digest or definition.foreign:
        return definition
    try:
        found = _hash(types_of(definition), definition.name)
    except InputError:
        found = None
    return TypeDefinition(definition.name, definition.text, definition.idl, found or "")


def decode(data: bytes, definition: TypeDefinition) -> Any:
    """Deserialize one message; arrays of numbers become numpy arrays (views of `data`).

    Raises:
        InputError: the bytes are not a message of this type, or nothing is known of the type.
    """
    store = types_of(definition)
    try:
        return store.deserialize_cdr(data, definition.name)
    except Exception as error:  # the library's own, and those of struct, numpy and the generated code
        reason = str(error) or type(error).__name__
        raise InputError(f"a message is not a valid {definition.name}: {reason[:200]}") from error


def encode(message: Any, definition: TypeDefinition) -> bytes:
    """Serialize one message, little-endian CDR."""
    return bytes(types_of(definition).serialize_cdr(message, definition.name, little_endian=True))


def definition_from_share(type_name: str, share_of_package: Mapping[str, Path]) -> TypeDefinition:
    """Read a type's definition from the .msg files of installed ROS packages.

    Args:
        type_name: such as "vision_msgs/msg/LabelInfo".
        share_of_package: package name -> its share directory. What is not there is looked up
            among the standard types.

    Raises:
        InputError: neither there nor standard.
    """
    store = get_typestore(Stores.EMPTY)
    gathered: dict[str, Any] = {}
    wanted = [type_name]
    while wanted:
        name = wanted.pop()
        if name in gathered:
            continue
        package, _, message = name.split("/")
        share = share_of_package.get(package)
        path = share / "msg" / f"{message}.msg" if share else None
        if path is not None and path.is_file():
            gathered.update(get_types_from_msg(path.read_text(encoding="utf-8"), name))
        elif name in standard_types().fielddefs:
            gathered[name] = standard_types().fielddefs[name]
        else:
            raise InputError(f"message type {name!r} has no definition {path or ''}: is {package} installed?")
        wanted.extend(_parts_of(gathered[name]))
    store.register(gathered)
    text, _ = store.generate_msgdef(type_name, ros_version=2)
    return TypeDefinition(type_name, text, idl=False, digest=store.hash_rihs01(type_name))


def _parts_of(fields: Any) -> list[str]:
    """The message types a parsed definition refers to (rosbags' tree: 1 base, 2 name, 3 and 4 arrays)."""
    parts: list[str] = []
    for _, field in fields[1]:
        kind, value = field
        if int(kind) in (3, 4):
            kind, value = value[0]  # an array's first member is its element's type
        if int(kind) == 2:
            parts.append(value)
    return parts
