"""What a model file must be before any runtime sees it."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from seg_perception.core.errors import ModelError
from seg_perception.core.model_card import METADATA_KEY
from seg_perception.engines.graph import card_of
from seg_perception.engines.graph.model_file import read_card, read_model
from seg_perception.engines.onnxruntime import OnnxRuntimeEngine
from seg_perception.engines.opening import open_engine


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
        (lambda _: b"hello", r"model\.onnx is no ONNX model but a text that begins with 'hello'"),
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
    with pytest.raises(ModelError, match=r"2147483648 bytes.*1073741824"):
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
        (
            f"  it has no model card (metadata property {METADATA_KEY!r}); make it with 'seg-perception export', "
            "or bring another project's model with 'seg-perception import'"
        ),
    ]


def _torch_files(folder: Path) -> dict[str, Path]:
    import torch
    from safetensors.torch import save_file

    network = torch.nn.Conv2d(3, 4, 1)
    paths = {name: folder / name for name in ("zip.pth", "old.pth", "script.pt", "weights.safetensors")}
    torch.save(network.state_dict(), paths["zip.pth"])
    torch.save(network.state_dict(), paths["old.pth"], _use_new_zipfile_serialization=False)
    torch.jit.save(torch.jit.trace(network, torch.zeros(1, 3, 2, 2)), paths["script.pt"])
    save_file(network.state_dict(), paths["weights.safetensors"])
    return paths


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_pytorch_writes_is_recognized(tmp_path: Path) -> None:
    paths = _torch_files(tmp_path)
    for name, what in (
        ("zip.pth", "a PyTorch checkpoint; one of 'seg-perception train' is exported with: seg-perception export"),
        ("old.pth", "a Python pickle, as old PyTorch wrote; one of"),
        ("script.pt", "a PyTorch TorchScript file; one of"),
        ("weights.safetensors", "safetensors, weights without a network; one of"),
    ):
        with pytest.raises(ModelError, match=rf"{name} is no ONNX model but {what}"):
            read_model(paths[name])
    (tmp_path / "cut.pth").write_bytes(paths["zip.pth"].read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"cut\.pth is no ONNX model but a ZIP file that is cut off or damaged"):
        read_model(tmp_path / "cut.pth")


@pytest.mark.parametrize(
    "name, content, what",
    [
        ("m.plan", b"ptrt\0\0\0\0" + bytes(99), "a TensorRT engine that nothing describes; name the .onnx file"),
        ("m.trt", b"ftrt\0\0\0\0" + bytes(99), "a TensorRT engine"),
        ("m.onnx", b"vtrt\0\0\0\0\2" + bytes(99), "a TensorRT engine"),  # TensorRT-RTX
        ("m.tflite", b"\x1c\0\0\0TFL3" + bytes(99), "a TensorFlow Lite model; export it to ONNX"),
        ("m.h5", b"\x89HDF\r\n\x1a\n" + bytes(99), "an HDF5 file"),
        ("m.ort", b"\x1c\0\0\0ORTM" + bytes(99), "a model in ONNX Runtime's own format"),
        ("m.gguf", b"GGUF\3\0\0\0", "a GGUF file"),
        ("saved_model.pb", b"\x08\x01\x12\x99\x01" + bytes(99), "a TensorFlow graph"),
        ("m.xml", b'<?xml version="1.0"?>\n<net name="n" version="11">', "an OpenVINO model"),
        (
            "m.onnx",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
            "a Git LFS pointer, not the model itself: run 'git lfs install' and 'git lfs pull'",
        ),
        ("m.onnx", b"\n <!DOCTYPE html><html><body>Sign in", "an HTML page, as a download that needs a login"),
        ("m.onnx", b"\xef\xbb\xbf<HTML>", "an HTML page"),
        ("m.onnx", b'{"error": "not found"}', 'a text that begins with \'{"error": "not found"}\''),
        ("m.onnx", bytes(4096), "nothing but zeros"),
        ("m.onnx", b"\x1f\x8b\x08" + bytes(99), "a compressed file; unpack it"),
        ("m.onnx", b"\x89PNG\r\n\x1a\n" + bytes(99), "a picture"),
        ("m.npy", b"\x93NUMPY\x01\0", "a NumPy array"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else None,
)
def test_files_of_other_kinds_are_named_with_what_to_do(name: str, content: bytes, what: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ModelError, match=re.escape(f"{path} is no ONNX model but {what}")):
        open_engine(path, "onnxruntime")


def test_folders_pipes_and_devices(tmp_path: Path, driving_model: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"\x08\x01\x12")
    with pytest.raises(ModelError, match="is no ONNX model but a folder with a TensorFlow SavedModel"):
        read_model(tmp_path)
    with pytest.raises(ModelError, match=rf"a folder; name the \.onnx file, here: {driving_model.name}"):
        read_model(driving_model.parent)
    os.mkfifo(tmp_path / "pipe.onnx")
    for path in (tmp_path / "pipe.onnx", Path("/dev/zero")):
        with pytest.raises(ModelError, match=f"{path}.*(pipe|device)"):
            read_model(path)


def _unknown_type(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = 99


def _rank_0(model: onnx.ModelProto) -> None:
    del model.graph.output[0].type.tensor_type.shape.dim[:]


def _no_type(model: onnx.ModelProto) -> None:
    model.graph.output[1].ClearField("type")


def _huge(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1 << 62


def _negative(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -5


def _loop(model: onnx.ModelProto) -> None:
    yes = helper.make_tensor_value_info("yes", TensorProto.BOOL, [])
    body = helper.make_graph([], "body", [helper.make_tensor_value_info("i", TensorProto.INT64, []), yes], [yes])
    model.graph.initializer.append(helper.make_tensor("turns", TensorProto.INT64, [], [1 << 62]))
    model.graph.node.append(helper.make_node("Loop", ["turns", ""], [], body=body))


def _doubling(model: onnx.ModelProto) -> None:
    cast = next(n for n in model.graph.node if n.op_type == "Cast")
    names = [cast.output[0], *(f"twice{i}" for i in range(40))]
    for before, after in itertools.pairwise(names):
        model.graph.node.append(helper.make_node("Concat", [before, before], [after], axis=1))


def _enlarging(model: onnx.ModelProto) -> None:
    resize = next(n for n in model.graph.node if n.op_type == "Resize")
    (scales,) = (t for t in model.graph.initializer if t.name == resize.input[2])
    scales.CopyFrom(onnx.numpy_helper.from_array(np.array([1, 1, 1e5, 1e5], np.float32), scales.name))


def _no_text(model: onnx.ModelProto) -> None:
    model.graph.output[1].name = "confidenz"  # made no UTF-8 in the file, below


def _many_outputs(model: onnx.ModelProto) -> None:
    cast = next(n for n in model.graph.node if n.op_type == "Cast")
    model.graph.node.append(helper.make_node("Split", [cast.output[0]], ["part"], axis=1, num_outputs=1 << 31))


def _opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 1 << 62


def _circle(model: onnx.ModelProto) -> None:
    model.graph.node[3].output[0] = "image"


def _out_of_nowhere(model: onnx.ModelProto) -> None:
    model.graph.node[5].input[0] = "nowhere"


def _big_numbers(model: onnx.ModelProto) -> None:
    card = json.loads(card_of(model).to_json())
    card["scores"] = {"x": {"y": 10**400}}
    helper.set_model_props(model, {METADATA_KEY: json.dumps(card)})


def _deep_card(model: onnx.ModelProto) -> None:
    helper.set_model_props(model, {METADATA_KEY: "[" * 100_000})


@pytest.mark.parametrize(
    "edit, message",
    [
        (_unknown_type, "input 'image' is of element type 99, which ONNX does not know; accepted: UINT8"),
        (_rank_0, r"output 'labels' has shape \[\]; accepted: \[N, H, W\]"),
        (_no_type, "output 'confidence' is UNDEFINED; accepted: UINT8"),
        (_huge, r"input 'image' has shape .*4611686018427387904.* up to 1024 images of 32768x32768 are accepted"),
        (_negative, r"input 'image' has shape \[-5, .* up to 1024 images"),
        (_loop, r"holds control flow \(Loop\), whose work nobody can bound"),
        (_subgraph, r"holds control flow \(If\)"),
        (_function, r"defines 1 functions of its own \(F\)"),
        (_doubling, r"its tensor 'twice\d+' would be .* up to 1024 numbers a pixel are accepted"),
        (_enlarging, r"its tensor .* would be .* up to 1024 numbers a pixel are accepted"),
        (_no_text, r"holds names that are no text \(UTF-8\)"),
        (_many_outputs, "says that it has another number of outputs than it has"),
        (_opset, r"wants operator sets \[4611686018427387904\]; 1 to 100 are accepted"),
        (_circle, "makes 'image' a second time"),
        (_out_of_nowhere, "takes 'nowhere', which no node before it makes"),
        (_big_numbers, "model.onnx: .*(too large|not accepted)"),
        (_deep_card, "the model card is not JSON: maximum recursion depth"),
    ],
)
def test_graphs_that_lie_or_would_never_end_are_refused(
    edit: Callable[[onnx.ModelProto], None], message: str, driving_model: Path, tmp_path: Path
) -> None:
    model = onnx.load(driving_model)
    edit(model)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString().replace(b"confidenz", b"confid\xe9nc"))
    for read in (read_model, OnnxRuntimeEngine):
        with pytest.raises(ModelError, match=f"(?s){message}"):
            read(path)
