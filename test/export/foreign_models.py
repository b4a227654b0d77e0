"""Segmentation models as others export them: small, with seeded random weights."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

REPOSITORY = Path(__file__).resolve().parents[2]
SIZE = (128, 256)  # height, width
OPEN = {"input": {0: "N", 2: "H", 3: "W"}}
NAMES = "{0: 'road', 1: 'sidewalk', 2: 'pole', 3: 'sky', 4: 'building'}"


class Small(nn.Module):
    """Two strided convolutions and scores as large as the image."""

    def __init__(self, classes: int, enlarged: bool = True) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1)
        self.scores, self.enlarged = nn.Conv2d(16, classes, 3, 1, 1), enlarged

    def forward(self, x: Tensor) -> Tensor:
        y = 20 * self.scores(F.relu(self.second(F.relu(self.first(x)))))
        return F.interpolate(y, scale_factor=4.0, mode="bilinear", align_corners=False) if self.enlarged else y


class Then(nn.Module):
    """A model and what its exporter put around it."""

    def __init__(self, model: nn.Module, before: Callable[[Tensor], Tensor], after: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.model, self.before, self.after = model, before, after

    def forward(self, x: Tensor) -> Any:
        return self.after(self.model(self.before(x)))


def same(x: Tensor) -> Tensor:
    return x


def save(
    path: Path,
    model: nn.Module,
    example: Tensor | None = None,
    inputs: tuple[str, ...] = ("input",),
    outputs: tuple[str, ...] = ("output",),
    axes: dict[str, dict[int, str]] | None = None,
    metadata: dict[str, str] | None = None,
) -> Path:
    example = torch.zeros((1, 3, *SIZE)) if example is None else example
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.eval(), (example,), path, input_names=list(inputs), output_names=list(outputs),
            dynamic_axes=axes, opset_version=17, dynamo=False,
        )  # fmt: skip
    if metadata:
        saved = onnx.load(path)
        onnx.helper.set_model_props(saved, metadata)
        onnx.save(saved, path)
    return path


class Heads(nn.Module):
    """An auxiliary head and an edge head beside the scores."""

    def __init__(self) -> None:
        super().__init__()
        self.main, self.auxiliary, self.edge = Small(19), nn.Conv2d(3, 19, 8, 8), nn.Conv2d(3, 1, 8, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.auxiliary(x), self.main(x), self.edge(x)


def peer(name: str) -> nn.Module:
    """A public network of benchmarks/peers, for Cityscapes' 19 classes."""
    folder = str(REPOSITORY / "benchmarks")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    import importlib

    return importlib.import_module(f"peers.{name}").PEER.build(19)


class Logits(nn.Module):
    """What exporters of Hugging Face models give."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.model(pixel_values).logits


HUGGING_FACE: dict[str, dict[str, dict[int, str]] | None] = {
    "SegFormer": {"pixel_values": {0: "batch_size", 1: "num_channels", 2: "height", 3: "width"}},
    "MobileViT": None,
}


def hugging_face(name: str) -> nn.Module:
    """A model of the transformers package, built from its configuration; skips where that is not installed."""
    transformers = pytest.importorskip("transformers", reason="pip install transformers")
    if name == "SegFormer":
        config = transformers.SegformerConfig(num_labels=19, depths=[1, 1, 1, 1])
        model = transformers.SegformerForSemanticSegmentation(config)
    else:
        model = transformers.MobileViTForSemanticSegmentation(transformers.MobileViTConfig(num_labels=21))
    # as freshly initialized, the scores are so small that all are equal: let the normalizations see some data
    model.train()
    with torch.no_grad():
        for _ in range(30):
            model(torch.randn(2, 3, 64, 128))
    return Logits(model)


def build(name: str, path: Path) -> Path:
    """Write the model of this name."""
    torch.manual_seed(len(name))
    floats = torch.zeros((1, 3, *SIZE))
    enlarge = lambda y: F.interpolate(y, scale_factor=8.0, mode="bilinear", align_corners=False)  # noqa: E731
    if name == "scores, stride 4, open":
        return save(path, Small(19, enlarged=False), axes=OPEN)
    if name == "scores, one size":
        return save(path, Small(21))
    if name == "ids int64 [N, h, w]":
        return save(path, Then(Small(19), same, lambda y: y.argmax(1)), axes=OPEN)
    if name == "ids int64 [N, 1, h, w], stride 4":
        return save(path, Then(Small(11, enlarged=False), same, lambda y: y.argmax(1, keepdim=True)))
    if name == "ids int32 [N, h, w, 1]":
        return save(path, Then(Small(11), same, lambda y: y.argmax(1).unsqueeze(3).int()))
    if name == "NHWC uint8, probabilities last":
        model = Then(
            Small(11),
            lambda x: (x.float().permute(0, 3, 1, 2) - 127.5) / 127.5,
            lambda y: y.softmax(1).permute(0, 2, 3, 1),
        )
        return save(path, model, torch.zeros((1, *SIZE, 3), dtype=torch.uint8), ("image",), ("labels",),
                    {"image": {0: "N", 1: "H", 2: "W"}})  # fmt: skip
    if name == "half":
        return save(path, Small(21).half(), floats.half(), axes=OPEN)
    if name == "sigmoid":
        return save(path, Then(Small(1), same, Tensor.sigmoid), axes=OPEN)
    if name == "one logit":
        return save(path, Small(1), axes=OPEN)
    if name == "several heads":
        return save(path, Heads(), outputs=("aux", "main", "edge"), axes=OPEN)
    if name == "ultralytics":
        metadata = {"author": "Ultralytics", "task": "semantic", "names": NAMES, "stride": "32"}
        return save(path, Small(5), inputs=("images",), outputs=("output0",), metadata=metadata)
    if name == "PIDNet-S scores":
        return save(path, peer("pidnet_s"), axes=OPEN)
    if name == "PIDNet-S ids":
        return save(path, Then(peer("pidnet_s"), same, lambda y: enlarge(y).argmax(1)), axes=OPEN)
    if name == "DDRNet ids":
        return save(path, Then(peer("ddrnet_slim"), same, lambda y: enlarge(y).argmax(1, keepdim=True)))
    if name in ("SegFormer", "MobileViT"):
        return save(path, hugging_face(name), inputs=("pixel_values",), outputs=("logits",), axes=HUGGING_FACE[name])
    raise KeyError(name)


MODELS = (
    "scores, stride 4, open", "scores, one size", "ids int64 [N, h, w]", "ids int64 [N, 1, h, w], stride 4",
    "ids int32 [N, h, w, 1]", "NHWC uint8, probabilities last", "half", "sigmoid", "one logit", "several heads",
    "ultralytics", "PIDNet-S scores", "PIDNet-S ids", "DDRNet ids", "SegFormer", "MobileViT",
)  # fmt: skip
