"""The benchmark of the confidence image, on drawn scenes: what it writes, not what it finds."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest


def test_it_compares_driving_frames_with_frames_far_from_driving(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "sets.yaml"
    config.write_text("datasets: [{kind: scenes, split: val, count: 1, size: 128x96}]")
    script = repository / "benchmarks/confidence.py"
    arguments = ["--config", str(config), "--frames", "1", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", [str(script), *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code in (0, 1)
    document = json.loads((tmp_path / "out/confidence.json").read_text())
    assert list(document["frames"]) == [
        "scenes/val", "noise", "coarse noise", "black", "white", "room", "page of text", "shuffled tiles"
    ]  # fmt: skip
    assert all(0 <= mean <= 1 for frame in document["frames"].values() for mean in frame["means"])
    assert sum(pixels for _, _, pixels, _ in document["bins"]) == 128 * 96
    assert bool(document["faults"]) == (ended.value.code == 1)
    assert cv2.imread(str(tmp_path / "out/confidence.png")) is not None


def test_the_helpers_by_hand(repository: Path) -> None:
    benchmark = runpy.run_path(str(repository / "benchmarks/confidence.py"), run_name="benchmark")
    # pairs: 0.9 beats both, 0.5 beats 0.4 and ties with 0.5: (1 + 1 + 1 + 0.5) / 4
    assert benchmark["auroc"]([0.9, 0.5], (0.4, 0.5)) == pytest.approx(0.875)
    random = np.random.default_rng(1)
    size = benchmark["Size"](64, 48)
    assert len(benchmark["FAR"]) == 6
    for name, draw in benchmark["FAR"].items():
        frame = draw(random, size)
        assert frame.shape == (48, 64, 3), name
        assert frame.dtype == np.uint8, name
