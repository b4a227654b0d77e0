"""Imports of graphs that few exporters write, made by hand: each says what the original says, or is refused."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from seg_perception.core.errors import ModelError
from seg_perception.core.types import Size
from seg_perception.engines.opening import open_engine
from seg_perception.export.importing import ImportRequest
from seg_perception.export.importing.import_file import import_file

INT64, BOOL, UINT8, UINT16 = TensorProto.INT64, TensorProto.BOOL, TensorProto.UINT8, TensorProto.UINT16
node = helper.make_node


def weights(classes: int, stride: int = 1) -> np.ndarray:
    return (np.random.default_rng(classes).normal(size=(classes, 3, stride, stride)) * 3 / stride).astype(np.float32)


def value(name: str, shape: object, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    behind: list[onnx.NodeProto],
    output: onnx.ValueInfoProto,
    shape: tuple[object, ...] = (1, 3, 96, 160),
    classes: int = 19,
    stride: int = 1,
    opset: int = 17,
    **constants: object,
) -> onnx.ModelProto:
    """A convolution makes `s` of the input `x`; what is behind it makes the output."""
    first = node("Conv", ["x", "w"], ["s"], strides=[stride, stride])
    tensors = [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()]
    tensors.append(numpy_helper.from_array(weights(classes, stride if shape[2] != 769 else 1), "w"))
    graph = helper.make_graph([first, *behind], "g", [value("x", shape)], [output], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


AXIS_0, AXES_01 = np.array([0]), np.array([0, 1])
OPEN = ("N", 3, "H", "W")


def functions() -> onnx.ModelProto:
    made = model([], value("y", [1, 19, 96, 160]))
    made.graph.node[0].CopyFrom(node("Block", ["x", "w"], ["y"], domain="my"))
    inner = [node("Conv", ["a", "b"], ["c"])]
    made.functions.add().CopyFrom(
        helper.make_function("my", "Block", ["a", "b"], ["c"], inner, [helper.make_opsetid("", 17)])
    )
    made.opset_import.append(helper.make_opsetid("my", 1))
    return made


def weights_as_inputs() -> onnx.ModelProto:
    """As PyTorch wrote until 1.2: in a file of version 3, every constant must be an input."""
    made = model([node("Identity", ["s"], ["y"])], value("y", [1, 19, 96, 160]), opset=9)
    made.ir_version = 3
    made.graph.input.append(value("w", [19, 3, 1, 1]))
    return made


def argmax(output: str, keep: int = 0) -> onnx.NodeProto:
    return node("ArgMax", ["s"], [output], axis=1, keepdims=keep)


MODELS: dict[str, tuple[str, onnx.ModelProto]] = {
    "ids [h, w], no batch": ("labels", model([argmax("a"), node("Squeeze", ["a", "z"], ["y"])],
                                             value("y", [96, 160], INT64), z=AXIS_0)),
    "ids of an open batch that falls away": ("labels", model([argmax("a"), node("Squeeze", ["a"], ["y"])],
                                                             value("y", None, INT64), OPEN)),
    "a batch of 1 fixed inside": ("scores", model([node("Reshape", ["s", "z"], ["y"])], value("y", ["N", 19, 96, 160]),
                                                  ("N", 3, 96, 160), z=np.array([1, 19, 96, 160]))),
    "scores [C, h, w], no batch": ("scores", model([node("Squeeze", ["s", "z"], ["y"])], value("y", [19, 96, 160]),
                                                   z=AXIS_0)),
    "scores [h, w, C], no batch": ("scores", model(
        [node("Squeeze", ["s", "z"], ["q"]), node("Transpose", ["q"], ["y"], perm=[1, 2, 0])],
        value("y", [96, 160, 19]), z=AXIS_0)),
    "one sigmoid [h, w], no batch": ("sigmoid", model(
        [node("Sigmoid", ["s"], ["p"]), node("Squeeze", ["p", "z"], ["y"])], value("y", [96, 160]), classes=1,
        z=AXES_01)),
    "a sigmoid for each class": ("probabilities", model([node("Sigmoid", ["s"], ["y"])], value("y", [1, 19, 96, 160]))),
    "log softmax": ("scores", model([node("LogSoftmax", ["s"], ["y"], axis=1)], value("y", [1, 19, 96, 160]))),
    "bool": ("labels", model([node("Greater", ["s", "z"], ["y"])], value("y", [1, 1, 96, 160], BOOL), classes=1,
                             z=np.float32(0))),
    "ids as floats": ("labels", model([argmax("a", 1), node("Cast", ["a"], ["y"], to=TensorProto.FLOAT)],
                                      value("y", [1, 1, 96, 160]))),
    "ids uint16": ("labels", model([argmax("a"), node("Cast", ["a"], ["y"], to=UINT16)],
                                   value("y", [1, 96, 160], UINT16))),
    "corners aligned, 769 to 97": ("scores", model([node("Identity", ["s"], ["y"])], value("y", [1, 19, 97, 97]),
                                                   (1, 3, 769, 769), stride=8)),
    "opset 9": ("scores", model([node("Upsample", ["s", "z"], ["y"], mode="nearest")], value("y", [1, 19, 96, 160]),
                                stride=2, opset=9, z=np.array([1, 1, 2, 2], np.float32))),
    "opset 9, bilinear": ("scores", model([node("Upsample", ["s", "z"], ["y"], mode="linear")],
                                          value("y", [1, 19, 96, 160]), stride=2, opset=9,
                                          z=np.array([1, 1, 2, 2], np.float32))),
    "opset 10, a quarter and back": ("scores", model(
        [node("Resize", ["s", "d"], ["t"], mode="nearest"), node("Resize", ["t", "u"], ["y"], mode="linear")],
        value("y", [1, 19, 96, 160]), opset=10, d=np.array([1, 1, 0.25, 0.25], np.float32),
        u=np.array([1, 1, 4, 4], np.float32))),
    "opset 11": ("labels", model([argmax("y", 1)], value("y", ["N", 1, "H", "W"], INT64), OPEN, opset=11)),
    "opset 22": ("scores", model([node("Identity", ["s"], ["y"])], value("y", ["N", 19, "H", "W"]), OPEN, opset=22)),
    "four images at a time": ("scores", model([node("Identity", ["s"], ["y"])], value("y", [4, 19, 96, 160]),
                                              (4, 3, 96, 160))),
    "double": ("scores", model([node("Cast", ["s"], ["y"], to=TensorProto.DOUBLE)],
                               value("y", [1, 19, 96, 160], TensorProto.DOUBLE))),
    "weights listed as inputs": ("scores", weights_as_inputs()),
    "functions of its own": ("scores", functions()),
}  # fmt: skip


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    cv2.imwrite(str(folder / "a.png"), np.random.default_rng(4).integers(0, 256, (96, 160, 3), np.uint8))
    return folder


@pytest.mark.parametrize("name", MODELS)
def test_it_says_what_the_original_says(tmp_path: Path, pictures: Path, name: str) -> None:
    kind, made = MODELS[name]
    (tmp_path / "in.onnx").write_bytes(made.SerializeToString())
    report = import_file(tmp_path / "in.onnx", tmp_path / "out.onnx", images=pictures)
    assert report.imported.decision.kind.value == kind
    compared = report.comparison
    assert compared.agreement > 0.999
    assert compared.pixels - compared.equal <= (compared.ties or 0) + 2  # a scale of 97ths is no exact float
    card = report.imported.card
    assert card.confidence == ("none" if kind == "labels" else "probability")
    batch = report.imported.decision.batch or 1
    image = np.random.default_rng(3).integers(
        0, 256, (batch, card.input_size.height, card.input_size.width, 3), np.uint8
    )
    with open_engine(tmp_path / "out.onnx", "onnxruntime") as engine:
        labels, confidence = engine.infer(image)
    assert labels.shape == image.shape[:3]
    if kind == "labels":
        assert confidence.min() == 255
    else:
        assert len(np.unique(confidence)) > 3


def test_what_says_something_else_is_not_written(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX's converter of old opsets gives a bilinear Upsample today's coordinates: half a pixel away."""
    monkeypatch.setattr("seg_perception.export.importing.wrap._keep_old_resizes", lambda graph: None)
    (tmp_path / "in.onnx").write_bytes(MODELS["opset 9, bilinear"][1].SerializeToString())
    with pytest.raises(ModelError, match=r"in\.onnx \(opset 9\): what it becomes is not what it is, .*labels equal"):
        import_file(tmp_path / "in.onnx", tmp_path / "out.onnx", images=pictures)
    assert not (tmp_path / "out.onnx").exists()


def test_sigmoids_of_classes_are_shares_of_their_sum(tmp_path: Path, pictures: Path) -> None:
    """Car 0.8, sky 0.6, building, wall, fence 0.2 each: car has 0.8 of 2.0; summed, background's 0.6 does not win."""
    wanted = np.full(19, 1e-6)
    wanted[[13, 10, 2, 3, 4]] = 0.8, 0.6, 0.2, 0.2, 0.2
    made = model([node("Add", ["s", "b"], ["t"]), node("Sigmoid", ["t"], ["y"])], value("y", [1, 19, 96, 160]),
                 b=np.log(wanted / (1 - wanted)).reshape(1, 19, 1, 1).astype(np.float32))  # fmt: skip
    made.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.zeros((19, 3, 1, 1), np.float32), "w"))
    (tmp_path / "in.onnx").write_bytes(made.SerializeToString())
    import_file(tmp_path / "in.onnx", tmp_path / "out.onnx", ImportRequest(to="driving"), images=pictures)
    with open_engine(tmp_path / "out.onnx", "onnxruntime") as engine:
        labels, confidence = engine.infer(np.zeros((1, 96, 160, 3), np.uint8))
    assert np.unique(labels).tolist() == [8]
    assert np.unique(confidence).tolist() == [102]  # 0.4 x 255


def test_a_sigmoid_that_sees_no_road_in_the_pictures_is_one(tmp_path: Path, pictures: Path) -> None:
    """In half precision it gives 0 everywhere, as ids would be; a byte of 255 in red is road."""
    made = model([node("Cast", ["s"], ["h"], to=TensorProto.FLOAT16), node("Add", ["h", "b"], ["t"]),
                  node("Sigmoid", ["t"], ["y"])], value("y", [1, 1, 96, 160], TensorProto.FLOAT16), classes=1,
                 b=np.float16(-1000))  # fmt: skip
    made.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.float32([4, 0, 0]).reshape(1, 3, 1, 1), "w"))
    (tmp_path / "in.onnx").write_bytes(made.SerializeToString())
    dark = tmp_path / "dark"
    dark.mkdir()
    cv2.imwrite(str(dark / "a.png"), np.zeros((96, 160, 3), np.uint8))
    import_file(tmp_path / "in.onnx", tmp_path / "out.onnx", ImportRequest(scale=1.0), images=dark)
    image = np.zeros((1, 96, 160, 3), np.uint8)
    image[:, :48, :, 0] = 250  # its score is 0: one half
    with open_engine(tmp_path / "out.onnx", "onnxruntime") as engine:
        labels, confidence = engine.infer(image)
    assert (labels[0, 0, 0], confidence[0, 0, 0], confidence[0, 60, 0]) == (0, 128, 255)


def test_an_auxiliary_head_as_fine_as_the_main_one_is_not_taken(tmp_path: Path, pictures: Path) -> None:
    made = model([node("Identity", ["s"], ["aux_head"]), node("Identity", ["s"], ["main"])],
                 value("aux_head", [1, 19, 96, 160]))  # fmt: skip
    made.graph.output.append(value("main", [1, 19, 96, 160]))
    (tmp_path / "in.onnx").write_bytes(made.SerializeToString())
    report = import_file(tmp_path / "in.onnx", tmp_path / "out.onnx", images=pictures)
    assert report.imported.decision.output.name == "main"


def test_a_model_that_finds_objects_is_refused(tmp_path: Path, pictures: Path) -> None:
    """Its 32 prototypes look like scores."""
    made = model([node("Identity", ["s"], ["y"])], value("y", [1, 32, 96, 160]), classes=32)
    helper.set_model_props(made, {"author": "Ultralytics", "task": "segment", "names": "{0: 'car'}"})
    (tmp_path / "in.onnx").write_bytes(made.SerializeToString())
    with pytest.raises(ModelError, match="of the task 'segment' finds objects"):
        import_file(tmp_path / "in.onnx", tmp_path / "o.onnx", images=pictures)


@pytest.mark.parametrize("factor, message", [(np.nan, "no number"), (np.inf, "infinity"), (0.0, None)])
def test_answers_that_say_nothing_are_told(tmp_path: Path, pictures: Path, factor: float, message: str | None) -> None:
    made = model([node("Mul", ["s", "z"], ["y"])], value("y", [1, 19, 96, 160]), z=np.float32(factor))
    (tmp_path / "in.onnx").write_bytes(made.SerializeToString())
    if message is None:
        report = import_file(tmp_path / "in.onnx", tmp_path / "o.onnx", images=pictures)
        assert "the model calls every pixel of them road" in str(report)
        with open_engine(tmp_path / "o.onnx", "onnxruntime") as engine:
            assert [a.max() for a in engine.infer(np.zeros((1, 96, 160, 3), np.uint8))] == [0, 0]  # sure of nothing
        return
    with pytest.raises(ModelError, match=message):
        import_file(tmp_path / "in.onnx", tmp_path / "o.onnx", images=pictures)
    assert not (tmp_path / "o.onnx").exists()


@pytest.mark.parametrize(
    "shape, size, message",
    [
        ((1, 3, 96, "W"), None, r"one open and one fixed side: say both with --size WxH"),
        ((1, 3, 96, "W"), Size(160, 96), None),
        ((1, 1, 96, 160), None, "one input is needed that takes images"),
    ],
)
def test_sides_and_channels(tmp_path: Path, shape: tuple[object, ...], size: Size | None, message: str | None) -> None:
    made = model([node("Identity", ["s"], ["y"])], value("y", [1, 19, 96, "W"]), shape)
    if shape[1] == 1:
        made.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((19, 1, 1, 1), np.float32), "w"))
    (tmp_path / "in.onnx").write_bytes(made.SerializeToString())
    if message is None:
        assert (
            import_file(tmp_path / "in.onnx", tmp_path / "o.onnx", ImportRequest(size=size)).comparison.agreement == 1
        )
        return
    with pytest.raises(ModelError, match=message):
        import_file(tmp_path / "in.onnx", tmp_path / "o.onnx", ImportRequest(size=size))
