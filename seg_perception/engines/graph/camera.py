"""Puts the camera-to-network resize and the upscale of the answer into the graph.

Then an engine takes camera images as they come and answers at the camera's size, and the host
resizes nothing.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from seg_perception.core.errors import ModelError
from seg_perception.core.resizing import check_multiple, network_size
from seg_perception.core.types import CameraEncoding, Size
from seg_perception.engines.graph import (
    FIRST_PERMUTATION,
    card_of,
    fixed_batch,
    fixed_size,
    pin_shapes,
    write_card,
)


def for_camera(
    model: onnx.ModelProto, camera: Size, network: Size | None = None, encoding: CameraEncoding = CameraEncoding.RGB
) -> onnx.ModelProto:
    """The same graph for images of one camera size; the argument is not changed.

    Images are shrunk by averaging whole blocks, then bilinearly to the network's size; labels and
    confidence are enlarged by nearest neighbor, as the Segmenter does on the host.

    Args:
        model: a graph with open height and width.
        camera: width and height of the camera's images.
        network: input size of the network; None keeps the camera's shape and spends the model
            card's pixel count.
        encoding: of the camera's images; they are decoded in the graph as `core.image_message` does.

    Raises:
        InputError: this encoding has no images of that size.
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
    write_card(result, dataclasses.replace(card, input_size=camera, size_multiple=1, camera_encoding=encoding))
    pin_shapes(result, fixed_batch(model), camera)
    if inner != camera or encoding is not CameraEncoding.RGB:
        _shrink_input(result, camera, inner, encoding)
    if inner != camera:
        _enlarge_outputs(result, inner, camera)
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


def _shrink_input(model: onnx.ModelProto, camera: Size, inner: Size, encoding: CameraEncoding) -> None:
    """Decode and resize where the images have become float NCHW, or, where a graph does that nowhere, before all."""
    graph = model.graph
    transpose = _own_transpose(model)
    if transpose is not None:
        index = list(graph.node).index(transpose)
        result_name = transpose.output[0]
        planes = f"{result_name}.camera"
        graph.node[index].output[0] = planes
        added: list[onnx.NodeProto] = []
        before = index + 1
        tail: list[onnx.NodeProto] = []
    else:
        image = graph.input[0].name
        result_name, planes = f"{image}.small", f"{image}.planes"
        resized = f"{image}.resized"
        for node in graph.node:
            for position, name in enumerate(node.input):
                if name == image:
                    node.input[position] = resized
        added = [
            helper.make_node("Cast", [image], [f"{image}.float"], name="CameraCast", to=TensorProto.FLOAT),
            helper.make_node("Transpose", [f"{image}.float"], [planes], name="CameraPlanes", perm=FIRST_PERMUTATION),
        ]
        before = 0
        tail = [helper.make_node("Transpose", [result_name], [resized], name="CameraPixels", perm=[0, 2, 3, 1])]
    decoded = planes if encoding is CameraEncoding.RGB else result_name if inner == camera else f"{planes}.rgb"
    added += _decoding(graph, planes, decoded, camera, encoding)
    added += _resizing(graph, decoded, result_name, camera, inner)
    if decoded == planes and inner == camera:
        added.append(helper.make_node("Identity", [planes], [result_name], name="CameraSame"))
    for offset, node in enumerate([*added, *tail]):
        graph.node.insert(before + offset, node)


# OpenCV's integers for BT.601 in studio range, of 2^20: with them the graph decodes to the very bytes of the host.
_LUMA = 1220542 / 2**20
_FROM_U = (0.0, -409993 / 2**20, 2116026 / 2**20)  # of R, G, B
_FROM_V = (1673527 / 2**20, -852492 / 2**20, 0.0)


def _decoding(
    graph: onnx.GraphProto, source: str, target: str, size: Size, encoding: CameraEncoding
) -> list[onnx.NodeProto]:
    """Nodes from float [N, C, rows, W], the camera's bytes, to float RGB [N, 3, H, W] of whole numbers 0 to 255."""
    if encoding is CameraEncoding.RGB:
        return []
    nodes: list[onnx.NodeProto] = []

    def add(operator: str, inputs: list[str], output: str, **options: Any) -> str:
        nodes.append(helper.make_node(operator, inputs, [output], name=f"Camera:{output}", **options))
        return output

    def number(name: str, values: list[float] | tuple[float, ...]) -> str:
        return _constant(graph, f"{source}.{name}", np.array(values, np.float32).reshape(1, -1, 1, 1))

    def part(name: str, start: tuple[int, int, int], end: tuple[int, int, int], step: int) -> str:
        """Of channels, rows and columns; every `step`-th column."""
        bounds = [(start, "start"), (end, "end"), ((1, 1, step), "step")]
        inputs = [_constant(graph, f"{source}.{name}.{which}", np.array(v, np.int64)) for v, which in bounds]
        axes = _constant(graph, f"{source}.{name}.axes", np.array([1, 2, 3], np.int64))
        return add("Slice", [source, *inputs[:2], axes, inputs[2]], f"{source}.{name}")

    if encoding is CameraEncoding.BGR:
        order = _constant(graph, f"{source}.order", np.array([2, 1, 0], np.int64))
        add("Gather", [source, order], target, axis=1)
        return nodes
    rows, width, _ = encoding.array_shape(size)
    if encoding is CameraEncoding.NV12:
        luma = part("y", (0, 0, 0), (1, size.height, width), 1)
        chroma = [part(n, (0, size.height, i), (1, rows, width), 2) for i, n in enumerate("uv")]
        half = Size(width // 2, size.height // 2)
    else:
        of_luma = 1 if encoding is CameraEncoding.YUV422 else 0
        of_chroma = 1 - of_luma
        luma = part("y", (of_luma, 0, 0), (of_luma + 1, rows, width), 1)
        chroma = [part(n, (of_chroma, 0, i), (of_chroma + 1, rows, width), 2) for i, n in enumerate("uv")]
        half = Size(width // 2, size.height)
    above = add("Relu", [add("Sub", [luma, number("black", [16.0])], f"{source}.above")], f"{source}.light")
    total = add("Mul", [above, number("luma", [_LUMA] * 3)], f"{source}.gray")
    for name, plane, factors in zip("uv", chroma, (_FROM_U, _FROM_V), strict=True):
        nodes.append(
            _resize(graph, plane, f"{source}.{name}.full", half, size, "nearest", f"Camera:{source}.{name}.full")
        )
        offset = add("Sub", [f"{source}.{name}.full", number(f"{name}.zero", [128.0])], f"{source}.{name}.offset")
        weighted = add("Mul", [offset, number(f"{name}.factors", factors)], f"{source}.{name}.rgb")
        total = add("Add", [total, weighted], f"{source}.{name}.sum")
    low, high = (
        _constant(graph, f"{source}.{n}", np.array(v, np.float32)) for n, v in (("least", 0.0), ("most", 255.0))
    )
    add("Clip", [add("Round", [total], f"{source}.whole"), low, high], target)
    return nodes


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
