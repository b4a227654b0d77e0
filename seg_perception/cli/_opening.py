"""Opens the segmenter that the command line asks for."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from seg_perception.core.resources import DEFAULT_MODEL
from seg_perception.engines.registry import AUTO, EngineChoices

if TYPE_CHECKING:
    from seg_perception.segmenter import Segmenter


@dataclass(frozen=True, slots=True)
class OpenedSegmenter:
    """A segmenter, and words for what it runs.

    Attributes:
        segmenter: ready.
        description: model and engine, for people.
        identity: the same with the model file's hash: equal only if the answers are.
    """

    segmenter: Segmenter
    description: str
    identity: str


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, default=DEFAULT_MODEL, help="ONNX file (default: the shipped model)")
    add_engine_argument(parser)
    parser.add_argument(
        "--input-size",
        metavar="WxH",
        help="what the network sees (default: the camera's shape, the model's pixel count)",
    )
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of the engine (default: all cores)")


def add_engine_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--engine",
        choices=EngineChoices(),
        metavar="NAME",
        default=AUTO,
        help="what runs the model (default: auto): %(choices)s; what auto takes: docs/deploy.md",
    )


def add_params_file_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--params-file",
        type=Path,
        metavar="FILE",
        help="take drivable.* and overlay.* of the node's parameter file, such as config/segmentation.yaml",
    )


@contextmanager
def open_segmenter(arguments: argparse.Namespace) -> Iterator[OpenedSegmenter]:
    """Open the engine named by `add_model_arguments`; closed when the block ends.

    Raises:
        FileNotFoundError, ModelError, EngineError: see `engines.opening.open_engine`.
        InputError: a malformed size.
    """
    from seg_perception.core.types import Size
    from seg_perception.engines.opening import open_engine
    from seg_perception.segmenter import Segmenter

    size = Size.parse(arguments.input_size) if arguments.input_size else None
    with open_engine(arguments.model, arguments.engine, arguments.threads) as engine:
        digest = hashlib.sha256(arguments.model.read_bytes()).hexdigest()
        description = f"{engine.card.id} with {engine.info}"
        identity = f"{description}; model {digest}; input size {size or 'automatic'}"
        yield OpenedSegmenter(Segmenter(engine, size), description, identity)
