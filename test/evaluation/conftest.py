"""For this room's tests: an engine that answers what the test painted into the image, and such images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from seg_perception.core.label_set import LabelSet, load_label_mapping, load_label_set
from seg_perception.core.model_card import ModelCard
from seg_perception.core.types import Size
from seg_perception.datasets.folder import folder_pairs
from seg_perception.datasets.pairs import PairedFiles
from seg_perception.engines.base import EngineInfo
from seg_perception.segmenter import Segmenter

SIZE = Size(8, 4)


class EchoEngine:
    """The red channel is the label, the green channel the confidence."""

    def __init__(self, label_set: LabelSet, confidence: str) -> None:
        self.card = ModelCard("echo", "1", "none", label_set, SIZE, 1, "fp32", "0" * 64, confidence=confidence)
        self.info = EngineInfo("echo", "1", "CPU", "fp32", None, SIZE)

    def infer(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        return images[..., 0].copy(), images[..., 1].copy()

    def close(self) -> None:
        pass


Sample = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]


@pytest.fixture
def echo_segmenter() -> Callable[..., Segmenter]:
    """Call it for a segmenter that echoes; with the name of a label set for another than the ten classes."""

    def make(label_set: str = "driving", confidence: str = "probability") -> Segmenter:
        return Segmenter(EchoEngine(load_label_set(label_set), confidence))

    return make


@pytest.fixture
def echo_dataset(tmp_path: Path) -> Callable[[dict[str, Sample]], PairedFiles]:
    """Call it with sample name -> (truth, labels, confidence), each uint8 [4, 8], the truth in the ten classes' ids.

    It writes images that make the echoing engine answer those labels and that confidence.
    """

    def write(samples: dict[str, Sample], name: str = "echo") -> PairedFiles:
        root = tmp_path / name
        mapping = root / "mapping.yaml"
        (root / "images").mkdir(parents=True)
        (root / "labels").mkdir()
        classes = "".join(f"  {c.id}: {c.name}\n" for c in load_label_set().classes)
        mapping.write_text(f"name: own\ntarget: driving\nvalues:\n{classes}  255: ignore\n", encoding="utf-8")
        for sample, (truth, labels, confidence) in samples.items():
            blue = np.zeros_like(truth)
            cv2.imwrite(str(root / f"images/{sample}.png"), np.dstack([blue, confidence, labels]))
            cv2.imwrite(str(root / f"labels/{sample}.png"), truth)
        return folder_pairs(root / "images", root / "labels", load_label_mapping(mapping), name)

    return write


@pytest.fixture
def rows() -> Callable[..., NDArray[np.uint8]]:
    """Call it with four values for four rows of eight equal pixels."""
    return lambda *values: np.repeat(np.array(values, np.uint8)[:, None], SIZE.width, axis=1)
