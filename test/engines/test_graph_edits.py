"""Half precision and camera sizes: the edited graph must answer as the original does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from seg_perception.core.errors import InputError, ModelError
from seg_perception.core.image_message import RawImage, decode_raw
from seg_perception.core.label_set import load_label_set
from seg_perception.core.model_card import ModelCard
from seg_perception.core.types import CameraEncoding, Precision, Size
from seg_perception.engines.base import EngineInfo, check_answer
from seg_perception.engines.graph import card_of, fixed_batch, fixed_size, pin_shapes, write_card
from seg_perception.engines.graph.camera import block_length, exact_scale, for_camera
from seg_perception.engines.graph.features import FEATURES, NoFeaturesError, with_features
from seg_perception.engines.graph.half import to_half
from seg_perception.engines.onnxruntime import OnnxRuntimeEngine
from seg_perception.export.quantize import QuantizationSettings, quantize
from seg_perception.scenes import random_scene
from seg_perception.segmenter import Segmenter

pytestmark = pytest.mark.timeout(600)

Exported = Callable[[str, str], bytes]
NETWORK = "efficientnet_ladder"


def run(model: onnx.ModelProto, images: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if card_of(model).precision == "int8":
        # ONNX Runtime 1.32 fuses half-precision quantizer pairs wrongly on the CPU; TensorRT is what runs them.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    labels, confidence = session.run(["labels", "confidence"], {"image": images})
    return labels, confidence


class GraphEngine:
    """An engine around a graph in memory."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.card = card_of(model)
        self.info = EngineInfo("onnxruntime", "", "CPU", self.card.precision, None, fixed_size(model))

    def infer(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        return run(self.model, images)

    def close(self) -> None:
        pass


# Untrained, many pixels are nearly tied.
def test_half_answers_as_float(exported: Exported) -> None:
    model = onnx.load_from_string(exported(NETWORK, "fp32"))
    image = random_scene(5, Size(128, 96)).image[np.newaxis]
    labels, confidence = run(model, image)
    half_labels, half_confidence = run(to_half(model), image)
    assert len(np.unique(labels)) >= 5  # else any graph would agree
    assert np.mean(labels == half_labels) > 0.97
    assert np.abs(confidence.astype(int) - half_confidence).max() <= 16
    assert card_of(to_half(model)).precision == "fp16"


# In int8, half's rounding moves activations by whole quantization steps: trained weights must judge it.
def test_half_answers_as_float_in_int8(driving_model: Path) -> None:
    size = Size(256, 192)
    model = onnx.load(driving_model)
    calibration, judging = ([random_scene(seed, size).image for seed in seeds] for seeds in (range(6), range(6, 8)))
    quantized = quantize(model, calibration, judging, QuantizationSettings(0.9)).model
    image = random_scene(8, size).image[np.newaxis]
    labels, confidence = run(quantized, image)
    half_labels, half_confidence = run(to_half(quantized), image)
    assert len(np.unique(labels)) >= 5
    assert np.mean(labels == half_labels) > 0.985
    # of 255; ONNX Runtime 1.32: 0.9, 1.23 (the last one for Python 3.10), whose half kernels round more: 3.3
    assert np.abs(confidence.astype(int) - half_confidence).mean() < 4
    assert card_of(to_half(quantized)).precision == "int8"


def test_half_keeps_the_argument_and_is_done_once(exported: Exported) -> None:
    model = onnx.load_from_string(exported(NETWORK, "fp32"))
    before = model.SerializeToString()
    half = to_half(model)
    assert model.SerializeToString() == before
    assert to_half(half).SerializeToString() == half.SerializeToString()
    assert half.ByteSize() < 0.55 * model.ByteSize()


def test_a_weight_that_half_cannot_hold_is_named(exported: Exported) -> None:
    model = onnx.load_from_string(exported(NETWORK, "fp32"))
    head = next(node for node in model.graph.node if node.name == "Conv:network.head")
    weights = next(t for t in model.graph.initializer if t.name == head.input[1])
    values = numpy_helper.to_array(weights).copy()
    values.reshape(-1)[3] = 1e5
    weights.CopyFrom(numpy_helper.from_array(values, weights.name))
    with pytest.raises(ModelError, match=r"weights '.*head.weight' reach 100000; half precision holds up to 65504"):
        to_half(model)


@pytest.mark.parametrize(
    "camera, bound",
    [
        (Size(256, 192), 3),
        (Size(384, 288), 3),
        (Size(160, 120), 5),  # five pixels become four: the host averages areas, the graph interpolates
        (Size(128, 96), 3),
        (Size(101, 77), 3),
    ],
    ids=str,
)
def test_a_camera_graph_answers_as_the_segmenter_does(driving_model: Path, camera: Size, bound: float) -> None:
    model = onnx.load_from_string(driving_model.read_bytes())  # trained: untrained scores jump from pixel to pixel
    image = random_scene(7, camera).image
    expected = Segmenter(GraphEngine(model), Size(128, 96)).segment(image)
    inside = for_camera(model, camera, Size(128, 96))
    answer = Segmenter(GraphEngine(inside)).segment(image)
    assert answer.labels.shape == (camera.height, camera.width)
    assert np.mean(answer.labels == expected.labels) > 0.93  # the host rounds the shrunk image to bytes, the graph not
    difference = np.abs(answer.confidence.astype(int) - expected.confidence)
    assert np.mean(difference) < bound


def test_whole_blocks_are_averaged_and_answers_repeated(exported: Exported) -> None:
    """At twice the size in both directions, with every pixel doubled, nothing but the size may change."""
    model = onnx.load_from_string(exported(NETWORK, "fp32"))
    small = random_scene(3, Size(128, 96)).image
    doubled = small.repeat(2, axis=0).repeat(2, axis=1)
    labels, confidence = run(model, small[np.newaxis])
    big_labels, big_confidence = run(for_camera(model, Size(256, 192), Size(128, 96)), doubled[np.newaxis])
    np.testing.assert_array_equal(big_labels[0], labels[0].repeat(2, axis=0).repeat(2, axis=1))
    np.testing.assert_array_equal(big_confidence[0], confidence[0].repeat(2, axis=0).repeat(2, axis=1))


@pytest.mark.parametrize(
    "length, target, expected",
    [
        (1080, 352, 3),
        (1920, 640, 3),
        (1242, 640, 1),
        (720, 320, 2),
        (96, 96, 1),
        (77, 96, 1),
        (1082, 352, 2),
        (101, 32, 1),
    ],
)
def test_blocks(length: int, target: int, expected: int) -> None:
    # 1080 / 352 = 3.07 -> 3, divides; 1082 / 352 = 3.07, but 3 does not divide 1082, 2 does; 101 is prime
    assert block_length(length, target) == expected


def test_scales_give_the_wanted_length_in_single_and_double_precision() -> None:
    # 352 x float32(720 / 352) is 719.99997 in double and 720 in single precision
    assert np.floor(352 * float(np.float32(720 / 352))) == 719
    pairs = [(length, wanted) for length in range(32, 1217, 32) for wanted in range(17, 2200, 13)]
    assert len(pairs) == 38 * 168
    for length, wanted in pairs:
        scale = exact_scale(length, wanted)
        assert np.floor(length * float(scale)) == np.floor(np.float32(length) * scale) == wanted


def test_the_card_of_a_camera_graph(exported: Exported) -> None:
    model = for_camera(onnx.load_from_string(exported(NETWORK, "fp32")), Size(1242, 375))
    card = card_of(model)
    assert (card.input_size, card.size_multiple) == (Size(1242, 375), 1)
    assert fixed_size(model) == Size(1242, 375)
    assert fixed_batch(model) is None


def test_camera_sizes_that_cannot_be(exported: Exported) -> None:
    model = onnx.load_from_string(exported(NETWORK, "fp32"))
    with pytest.raises(ModelError, match=r"network size 100x96 does not fit .* multiples of 32"):
        for_camera(model, Size(640, 480), Size(100, 96))
    pin_shapes(model, None, Size(128, 96))
    with pytest.raises(ModelError, match="takes only 128x96 images; a camera size needs a graph with open height"):
        for_camera(model, Size(640, 480))


def foreign(kind: str) -> onnx.ModelProto:
    """A graph of the contract as other exporters write it: sizes, indices and constants as nodes, bytes transposed.

    Labels are where a 1x1 convolution of the channels is above another; confidence is 255.
    """
    make, tensor = onnx.helper.make_node, onnx.numpy_helper.from_array
    weights = np.array([[1, -1, 0], [0, 1, -1], [-1, 0, 1]], np.float32).reshape(3, 3, 1, 1)
    nodes, constants = [], [tensor(weights, "w"), tensor(np.array([255], np.int64), "all")]
    if kind == "bytes transposed":
        nodes += [
            make("Transpose", ["image"], ["planes8"], perm=[0, 3, 1, 2]),
            make("Cast", ["planes8"], ["planes"], to=onnx.TensorProto.FLOAT),
        ]
    else:
        nodes += [
            make("Cast", ["image"], ["pixels"], to=onnx.TensorProto.FLOAT),
            make("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]),
        ]
    constants += [tensor(np.array([0, 1], np.int64), "which"), tensor(np.array([2, 3], np.int64), "last")]
    nodes += [
        make("Conv", ["planes", "w"], ["scores"]),
        make("Shape", ["scores"], ["shape"]),  # int64 between convolutions, as torch's exporters leave it
        make("Gather", ["shape", "which"], ["first"]),
        make("Gather", ["shape", "last"], ["rest"]),
        make("Constant", [], ["factor"], value=tensor(np.array([1.0], np.float32))),
        make("Mul", ["scores", "factor"], ["scaled"]),
        make("Concat", ["first", "rest"], ["same"], axis=0),
        make("Reshape", ["scaled", "same"], ["reshaped"]),
        make("Cast", ["reshaped"], ["again"], to=onnx.TensorProto.FLOAT),
        make("Conv", ["again", "w"], ["final"]),
        make("ArgMax", ["final"], ["winner"], axis=1, keepdims=0),
        make("Cast", ["winner"], ["labels"], to=onnx.TensorProto.UINT8),
    ]
    ones = [make("Equal", ["winner", "winner"], ["true"]), make("Cast", ["true"], ["one"], to=onnx.TensorProto.INT64)]
    nodes += [*ones, make("Mul", ["one", "all"], ["full"]), make("Cast", ["full"], ["confidence"], to=2)]
    info = onnx.helper.make_tensor_value_info
    axes = ["N", "H", "W"]
    outputs = [info(name, onnx.TensorProto.UINT8, axes) for name in ("labels", "confidence")]
    graph = onnx.helper.make_graph(nodes, "g", [info("image", onnx.TensorProto.UINT8, [*axes, 3])], outputs, constants)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    card = ModelCard("foreign", "1", "x", load_label_set("driving"), Size(64, 32), 1, Precision.FP32, "0" * 64)
    write_card(model, card)
    return model


@pytest.mark.parametrize("kind", ["float", "bytes transposed"])
def test_sizes_and_indices_of_foreign_graphs_stay_whole_numbers_in_half(kind: str) -> None:
    model = foreign(kind)
    image = random_scene(3, Size(128, 96)).image[np.newaxis]
    labels, _ = run(model, image)
    assert len(np.unique(labels)) == 3
    half, _ = run(to_half(model), image)
    assert np.mean(labels == half) > 0.999  # sums up to 1020 are exact in half; so are all but a few differences


@pytest.mark.parametrize("kind", ["float", "bytes transposed"])
def test_foreign_graphs_take_camera_images(kind: str) -> None:
    """At twice the size, with every pixel doubled, nothing but the size may change."""
    model = foreign(kind)
    small = random_scene(3, Size(128, 96)).image
    doubled = small.repeat(2, axis=0).repeat(2, axis=1)
    labels, _ = run(model, small[np.newaxis])
    big, confidence = run(for_camera(model, Size(256, 192), Size(128, 96)), doubled[np.newaxis])
    np.testing.assert_array_equal(big[0], labels[0].repeat(2, axis=0).repeat(2, axis=1))
    assert (confidence == 255).all()


def test_what_cannot_be_half_is_refused_with_the_reason() -> None:
    model = foreign("float")
    mul = next(n for n in model.graph.node if n.op_type == "Mul")
    mul.op_type = "BitShift"  # of whole numbers only
    with pytest.raises(ModelError, match=r"half precision cannot be made of this graph, take fp32 .*BitShift"):
        to_half(model)


def test_a_camera_size_before_bytes_that_stay_bytes_is_refused_with_the_reason() -> None:
    model = foreign("bytes transposed")
    cast = next(n for n in model.graph.node if n.op_type == "Cast")
    cast.op_type = "BitShift"
    with pytest.raises(ModelError, match=r"images cannot be resized inside this graph, leave the camera size out"):
        for_camera(model, Size(256, 192), Size(128, 96))


def camera_bytes(image: NDArray[np.uint8], encoding: CameraEncoding) -> NDArray[np.uint8]:
    """An RGB image as a camera of this encoding would give it, rounded; chroma of every second pixel."""
    if encoding is CameraEncoding.BGR:
        return np.ascontiguousarray(image[..., ::-1])
    red, green, blue = (image[..., i].astype(float) for i in range(3))
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    y, u, v = (
        np.rint(plane).astype(np.uint8)
        for plane in (
            16 + luma * 219 / 255,
            128 + (blue - luma) / 1.772 * 224 / 255,
            128 + (red - luma) / 1.402 * 224 / 255,
        )
    )
    if encoding is CameraEncoding.NV12:
        chroma = np.stack([u[::2, ::2], v[::2, ::2]], axis=-1).reshape(image.shape[0] // 2, image.shape[1])
        return np.concatenate([y, chroma])[..., np.newaxis]
    shared = np.empty_like(y)
    shared[:, 0::2], shared[:, 1::2] = u[:, ::2], v[:, ::2]
    pair = (shared, y) if encoding is CameraEncoding.YUV422 else (y, shared)
    return np.stack(pair, axis=-1)


HOST_NAMES = {"bgr": "bgr8", "yuv422": "yuv422", "yuv422_yuy2": "yuv422_yuy2", "nv12": "nv12"}


def on_the_host(raw: NDArray[np.uint8], encoding: CameraEncoding, size: Size) -> NDArray[np.uint8]:
    """The same bytes decoded as the node decodes a message."""
    step = raw.shape[1] * raw.shape[2]
    return decode_raw(RawImage(size, HOST_NAMES[encoding.value], step, False, raw.tobytes()))


@pytest.mark.parametrize("encoding", list(CameraEncoding)[1:], ids=str)
@pytest.mark.parametrize("camera", [Size(256, 192), Size(202, 150), Size(128, 96)], ids=str)
def test_a_graph_for_a_cameras_bytes_decodes_as_the_host_does(
    driving_model: Path, encoding: CameraEncoding, camera: Size
) -> None:
    """To the very byte: OpenCV's integers are exact in float, so that not one label differs."""
    model = onnx.load_from_string(driving_model.read_bytes())
    raw = camera_bytes(random_scene(7, camera).image, encoding)
    raw[:2] = np.random.default_rng(1).integers(0, 256, raw[:2].shape)  # out of range, too
    assert raw.shape == encoding.array_shape(camera)
    decoded = on_the_host(raw, encoding, camera)
    labels, confidence = run(for_camera(model, camera, Size(128, 96)), decoded[np.newaxis])
    inside = for_camera(model, camera, Size(128, 96), encoding)
    own, own_confidence = run(inside, raw[np.newaxis])
    assert len(np.unique(labels)) >= 4
    np.testing.assert_array_equal(own, labels)
    np.testing.assert_array_equal(own_confidence, confidence)
    assert (fixed_size(inside), card_of(inside).camera_encoding) == (camera, encoding)
    half, _ = run(to_half(inside), raw[np.newaxis])
    assert np.mean(half == labels) > 0.99


def test_engines_of_a_cameras_bytes_take_nothing_else(driving_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "nv12.onnx"
    graph = for_camera(
        onnx.load_from_string(driving_model.read_bytes()), Size(128, 96), Size(64, 64), CameraEncoding.NV12
    )
    path.write_bytes(graph.SerializeToString())
    with OnnxRuntimeEngine(path, threads=1) as engine:
        raw = np.full((2, 144, 128, 1), 128, np.uint8)
        labels, confidence = engine.infer(raw)
        check_answer(labels, confidence, raw, engine.card)
        assert labels.shape == (2, 96, 128)
        for wrong in ((1, 96, 128, 3), (1, 144, 128, 3), (1, 142, 128, 1)):
            with pytest.raises(InputError, match=r"takes nv12 images of 128x96 as uint8 \[N, 144, 128, 1\], got uint8"):
                engine.infer(np.zeros(wrong, np.uint8))
    with pytest.raises(InputError, match="nv12 images of 129x96 cannot be: chroma is shared"):
        for_camera(onnx.load_from_string(driving_model.read_bytes()), Size(129, 96), Size(64, 64), CameraEncoding.NV12)
    with pytest.raises(InputError, match="camera encoding 'mono8' is not one of rgb, bgr, yuv422"):
        CameraEncoding.parse("mono8")


def graph_with(layers: list[onnx.NodeProto], weights: dict[str, NDArray[np.float32]], last: str) -> onnx.ModelProto:
    """float pixels [N, 3, H, W] or, as "pixels", [N, H, W, 3] -> layers -> arg-max."""
    node = onnx.helper.make_node
    nodes = [
        node("Cast", ["image"], ["pixels"], to=onnx.TensorProto.FLOAT),
        node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]),
        *layers,
        node("ArgMax", [last], ["ids"], axis=1, keepdims=0),
        node("Cast", ["ids"], ["labels"], to=onnx.TensorProto.UINT8),
        node("Cast", ["ids"], ["confidence"], to=onnx.TensorProto.UINT8),
    ]
    value = onnx.helper.make_tensor_value_info
    axes = ["N", "H", "W"]
    graph = onnx.helper.make_graph(
        nodes, "g", [value("image", 2, [*axes, 3])], [value(name, 2, axes) for name in ("labels", "confidence")],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    write_card(model, ModelCard("g", "1", "none", load_label_set(), Size(64, 48), 1, "fp32", "ab" * 32))
    return model


def test_features_are_what_the_classifier_sees() -> None:
    rng = np.random.default_rng(1)
    node, weights = onnx.helper.make_node, rng.normal(size=(10, 3, 1, 1)).astype(np.float32)
    conv = node("Conv", ["planes", "w"], ["scores"])
    ways = {
        "": graph_with([conv], {"w": weights}, "scores"),
        "enlarged by a convolution in each class, and a gate": graph_with(
            [
                conv,
                node("ConvTranspose", ["scores", "up"], ["large"], group=10, strides=[1, 1]),
                node("Conv", ["planes", "g"], ["gate"]),
                node("Mul", ["large", "gate"], ["last"]),
            ],
            {"w": weights, "up": np.ones((10, 1, 1, 1), np.float32), "g": np.ones((1, 3, 1, 1), np.float32)},
            "last",
        ),
        "channels last, weights transposed": graph_with(
            [
                node("Transpose", ["w"], ["t"], perm=[1, 0]),
                node("MatMul", ["pixels", "t"], ["product"]),
                node("Transpose", ["product"], ["last"], perm=[0, 3, 1, 2]),
            ],
            {"w": weights[:, :, 0, 0]},
            "last",
        ),
    }
    image = rng.integers(0, 256, (1, 4, 7, 3), np.uint8)
    # rows 0 and 1, 2 and 3; columns 0 to 3 (7 columns in halves: 3 x 2 // 7 is 0, 4 x 2 // 7 is 1), 4 to 6
    fields = [[image[0, r, c].mean((0, 1)) for c in (slice(4), slice(4, 7))] for r in (slice(2), slice(2, 4))]
    expected = np.moveaxis([[f / np.linalg.norm(f) for f in row] for row in fields], 2, 0)[np.newaxis]
    for name, model in ways.items():
        edited = with_features(model, 2, 2)
        onnx.checker.check_model(edited, full_check=True)
        session = ort.InferenceSession(edited.SerializeToString(), providers=["CPUExecutionProvider"])
        labels, found = session.run(["labels", FEATURES], {"image": image})
        np.testing.assert_allclose(found, expected, rtol=1e-5, err_msg=name)
        np.testing.assert_array_equal(labels, run(model, image)[0])


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_features_of_half_and_int8(exported: Exported, precision: str) -> None:
    model = onnx.load_from_string(exported(NETWORK, precision))
    edited = with_features(model, 3, 4)
    image = random_scene(5, Size(128, 96)).image[np.newaxis]
    session = ort.InferenceSession(edited.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run([FEATURES], {"image": image})
    reference = with_features(onnx.load_from_string(exported(NETWORK, "fp32")), 3, 4)
    session = ort.InferenceSession(reference.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run([FEATURES], {"image": image})
    assert np.sum(found * expected) / np.sum(expected * expected) > 0.9  # the cosine


def test_a_graph_without_a_classifier_has_no_features() -> None:
    node = onnx.helper.make_node
    norm = graph_with([node("Relu", ["planes"], ["last"])], {}, "last")
    with pytest.raises(NoFeaturesError, match="the way back from the labels ends at Relu"):
        with_features(norm, 2, 2)
