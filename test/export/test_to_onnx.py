"""Export: the graph keeps the contract and answers as torch does; int8 keeps what it promises."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seg_perception.cli.main import main
from seg_perception.core.errors import InputError, ModelError
from seg_perception.core.label_set import load_label_set
from seg_perception.core.model_card import ModelCard
from seg_perception.core.resizing import resize_image
from seg_perception.core.types import RgbImage, Size
from seg_perception.engines.graph import card_of
from seg_perception.engines.graph.half import to_half
from seg_perception.engines.graph.model_file import read_card, read_model
from seg_perception.engines.onnxruntime import OnnxRuntimeEngine, in_memory
from seg_perception.export.exporting import ImageParity, ParityReport, compare, torch_answerer
from seg_perception.export.quantize import QuantizationSettings, quantize
from seg_perception.export.to_onnx import ALLOWED_OPERATORS, DeployedGraph, build_onnx, export_onnx
from seg_perception.networks import build_network, network_names
from seg_perception.networks.base import InputScaling, SegmentationNetwork
from seg_perception.scenes import random_scene

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("quick_exports")]

LABELS = load_label_set("driving")


class TinyNetwork(SegmentationNetwork):
    """Every kind of layer that needs care: strided, padded, normalized, upsampled; quick to export."""

    size_multiple = 8
    score_stride = 2
    scaling = InputScaling(mean=(120.0, 110.0, 100.0), std=(60.0, 50.0, 40.0))

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.down = nn.Conv2d(3, 8, 3, 2, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.deep = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU6(), nn.Conv2d(16, 8, 3, padding=1))
        self.head = nn.Conv2d(8, 10, 1)
        self.norm.running_mean.normal_(0, 0.5)
        self.norm.running_var.uniform_(0.3, 3.0)
        nn.init.normal_(self.head.weight, std=2.0)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.down(F.pad(x, (0, 1, 0, 1)))))
        return self.head(x + F.interpolate(self.deep(x), scale_factor=2.0, mode="bilinear", align_corners=False))


def card(**changes: object) -> ModelCard:
    made = ModelCard("tiny", "1", "tiny", LABELS, Size(64, 48), 8, "fp32", "0" * 64)
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def scenes(count: int, size: Size = Size(64, 48)) -> list[RgbImage]:
    return [resize_image(random_scene(seed, Size(192, 128)).image, size) for seed in range(count)]


@pytest.fixture(scope="module")
def tiny() -> TinyNetwork:
    return TinyNetwork().eval()


@pytest.fixture(scope="module")
def graph(tiny: TinyNetwork) -> onnx.ModelProto:
    return build_onnx(tiny, card())


@pytest.mark.parametrize("size", [Size(64, 48), Size(48, 64), Size(8, 8), Size(136, 88)], ids=str)
def test_any_size_answers_as_torch(tiny: TinyNetwork, graph: onnx.ModelProto, size: Size) -> None:
    images = [(f"{i}", image) for i, image in enumerate(scenes(2, size))]
    report = compare(torch_answerer(tiny), in_memory(graph), images)
    assert report.agreement > 0.999
    assert report.largest_confidence_difference <= 1


def test_the_decision_by_hand() -> None:
    """Scores 0, ln 2 and ln 5 give probabilities 1/8, 2/8, 5/8: the winner's is 0.625 x 255 = 159.375 -> 159."""

    class Fixed(SegmentationNetwork):
        size_multiple = 1
        score_stride = 1
        scaling = InputScaling(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))

        def forward(self, x: Tensor) -> Tensor:
            scores = torch.log(torch.tensor([1.0, 2.0, 5.0])).reshape(1, 3, 1, 1)
            return scores.expand(x.shape[0], 3, x.shape[2], x.shape[3])

    image = torch.zeros((1, 2, 3, 3), dtype=torch.uint8)
    labels, confidence = DeployedGraph(Fixed())(image)
    assert labels.dtype == confidence.dtype == torch.uint8
    assert labels.tolist() == [[[2, 2, 2], [2, 2, 2]]]
    assert confidence.unique().tolist() == [159]
    # temperature 2: square roots 1, 1.4142, 2.2361 of 4.6503: 0.48085 x 255 = 122.6 -> 123
    labels, confidence = DeployedGraph(Fixed(), temperature=2.0)(image)
    assert labels.unique().tolist() == [2]
    assert confidence.unique().tolist() == [123]
    for wrong in (0.0, float("nan"), float("inf")):  # divided by infinity, every score is 0 and every pixel class 0
        with pytest.raises(ModelError, match=rf"temperature {wrong} is not accepted: 0\.01 to 100 is"):
            DeployedGraph(Fixed(), temperature=wrong)


def test_the_graph_holds_nothing_but_what_engines_like(graph: onnx.ModelProto) -> None:
    operators = Counter(node.op_type for node in graph.graph.node)
    assert set(operators) <= ALLOWED_OPERATORS
    assert operators["Conv"] == 4  # down, two of deep, head: normalization and padding are folded into them
    assert operators["Pad"] == 0
    assert [(e.domain, e.version) for e in graph.opset_import] == [("", 17)]
    assert len({node.name for node in graph.graph.node}) == len(graph.graph.node)
    text = str(graph)
    assert "/" not in "".join(node.doc_string for node in graph.graph.node)
    assert "pkg.torch" not in text


def test_names_place_an_error(graph: onnx.ModelProto) -> None:
    assert "Conv:network.head" in {node.name for node in graph.graph.node}


def test_batch_and_size_are_pinned(tiny: TinyNetwork, tmp_path: Path) -> None:
    path = tmp_path / "tiny.onnx"
    export_onnx(tiny, card(), path, batch=2, size=Size(64, 48))
    shapes = {
        t.name: [d.dim_value for d in t.type.tensor_type.shape.dim]
        for t in onnx.load_from_string(read_model(path)).graph.input
    }
    assert shapes == {"image": [2, 48, 64, 3]}
    engine = OnnxRuntimeEngine(path)
    assert (engine.info.max_batch, engine.info.fixed_size) == (2, Size(64, 48))
    labels, confidence = engine.infer(np.stack(scenes(2)))
    assert labels.shape == confidence.shape == (2, 48, 64)
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.onnx"]


def test_the_network_is_left_as_it_was(tiny: TinyNetwork) -> None:
    network = TinyNetwork().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    build_onnx(network, card())
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_a_network_that_bakes_in_its_size_is_refused() -> None:
    class Baked(TinyNetwork):
        def forward(self, x: Tensor) -> Tensor:
            scores = super().forward(x)
            return scores + F.adaptive_avg_pool2d(scores, 1) * (x.shape[2] / 100)

    with pytest.raises(ModelError, match=r"depends on the image size: traces at two sizes differ in node"):
        build_onnx(Baked().eval(), card())


def test_foreign_operators_are_refused() -> None:
    class Foreign(TinyNetwork):
        def forward(self, x: Tensor) -> Tensor:
            return torch.erf(super().forward(x))

    with pytest.raises(ModelError, match=r"operators that slow or break engines: Erf \(1\)"):
        build_onnx(Foreign().eval(), card())


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"card": card(precision="fp16")}, ModelError, "needs fp32 and 8"),
        ({"card": card(size_multiple=32)}, ModelError, "size_multiple 32; an fp32 export of this network needs fp32"),
        ({"batch": 0}, ModelError, "batch 0 is not accepted"),
        ({"size": Size(60, 48)}, InputError, "size 60x48 does not fit the network.*64x48"),
    ],
)
def test_wrong_arguments(tiny: TinyNetwork, arguments: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build_onnx(**({"network": tiny, "card": card()} | arguments))  # type: ignore[arg-type]


def test_a_failed_write_leaves_nothing(tiny: TinyNetwork, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="cannot write"):
        export_onnx(tiny, card(), tmp_path / "no" / "folder.onnx")


def test_int8_by_the_quantizer(graph: onnx.ModelProto) -> None:
    phases: set[str] = set()
    result = quantize(
        graph, scenes(4), scenes(6)[4:], QuantizationSettings(0.5), lambda phase, done, total: phases.add(phase)
    )
    assert result.convolutions == 4
    assert result.float_convolutions == ()
    assert result.agreement == result.agreement_all_int8 > 0.9
    assert phases == {"calibrating"}
    operators = Counter(node.op_type for node in result.model.graph.node)
    assert operators["QuantizeLinear"] == 4  # the inputs of the four convolutions; two share one: see below
    assert card_of(result.model).precision == "int8"
    assert card_of(graph).precision == "fp32"
    types = {t.data_type for t in result.model.graph.initializer}
    assert onnx.TensorProto.INT32 not in types  # TensorRT refuses quantized biases
    labels, _ = in_memory(result.model)(scenes(1)[0][np.newaxis])
    assert labels.shape == (1, 48, 64)


def test_harmful_convolutions_are_left_in_float(graph: onnx.ModelProto) -> None:
    free = quantize(graph, scenes(4), scenes(6)[4:], QuantizationSettings(0.5))
    wanted = free.agreement_all_int8 + (1 - free.agreement_all_int8) * 0.3
    result = quantize(graph, scenes(4), scenes(6)[4:], QuantizationSettings(wanted))
    assert 1 <= len(result.float_convolutions) <= 4
    assert result.agreement >= wanted
    quantized = [n for n in result.model.graph.node if n.op_type == "DequantizeLinear"]
    assert len(quantized) < len([n for n in free.model.graph.node if n.op_type == "DequantizeLinear"])


def test_what_cannot_be_quantized(graph: onnx.ModelProto) -> None:
    int8 = quantize(graph, scenes(2), scenes(3)[2:], QuantizationSettings(0.1)).model
    with pytest.raises(ModelError, match="is int8; only an fp32 graph can be quantized"):
        quantize(int8, scenes(1), scenes(1))
    with pytest.raises(ModelError, match="at least one calibration image"):
        quantize(graph, [], scenes(1))
    with pytest.raises(ModelError, match=r"target agreement 1\.5 is not in 0 to 1"):
        QuantizationSettings(1.5)


def test_parity_by_hand() -> None:
    image = np.zeros((2, 2, 3), np.uint8)

    def first(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.array([[[1, 2], [3, 4]]], np.uint8), np.array([[[10, 20], [30, 255]]], np.uint8)

    def second(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.array([[[1, 2], [3, 5]]], np.uint8), np.array([[[10, 21], [30, 0]]], np.uint8)

    report = compare(first, second, [("a", image)], ("one", "two"))
    assert report == ParityReport("one", "two", (ImageParity("a", 0.75, 255),))  # three of four; 255 - 0
    assert "parity of two with one" in report.table()
    assert "75.0000%  a" in report.table()
    with pytest.raises(InputError, match="at least one image"):
        compare(first, second, [])
    assert resize_image(np.zeros((90, 120, 3), np.uint8), Size(60, 45)).shape == (45, 60, 3)


def enliven(network: SegmentationNetwork, image: RgbImage) -> None:
    """Give an untrained network scores that vary: without, one class wins everywhere and any export would agree."""
    convolutions = {name: layer for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d)}
    head = convolutions.get("head", list(convolutions.values())[-1])
    assert head.out_channels == len(LABELS)
    assert head.bias is not None
    with torch.no_grad():
        scores = network(network.normalize(torch.from_numpy(image[np.newaxis])))
        std, mean = torch.std_mean(scores, dim=(0, 2, 3))
        head.bias.copy_((head.bias - mean) * 4.0 / std)
        head.weight.mul_((4.0 / std).reshape(-1, 1, 1, 1))


@pytest.mark.parametrize("name", network_names())
def test_networks_that_ship_answer_as_torch(name: str) -> None:
    torch.manual_seed(1)
    network = build_network(name, 10, **({"width": 0.25} if name == "reference" else {})).eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.2)
            layer.running_var.uniform_(0.5, 2.0)
            layer.bias.data.normal_(0, 0.2)
    image = random_scene(1, Size(128, 96)).image
    enliven(network, image)
    labels, confidence = torch_answerer(network)(image[np.newaxis])
    assert len(np.unique(labels)) >= 5
    assert np.ptp(confidence) > 100
    fp32 = build_onnx(network, card(size_multiple=network.size_multiple))
    report = compare(torch_answerer(network), in_memory(fp32), [("scene", image)])
    assert report.agreement > 0.999
    assert report.largest_confidence_difference <= 2
    report = compare(in_memory(fp32), in_memory(to_half(fp32)), [("scene", image)])
    assert report.agreement > 0.98  # untrained: many pixels are near a tie


def test_wrong_orders_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "x.onnx")
    assert main(["export", "--checkpoint", str(tmp_path / "none.safetensors"), "--out", out]) == 2
    assert "none.safetensors" in capsys.readouterr().err
    assert main(["export", "--checkpoint", "x", "--out", out, "--precision", "int8"]) == 2
    assert "precision int8 needs calibration, a folder of images" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_from_checkpoint_to_every_precision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import cv2

    from seg_perception.training.checkpoint import CheckpointInfo, save_weights

    network = build_network("reference", 10, width=0.125, convolutions=(1, 1, 1, 1))
    info = CheckpointInfo(
        "run", "reference", {"width": 0.125, "convolutions": [1, 1, 1, 1]}, LABELS, Size(64, 48), step=7
    )
    save_weights(tmp_path / "best.safetensors", network.state_dict(), info)
    calibration = tmp_path / "images"
    calibration.mkdir()
    for index, image in enumerate(scenes(4)):
        cv2.imwrite(str(calibration / f"{index}.png"), image)
    common = ["export", "--checkpoint", str(tmp_path / "best.safetensors"), "--images", str(calibration)]
    for precision in ("fp32", "fp16", "int8"):
        out = tmp_path / f"{precision}.onnx"
        options = ["--precision", precision, "--calibration", str(calibration), "--agreement", "0.1"]
        size, batch = Size(64, 48), None
        if precision == "fp16":  # and for one camera's images, two at a time
            size, batch = Size(100, 75), 2
            options += ["--camera-size", str(size), "--batch", str(batch)]
        assert main([*common, "--out", str(out), *options]) == 0
        printed = capsys.readouterr().out
        assert "parity of the fp32 graph in ONNX Runtime with torch" in printed
        assert f"run-0-{precision}-" in printed
        assert read_card(out).precision == precision
        engine = OnnxRuntimeEngine(out)
        assert engine.info.precision.startswith(precision)  # int8 may be computed in fp32: test_openvino_engine.py
        assert engine.infer(np.stack(scenes(2, size)))[0].shape == (2, size.height, size.width)
        assert (engine.info.max_batch, engine.info.fixed_size) == (batch, size if batch else None)
