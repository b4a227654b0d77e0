"""`seg-perception inspect` of another project's ONNX file: what it is, and an import command that works."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves it out
from foreign_models import build

from seg_perception.cli.main import main
from seg_perception.core.errors import EngineError
from seg_perception.engines.tensorrt.versions import load_library
from seg_perception.export.importing import NOT_IN_TENSORRT

FLOAT = TensorProto.FLOAT


def shown(capsys: pytest.CaptureFixture[str], path: Path) -> str:
    assert main(["inspect", str(path)]) == 0
    return "\n".join(" ".join(line.split()) for line in capsys.readouterr().out.splitlines())


def command_of(text: str) -> list[str]:
    """The import command at its end, over several lines."""
    return shlex.split(text.partition("import it with:\n")[2].replace("\\\n", " "))


@pytest.mark.parametrize(
    "name, lines, options",
    [
        ("scores, stride 4, open", ("inputs input: float [N, 3, H, W]", "opset ai.onnx 17", "parameters 0.00 M"),
         "--layout nchw --color rgb --scale 255 --kind scores --classes cityscapes19"),
        ("NHWC uint8, probabilities last", ("inputs image: uint8 [N, H, W, 3]",),
         "--layout nhwc --scale 1 --kind probabilities --classes camvid11"),
        ("ids int64 [N, h, w]", ("outputs output: int64 [",), "--kind labels --classes cityscapes19"),
        ("sigmoid", ("outputs output: float [",), "--kind sigmoid --classes binary-road"),
        ("several heads", ("outputs aux: float [", "main: float [", "edge: float ["), "--output main --kind scores"),
        ("ultralytics", ("metadata author, names, stride, task", "classes road, sidewalk, pole, sky, building"),
         "--mean 0,0,0 --std 1,1,1 --classes names"),
    ],
)  # fmt: skip
def test_the_command_that_it_prints_imports_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, lines: tuple[str, ...], options: str
) -> None:
    path = build(name, tmp_path / "net.onnx")
    text = shown(capsys, path)
    for line in (
        *lines,
        "another project's model",
        "made by pytorch",
        "Conv",
        "TensorRT all operators are known to it",
    ):
        assert line in text
    command = command_of(text)
    assert command[:3] == ["seg-perception", "import", str(path)]
    for option, value in zip(options.split()[::2], options.split()[1::2], strict=True):
        assert command[command.index(option) + 1] == value
    assert main(command[1:]) == 0
    imported = capsys.readouterr().out
    assert "guessed" not in imported, "the command states everything"
    assert main(["inspect", command[command.index("--out") + 1]]) == 0
    assert "imported from net.onnx" in capsys.readouterr().out


def graph(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    **weights: object,
) -> onnx.ModelProto:
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    made = helper.make_graph(nodes, "g", inputs, outputs, constants)
    domains = sorted({"", *(node.domain for node in nodes)})
    return helper.make_model(
        made, opset_imports=[helper.make_opsetid(d, 1 if d else 17) for d in domains], ir_version=8
    )


def value(name: str, shape: list[int | str] | None, kind: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def seven_classes() -> onnx.ModelProto:
    weights = np.ones((7, 3, 1, 1), np.float32)
    return graph([helper.make_node("Conv", ["x", "w"], ["y"])], [value("x", [1, 3, 32, 64])],
                 [value("y", [1, 7, 32, 64])], w=weights)  # fmt: skip


def detector() -> onnx.ModelProto:
    """84 numbers for each of many boxes, as YOLO gives them."""
    nodes = [helper.make_node("Conv", ["x", "w"], ["m"]), helper.make_node("Reshape", ["m", "s"], ["boxes"])]
    return graph(nodes, [value("x", [1, 3, 64, 64])], [value("boxes", [1, 84, 4096])],
                 w=np.ones((84, 3, 1, 1), np.float32), s=np.array([1, 84, 4096]))  # fmt: skip


def classifier() -> onnx.ModelProto:
    nodes = [helper.make_node("GlobalAveragePool", ["x"], ["m"]), helper.make_node("Flatten", ["m"], ["y"])]
    return graph(nodes, [value("x", ["batch", 3, 224, 224])], [value("y", ["batch", 3])])


def language_model() -> onnx.ModelProto:
    return graph([helper.make_node("Cast", ["ids"], ["y"], to=FLOAT)], [value("ids", ["N", "S"], TensorProto.INT64)],
                 [value("y", ["N", "S"])])  # fmt: skip


def two_inputs() -> onnx.ModelProto:
    return graph([helper.make_node("Add", ["left", "right"], ["y"])],
                 [value(name, [1, 3, 64, 64]) for name in ("left", "right")], [value("y", [1, 3, 64, 64])])  # fmt: skip


def strange_operators() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["m"]),
        helper.make_node("Gelu", ["m"], ["g"], domain="com.microsoft"),
        helper.make_node("Det", ["g"], ["d"]),
        helper.make_node("Add", ["g", "z"], ["y"]),
    ]
    return graph(nodes, [value("x", [1, 3, 64, 64])], [value("y", [1, 19, 64, 64]), value("d", [1, 19])],
                 w=np.ones((19, 3, 1, 1), np.float32), z=np.float32(0))  # fmt: skip


def list_of_tensors() -> onnx.ModelProto:
    made = graph([helper.make_node("SequenceConstruct", ["x"], ["y"])], [value("x", [1, 3, 64, 64])], [])
    made.graph.output.append(helper.make_tensor_sequence_value_info("y", FLOAT, None))
    return made


def weights_elsewhere() -> onnx.ModelProto:
    made = seven_classes()
    made.graph.initializer[0].data_location = TensorProto.EXTERNAL
    return made


def endless() -> onnx.ModelProto:
    made = seven_classes()
    made.graph.node.add().CopyFrom(helper.make_node("Loop", ["", ""], []))
    return made


def gray() -> onnx.ModelProto:
    return graph([helper.make_node("Conv", ["x", "w"], ["y"])], [value("x", [1, 1, 64, 64])],
                 [value("y", [1, 19, 64, 64])], w=np.ones((19, 1, 1, 1), np.float32))  # fmt: skip


ODD: dict[str, tuple[Callable[[], onnx.ModelProto], tuple[str, ...]]] = {
    "classes nobody names": (seven_classes, ("parameters 0.00 M", "7 classes, and nothing in the file names them",
                                             "--classes CLASSES.yaml", "docs/your_model.md")),
    "detector": (detector, ("outputs boxes: float [1, 84, 4096]", "import not possible:",
                            "no output can be the segmentation of a 64x64 image")),
    "classifier": (classifier, ("inputs x: float [batch, 3, 224, 224]", "no output can be the segmentation")),
    "language model": (language_model, ("inputs ids: int64 [N, S]", "one input is needed that takes images")),
    "two inputs": (two_inputs, ("a model with several inputs cannot be imported",)),
    "strange operators": (strange_operators, ("opset ai.onnx 17, com.microsoft 1",
                                              "TensorRT Det, com.microsoft.Gelu are not taken", "--output y")),
    "a list of tensors": (list_of_tensors, ("outputs y: sequence, no tensor", "SequenceConstruct are not taken",
                                            "'y' is no tensor of a type that ONNX knows")),
    "weights elsewhere": (weights_elsewhere, ("it keeps weights in other files; save it as one file",)),
    "loop": (endless, ("it has control flow (Loop)",)),
    "gray input": (gray, ("inputs x: float [1, 1, 64, 64]", "one input is needed that takes images")),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_any_onnx_file_is_described(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    make, parts = ODD[name]
    (tmp_path / "odd.ONNX").write_bytes(make().SerializeToString())
    text = shown(capsys, tmp_path / "odd.ONNX")
    for part in parts:
        assert part in text, text


@pytest.mark.parametrize(
    "content, message",
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"ftrt" + bytes(40), "a TensorRT engine"),
        (b"\x1c\0\0\0TFL3" + bytes(40), "a TensorFlow Lite model"),
        (b"<!DOCTYPE html><html>", "an HTML page"),
    ],
)
@pytest.mark.parametrize("command", [["inspect"], ["import", "--out", "out.onnx"]])
def test_what_is_no_onnx_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, message: str, command: list[str]
) -> None:
    (tmp_path / "net.bin").write_bytes(content)
    assert main([*command, str(tmp_path / "net.bin")]) == 2
    assert message in capsys.readouterr().err


def test_the_list_of_operators_is_nvidias(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        library = load_library()
    except EngineError as error:
        pytest.skip(f"NVIDIA's parser is not here: {error}")
    trt = library.module
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    names = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    assert len(names) > 180
    assert {name for name in names if not parser.supports_operator(name)} == NOT_IN_TENSORRT & names
