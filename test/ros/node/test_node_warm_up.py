"""A model whose answers break the contract does not drive: the node refuses it when it is configured."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from node_harness import running, wait_until
from onnx import TensorProto, helper


def with_changed_labels(
    model: Path, path: Path, nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto]
) -> Path:
    """The same graph with its labels changed at the end: `nodes` lead from "right" to "labels"."""
    graph = onnx.load(model)
    for node in graph.graph.node:
        node.output[:] = ["right" if name == "labels" else name for name in node.output]
    graph.graph.node.extend(nodes)
    graph.graph.initializer.extend(constants)
    onnx.save(graph, path)
    return path


PLANE = helper.make_tensor("plane", TensorProto.INT64, [1], [1])
HALVED = [
    helper.make_node("Unsqueeze", ["right", "plane"], ["right_plane"]),
    helper.make_node("MaxPool", ["right_plane"], ["halved"], kernel_shape=[2, 2], strides=[2, 2]),
    helper.make_node("Squeeze", ["halved", "plane"], ["labels"]),
]
TRANSPOSED = [helper.make_node("Transpose", ["right"], ["labels"], perm=[0, 2, 1])]
TEN = helper.make_tensor("ten", TensorProto.UINT8, [], [10])
TEN_MORE = [helper.make_node("Add", ["right", "ten"], ["labels"])]

LAST_FIRST = [helper.make_node("Slice", ["right", "minus_one", "before_all", "zero", "minus_one"], ["labels"])]
BACKWARDS = [
    helper.make_tensor(name, TensorProto.INT64, [1], [value])
    for name, value in (("minus_one", -1), ("before_all", -1000), ("zero", 0))
]


@pytest.mark.parametrize(
    "nodes, constants, reason",
    [
        (TRANSPOSED, [], "labels of uint8 [1, 64, 48]"),
        (HALVED, [PLANE], "labels of uint8 [1, 24, 32]"),
        (TEN_MORE, [TEN], "but the model card has 10 classes (0 to 9)"),
        (LAST_FIRST, BACKWARDS, "the first of 2 frames in a batch is that for another of them"),
    ],
    ids=["transposed", "half size", "ids beyond the classes", "batch backwards"],
)
def test_wrong_answers_are_refused_at_configure(
    tiny_model: Path, tmp_path: Path, nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto], reason: str
) -> None:
    model = with_changed_labels(tiny_model, tmp_path / "wrong.onnx", nodes, constants)
    with running({"model": str(model), "cameras": ["front", "rear"]}) as run:
        (line,) = wait_until(lambda: run.peer.lines("configure failed"), "the refusal")
        assert reason in line
        assert run.node.state == "unconfigured"
