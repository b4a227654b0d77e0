from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
from bag_helpers import START, STEP, picture, write_bag

from seg_perception.bags.reader import BagReader
from seg_perception.bags.selecting import open_segmenter, select_frames, share_that_differs
from seg_perception.cli.main import main
from seg_perception.core.errors import InputError
from seg_perception.core.types import Size
from seg_perception.engines.onnxruntime import FeatureEngine
from seg_perception.engines.opening import open_engine
from seg_perception.scenes import random_scene
from seg_perception.segmenter import RawSegmentation, Segmenter


@pytest.fixture
def segmenter(tiny_model: Path) -> Segmenter:
    return Segmenter(open_engine(tiny_model))


def scene(red: int, green: int, blue: int = 0) -> np.ndarray:
    """The tiny model says class red // 26 with confidence green / 255, everywhere."""
    return np.broadcast_to(np.array([red, green, blue], np.uint8), (48, 64, 3)).copy()


def test_the_unsure_come_first_and_the_alike_once(tmp_path: Path, segmenter: Segmenter) -> None:
    sure = [scene(0, 250)] * 8
    unsure = scene(0, 51)  # confidence 0.2
    path = write_bag(tmp_path / "a.mcap", [*sure[:4], unsure, unsure, *sure[4:]])
    with BagReader(path) as bag:
        found = select_frames(bag, segmenter, count=5)
    assert (found.topic, found.frames) == ("/image", 10)
    first, second = found.picks  # two pictures are there, so there are no more than two to choose
    assert first.frame == 4
    assert first.recorded_ns == START + 4 * STEP
    assert first.uncertainty == pytest.approx(1 - 51 / 255)
    assert first.reason == "unsure where the road may be (mean confidence 0.20)"
    assert second.frame not in (4, 5)
    assert second.reason.startswith("unlike the frames chosen before (its labels: ")
    # green is the confidence: one of 11 planes of each field is 0.2 or 250 / 255, another (the class) 1, the rest 0
    one, other = (1, 0.2), (1, 250 / 255)
    cosine = (one[0] * other[0] + one[1] * other[1]) / (np.linalg.norm(one) * np.linalg.norm(other))
    assert (first.novelty, found.novelty_by) == (1.0, "labels")
    assert second.novelty == pytest.approx(1 - cosine, abs=2e-3)
    assert found.duplicates == 8


def test_contradiction_a_frame_later_and_of_a_second_model(tmp_path: Path, segmenter: Segmenter) -> None:
    road, car = scene(0, 200), scene(8 * 26, 200)
    path = write_bag(tmp_path / "a.mcap", [scene(0, 200, b) for b in (0, 60, 120)] + [car, road])
    with BagReader(path) as bag:
        picks = {pick.frame: pick for pick in select_frames(bag, segmenter, count=5).picks}
        same = select_frames(bag, segmenter, count=5, second=segmenter)
    # frame 2 says road, frame 3 says car everywhere; car is no road, so the lower half of frame 3 is looked at
    assert picks[2].disagreement == picks[3].disagreement == 1.0
    assert picks[1].disagreement == 0.0
    assert {pick.disagreement for pick in same.picks} == {0.0}


def test_a_second_network_of_another_size_is_compared_pixel_by_pixel() -> None:
    def said(*labels: int) -> RawSegmentation:
        row = np.array([labels], np.uint8)
        return RawSegmentation(row, np.full_like(row, 255), Size(4, 1))

    # the middles of four columns lie at 0.375, 1.125, 1.875, 2.625 of three: columns 0, 1, 1, 2
    assert share_that_differs(said(0, 1, 1, 2), said(0, 1, 2), np.ones((1, 4), bool)) == 0.0


def test_frames_are_spread_over_time(tmp_path: Path, segmenter: Segmenter) -> None:
    """Ten unsure frames in the first tenth of a drive may not take all places."""
    early = [scene(0, 20, 25 * i) for i in range(10)]
    late = [scene(0, 250, 25 * i) for i in range(1, 10)]
    path = tmp_path / "a.mcap"
    write_bag(path, [f for i in range(10) for f in ([*early] if i == 0 else [late[i - 1]] * 10)])
    with BagReader(path) as bag:
        picks = select_frames(bag, segmenter, count=5).picks
    assert len(picks) == 5
    assert sum(pick.frame < 20 for pick in picks) == 2  # of the first span, two at most


def test_the_command_writes_images_reasons_and_a_contact_sheet(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = [picture(i) for i in range(8)]
    path = write_bag(tmp_path / "drive.mcap", pictures)
    out = tmp_path / "picks"
    command = ["bag", "select", str(path), "--out", str(out), "--count", "3", "--model", str(tiny_model)]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert f"{out}: 3 of 8 frames on /image" in said
    assert "novelty was measured in grids of labels, because " in said
    assert (
        "has no layer in which a classifier can be recognized: the way back from the labels ends at the image" in said
    )
    with (out / "picks.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3
    for row in rows:
        saved = cv2.cvtColor(cv2.imread(str(out / row["file"])), cv2.COLOR_BGR2RGB)
        np.testing.assert_array_equal(saved, pictures[int(row["frame"])])
        assert row["reason"]
        assert row["novelty_by"] == "labels"
        assert int(row["recorded_ns"]) == START + int(row["frame"]) * STEP
    assert sorted(p.name for p in (out / "images").iterdir()) == sorted(Path(row["file"]).name for row in rows)
    assert cv2.imread(str(out / "contact_sheet.png")).shape[1] > 3 * 320
    assert main(command) == 2
    assert "exists already" in capsys.readouterr().err


def test_novelty_is_measured_in_the_features_of_the_shipped_model(tmp_path: Path, driving_model: Path) -> None:
    scenes = [random_scene(seed, Size(96, 64)).image for seed in (1, 2)]
    path = write_bag(tmp_path / "a.mcap", [scenes[0], scenes[1], scenes[0]])
    segmenter, features, why = open_segmenter(driving_model, threads=1, size=Size(96, 64))
    assert (features is not None, why) == (True, "")
    with segmenter, BagReader(path) as bag:
        found = select_frames(bag, segmenter, count=3, features=features)
    assert (found.novelty_by, found.duplicates, len(found.picks)) == ("features", 1, 2)
    units = [FeatureEngine(driving_model, 1) for _ in scenes]
    for engine, scene in zip(units, scenes):
        engine.infer(scene[np.newaxis])
    one, other = (engine.features.reshape(-1) / np.linalg.norm(engine.features) for engine in units)
    assert found.picks[1].novelty == pytest.approx(1 - float(one @ other), abs=2e-3)
    other_engine, nothing, why = open_segmenter(driving_model, "openvino", 1)
    other_engine.close()
    assert (nothing, why) == (None, "only ONNX Runtime on an .onnx file gives features, not openvino")


def test_what_cannot_be_selected_is_said(tmp_path: Path, segmenter: Segmenter) -> None:
    path = write_bag(tmp_path / "a.mcap", [picture(0)])
    with BagReader(path) as bag:
        with pytest.raises(InputError, match="0 frames cannot be selected: 1 or more"):
            select_frames(bag, segmenter, count=0)
        with pytest.raises(InputError, match="no topic '/rear'"):
            select_frames(bag, segmenter, images="/rear")
