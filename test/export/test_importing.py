"""`seg-perception import`: what others exported, brought to our contract, says what it said."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves it out
from foreign_models import MODELS, build

from seg_perception.cli.main import main
from seg_perception.core.errors import EngineError, InputError, ModelError
from seg_perception.core.files import model_file
from seg_perception.core.types import Size
from seg_perception.engines.graph.model_file import read_card
from seg_perception.engines.onnxruntime import FeatureEngine
from seg_perception.engines.opening import open_engine
from seg_perception.engines.tensorrt.build import build_engine
from seg_perception.engines.tensorrt.plan import BuildSettings, plan_compilation
from seg_perception.engines.tensorrt.versions import load_library
from seg_perception.export.importing import (
    Color,
    ImportRequest,
    Kind,
    Layout,
    TensorInfo,
    check_foreign,
    read_foreign,
)
from seg_perception.export.importing.guesses import choose_input, class_names, guess_classes, imported_classes
from seg_perception.export.importing.import_file import ImportReport, import_file
from seg_perception.export.importing.scaling import guess_scaling


@pytest.fixture(scope="session")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("foreign")

    def get(name: str) -> Path:
        path = folder / f"{MODELS.index(name)}.onnx"
        return path if path.exists() else build(name, path)

    return get


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(3)
    for index in range(2):
        coarse = rng.integers(0, 256, (12, 16, 3), np.uint8)
        cv2.imwrite(str(folder / f"{index}.png"), cv2.resize(coarse, (256, 192), interpolation=cv2.INTER_CUBIC))
    return folder


def imported(
    foreign: Callable[[str], Path], pictures: Path, out: Path, name: str, request: ImportRequest | None = None
) -> ImportReport:
    return import_file(foreign(name), out, request, images=pictures)


FEATURE_CHANNELS = {"PIDNet-S": 128, "DDRNet": 64, "SegFormer": 256, "MobileViT": 256}  # before the classifier
LARGE = ("PIDNet-S scores", "PIDNet-S ids", "DDRNet ids", "SegFormer", "MobileViT")
EACH = [pytest.param(name, marks=pytest.mark.slow if name in LARGE else ()) for name in MODELS]


@pytest.mark.parametrize("to", [None, "driving"])
@pytest.mark.parametrize("name", EACH)
def test_labels_are_the_originals_and_engines_run_it(
    foreign: Callable[[str], Path], pictures: Path, tmp_path: Path, name: str, to: str | None
) -> None:
    out = tmp_path / "ours.onnx"
    report = imported(foreign, pictures, out, name, ImportRequest(to=to))
    compared = report.comparison
    assert compared.images == 2
    if compared.ties is not None:
        assert compared.pixels - compared.equal == compared.ties  # nothing but ties may differ
    assert compared.agreement > 0.999
    card = read_card(out)
    assert card.confidence == ("none" if "ids" in name else "probability")
    assert len(card.label_set) == (10 if to else len(report.imported.classes.source))
    size = report.imported.decision.input_size or Size(320, 192)
    image = np.full((1, size.height, size.width, 3), 90, np.uint8)
    image[:, : size.height // 2] = 180
    labels, confidence = open_engine(out, "onnxruntime").infer(image)
    assert labels.shape == confidence.shape == (1, size.height, size.width)
    if "ids" in name:
        assert confidence.min() == 255
    other = open_engine(out, "openvino").infer(image)[0]
    assert np.mean(labels == other) > 0.99
    engine = FeatureEngine(out)  # also behind an arg-max, sums of classes and half precision
    np.testing.assert_array_equal(engine.infer(image)[0], labels)
    assert engine.features.shape == (1, FEATURE_CHANNELS.get(name.split(maxsplit=1)[0], 16), *FeatureEngine.GRID)


@pytest.mark.parametrize("name", EACH)
def test_nvidia_builds_it(foreign: Callable[[str], Path], pictures: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "ours.onnx"
    imported(foreign, pictures, out, name)
    try:
        library = load_library()
    except EngineError as error:
        pytest.skip(f"NVIDIA's compiler is not here: {error}")
    assert build_engine(plan_compilation(out, BuildSettings(), library, None)).content


def test_what_is_guessed_is_the_command_that_states_it(
    foreign: Callable[[str], Path], pictures: Path, tmp_path: Path
) -> None:
    guessed = imported(foreign, pictures, tmp_path / "a.onnx", "several heads")
    assert guessed.imported.decision.output.name == "main"  # as fine as the image; "aux" has an eighth
    text = str(guessed)
    for part in ("--input input --layout nchw --color rgb", "--scale 255 --mean 0.485,0.456,0.406",
                 "--output main --kind scores --classes cityscapes19", "others that would fit: aux, edge"):  # fmt: skip
        assert part in text
    stated = ImportRequest(
        input="input", layout=Layout.NCHW, color=Color.RGB, scale=255.0, mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225), output="main", kind=Kind.SCORES, classes="cityscapes19",
    )  # fmt: skip
    again = imported(foreign, pictures, tmp_path / "b.onnx", "several heads", stated)
    assert again.imported.decision.reasons == ()
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes().replace(b"b.onnx", b"a.onnx")


def tiny(path: Path, color_weights: tuple[float, float, float], **_: object) -> Path:
    """One score: a weighted sum of the channels of a float NCHW input; the other class scores 100."""
    weights = np.zeros((2, 3, 1, 1), np.float32)
    weights[1, :, 0, 0] = color_weights
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w", "b"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 32, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 32, 64])],
        [
            onnx.numpy_helper.from_array(weights, "w"),
            onnx.numpy_helper.from_array(np.array([100, 0], np.float32), "b"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize(
    "options, pixel, label",
    [
        # the road's score is the model's first channel, background's is 100
        ({"scale": 1.0}, (120, 0, 0), 1),
        ({"scale": 1.0}, (90, 0, 0), 0),
        ({"scale": 1.0, "color": Color.BGR}, (120, 0, 0), 0),
        ({"scale": 1.0, "color": Color.BGR}, (0, 0, 120), 1),
        ({"scale": 2.0}, (120, 0, 0), 0),  # 60
        ({"scale": 1.0, "mean": (30.0,)}, (120, 0, 0), 0),  # 90
        ({"scale": 1.0, "mean": (-10.0,), "std": (0.5,)}, (60, 0, 0), 1),  # (60 + 10) / 0.5 = 140
    ],
)
def test_pixels_reach_the_model_as_stated(
    tmp_path: Path, options: dict[str, object], pixel: tuple[int, int, int], label: int
) -> None:
    model = tiny(tmp_path / "tiny.onnx", (1.0, 0.0, 0.0))
    import_file(model, tmp_path / "out.onnx", ImportRequest(classes="binary-road", **options))  # type: ignore[arg-type]
    image = np.empty((1, 32, 64, 3), np.uint8)
    image[:] = pixel
    assert np.unique(open_engine(tmp_path / "out.onnx", "onnxruntime").infer(image)[0]).tolist() == [label]


MEAN, STD = np.float32([[[0.485]], [[0.456]], [[0.406]]]), np.float32([[[0.229]], [[0.224]], [[0.225]]])


@pytest.mark.parametrize(
    "steps, scale, mean",
    [
        ([("Sub", MEAN), ("Div", STD)], 255, 0),  # torchvision's Normalize
        ([("Sub", 255 * MEAN), ("Div", 255 * STD)], 1, 0),
        ([("Div", 255.0), ("Sub", MEAN)], 1, 0),
        ([("Sub", 104.0)], 1, 0),
        ([("Mul", 2.0), ("Sub", 1.0)], 255, 0),
        ([("Mul", 255.0), ("Sub", 104.0)], 255, 0),
        ([("Mul", 0.5), ("Add", 0.5)], 127.5, 1),
        ([("Mul", 1.1), ("Add", 0.1)], 255, 0.485),  # as a BatchNormalization's: of what is normalized already
    ],
)
def test_arithmetic_at_the_beginning_tells_the_pixels(
    tmp_path: Path, steps: list[tuple[str, object]], scale: float, mean: float
) -> None:
    path = tiny(tmp_path / "in.onnx", (1, 0, 0))
    model = onnx.load(path)
    # "input_1", as TAO calls it, and every model of Keras: what the graph does says more
    name = model.graph.input[0].name = "x" if scale == 255 and mean else "input_1"
    model.graph.node[0].input[0] = f"v{len(steps)}"
    for k, (operator, constant) in enumerate(steps):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(constant), f"c{k}"))
        model.graph.node.insert(k, helper.make_node(operator, [f"v{k}" if k else name, f"c{k}"], [f"v{k + 1}"]))
    foreign_model = check_foreign(model, b"", path)
    tensor, layout, _ = choose_input(foreign_model, ImportRequest())
    found = guess_scaling(foreign_model, tensor, layout, ImportRequest())
    assert (found[0], found[1][0]) == (scale, mean)


@pytest.mark.parametrize(
    "stated, scale",
    [
        ({"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}, 255),
        ({"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}, 1),
        ({"std": (0.229,)}, 255),
        ({"mean": (127.5,)}, 1),
        ({"scale": 2.0, "std": (0.5,)}, 2),
    ],
)
def test_half_a_scaling_is_completed_and_said(tmp_path: Path, stated: dict[str, object], scale: float) -> None:
    foreign_model = read_foreign(tiny(tmp_path / "in.onnx", (1, 0, 0)))
    tensor, layout, _ = choose_input(foreign_model, ImportRequest())
    found = guess_scaling(foreign_model, tensor, layout, ImportRequest(**stated))  # type: ignore[arg-type]
    assert found[0] == scale
    assert found[3]
    byte = TensorInfo(tensor.name, TensorProto.UINT8, tensor.shape)
    with pytest.raises(InputError, match="takes bytes, which cannot be scaled"):
        guess_scaling(foreign_model, byte, layout, ImportRequest(**stated))  # type: ignore[arg-type]


def test_probabilities_of_classes_are_summed(tmp_path: Path) -> None:
    """Car and sky at 0.3 each, building, wall and fence at 0.4 together: background wins in ten classes."""
    scores = np.full(19, -50.0, np.float32)
    scores[[13, 10]] = np.log(0.3)
    scores[[2, 3, 4]] = np.log([0.2, 0.1, 0.1])
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w", "b"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 32, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 19, 32, 64])],
        [
            onnx.numpy_helper.from_array(np.zeros((19, 3, 1, 1), np.float32), "w"),
            onnx.numpy_helper.from_array(scores, "b"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "in.onnx")
    import_file(tmp_path / "in.onnx", tmp_path / "out.onnx", ImportRequest(to="driving"))
    labels, confidence = open_engine(tmp_path / "out.onnx", "onnxruntime").infer(np.zeros((1, 32, 64, 3), np.uint8))
    assert np.unique(labels).tolist() == [9]
    assert np.unique(confidence).tolist() == [102]  # 0.4 x 255


@pytest.mark.parametrize(
    "classes, to, names, expected",
    [
        ("cityscapes19", "driving", (), {0: 0, 1: 1, 2: 9, 5: 2, 6: 3, 7: 4, 8: 5, 9: 6, 10: 7, 13: 8, 18: 9}),
        ("cityscapes-ids", "driving", (), {7: 0, 0: 9, 17: 2, 33: 9}),
        ("camvid11", "driving", (), {0: 7, 3: 0, 4: 1, 6: 9}),
        ("voc21", "driving", (), {7: 8, 0: 9}),
        ("ade150", "driving", (), {6: 0, 11: 1, 2: 7, 4: 5, 9: 6, 20: 8, 93: 2, 136: 3}),
        ("binary-road", "driving", (), {0: 9, 1: 0}),
        ("names", "driving", ("Road", "traffic_light", "cow"), {0: 0, 1: 3, 2: 9}),
        ("names", None, ("a", "b"), {0: 0, 1: 1}),
    ],
)
def test_presets(classes: str, to: str | None, names: tuple[str, ...], expected: dict[int, int]) -> None:
    found = imported_classes(classes, names, to)
    assert {source: found.targets[source] for source in expected} == expected
    assert set(found.matrix().sum(axis=0)) == {1.0}  # each class goes to one class, none is lost


@pytest.mark.parametrize(
    "edit, message",
    [
        (lambda m: m.graph.node.add().CopyFrom(helper.make_node("Loop", [], [])), "control flow (Loop)"),
        (lambda m: setattr(m.graph.initializer[0], "data_location", TensorProto.EXTERNAL), "weights in other files"),
        (lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 999), "no tensor of a type that ONNX knows"),
        (lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[2], "dim_value", 1 << 40), "is not accepted"),
        (lambda m: m.graph.ClearField("node"), "there is no graph in it"),
    ],
)
def test_what_cannot_be_imported_is_refused(
    tmp_path: Path, edit: Callable[[onnx.ModelProto], None], message: str
) -> None:
    path = tiny(tmp_path / "in.onnx", (1, 0, 0))
    model = onnx.load(path)
    edit(model)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError) as caught:
        import_file(path, tmp_path / "out.onnx", ImportRequest(classes="binary-road"))
    assert message in str(caught.value)
    assert not (tmp_path / "out.onnx").exists()


def test_wrong_options_say_what_is_accepted(
    foreign: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = str(foreign("scores, one size")), str(tmp_path / "out.onnx")
    for options, message in [
        (["--classes", "cityscapes19"], "has 21 classes, and --classes cityscapes19 has 19"),
        (["--classes", "coco"], "one of cityscapes19, cityscapes-ids, camvid11, voc21, ade150, binary-road"),
        (["--kind", "labels"], "no output as labels"),
        (["--output", "logits"], "no output 'logits'"),
        (["--input", "images"], "one input is needed"),
        (["--size", "512x512"], "the model takes 256x128 only"),
        (["--std", "0"], "each must be above 0"),
    ]:
        assert main(["import", model, "--out", out, *options]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(InputError, match="name another file"):
        import_file(Path(model), Path(model))


@pytest.mark.parametrize(
    "table, expected",
    [
        ('{"0": "road", "3": "sky", "1": "car"}', ("road", "car", "class 2", "sky")),
        ("{0: 'road', 1: 'car'}", ("road", "car")),
        ('{"-1": "void", "0": "road"}', ()),
        ('{"0": "road", "00": "car"}', ()),
        ("{}", ()),
    ],
)
def test_a_table_of_names_that_leaves_ids_out_moves_none(table: str, expected: tuple[str, ...]) -> None:
    assert class_names({"id2label": table}) == expected


def test_one_named_channel_is_the_road_where_it_is_called_so(tmp_path: Path) -> None:
    path = tiny(tmp_path / "in.onnx", (1, 0, 0))
    model = onnx.load(path)
    helper.set_model_props(model, {"names": "{0: 'road'}"})
    assert guess_classes(check_foreign(model, b"", path), 1, Kind.SIGMOID)[0] == "binary-road"
    helper.set_model_props(model, {"names": "{0: 'car'}"})
    with pytest.raises(ModelError, match="'car', and not called road"):
        guess_classes(check_foreign(model, b"", path), 1, Kind.SIGMOID)


def test_our_own_model_needs_no_import(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"driving_n.onnx: is a model of this package already"):
        import_file(model_file("driving_n"), tmp_path / "out.onnx")


def test_a_model_that_cannot_be_named_asks_for_its_classes(tmp_path: Path) -> None:
    model = tiny(tmp_path / "in.onnx", (1, 0, 0))
    loaded = onnx.load(model)
    loaded.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.ones((7, 3, 1, 1), np.float32), "w"))
    loaded.graph.initializer[1].CopyFrom(onnx.numpy_helper.from_array(np.zeros(7, np.float32), "b"))
    loaded.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 7
    onnx.save(loaded, model)
    with pytest.raises(ModelError, match=r"7 classes, and nothing in the file names them: give --classes PRESET"):
        import_file(model, tmp_path / "out.onnx")
    assert read_foreign(model).opset == 17
