"""Reads an exported ONNX file and checks it against the contract of the deployed graph."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, Message

from seg_perception.core.errors import ModelError
from seg_perception.core.model_card import METADATA_KEY, ModelCard
from seg_perception.engines.base import INPUT_NAME, OUTPUT_NAMES

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
        ModelError: the file breaks the contract; says where.
    """
    size = path.stat().st_size
    if size > MAX_MODEL_BYTES:
        raise ModelError(f"{path}: {size} bytes; models over {MAX_MODEL_BYTES} bytes are refused")
    return parse_model(path.read_bytes(), str(path))


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
    if _has_external_data(model):
        faults.append("it keeps weights in external files; export it as one file")
    _check_tensors("input", graph.input, {INPUT_NAME: 4}, faults)
    _check_tensors("output", graph.output, dict.fromkeys(OUTPUT_NAMES, 3), faults)
    cards = [p.value for p in model.metadata_props if p.key == METADATA_KEY]
    if not cards:
        faults.append(
            f"it has no model card (metadata property {METADATA_KEY!r}); make it with 'seg-perception export'"
        )
    if faults:
        raise ModelError(f"{source} breaks the contract of a deployed graph:\n  " + "\n  ".join(faults))
    try:
        return ModelCard.from_json(cards[0])
    except ModelError as error:
        raise ModelError(f"{source}: {error}") from error


def _has_external_data(message: Message) -> bool:
    """In initializers, and wherever else a tensor can be: attributes, subgraphs, functions, sparse tensors."""
    if isinstance(message, onnx.TensorProto):
        return message.data_location == onnx.TensorProto.EXTERNAL or bool(message.external_data)
    fields = (value for field, value in message.ListFields() if field.message_type is not None)
    return any(
        _has_external_data(child) for value in fields for child in ((value,) if isinstance(value, Message) else value)
    )


def _check_tensors(kind: str, tensors: object, accepted: dict[str, int], faults: list[str]) -> None:
    found = {tensor.name: tensor.type.tensor_type for tensor in tensors}  # type: ignore[attr-defined]
    if sorted(found) != sorted(accepted):
        faults.append(f"{kind}s are {sorted(found) or 'none'}; accepted: {sorted(accepted)}")
        return
    for name, rank in accepted.items():
        tensor = found[name]
        shape = [d.dim_value or d.dim_param or "?" for d in tensor.shape.dim]
        layout = ["N", "H", "W", "3"][:rank]
        if tensor.elem_type != onnx.TensorProto.UINT8:
            faults.append(f"{kind} {name!r} is {onnx.TensorProto.DataType.Name(tensor.elem_type)}; accepted: UINT8")
        if len(shape) != rank or (rank == 4 and shape[3] != 3):
            faults.append(f"{kind} {name!r} has shape {shape}; accepted: [{', '.join(layout)}]")
