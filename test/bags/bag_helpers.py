"""A tiny real ONNX graph and small bags for the tests of bags and commands. Needs no ROS."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from seg_perception.bags import messages
from seg_perception.bags.reader import BagReader
from seg_perception.bags.writer import BagWriter
from seg_perception.core.label_set import load_label_set
from seg_perception.core.model_card import METADATA_KEY, ModelCard
from seg_perception.core.types import Size

START = 1_700_000_000_123_456_789  # an odd number of nanoseconds: floats would lose it
STEP = 66_666_667


def write_tiny_model(path: Path) -> Path:
    """labels = red // 26 (0 to 9), confidence = green, at the size of a 64x48 budget."""
    nodes = [
        helper.make_node("Split", ["image"], ["red", "green", "blue"], axis=3, num_outputs=3),
        helper.make_node("Squeeze", ["red", "last"], ["red_plane"]),
        helper.make_node("Squeeze", ["green", "last"], ["confidence"]),
        helper.make_node("Cast", ["red_plane"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["number", "step"], ["fraction"]),
        helper.make_node("Floor", ["fraction"], ["whole"]),
        helper.make_node("Cast", ["whole"], ["labels"], to=TensorProto.UINT8),
    ]
    constants = [
        helper.make_tensor("last", TensorProto.INT64, [1], [3]),
        helper.make_tensor("step", TensorProto.FLOAT, [], [26.0]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 3])],
        [helper.make_tensor_value_info(name, TensorProto.UINT8, ["N", "H", "W"]) for name in ("labels", "confidence")],
        constants,
    )
    card = ModelCard("tiny", "1", "none", load_label_set(), Size(64, 48), 16, "fp32", "ab" * 32)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    helper.set_model_props(model, {METADATA_KEY: card.to_json()})
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


SMALL = Size(64, 48)


def picture(index: int, size: Size = SMALL) -> np.ndarray:
    """uint8 [H, W, 3]: red grows to the right by whole labels, another shift for each index."""
    image = np.zeros((size.height, size.width, 3), np.uint8)
    image[..., 0] = ((np.arange(size.width) * 10 // size.width + index) % 10 * 26)[None, :]
    image[..., 1] = np.linspace(0, 255, size.height, dtype=np.uint8)[:, None]
    image[..., 2] = index % 256
    return image


def noise(seed: int, size: Size = SMALL) -> np.ndarray:
    """uint8 [H, W, 3] that no compression makes smaller."""
    return np.random.default_rng(seed).integers(0, 256, (size.height, size.width, 3), np.uint8)


def truth_of(image: np.ndarray) -> np.ndarray:
    """What the tiny model says of a picture at its own size."""
    return image[..., 0] // 26


def drivable_of(image: np.ndarray, class_id: int = 0) -> np.ndarray:
    """The mask of a drivable class, by default road: green is the confidence, and 128 the first of at least 0.5."""
    return np.where((truth_of(image) == class_id) & (image[..., 1] >= 128), 255, 0)


def write_bag(
    path: Path,
    images: Sequence[np.ndarray],
    truths: Sequence[np.ndarray] = (),
    labels: Sequence[np.ndarray] = (),
    start: int = START,
    step: int = STEP,
) -> Path:
    """A bag with /image, and /truth and /labels where given; stamps start + i * step."""
    topics = {"/image": images, "/truth": truths, "/labels": labels}
    with BagWriter(path) as bag:
        for name, pictures in topics.items():
            if len(pictures):
                bag.add_topic(name, messages.IMAGE)
        for i in range(max(map(len, topics.values()))):
            stamp = start + i * step
            for name, pictures in topics.items():
                if i < len(pictures):
                    bag.write(name, stamp, messages.image(pictures[i], messages.header(stamp, "camera")))
    return path


def contents(path: Path) -> list[tuple[str, str, int, bytes]]:
    """Everything a bag holds, for comparison: topic, type, record time, bytes."""
    with BagReader(path) as bag:
        return [(m.topic.name, m.topic.type, m.stamp_ns, m.data) for m in bag.messages()]
