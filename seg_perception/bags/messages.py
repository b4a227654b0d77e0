"""The messages of bags: their types, standard and brought along, and those of a drive as images and back."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from seg_perception.bags.types import TypeDefinition
from seg_perception.core.errors import InputError
from seg_perception.core.image_file import decode_labels
from seg_perception.core.image_message import decode_compressed, decode_image, decode_mono8
from seg_perception.core.types import LabelImage, RgbImage
from seg_perception.node_outputs import Content
from seg_perception.node_settings import NODE_NAME

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


IMAGE: Final = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE: Final = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO: Final = "sensor_msgs/msg/CameraInfo"

IMAGE_TOPIC: Final = "/image"
TRUTH_TOPIC: Final = "/truth"
INFO_TOPIC: Final = "/camera_info"

INPUT_TOPICS: Final[Mapping[str, str]] = MappingProxyType({IMAGE: IMAGE_TOPIC, COMPRESSED_IMAGE: "/image/compressed"})
"""Where the node takes an image message, by its type."""


def output_topic(name: str) -> str:
    """The node's topic of one output, such as /segmentation_node/labels."""
    return f"/{NODE_NAME}/{name}"


_NANOSECONDS: Final = 1_000_000_000


def header(stamp_ns: int, frame_id: str) -> Any:
    """A std_msgs/Header.

    Raises:
        InputError: the stamp does not fit the message's 32-bit seconds.
    """
    seconds, nanoseconds = divmod(stamp_ns, _NANOSECONDS)
    if not 0 <= seconds < 2**31:
        raise InputError(f"stamp {stamp_ns} ns is not accepted: seconds must be 0 to {2**31 - 1}")
    types = standard_types().types
    stamp = types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)
    return types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame_id)


def header_of(message: Any) -> Any:
    """A message's header with its stamp as it is, be it negative; InputError if it has none."""
    stamp_ns_of(message)
    types = standard_types().types
    stamp = types["builtin_interfaces/msg/Time"](sec=message.header.stamp.sec, nanosec=message.header.stamp.nanosec)
    return types["std_msgs/msg/Header"](stamp=stamp, frame_id=message.header.frame_id)


def stamp_ns_of(message: Any) -> int:
    """The header's stamp in nanoseconds.

    Raises:
        InputError: the message has no header.
    """
    if not hasattr(message, "header"):
        raise InputError(f"a {type(message).__name__} message has no header, so no stamp to match by")
    stamp = message.header.stamp
    return int(stamp.sec) * _NANOSECONDS + int(stamp.nanosec)


def image(pixels: NDArray[np.uint8], header: Any) -> Any:
    """A sensor_msgs/Image: mono8 from uint8 [H, W], rgb8 from uint8 [H, W, 3]; rows are not padded.

    Raises:
        InputError: another shape or dtype.
    """
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        raise InputError(
            f"an image message takes uint8 [H, W] or uint8 [H, W, 3] RGB, got {pixels.dtype} {list(pixels.shape)}"
        )
    height, width = pixels.shape[:2]
    return standard_types().types[IMAGE](
        header=header,
        height=height,
        width=width,
        encoding="mono8" if pixels.ndim == 2 else "rgb8",
        is_bigendian=0,
        step=width * (1 if pixels.ndim == 2 else 3),
        data=np.ascontiguousarray(pixels).reshape(-1),
    )


def compressed_png(pixels: NDArray[np.uint8], header: Any) -> Any:
    """A sensor_msgs/CompressedImage, lossless PNG, of uint8 [H, W] or RGB uint8 [H, W, 3]."""
    stored = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else pixels
    encoded = cv2.imencode(".png", stored)[1]
    return standard_types().types[COMPRESSED_IMAGE](header=header, format="png", data=encoded.reshape(-1))


def camera_info(
    width: int, height: int, focal_length: float, header: Any, center: tuple[float, float] | None = None
) -> Any:
    """A sensor_msgs/CameraInfo of an undistorted pinhole camera.

    Args:
        width, height: in pixels.
        focal_length: in pixels, the same for both axes.
        header: of the image it belongs to.
        center: principal point (x, y) in pixels; the image's middle unless given.
    """
    cx, cy = center or ((width - 1) / 2, (height - 1) / 2)
    types = standard_types().types
    f = focal_length
    return types[CAMERA_INFO](
        header=header,
        height=height,
        width=width,
        distortion_model="plumb_bob",
        d=np.zeros(5),
        k=np.array([f, 0, cx, 0, f, cy, 0, 0, 1], np.float64),
        r=np.eye(3).reshape(-1),
        p=np.array([f, 0, cx, 0, 0, f, cy, 0, 0, 0, 1, 0], np.float64),
        binning_x=0,
        binning_y=0,
        roi=types["sensor_msgs/msg/RegionOfInterest"](x_offset=0, y_offset=0, height=0, width=0, do_rectify=False),
    )


def build(type_name: str, content: Content, header: Any) -> Any:
    """A message of any standard type from what it shall say, see `node_outputs.Content`.

    Args:
        header: a std_msgs/Header; stands in the message, with what the content says of it changed.

    Raises:
        InputError: pixels of another shape or type.
    """
    if isinstance(content, np.ndarray):
        return image(content, header)
    fields: dict[str, Any] = dict(content) if isinstance(content, Mapping) else {"data": content}
    told = {"stamp": {"sec": header.stamp.sec, "nanosec": header.stamp.nanosec}, "frame_id": header.frame_id}
    named = [name for name, _ in standard_types().fielddefs[type_name][1]]
    if "header" in named:
        fields["header"] = told | dict(fields.get("header", {}))
    return _filled(type_name, fields)


def _filled(type_name: str, fields: Mapping[str, Any]) -> Any:
    types = standard_types()
    values = {name: _value(kind, fields.get(name)) for name, kind in types.fielddefs[type_name][1]}
    return types.types[type_name](**values)


_BASE, _NAMED = 1, 2  # rosbags' kinds of fields; others are arrays and sequences


def _value(kind: Any, given: Any) -> Any:
    """A field's value; its type's zero where nothing is given."""
    node, what = int(kind[0]), kind[1]
    if node == _NAMED:
        return _filled(what, given or {})
    if node == _BASE:
        name = what[0]
        zero: Any = "" if name == "string" else False if name == "bool" else 0.0 if name.startswith("float") else 0
        return zero if given is None else given
    element, length = what
    if int(element[0]) == _NAMED:
        return [_filled(element[1], part) for part in given or [{}] * length]
    dtype = {"byte": "uint8", "octet": "uint8", "char": "uint8", "bool": "bool"}.get(element[1][0], element[1][0])
    return np.zeros(length, dtype) if given is None else np.ascontiguousarray(given, dtype)


IMAGE_TYPES = (IMAGE, COMPRESSED_IMAGE)


def rgb_of(message: Any, type_name: str) -> RgbImage:
    """The pixels of an Image or CompressedImage, uint8 [H, W, 3] RGB; may be a view of the message.

    Raises:
        InputError: another type, or an image that cannot be decoded.
    """
    if type_name == IMAGE:
        return decode_image(message)
    if type_name == COMPRESSED_IMAGE:
        return decode_compressed(message)
    raise InputError(f"a {type_name} message holds no image; accepted: {', '.join(IMAGE_TYPES)}")


def labels_of(message: Any, type_name: str) -> LabelImage:
    """The class ids of a mono8 Image (padded rows are fine) or a gray PNG, uint8 [H, W], exactly.

    Raises:
        InputError: not such a message.
    """
    if type_name == COMPRESSED_IMAGE:
        return decode_labels(message.data, f"compressed image with format {message.format!r}")
    if type_name != IMAGE:
        raise InputError(f"a {type_name} message holds no labels; accepted: {', '.join(IMAGE_TYPES)}")
    if message.encoding not in ("mono8", "8UC1"):
        raise InputError(
            f"an image with encoding {message.encoding!r} is not a label image: mono8 with class ids is accepted"
        )
    return decode_mono8(message)
