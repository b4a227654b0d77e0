"""Every graph that we can export goes through NVIDIA's own parser and builder, on the CPU."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from engines_builds import Build
from onnx import TensorProto, helper, numpy_helper
from small_networks import small_networks

from seg_perception.core.errors import EngineError, ModelError
from seg_perception.core.resizing import network_size
from seg_perception.core.types import CameraEncoding, Precision, Size
from seg_perception.engines.cuda import Gpu
from seg_perception.engines.graph import card_of, input_sizes, resolve_precision, write_card
from seg_perception.engines.graph.model_file import parse_model, read_model
from seg_perception.engines.tensorrt import versions
from seg_perception.engines.tensorrt.build import (
    BuildProgress,
    BuildStoppedError,
    BuiltEngine,
    NestedFractions,
    build_engine,
    keep_timings,
    make_logger,
    make_progress_monitor,
    prepare_graph,
)
from seg_perception.engines.tensorrt.plan import BuildSettings, CompilePlan, make_plan
from seg_perception.engines.tensorrt.versions import TensorRtLibrary, load_library
from seg_perception.scenes import random_scene

pytestmark = pytest.mark.timeout(600)  # the first test that asks for a network exports it

NETWORKS = tuple(small_networks())
FP32, FP16, INT8 = Precision.FP32, Precision.FP16, Precision.INT8
Exported = Callable[[str, str], bytes]


def test_the_networks_that_ship_are_all_here() -> None:
    assert {"efficientnet_ladder", "reference"} <= set(NETWORKS)


ORIN = Gpu("Orin", "8.7")


def plan(content: bytes, settings: BuildSettings, library: TensorRtLibrary) -> CompilePlan:
    return make_plan(parse_model(content, "model.onnx"), settings, library, ORIN)


def build_and_note(
    content: bytes, settings: BuildSettings, library: TensorRtLibrary, builds: list[Build], name: str
) -> BuiltEngine:
    """Build, check what the parser made of inputs and outputs, and add a line to the table of all builds."""
    batch = "1" if settings.batch == 1 else f"1-{settings.batch}"
    row = Build(name, str(settings.precision or "default"), batch)
    try:
        check_contract(prepare_graph(plan(content, settings, library)), library, settings)
        built = build_engine(plan(content, settings, library))
        row = row._replace(built=True, engine_bytes=len(built.content), seconds=built.seconds)
    finally:
        builds.append(row)
    return built


def check_contract(model: onnx.ModelProto, library: TensorRtLibrary, settings: BuildSettings) -> None:
    trt = library.module
    logger = make_logger(library, [])
    network = trt.Builder(logger).create_network(versions.network_flags(library, weakly_typed=False))
    assert trt.OnnxParser(network, logger).parse(model.SerializeToString())
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    outputs = [network.get_output(i) for i in range(network.num_outputs)]
    camera = settings.camera_size
    shape = (1 if settings.batch == 1 else -1, *((camera.height, camera.width) if camera else (-1, -1)))
    image = settings.camera_encoding.array_shape(camera) if camera else (-1, -1, 3)
    assert [(t.name, t.dtype, tuple(t.shape)) for t in inputs] == [("image", trt.uint8, (shape[0], *image))]
    assert {(t.name, t.dtype, tuple(t.shape)) for t in outputs} == {
        ("labels", trt.uint8, shape),
        ("confidence", trt.uint8, shape),
    }


OTHER_BATCH = pytest.mark.slow  # each network, camera, batch and precision is built by `make test`, not each with each


@pytest.mark.parametrize(
    "network, batch",
    [
        pytest.param(network, batch, marks=OTHER_BATCH if batch > 1 and network != "efficientnet_ladder" else ())
        for network in NETWORKS
        for batch in (1, 4)
    ],
)
@pytest.mark.parametrize("precision", list(Precision), ids=str)
def test_every_network_precision_and_batch_builds_and_keeps_the_contract(
    nvidia: TensorRtLibrary, exported: Exported, builds: list[Build], network: str, precision: Precision, batch: int
) -> None:
    content = exported(network, "int8" if precision is INT8 else "fp32")
    built = build_and_note(content, BuildSettings(precision, batch), nvidia, builds, network)
    weights = sum(int(np.prod(t.dims)) for t in onnx.load_from_string(content).graph.initializer)
    assert len(built.content) > weights  # at least a byte for each weight is in it
    assert built.layers > 50


@pytest.mark.parametrize(
    "camera, batch",
    [
        (Size(1920, 1080), 4),
        (Size(1242, 375), 4),
        (Size(128, 96), 1),
        pytest.param(Size(1920, 1080), 1, marks=OTHER_BATCH),
        pytest.param(Size(1242, 375), 1, marks=OTHER_BATCH),
        pytest.param(Size(128, 96), 4, marks=OTHER_BATCH),
    ],
    ids=str,
)
@pytest.mark.parametrize("precision", [FP16, INT8], ids=str)
def test_graphs_for_cameras_build_and_keep_the_contract(
    nvidia: TensorRtLibrary, exported: Exported, builds: list[Build], precision: Precision, camera: Size, batch: int
) -> None:
    content = exported("efficientnet_ladder", "int8" if precision is INT8 else "fp32")
    settings = BuildSettings(precision, batch, camera_size=camera)
    assert input_sizes(parse_model(content, ""), settings.size, settings.camera_size).fixed == camera
    assert build_and_note(content, settings, nvidia, builds, f"efficientnet_ladder, camera {camera}").content


@pytest.mark.parametrize("encoding", list(CameraEncoding)[1:], ids=str)
def test_graphs_for_a_cameras_bytes_build_and_keep_the_contract(
    nvidia: TensorRtLibrary, driving_model: Path, builds: list[Build], encoding: CameraEncoding
) -> None:
    settings = BuildSettings(FP16, batch=4, camera_size=Size(1280, 720), camera_encoding=encoding)
    content = read_model(driving_model)
    assert build_and_note(content, settings, nvidia, builds, f"shipped, {encoding} 1280x720").content


@pytest.mark.parametrize("precision", list(Precision), ids=str)
def test_the_shipped_model_builds(
    nvidia: TensorRtLibrary, driving_model: Path, builds: list[Build], precision: Precision
) -> None:
    """Trained weights have what random ones lack: dead maps, outliers, scales near zero."""
    from seg_perception.export.quantize import QuantizationSettings, quantize

    content = read_model(driving_model)
    if precision is INT8:
        scenes = [random_scene(seed, Size(192, 128)).image for seed in (1, 2, 3)]
        quantized = quantize(
            onnx.load_from_string(content), scenes[:2], scenes[2:], QuantizationSettings(target_agreement=0.01)
        )
        content = quantized.model.SerializeToString()
    assert build_and_note(content, BuildSettings(precision), nvidia, builds, f"shipped {driving_model.name}").content


def test_the_half_precision_network_is_half_inside(nvidia: TensorRtLibrary, exported: Exported) -> None:
    model = prepare_graph(plan(exported("efficientnet_ladder", "fp32"), BuildSettings(FP16), nvidia))
    trt = nvidia.module
    logger = make_logger(nvidia, [])
    network = trt.Builder(logger).create_network(versions.network_flags(nvidia, weakly_typed=False))
    assert trt.OnnxParser(network, logger).parse(model.SerializeToString())
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    convolutions = [layer for layer in layers if layer.type == trt.LayerType.CONVOLUTION]
    assert len(convolutions) == 61  # 1 stem, 1 x 2 + 15 x 3 stages, 2 + 3 x 2 ladder, 1 head, 4 at stride 2
    assert {layer.get_output(0).dtype for layer in convolutions} == {trt.float16}
    topk = [layer for layer in layers if layer.type == trt.LayerType.TOPK]
    assert [layer.get_input(0).dtype for layer in topk] == [trt.float32]


def broken(exported: Exported, edit: Callable[[onnx.GraphProto], None]) -> bytes:
    model = onnx.load_from_string(exported("efficientnet_ladder", "fp32"))
    edit(model.graph)
    return model.SerializeToString()


def first(graph: onnx.GraphProto, operator: str) -> onnx.NodeProto:
    return next(node for node in graph.node if node.op_type == operator)


def test_an_unsupported_operator_is_named_with_its_node(nvidia: TensorRtLibrary, exported: Exported) -> None:
    def edit(graph: onnx.GraphProto) -> None:
        node = first(graph, "Relu")
        node.op_type, node.name = "Det", "decoder.relu"

    with pytest.raises(
        EngineError, match=r"not accept this graph:\n  node 'decoder.relu' \(Det\): TensorRT does not support"
    ):
        build_engine(plan(broken(exported, edit), BuildSettings(FP32), nvidia))


def test_transposing_bytes_is_refused_with_the_reason(nvidia: TensorRtLibrary, exported: Exported) -> None:
    def edit(graph: onnx.GraphProto) -> None:  # permute before the cast, as a careless export would
        for axis in (2, 1):  # move the channels to the front of the bytes
            dims = graph.input[0].type.tensor_type.shape.dim
            assert dims[axis].dim_param
        cast = first(graph, "Cast")
        graph.node.insert(
            0, helper.make_node("Transpose", ["image"], ["turned"], name="early.transpose", perm=[0, 1, 2, 3])
        )
        cast.input[0] = "turned"

    with pytest.raises(EngineError, match=r"early.transpose|Transpose|UINT8|UInt8|uint8"):
        build_engine(plan(broken(exported, edit), BuildSettings(FP32), nvidia))


def test_weights_of_the_wrong_shape_are_refused_with_the_node(nvidia: TensorRtLibrary, exported: Exported) -> None:
    def edit(graph: onnx.GraphProto) -> None:
        head = next(node for node in graph.node if node.name == "Conv:network.head")
        weights = next(t for t in graph.initializer if t.name == head.input[1])
        weights.CopyFrom(numpy_helper.from_array(np.zeros((10, 7, 1, 1), np.float32), weights.name))  # 64 channels come

    with pytest.raises(EngineError, match=r"Conv:network.head"):
        build_engine(plan(broken(exported, edit), BuildSettings(FP32), nvidia))


def test_mixed_types_are_refused_in_a_strongly_typed_network(nvidia: TensorRtLibrary, exported: Exported) -> None:
    def edit(graph: onnx.GraphProto) -> None:
        head = next(node for node in graph.node if node.name == "Conv:network.head")
        weights = next(t for t in graph.initializer if t.name == head.input[1])
        half = numpy_helper.to_array(weights).astype(np.float16)
        weights.CopyFrom(numpy_helper.from_array(half, weights.name))

    with pytest.raises(EngineError, match=r"Conv:network.head|type"):
        build_engine(plan(broken(exported, edit), BuildSettings(FP32), nvidia))


def test_progress_rises_to_the_end_and_a_stop_is_obeyed(nvidia: TensorRtLibrary, exported: Exported) -> None:
    seen: list[BuildProgress] = []
    build_engine(plan(exported("efficientnet_ladder", "fp32"), BuildSettings(), nvidia), progress=seen.append)
    fractions = [p.fraction for p in seen]
    assert len(fractions) > 10
    assert fractions == sorted(fractions)
    assert fractions[0] > 0.0
    assert 0.8 < fractions[-1] <= 1.0
    asked = []

    def stop() -> bool:
        asked.append(True)
        return len(asked) >= 5

    with pytest.raises(BuildStoppedError, match="the build was stopped; no engine was written"):
        build_engine(plan(exported("efficientnet_ladder", "fp32"), BuildSettings(), nvidia), stop_requested=stop)


def test_an_exception_of_the_progress_callback_ends_the_build_and_is_raised(
    nvidia: TensorRtLibrary, exported: Exported
) -> None:
    def show(_: BuildProgress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_engine(plan(exported("efficientnet_ladder", "fp32"), BuildSettings(), nvidia), progress=show)


def test_builds_for_a_gpu_that_is_not_here(nvidia: TensorRtLibrary, exported: Exported) -> None:
    if not nvidia.is_rtx:
        pytest.skip("only TensorRT-RTX builds for other GPUs")
    content = exported("efficientnet_ladder", "fp32")
    assert build_engine(plan(content, BuildSettings(target="sm89"), nvidia)).content
    with pytest.raises(EngineError, match=r"--target sm12 is not known .* accepted: sm75, sm80"):
        build_engine(plan(content, BuildSettings(target="sm12"), nvidia))


@pytest.mark.parametrize(
    "settings, message",
    [
        (BuildSettings(dla_core=0), "DLA core 0 is not there: .* sees 0 on this machine"),
        (BuildSettings(optimization_level=9), "optimization level 9 is not accepted"),
        (BuildSettings(size=Size(130, 96)), "size 130x96 does not fit test-1-fp32-00000000"),
        (BuildSettings(INT8), "precision int8 cannot be made from an fp32 graph; export one with"),
    ],
)
def test_settings_that_cannot_be_met(
    nvidia: TensorRtLibrary, exported: Exported, settings: BuildSettings, message: str
) -> None:
    with pytest.raises((EngineError, ModelError), match=message):
        build_engine(plan(exported("efficientnet_ladder", "fp32"), settings, nvidia))


def test_an_int8_graph_is_not_for_the_dla_before_11(exported: Exported) -> None:
    content, settings = exported("reference", "int8"), BuildSettings(dla_core=0)
    for version in ("8.6.2", "10.3.0"):
        with pytest.raises(ModelError, match=rf"the DLA of TensorRT {version} takes no graph with quantize nodes"):
            prepare_graph(plan(content, settings, TensorRtLibrary("tensorrt", sys, version)))
    assert prepare_graph(plan(content, settings, TensorRtLibrary("tensorrt", sys, "11.4.1"))).graph.node


def test_wrong_settings_are_reported_together() -> None:
    with pytest.raises(EngineError, match=r"precision 'bf8' is not one of.*batch 0.*workspace 0.*DLA core -1"):
        BuildSettings("bf8", batch=0, workspace_mib=0, dla_core=-1)


@pytest.mark.parametrize(
    "graph, wanted, expected",
    [(FP32, None, FP16), (FP32, FP32, FP32), (FP16, None, FP16), (INT8, None, INT8)],
)
def test_precision_of_the_engine(graph: Precision, wanted: Precision | None, expected: Precision) -> None:
    assert resolve_precision(graph, wanted) is expected


@pytest.mark.parametrize("graph, wanted", [(FP16, FP32), (INT8, FP16), (FP16, INT8), (FP32, INT8)])
def test_precisions_that_a_graph_cannot_have(graph: Precision, wanted: Precision) -> None:
    with pytest.raises(ModelError, match=f"precision {wanted} cannot be made from an {graph} graph"):
        resolve_precision(graph, wanted)


def test_tiny_scales_survive_half_precision(nvidia: TensorRtLibrary, exported: Exported) -> None:
    """The scale of a dead channel or map rounds to zero in half, and TensorRT refuses zero scales."""
    model = onnx.load_from_string(exported("efficientnet_ladder", "int8"))
    constants = {t.name: t for t in model.graph.initializer}
    node = next(n for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in constants)
    scale = constants[node.input[1]]
    values = numpy_helper.to_array(scale).copy()
    values.reshape(-1)[0] = 1e-12  # half's smallest number is 6e-8
    scale.CopyFrom(numpy_helper.from_array(values, scale.name))
    activation = next(n for n in model.graph.node if n.op_type == "QuantizeLinear")
    dead = constants[activation.input[1]]
    dead.CopyFrom(numpy_helper.from_array(np.array(1e-12, np.float32).reshape(dead.dims), dead.name))
    assert build_engine(plan(model.SerializeToString(), BuildSettings(INT8), nvidia)).content


def test_a_fixed_graph_builds_only_for_its_own_shape(nvidia: TensorRtLibrary, exported: Exported) -> None:
    from seg_perception.engines.graph import pin_shapes

    model = onnx.load_from_string(exported("efficientnet_ladder", "fp32"))
    pin_shapes(model, 2, Size(128, 96))
    content = model.SerializeToString()
    assert build_engine(plan(content, BuildSettings(batch=2), nvidia)).content
    with pytest.raises(ModelError, match="is fixed to a batch of 2; an engine for 1 needs an open batch"):
        build_engine(plan(content, BuildSettings(), nvidia))
    with pytest.raises(ModelError, match="is fixed to 128x96; an engine for 64x64 needs open height and width"):
        build_engine(plan(content, BuildSettings(batch=2, size=Size(64, 64)), nvidia))


def test_sizes_that_an_engine_takes(exported: Exported) -> None:
    model = parse_model(exported("efficientnet_ladder", "fp32"), "")  # 128x96: 12288 pixels, multiples of 32
    sizes = input_sizes(model, None)
    # widest: sqrt(12288 x 4) = 221.7 -> 224; tallest: sqrt(12288 / 0.5) = 156.8 -> 160
    assert (sizes.smallest, sizes.tuned, sizes.largest) == (Size(32, 32), Size(128, 96), Size(224, 160))
    assert (sizes.fixed, str(sizes)) == (None, "up to 224x160")
    assert str(input_sizes(model, Size(64, 64))) == "64x64"
    assert input_sizes(model, None, one_shape=True).fixed == Size(128, 96)  # a DLA takes one shape


@pytest.mark.parametrize("camera", [Size(1920, 1080), Size(1242, 375), Size(1080, 1920), Size(640, 480)], ids=str)
def test_every_usual_camera_fits_an_engine_of_open_size(exported: Exported, camera: Size) -> None:
    sizes = input_sizes(parse_model(exported("efficientnet_ladder", "fp32"), ""), None)
    size = network_size(camera, Size(128, 96), 32)
    assert sizes.smallest.width <= size.width <= sizes.largest.width
    assert sizes.smallest.height <= size.height <= sizes.largest.height


def test_nested_phases_become_one_rising_fraction() -> None:
    fractions = NestedFractions()
    fractions.start("whole", None, 2)
    fractions.start("part", "whole", 4)  # the first of two steps of the whole: 0 to 1/2
    assert fractions.step("part", 0) == pytest.approx(1 / 8)
    assert fractions.step("part", 3) == pytest.approx(1 / 2)
    fractions.finish("part")
    assert fractions.step("whole", 0) == pytest.approx(1 / 2)
    fractions.start("part", "whole", 2)  # the second step: 1/2 to 1
    assert fractions.step("part", 0) == pytest.approx(3 / 4)
    assert fractions.step("unknown", 7) == pytest.approx(3 / 4)


def test_asking_for_a_library_that_is_not_here_says_what_to_install() -> None:
    try:
        load_library("tensorrt")
    except EngineError as error:
        assert "Install NVIDIA TensorRT 8.5 or newer" in str(error)  # noqa: PT017  it depends on the machine
    with pytest.raises(EngineError, match="'tensorflow' is not known; accepted: tensorrt, tensorrt_rtx"):
        load_library("tensorflow")


def test_int8_card_stays_when_the_rest_becomes_half(nvidia: TensorRtLibrary, exported: Exported) -> None:
    model = prepare_graph(plan(exported("efficientnet_ladder", "int8"), BuildSettings(), nvidia))
    assert card_of(model).precision == "int8"
    floats = [t.name for t in model.graph.initializer if t.data_type == TensorProto.FLOAT16]
    assert len(floats) > 50


def test_a_model_card_can_be_replaced(exported: Exported, tmp_path: Path) -> None:
    model = onnx.load_from_string(exported("efficientnet_ladder", "fp32"))
    write_card(model, dataclasses.replace(card_of(model), name="other"))
    assert card_of(model).name == "other"
    assert len(model.metadata_props) == 1


def test_a_timing_cache_that_cannot_be_written_does_not_cost_the_engine(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Timings:
        def serialize(self) -> bytes:
            return b"timings"

    keep_timings(tmp_path / "none" / "timing.cache", Timings())
    assert "the kernel timings were not kept, the next build will take as long" in caplog.text
    keep_timings(tmp_path / "timing.cache", Timings())
    assert (tmp_path / "timing.cache").read_bytes() == b"timings"


def test_progress_may_come_from_several_threads(nvidia: TensorRtLibrary) -> None:
    seen: list[float] = []
    monitor = make_progress_monitor(nvidia, lambda p: seen.append(p.fraction), None)
    monitor.phase_start("whole", None, 4)

    def part(name: str) -> None:
        for _ in range(200):
            monitor.phase_start(name, "whole", 10)
            for step in range(10):
                assert monitor.step_complete(name, step)
            monitor.phase_finish(name)

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(part, "shared") for _ in range(4)]:
            done.result()
    assert monitor.failure is None
    assert len(seen) == 4 * 200 * 10
    assert seen == sorted(seen)
