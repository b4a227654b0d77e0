"""Message types: the standard ones, and those a bag brings along."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from rosbags.serde import SerdeError
from rosbags.typesys import Stores, TypesysError, get_types_from_idl, get_types_from_msg, get_typestore
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
        InputError: no text and no standard type, text that cannot be parsed, or a text that does
            not agree with the type's hash.
    """
    if not definition.text:
        store = standard_types()
        if definition.name not in store.fielddefs:
            raise InputError(
                f"the bag has no definition of {definition.name!r}, and it is not a standard type of ROS 2 Jazzy; "
                "record the bag as MCAP, which carries the definitions"
            )
    else:
        store = get_typestore(Stores.EMPTY)
        try:
            store.register(_parse(definition))
        except (TypesysError, AssertionError, ValueError, KeyError) as error:
            raise InputError(f"the bag's definition of {definition.name!r} cannot be parsed: {error}") from error
    if definition.digest and (found := store.hash_rihs01(definition.name)) != definition.digest:
        raise InputError(
            f"message type {definition.name!r} was recorded with the hash {definition.digest}, but its definition "
            f"has {found}: the bag was made with another version of the message"
        )
    return store


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
    """The same definition with text and hash filled in, as a writer needs it.

    Raises:
        InputError: see `types_of`.
    """
    if definition.text and definition.digest:
        return definition
    store = types_of(definition)
    text, idl = definition.text, definition.idl
    if not text:
        text, idl = store.generate_msgdef(definition.name, ros_version=2)[0], False
    return TypeDefinition(definition.name, text, idl, store.hash_rihs01(definition.name))


def decode(data: bytes, definition: TypeDefinition) -> Any:
    """Deserialize one message; arrays of numbers become numpy arrays (views of `data`).

    Raises:
        InputError: the bytes are not a message of this type.
    """
    try:
        return types_of(definition).deserialize_cdr(data, definition.name)
    except (SerdeError, IndexError, TypeError) as error:
        raise InputError(f"a message is not a valid {definition.name}: {error}") from error


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
