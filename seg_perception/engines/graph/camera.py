"""Puts the camera-to-network resize and the upscale of the answer into the graph.

Then an engine takes camera images as they come and answers at the camera's size, and the host
resizes nothing.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from seg_perception.core.errors import ModelError
from seg_perception.core.resizing import check_multiple, network_size
from seg_perception.core.types import Size
from seg_perception.engines.graph.edits import (
    FIRST_PERMUTATION,
    card_of,
    fixed_batch,
    fixed_size,
    pin_shapes,
    write_card,
)


def for_camera(model: onnx.ModelProto, camera: Size, network: Size | None = None) -> onnx.ModelProto:
    """The same graph for images of one camera size; the argument is not changed.

    Images are shrunk by averaging whole blocks, then bilinearly to the network's size; labels and
    confidence are enlarged by nearest neighbor, as the Segmenter does on the host.

    Args:
        model: a graph with open height and width.
        camera: width and height of the camera's images.
        network: input size of the network; None keeps the camera's shape and spends the model
            card's pixel count.

    Raises:
        ModelError: the graph is already for one size, or the network's size does not fit it.
    """
    card = card_of(model)
    if fixed_size(model) is not None:
        raise ModelError(
            f"{card.id} takes only {fixed_size(model)} images; a camera size needs a graph with open height and width"
        )
    inner = network or network_size(camera, card.input_size, card.size_multiple)
    check_multiple(inner, card.size_multiple, card.id, error=ModelError)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    pin_shapes(result, fixed_batch(model), camera)
    if inner != camera:
        _shrink_input(result, camera, inner)
        _enlarge_outputs(result, inner, camera)
    write_card(result, dataclasses.replace(card, input_size=camera, size_multiple=1))
    try:
        onnx.checker.check_model(result, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(
            f"{card.id}: images cannot be resized inside this graph, leave the camera size out: "
            f"{' '.join(str(error).split())[:300]}"
        ) from error
    return result


def block_length(length: int, target: int) -> int:
    """The largest block that divides `length` and is no longer than the reduction factor."""
    return next(block for block in range(max(1, length // target), 0, -1) if length % block == 0)


def _shrink_input(model: onnx.ModelProto, camera: Size, inner: Size) -> None:
    """Resize after the images have become float NCHW; where a graph never does that by itself, before everything."""
    graph = model.graph
    transpose = _own_transpose(model)
    if transpose is not None:
        index = list(graph.node).index(transpose)
        result_name = transpose.output[0]
        current = f"{result_name}.camera"
        graph.node[index].output[0] = current
        added = _resizing(graph, current, result_name, camera, inner)
        before = index + 1
    else:
        image = graph.input[0].name
        result_name = f"{image}.resized"
        for node in graph.node:
            for position, name in enumerate(node.input):
                if name == image:
                    node.input[position] = result_name
        added = [
            helper.make_node("Cast", [image], [f"{image}.float"], name="CameraCast", to=TensorProto.FLOAT),
            helper.make_node(
                "Transpose", [f"{image}.float"], [f"{image}.planes"], name="CameraPlanes", perm=FIRST_PERMUTATION
            ),
            *_resizing(graph, f"{image}.planes", f"{image}.small", camera, inner),
            helper.make_node("Transpose", [f"{image}.small"], [result_name], name="CameraPixels", perm=[0, 2, 3, 1]),
        ]
        before = 0
    for offset, node in enumerate(added):
        graph.node.insert(before + offset, node)


def _own_transpose(model: onnx.ModelProto) -> onnx.NodeProto | None:
    """The node after which all images are float NCHW: only a cast lies between it and the input; None elsewhere."""
    graph = model.graph
    users = [node for node in graph.node if graph.input[0].name in node.input]
    if len(users) != 1 or users[0].op_type != "Cast" or users[0].attribute[0].i != TensorProto.FLOAT:
        return None
    after = [node for node in graph.node if users[0].output[0] in node.input]
    permuted = len(after) == 1 and after[0].op_type == "Transpose"
    return after[0] if permuted and list(after[0].attribute[0].ints) == FIRST_PERMUTATION else None


def _resizing(graph: onnx.GraphProto, source: str, target: str, camera: Size, inner: Size) -> list[onnx.NodeProto]:
    """Nodes that shrink float NCHW: whole blocks are averaged, the rest is bilinear."""
    added: list[onnx.NodeProto] = []
    blocks = (block_length(camera.height, inner.height), block_length(camera.width, inner.width))
    pooled = Size(camera.width // blocks[1], camera.height // blocks[0])
    current = source
    if blocks != (1, 1):
        current = target if pooled == inner else f"{target}.blocks"
        added.append(
            helper.make_node(
                "AveragePool", [source], [current], name="CameraBlocks", kernel_shape=blocks, strides=blocks
            )
        )
    if pooled != inner:
        added.append(_resize(graph, current, target, pooled, inner, "linear", "CameraResize"))
    return added


def _enlarge_outputs(model: onnx.ModelProto, inner: Size, camera: Size) -> None:
    """Insert a nearest-neighbor resize before the last cast of each output.

    It works on float [N, 1, H, W]: TensorRT resizes no uint8, and ids up to 255 are exact in float.
    """
    graph = model.graph
    for output in graph.output:
        cast = next(node for node in graph.node if output.name in node.output)
        if cast.op_type != "Cast":
            cast = _end_with_cast(graph, cast, output.name)
        index = list(graph.node).index(cast)
        name = output.name
        axis = _constant(graph, f"{name}.axis", np.array([1], np.int64))
        steps = [
            helper.make_node(
                "Cast", [cast.input[0]], [f"{name}.float"], name=f"Cast:{name}.float", to=TensorProto.FLOAT
            ),
            helper.make_node("Unsqueeze", [f"{name}.float", axis], [f"{name}.plane"], name=f"Unsqueeze:{name}"),
            _resize(graph, f"{name}.plane", f"{name}.enlarged", inner, camera, "nearest", f"CameraResize:{name}"),
            helper.make_node("Squeeze", [f"{name}.enlarged", axis], [f"{name}.full"], name=f"Squeeze:{name}"),
        ]
        cast.input[0] = f"{name}.full"
        for offset, node in enumerate(steps):
            graph.node.insert(index + offset, node)


def _end_with_cast(graph: onnx.GraphProto, last: onnx.NodeProto, output: str) -> onnx.NodeProto:
    """Give an output that another operator makes a cast of its own."""
    small = f"{output}.small"
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name == output:
                node.input[position] = small
    last.output[list(last.output).index(output)] = small
    graph.node.append(helper.make_node("Cast", [small], [output], name=f"Cast:{output}", to=TensorProto.UINT8))
    return graph.node[-1]


def _resize(
    graph: onnx.GraphProto, source: str, target: str, before: Size, after: Size, mode: str, name: str
) -> onnx.NodeProto:
    """A resize by scale factors, chosen so that rounding down gives exactly the target size."""
    factors = np.array(
        [1.0, 1.0, exact_scale(before.height, after.height), exact_scale(before.width, after.width)], np.float32
    )
    scales = _constant(graph, f"{name}.scales", factors)
    options = {"nearest_mode": "round_prefer_floor"} if mode == "nearest" else {}
    return helper.make_node(
        "Resize",
        [source, "", scales],
        [target],
        name=name,
        mode=mode,
        coordinate_transformation_mode="half_pixel",
        **options,
    )


def exact_scale(length: int, wanted: int) -> np.float32:
    """The least scale whose product with `length`, rounded down, is `wanted`.

    A scale rounded to nearest may give one pixel less in engines that multiply in double.
    """
    scale = np.float32(wanted / length)
    while length * float(scale) < wanted:
        scale = np.nextafter(scale, np.float32(np.inf))
    return scale


def _constant(graph: onnx.GraphProto, name: str, values: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> str:
    graph.initializer.append(numpy_helper.from_array(values, name))
    return name
