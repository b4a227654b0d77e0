"""Reads an exported ONNX file and checks it against the contract of the deployed graph."""

from __future__ import annotations

import math
import re
import struct
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError, Message

from seg_perception.core.errors import InputError, ModelError, first_of
from seg_perception.core.files import read_regular_file
from seg_perception.core.model_card import METADATA_KEY, ModelCard
from seg_perception.core.types import Size
from seg_perception.engines.base import INPUT_NAME, OUTPUT_NAMES
from seg_perception.engines.graph import encoding_of, fixed_size, pin_shapes

MAX_MODEL_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class CheckedModel:
    """An ONNX file that keeps the contract: its bytes, what they hold, and its model card."""

    content: bytes
    graph: onnx.ModelProto
    card: ModelCard


def load_model(path: Path) -> CheckedModel:
    """Read an ONNX file and check the contract.

    Accepted: one uint8 input "image" [N, H, W, 3]; two uint8 outputs "labels" and "confidence"
    [N, H, W]; a model card; no external data (it could name files elsewhere on the disk).

    Raises:
        FileNotFoundError: no such file.
        ModelError: the file breaks the contract; says where. A file of another kind is named, with what to do.
    """
    return parse_model(read_onnx_bytes(path), str(path))


def read_onnx_bytes(path: Path) -> bytes:
    """The bytes of a file that may be ONNX, by its first ones.

    Raises:
        FileNotFoundError: no such file.
        ModelError: a folder, no regular file, too large, or of another kind, which is named, with what to do.
    """
    if path.is_dir():
        raise ModelError(f"{path} is no ONNX model but {describe_folder(path)}")
    try:
        content = read_regular_file(path, MAX_MODEL_BYTES)
    except InputError as error:
        raise ModelError(str(error)) from error
    foreign = describe_foreign(path, content[:HEAD_BYTES])
    if foreign is not None:
        raise ModelError(f"{path} is no ONNX model but {foreign}")
    return content


def parse_model(content: bytes, source: str) -> CheckedModel:
    """Check the bytes of an ONNX file; the checks and errors of `load_model`, which name `source`."""
    if not content:  # which protobuf takes for a model without anything
        raise ModelError(f"{source}: the file is empty")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise ModelError(f"{source}: not an ONNX file, or truncated ({error})") from error
    return CheckedModel(content, model, check_model(model, source))


def read_model(path: Path) -> bytes:
    """The bytes of an ONNX file; the same checks and errors as `load_model`."""
    return load_model(path).content


def read_card(path: Path) -> ModelCard:
    """The model card of an ONNX file; the same checks and errors as `load_model`."""
    return load_model(path).card


def check_model(model: onnx.ModelProto, source: str) -> ModelCard:
    """Check a loaded model against the contract and return its card.

    Raises:
        ModelError: every fault found, one a line.
    """
    faults: list[str] = []
    graph = model.graph
    if not is_text(model):  # protobuf hands such names over as bytes, which fit nowhere
        raise ModelError(f"{source} breaks the contract of a deployed graph: it holds names that are no text (UTF-8)")
    if has_external_data(model):
        faults.append("it keeps weights in external files; export it as one file")
    _check_work(model, faults)
    channels = encoding_of(model).array_shape(Size(2, 2))[2]
    _check_tensors("input", graph.input, {INPUT_NAME: 4}, faults, channels)
    _check_tensors("output", graph.output, dict.fromkeys(OUTPUT_NAMES, 3), faults)
    cards = [p.value for p in model.metadata_props if p.key == METADATA_KEY]
    if not cards:
        faults.append(
            f"it has no model card (metadata property {METADATA_KEY!r}); make it with 'seg-perception export', "
            "or bring another project's model with 'seg-perception import'"
        )
    if faults:
        raise ModelError(f"{source} breaks the contract of a deployed graph:\n  " + "\n  ".join(faults))
    try:
        card = ModelCard.from_json(cards[0])
    except (ModelError, OverflowError) as error:  # a whole number that no float can hold
        raise ModelError(f"{source}: {error}") from error
    _check_memory(model, card, source)
    return card


def is_text(message: Message) -> bool:
    """Whether every text in a message, at any depth, is text."""
    for field, value in message.ListFields():
        if field.type not in (field.TYPE_STRING, field.TYPE_MESSAGE):
            continue
        values: tuple[Any, ...] = (value,) if isinstance(value, (str, bytes, Message)) else tuple(value)
        if field.type == field.TYPE_STRING and any(isinstance(item, bytes) for item in values):
            return False
        if field.message_type is not None and not all(is_text(item) for item in values):
            return False
    return True


def has_external_data(message: Message) -> bool:
    """In initializers, and wherever else a tensor can be: attributes, subgraphs, functions, sparse tensors."""
    if isinstance(message, onnx.TensorProto):
        return message.data_location == onnx.TensorProto.EXTERNAL or bool(message.external_data)
    fields = (value for field, value in message.ListFields() if field.message_type is not None)
    return any(
        has_external_data(child) for value in fields for child in ((value,) if isinstance(value, Message) else value)
    )


def _check_work(model: onnx.ModelProto, faults: list[str]) -> None:
    """A graph of the contract runs each node once; what could run without an end, or grow, is refused.

    A Loop may ask for 2^62 turns, and functions that call each other double the work with each one.
    """
    nodes = model.graph.node
    branching = sorted({n.op_type for n in nodes if any(a.HasField("g") or a.graphs for a in n.attribute)})
    if branching:
        faults.append(
            f"it holds control flow ({', '.join(branching)}), whose work nobody can bound; export it without "
            "(fixed sizes, or a tool that folds constants such as onnxsim)"
        )
    counted = [
        n.name or n.op_type for n in nodes for a in n.attribute if a.name == "num_outputs" and a.i != len(n.output)
    ]
    if counted:  # shape inference would make room for as many as it says
        faults.append(f"{counted[0]!r} says that it has another number of outputs than it has")
    if model.functions:
        names = ", ".join(f.name for f in model.functions[:4])
        faults.append(f"it defines {len(model.functions)} functions of its own ({names}); export it with them inlined")
    if not nodes:
        faults.append("it holds no nodes")
    opsets = [o.version for o in model.opset_import]
    if not all(1 <= version <= _NEWEST_OPSET for version in opsets):  # some runtimes count up to it
        faults.append(f"it wants operator sets {opsets}; 1 to {_NEWEST_OPSET} are accepted")
    known = {"", *(i.name for i in model.graph.input), *(t.name for t in model.graph.initializer)}
    known |= {t.values.name for t in model.graph.sparse_initializer}
    for node in nodes:
        again = [name for name in node.output if name and name in known]
        missing = [name for name in node.input if name not in known]
        if again or missing:  # some runtimes follow such a circle until the memory is full
            what = (
                f"makes {again[0]!r} a second time" if again else f"takes {missing[0]!r}, which no node before it makes"
            )
            faults.append(f"its node {node.name or node.op_type!r} {what}")
            break
        known.update(node.output)


def _check_memory(model: onnx.ModelProto, card: ModelCard, source: str) -> None:
    """Refuse a graph that would blow a tensor up far beyond its image, as a few repeats or factors can.

    Raises:
        ModelError: names the tensor and its shape at the card's input size.
    """
    size = fixed_size(model) or card.input_size
    pinned = onnx.ModelProto()
    pinned.CopyFrom(model)
    pin_shapes(pinned, 1, size)
    try:
        inferred = onnx.shape_inference.infer_shapes(pinned, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError, MemoryError):
        return  # the runtime says it better
    limit = _NUMBERS_A_PIXEL * size.width * size.height
    for tensor in (*inferred.graph.value_info, *inferred.graph.output):
        shape = [int(d.dim_value) or 1 for d in tensor.type.tensor_type.shape.dim]
        if math.prod(shape) > limit:
            raise ModelError(
                f"{source}: its tensor {tensor.name!r} would be {shape} for one image of {size}; "
                f"up to {_NUMBERS_A_PIXEL} numbers a pixel are accepted"
            )


_NEWEST_OPSET = 100  # ONNX has 28 in 2026
_NUMBERS_A_PIXEL = 1024
_LIMITS = (1024, 1 << 15, 1 << 15)  # images in a batch, rows, columns


def _check_tensors(
    kind: str, tensors: Sequence[onnx.ValueInfoProto], accepted: dict[str, int], faults: list[str], channels: int = 3
) -> None:
    found = {tensor.name: tensor.type.tensor_type for tensor in tensors}
    if sorted(found) != sorted(accepted):
        faults.append(f"{kind}s are {sorted(found) or 'none'}; accepted: {sorted(accepted)}")
        return
    for name, rank in accepted.items():
        tensor = found[name]
        shape = [d.dim_value or d.dim_param or "?" for d in tensor.shape.dim]
        layout = ["N", "H", "W", str(channels)][:rank]
        if tensor.elem_type != onnx.TensorProto.UINT8:
            faults.append(f"{kind} {name!r} is {_element_type(tensor.elem_type)}; accepted: UINT8")
        if len(shape) != rank or (rank == 4 and shape[3] != channels):
            faults.append(f"{kind} {name!r} has shape {shape}; accepted: [{', '.join(layout)}]")
        elif any(isinstance(n, int) and not 0 < n <= limit for n, limit in zip(shape, _LIMITS, strict=False)):
            count, rows, columns = _LIMITS
            faults.append(f"{kind} {name!r} has shape {shape}; up to {count} images of {columns}x{rows} are accepted")


def _element_type(number: int) -> str:
    try:
        return str(onnx.TensorProto.DataType.Name(number))
    except ValueError:
        return f"of element type {number}, which ONNX does not know"


HEAD_BYTES = 4096
"""As many first bytes as `describe_foreign` needs."""

_RECIPE = "export it to ONNX with its own tool, then: seg-perception import MODEL.onnx --out OURS.onnx"
_TORCH = (
    "one of 'seg-perception train' is exported with: seg-perception export --checkpoint FILE --out MODEL.onnx; "
    "another project's network with torch.onnx.export, then: seg-perception import MODEL.onnx --out OURS.onnx"
)
_ARCHIVE = "unpack it and name the .onnx file inside"


def describe_foreign(path: Path, head: bytes) -> str | None:
    """What a file is and what to do with it; None where it may be ONNX.

    Args:
        path: the file, for its name and for what only a look inside a ZIP tells.
        head: its first bytes, at most HEAD_BYTES.
    """
    for recognizes, what in _SIGNATURES:
        if recognizes(head):
            return what(path) if callable(what) else what
    if path.name == "saved_model.pb" or (path.suffix == ".pb" and not head.startswith(b"\x08")):
        return f"a TensorFlow graph; {_RECIPE} (tf2onnx makes ONNX of it)"
    return _text(head)


def describe_folder(path: Path) -> str:
    """What a folder is that was given as a model, and what to do with it."""
    if (path / "saved_model.pb").is_file():
        return f"a folder with a TensorFlow SavedModel; {_RECIPE} (tf2onnx makes ONNX of it)"
    models = sorted(p.name for p in path.glob("*.onnx"))
    return "a folder; name the .onnx file" + (f", here: {first_of(models)}" if models else " itself")


def _starts(*signatures: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(signatures)


def _at(offset: int, signature: bytes) -> Callable[[bytes], bool]:
    return lambda head: head[offset : offset + len(signature)] == signature


def _is_safetensors(head: bytes) -> bool:
    if len(head) < 10:
        return False
    (length,) = struct.unpack_from("<Q", head)
    return 2 <= length < 1 << 32 and head[8:9] == b"{"


def _is_markup(head: bytes) -> bool:
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return start.startswith((b"<!doctype", b"<html", b"<head", b"<body"))


def _is_openvino(head: bytes) -> bool:
    return head.lstrip().startswith(b"<?xml") and b"<net " in head


def _zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return "a ZIP file that is cut off or damaged (PyTorch checkpoints are ZIP files): fetch it again"
    if any(name.endswith("/data.pkl") or name == "data.pkl" for name in names):
        scripted = any("/code/" in name or name.endswith("constants.pkl") for name in names)
        return f"a PyTorch {'TorchScript file' if scripted else 'checkpoint'}; {_TORCH}"
    if any(name.endswith("model.weights.h5") for name in names):
        return f"a Keras model; {_RECIPE} (tf2onnx makes ONNX of it)"
    if any(name.endswith(".npy") for name in names):
        return f"a NumPy archive, such as weights without a network; {_RECIPE}"
    return f"a ZIP archive of {len(names)} files; {_ARCHIVE}"


_SIGNATURES: tuple[tuple[Callable[[bytes], bool], str | Callable[[Path], str]], ...] = (
    (
        _starts(b"version https://git-lfs"),
        "a Git LFS pointer, not the model itself: run 'git lfs install' and 'git lfs pull' where it was cloned",
    ),
    (
        lambda head: re.match(rb"[a-z]trt", head) is not None,
        (
            "a TensorRT engine that nothing describes; name the .onnx file it was built from, or what "
            "'seg-perception compile MODEL.onnx' writes"
        ),
    ),
    (_starts(b"PK\x03\x04", b"PK\x05\x06"), _zip),
    (lambda head: re.match(rb"\x80[\x02-\x05]", head) is not None, f"a Python pickle, as old PyTorch wrote; {_TORCH}"),
    (_is_safetensors, f"safetensors, weights without a network; {_TORCH}"),
    (_at(4, b"TFL"), f"a TensorFlow Lite model; {_RECIPE} (tf2onnx makes ONNX of it)"),
    (_at(4, b"ORTM"), "a model in ONNX Runtime's own format; name the .onnx file it was made from"),
    (_starts(b"\x89HDF\r\n\x1a\n"), f"an HDF5 file, as Keras wrote; {_RECIPE} (tf2onnx makes ONNX of it)"),
    (_starts(b"GGUF"), "a GGUF file, which holds language models"),
    (_is_markup, "an HTML page, as a download that needs a login or a form saves it: fetch the model itself"),
    (_is_openvino, "an OpenVINO model (IR); name the .onnx file it was made from, and take the engine 'openvino'"),
    (_starts(b"<?xml"), "an XML file"),
    (_starts(b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf"), f"a compressed file; {_ARCHIVE}"),
    (_at(257, b"ustar"), f"a tar archive; {_ARCHIVE}"),
    (_starts(b"\x93NUMPY"), "a NumPy array"),
    (_starts(b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"GIF8", b"BM"), "a picture or a video; it goes where images go"),
    (_starts(b"\x7fELF"), "a program or library for Linux"),
    (lambda head: len(head) > 64 and not head.strip(b"\0"), "nothing but zeros: fetch it again"),
)


def _text(head: bytes) -> str | None:
    """ONNX files hold bytes that no text has within the first few."""
    start = head[:200].removeprefix(b"\xef\xbb\xbf")
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError:
        return None
    if not text.strip() or any(not c.isprintable() and c not in "\t\r\n" for c in text):
        return None
    line = text.strip().splitlines()[0][:60]
    return f"a text that begins with {line!r}"
