"""Fixtures for the engines' tests; the fakes beside this file are importable by name."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from seg_perception.core.errors import EngineError
from seg_perception.core.files import write_atomically
from seg_perception.core.label_set import load_label_set
from seg_perception.core.model_card import ModelCard
from seg_perception.core.types import Size
from seg_perception.engines.graph.half import to_half
from seg_perception.engines.tensorrt.versions import TensorRtLibrary, load_library

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def nvidia() -> TensorRtLibrary:
    """NVIDIA's real compiler. `make test` installs it where NVIDIA ships it: x86-64 Linux."""
    try:
        return load_library()
    except EngineError as error:
        pytest.skip(f"NVIDIA's compiler is not here: {error}")


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, quick_exports: None) -> Callable[[str, str], bytes]:
    """(network, precision) -> an ONNX file's bytes; each is made once, by one of the processes that run the tests.

    Weights are random, but seeded.
    """
    import torch
    from small_networks import small_networks

    from seg_perception.export.quantize import QuantizationSettings, quantize
    from seg_perception.export.to_onnx import build_onnx
    from seg_perception.networks import build_network
    from seg_perception.scenes import random_scene

    base = tmp_path_factory.getbasetemp()
    folder = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def make(network: str, precision: str) -> bytes:
        path = folder / f"{network}-{precision}.onnx"
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.is_file():
                write_atomically(path, build(network, precision).SerializeToString())
        return path.read_bytes()

    def build(network: str, precision: str) -> onnx.ModelProto:
        if precision == "fp32":
            torch.manual_seed(0)
            module = build_network(network, 10, **small_networks()[network])
            randomize_statistics(module)
            fill_empty_layers(module)
            vary_scores(module.eval(), random_scene(1, Size(128, 96)).image)
            return build_onnx(module, card_for(module, network))
        fp32 = onnx.load_model_from_string(make(network, "fp32"))
        if precision == "fp16":
            return to_half(fp32)
        scenes = [random_scene(seed, Size(128, 96)).image for seed in (1, 2, 3)]
        return quantize(fp32, scenes[:2], scenes[2:], QuantizationSettings(target_agreement=0.01)).model

    return make


def randomize_statistics(module: Any) -> None:
    """Give batch normalization other numbers than 0 and 1, so that folding it wrongly would show."""
    import torch

    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
            layer.weight.data.uniform_(0.5, 1.5)
            layer.bias.data.normal_(0, 0.1)


def fill_empty_layers(module: Any) -> None:
    """Give weights to convolutions that begin as zero (the detail rung's), so that they take part."""
    import torch

    for layer in module.modules():
        if isinstance(layer, torch.nn.Conv2d) and not layer.weight.any():
            layer.weight.data.normal_(0, 0.02)


def vary_scores(module: Any, image: Any) -> None:
    """Scale the last convolution so that scores spread: else one class wins everywhere and any graph would agree."""
    import torch

    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, torch.nn.Conv2d)}
    head = layers.get("head", list(layers.values())[-1])
    with torch.no_grad():
        std, mean = torch.std_mean(module(module.normalize(torch.from_numpy(image[None]))), dim=(0, 2, 3))
        head.bias.copy_((head.bias - mean) * 4.0 / std)
        head.weight.mul_((4.0 / std).reshape(-1, 1, 1, 1))


def card_for(module: Any, network: str) -> ModelCard:
    return ModelCard(
        "test", "1", network, load_label_set("driving"), Size(128, 96), module.size_multiple, "fp32", "0" * 64
    )
