"""What a model file must be before any runtime sees it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from seg_perception.core.errors import ModelError
from seg_perception.core.model_card import METADATA_KEY
from seg_perception.engines.graph.model_file import read_card, read_model
from seg_perception.engines.onnxruntime import OnnxRuntimeEngine


def _elsewhere(name: str, file: str) -> TensorProto:
    """A float tensor [4] whose values are in another file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", file), ("offset", "0"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def _initializer(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(_elsewhere("w", "secret.bin"))


def _constant(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["w"], value=_elsewhere("w", "secret.bin")))


def _subgraph(model: onnx.ModelProto) -> None:
    output = helper.make_tensor_value_info("w", TensorProto.FLOAT, [4])
    inner = helper.make_graph([], "inner", [], [output], [_elsewhere("w", "secret.bin")])
    yes = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
    model.graph.initializer.append(yes)
    model.graph.node.append(helper.make_node("If", ["yes"], ["x"], then_branch=inner, else_branch=inner))


def _function(model: onnx.ModelProto) -> None:
    node = helper.make_node("Constant", [], ["w"], value=_elsewhere("w", "secret.bin"))
    opset = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("ours", "F", [], ["w"], [node], opset))


@pytest.mark.parametrize("hide", [_initializer, _constant, _subgraph, _function])
def test_no_tensor_may_be_in_another_file(
    hide: Callable[[onnx.ModelProto], None], driving_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime would read it, relative to the folder that the node was started in."""
    monkeypatch.chdir(tmp_path)
    Path("secret.bin").write_bytes(np.ones(4, np.float32).tobytes())
    model = onnx.load(driving_model)
    hide(model)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    for read in (read_model, OnnxRuntimeEngine):
        with pytest.raises(ModelError, match=r"model\.onnx breaks the contract(?s:.*)weights in external files"):
            read(path)


@pytest.mark.parametrize(
    "content, message",
    [
        (lambda _: b"", r"model\.onnx: the file is empty"),
        (lambda whole: whole[: len(whole) // 2], r"model\.onnx: not an ONNX file, or truncated"),
        (lambda _: b"hello", r"model\.onnx: not an ONNX file, or truncated"),
        (lambda _: onnx.ModelProto(ir_version=8).SerializeToString(), "it has no model card"),
    ],
)
def test_what_is_no_model_is_refused(
    content: Callable[[bytes], bytes], message: str, driving_model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content(driving_model.read_bytes()))
    with pytest.raises(ModelError, match=message):
        read_model(path)


def test_a_sparse_file_of_two_gigabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.touch()
    os.truncate(path, 2 << 30)
    with pytest.raises(ModelError, match="2147483648 bytes; models over 1073741824 bytes are refused"):
        read_model(path)


def test_a_fault_in_the_card_names_the_file(driving_model: Path, tmp_path: Path) -> None:
    model = onnx.load(driving_model)
    helper.set_model_props(model, {METADATA_KEY: "{}"})
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    with pytest.raises(ModelError, match=r"model\.onnx: model card format None is not supported"):
        read_card(path)


def test_every_broken_rule_is_named_at_once(driving_model: Path, tmp_path: Path) -> None:
    model = onnx.load(driving_model)
    del model.metadata_props[:]
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    del model.graph.output[1]
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    with pytest.raises(ModelError) as error:
        read_model(path)
    assert str(error.value).splitlines() == [
        f"{path} breaks the contract of a deployed graph:",
        "  input 'image' is FLOAT; accepted: UINT8",
        "  outputs are ['labels']; accepted: ['confidence', 'labels']",
        f"  it has no model card (metadata property {METADATA_KEY!r}); make it with 'seg-perception export'",
    ]
