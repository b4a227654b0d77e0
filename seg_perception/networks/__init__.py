"""The known networks, every module of this folder that has a NETWORK: found, built and measured."""

from __future__ import annotations

import copy
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from seg_perception.core.errors import SettingsError
from seg_perception.core.types import Size
from seg_perception.networks.base import NetworkInfo, SegmentationNetwork


def networks() -> Mapping[str, NetworkInfo]:
    """Every known network by name, read-only."""
    modules = (importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__))
    infos = [module.NETWORK for module in modules if hasattr(module, "NETWORK")]
    return MappingProxyType({info.name: info for info in infos})


def network_names() -> tuple[str, ...]:
    return tuple(networks())


def networks_table() -> str:
    """The known networks as a Markdown table, as docs/training.md shows it."""
    rows = (f"| `{i.name}` | {', '.join(('random', *i.start_weights))} | {i.summary} |" for i in networks().values())
    return "\n".join(("| network | starts from | what |", "|---|---|---|", *rows))


def build_network(name: str, num_classes: int, **options: Any) -> SegmentationNetwork:
    """Build a network with fresh weights.

    Raises:
        SettingsError: unknown name (the known ones are listed) or unknown option.
    """
    if name not in networks():
        raise SettingsError(f"no network {name!r}; known: {', '.join(network_names())}")
    try:
        return networks()[name].build(num_classes, **options)
    except TypeError as error:
        raise SettingsError(f"network {name!r} does not take the options {options}: {error}") from error


@dataclass(frozen=True, slots=True)
class StageShape:
    """One row of a network's table."""

    name: str
    height: int
    width: int
    depth: int

    def __str__(self) -> str:
        return f"{self.name:<16}{self.height:>5} x {self.width:>4} x {self.depth:>4}"


@dataclass(frozen=True, slots=True)
class NetworkReport:
    """What a network does with one image.

    Attributes:
        size: of that image.
        stages: in the order in which they run; those of training only are left out.
        parameters: trainable values of the deployed part and of the whole.
        flop: floating-point operations of one image; a multiplication and an addition are two.
            Convolutions are counted; what is left out (normalization folds into them, activation,
            pooling, resizing) is about a hundredth.
    """

    size: Size
    stages: tuple[StageShape, ...]
    parameters: int
    flop: int

    def table(self) -> str:
        """For a terminal."""
        head = f"{'stage':<16}{'height':>5} x {'width':>3} x {'depth':>4}"
        rows = (str(stage) for stage in (StageShape("image", self.size.height, self.size.width, 3), *self.stages))
        sums = (
            f"{self.parameters / 1e6:.2f} M parameters",
            f"{self.flop / 1e9:.1f} GFLOP at {self.size} ({self.flop / 2e9:.1f} G multiply-adds in convolutions)",
        )
        return "\n".join((head, *rows, "", *sums))


def inspect_network(network: SegmentationNetwork, size: Size) -> NetworkReport:
    """Run one image through a copy of the network that has shapes but no values: quick at any width.

    Raises:
        InputError: the size does not fit the network.
    """
    shadow = copy.deepcopy(network).to("meta").eval()
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(_module: nn.Module, _input: object, output: object) -> None:
            if isinstance(output, Tensor):
                outputs.pop(name, None)
                outputs[name] = output

        return hook

    used: set[int] = set()
    for name, module in shadow.named_modules():
        if name:
            module.register_forward_hook(keep(name))
            module.register_forward_pre_hook(lambda m, _: used.update(map(id, m.parameters(recurse=False))))
    image = torch.zeros(1, size.height, size.width, 3, dtype=torch.uint8, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shadow(shadow.normalize(image))
    outermost = [name for name in outputs if not any(name.startswith(f"{other}.") for other in outputs)]
    stages = tuple(
        StageShape(shadow.stage_names.get(name, name), x.shape[2], x.shape[3], x.shape[1])
        for name, x in ((name, outputs[name]) for name in outermost)
    )
    parameters = sum(p.numel() for p in shadow.parameters() if id(p) in used)
    return NetworkReport(size, stages, parameters, int(counter.get_total_flops()))
