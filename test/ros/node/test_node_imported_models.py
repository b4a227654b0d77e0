"""Models that others exported, imported, in the real node over real DDS: its labels are the original's."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # pytest's importlib mode leaves them out
sys.path.insert(0, str(Path(__file__).parents[2] / "export"))
from foreign_models import build
from node_harness import RELIABLE_INPUT, image_message, running, stamp_of, wait_until
from sensor_msgs.msg import Image

from seg_perception.core.types import Size
from seg_perception.engines.opening import open_engine
from seg_perception.export.importing import ImportRequest, OriginalModel, prepare_pixels, read_foreign
from seg_perception.export.importing.import_file import compare_with_original, reference_probabilities
from seg_perception.export.importing.importer import import_model
from seg_perception.scenes import random_scene

START = 1_700_000_000_000_000_000
CASES = [
    pytest.param("SegFormer", ImportRequest(to="driving", size=Size(256, 128)), 10, marks=pytest.mark.slow),
    pytest.param("PIDNet-S scores", ImportRequest(to="driving", size=Size(256, 128)), 10, marks=pytest.mark.slow),
    pytest.param("PIDNet-S ids", ImportRequest(size=Size(256, 128)), 19, marks=pytest.mark.slow),
    pytest.param("sigmoid", ImportRequest(size=Size(256, 128)), 2),
]


@pytest.mark.parametrize("name, request_, classes", CASES)
def test_the_node_says_what_the_original_says(tmp_path: Path, name: str, request_: ImportRequest, classes: int) -> None:
    original = OriginalModel(read_foreign(build(name, tmp_path / "theirs.onnx")))
    imported = import_model(original, request_)
    out = tmp_path / "ours.onnx"
    out.write_bytes(imported.model.SerializeToString())
    image = random_scene(5, Size(256, 128)).image
    with open_engine(out, "onnxruntime") as engine:
        alone = engine.infer(image[np.newaxis])
        assert compare_with_original(original, imported, engine.infer, {"scene": image}).agreement > 0.999
    with running({"model": str(out), "engine": "onnxruntime", **RELIABLE_INPUT}) as run:
        run.wait_state("active")
        outputs = {kind: run.peer.subscribe(Image, f"/segmentation_node/{kind}") for kind in ("labels", "confidence")}
        run.peer.publisher(Image, "/image").publish(image_message(image, START))
        wait_until(lambda: all(outputs.values()), "labels and confidence")
        found = {}
        for kind, (message,) in outputs.items():
            assert stamp_of(message) == START
            found[kind] = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width)
        said = run.peer.lines("gives no probabilities")
    assert np.array_equal(found["labels"], alone[0][0])
    assert np.array_equal(found["confidence"], alone[1][0])
    # and by the original's own answer, ties left out
    answer = original.run(imported.decision.input.name, prepare_pixels(image[np.newaxis], imported.decision))
    expected = reference_probabilities(answer[imported.decision.output.name], imported, Size(256, 128))
    assert expected.shape[0] == classes
    best = np.sort(expected, axis=0)[-2:]
    clear = best[1] - best[0] > 1e-3
    assert clear.mean() > 0.9
    assert np.array_equal(found["labels"][clear], expected.argmax(axis=0)[clear])
    assert len(said) == (1 if name.endswith("ids") else 0)
